"""The panel's page that issues tokens to many people: asks for a list, shows what would be made, then a sheet for each."""

from __future__ import annotations

import csv
import io
from typing import Any, cast

from django.contrib.admin.models import ADDITION, LogEntry
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from accounts import bulk, first_password
from accounts.admin.acting import laid_out
from accounts.admin.forms import BulkForm
from accounts.admin.issuing import unseen_by_others
from accounts.views import address

EXAMPLE = {"user": "alice", "name": "Alice Zhang", "team": "Physics", "email": "alice@example.org"}
EXAMPLE |= {"points_per_day": "500", "models": "gpt-*; claude-*", "days": "180"}


def issue_many(page: Any, request: HttpRequest) -> HttpResponse:
    if not (page.has_add_permission(request) and request.user.has_perm("accounts.add_user")):
        raise PermissionDenied
    if "template" in request.GET:
        return _template()
    is_sent = request.method == "POST"
    form = BulkForm(request.POST if is_sent else None, request.FILES if is_sent else None)
    if not (form.is_bound and form.is_valid()):
        return _show(page, request, form)
    if form.cleaned_data["file"]:
        # To be mended on the page, and sent again with the confirmation.
        form = BulkForm({**request.POST.dict(), "text": form.cleaned_data["text"]})
        form.is_valid()
    try:
        planned = form.plan()
    except bulk.Unreadable as exc:
        form.add_error(None, str(exc))
        return _show(page, request, form)
    if "confirmed" not in request.POST or planned.problems:
        return _show(page, request, form, planned)
    return _make(page, request, form, planned)


@sensitive_variables("issued", "sheets")
def _make(page: Any, request: HttpRequest, form: BulkForm, planned: bulk.Plan) -> HttpResponse:
    try:
        issued = bulk.make(planned)
    except (IntegrityError, ValidationError):
        form.add_error(None, _("Somebody has made one of these at this moment. Look at the list again."))
        return _show(page, request, form)
    LogEntry.objects.log_actions(
        cast(int, request.user.pk), [each.token for each in issued], ADDITION, change_message=[{"added": {}}]
    )
    base = address(request)
    sheets = [(each, first_password.link_for(each.token.owner)) for each in issued]
    context = {
        "sheets": sheets,
        "base": base,
        "links_work_until": first_password.works_until(),
        "list_url": reverse("admin:accounts_accesstoken_changelist"),
    }
    return unseen_by_others(render(request, "admin/accounts/accesstoken/sheets.html", context))


def _show(page: Any, request: HttpRequest, form: BulkForm, planned: bulk.Plan | None = None) -> HttpResponse:
    context = {
        **page.admin_site.each_context(request),
        "title": _("Issue to many"),
        "opts": page.model._meta,
        **laid_out(form),
        "plan": planned,
        "text": form.cleaned_data.get("text", "") if planned else "",
        "columns": ", ".join(bulk.COLUMNS),
        "back_url": reverse("admin:accounts_accesstoken_changelist"),
    }
    return unseen_by_others(render(request, "admin/accounts/accesstoken/many.html", context))


def _template() -> HttpResponse:
    """With a mark in front, by which Excel knows UTF-8."""
    table = io.StringIO()
    writer = csv.DictWriter(table, bulk.COLUMNS)
    writer.writeheader()
    writer.writerow(EXAMPLE)
    response = HttpResponse(table.getvalue().encode("utf-8-sig"), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="people.csv"'
    return response
