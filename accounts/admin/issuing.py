"""How the panel makes tokens: for a person, as a copy of another one, in place of an old one. Each is shown once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from accounts.admin.acting import ask, found
from accounts.admin.forms import CloneForm, IssueForm
from accounts.models import FIRST_NAME, AccessToken, User
from accounts.views import address


@sensitive_variables("made")
def issue(page: Any, request: HttpRequest, object_id: str) -> HttpResponse:
    """For a person: a form that may be sent as it is."""
    if not (page.has_change_permission(request) and request.user.has_perm("accounts.add_accesstoken")):
        raise PermissionDenied
    owner: User | None = page.get_object(request, unquote(object_id))
    if owner is None:
        raise Http404
    if not owner.is_active:
        page.message_user(request, _("This person may not sign in, and tokens are refused."), messages.ERROR)
        return redirect("admin:accounts_user_change", owner.pk)
    form = IssueForm(
        request.POST if request.method == "POST" else None, initial={"name": _free_name(owner, FIRST_NAME)}
    )
    made = _made(
        form,
        lambda given: AccessToken.objects.issue_once(owner, given["name"], **form.conditions.for_a_token()),
    )
    if made is not None:
        return _show_new(page, request, *made)
    return ask(
        page,
        request,
        form,
        title=_("Issue a token"),
        explained=_("For %(user)s, team %(team)s.") % {"user": owner, "team": owner.team},
        back=reverse("admin:accounts_user_change", args=[owner.pk]),
    )


@sensitive_variables("made")
def clone(page: Any, request: HttpRequest, object_id: str) -> HttpResponse:
    """Another token with the same rights, under another name."""
    old = found(page, request, object_id)
    if not page.has_add_permission(request):
        raise PermissionDenied
    form = CloneForm(
        request.POST if request.method == "POST" else None,
        initial={"name": _free_name(old.owner, old.name), "owner": old.owner_id},
    )
    made = _made(form, lambda given: old.clone(given["name"], given["owner"]))
    if made is not None:
        return _show_new(page, request, *made)
    return ask(
        page,
        request,
        form,
        title=_("Copy"),
        explained=_("Another token with the same limits, models, networks and end as %(token)s.")
        % {"token": old},
        back=reverse("admin:accounts_accesstoken_change", args=[old.pk]),
    )


@sensitive_variables("plain")
def rotate(page: Any, request: HttpRequest, object_id: str) -> HttpResponse:
    """A page that asks (GET) and shows the successor once (POST)."""
    token = found(page, request, object_id)
    if not page.has_add_permission(request):
        raise PermissionDenied
    hours = settings.CONFIG.relay.token_overlap_hours
    if request.method != "POST":
        context = {
            **page.admin_site.each_context(request),
            "title": _("Rotate %(token)s") % {"token": token},
            "token": token,
            "hours": f"{hours:g}",
            "opts": page.model._meta,
            "back_url": reverse("admin:accounts_accesstoken_change", args=[token.pk]),
        }
        return render(request, "admin/accounts/accesstoken/rotate.html", context)
    successor, plain = token.rotate(timedelta(hours=hours))
    page.log_change(request, token, [{"changed": {"fields": ["Expires"]}}])
    return show_once(page, request, successor, plain)


@sensitive_variables("made")
def _made(
    form: IssueForm | CloneForm, make: Callable[[dict[str, Any]], tuple[AccessToken, str]]
) -> tuple[AccessToken, str] | None:
    """None: it was not sent, or says what is wrong."""
    if not (form.is_bound and form.is_valid()):
        return None
    try:
        made = make(form.cleaned_data)
    except ValidationError as exc:
        form.add_error(None, exc)
        return None
    return made


@sensitive_variables("plain")
def _show_new(page: Any, request: HttpRequest, token: AccessToken, plain: str) -> HttpResponse:
    page.log_addition(request, token, [{"added": {}}])
    return show_once(page, request, token, plain)


@sensitive_variables("plain")
def show_once(page: Any, request: HttpRequest, token: AccessToken, plain: str) -> HttpResponse:
    context = {
        **page.admin_site.each_context(request),
        "title": _("Access token for %(user)s") % {"user": token.owner},
        "token": token,
        "plain": plain,
        "api_base": f"{address(request)}/v1",
        "opts": AccessToken._meta,
        "list_url": reverse("admin:accounts_accesstoken_changelist"),
    }
    return unseen_by_others(render(request, "admin/accounts/accesstoken/issued.html", context))


def unseen_by_others(response: HttpResponse) -> HttpResponse:
    """A page with a secret on it: kept by no cache, and told to no other site."""
    response["Cache-Control"] = "no-store"
    # Not no-referrer: browsers then send `Origin: null`, and signing out from this page would be refused.
    response["Referrer-Policy"] = "same-origin"
    return response


def _free_name(owner: User, name: str) -> str:
    """This one, or else with the first number that no working token of this person has."""
    taken = {token.name for token in owner.access_tokens.all() if token.is_usable}
    number = 2
    free = name
    while free in taken:
        free = f"{name[:90]} {number}"
        number += 1
    return free
