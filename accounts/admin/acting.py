"""What the panel does to tokens that are there: disable, extend, limit. One from its page or its row, or many from the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts.admin.forms import ExtendForm, PresetChoiceForm, ReasonForm
from accounts.models import AccessToken, AccessTokenQuerySet

SHOWN = 10
# Of a transaction, which nobody should have to wait for.
BATCH = 500


@dataclass(frozen=True, slots=True)
class Act:
    title: Any
    explained: Any
    form: type[forms.Form]
    # Says how many tokens it changed.
    do: Callable[[AccessTokenQuerySet, Mapping[str, Any]], int]
    # As the history of each token calls what was changed.
    fields: list[str] = field(default_factory=list)


def _extend(chosen: AccessTokenQuerySet, given: Mapping[str, Any]) -> int:
    return chosen.end_at(given["last_day"]) if given["last_day"] else chosen.extend(int(given["by"]))


DISABLE = Act(
    _("Disable"),
    _("Apps that use them are refused from the next request on."),
    ReasonForm,
    lambda chosen, given: chosen.disable(given["reason"]),
    ["Enabled", "Reason"],
)
EXTEND = Act(
    _("Extend"),
    _(
        "Days are added to the end of each; one that has expired works again. A token without an end is left alone."
    ),
    ExtendForm,
    _extend,
    ["Expires"],
)
LIMIT = Act(
    _("Set limits"),
    _(
        "Limits and models become those of the preset, also where it has none. If it names days, they begin now."
    ),
    PresetChoiceForm,
    lambda chosen, given: chosen.bind(given["preset"]),
    ["Limits"],
)


def on_many(page: Any, request: HttpRequest, chosen: AccessTokenQuerySet, act: Act) -> HttpResponse | None:
    """An action of the list: asks, then does. None: back to the list, as it was filtered."""
    form = act.form(request.POST if "asked" in request.POST else None)
    if form.is_bound and form.is_valid():
        _do(page, request, chosen, act, form)
        return None
    kept = ("action", "select_across", "index", ACTION_CHECKBOX_NAME)
    hidden = [(name, value) for name in kept for value in request.POST.getlist(name)]
    return _ask(page, request, chosen, act, form, [("asked", "1"), *hidden], request.get_full_path())


def on_one(page: Any, request: HttpRequest, object_id: str, act: Act) -> HttpResponse:
    """A page of its own that asks (GET) and does (POST)."""
    token = found(page, request, object_id)
    back = reverse("admin:accounts_accesstoken_change", args=[token.pk])
    form = act.form(request.POST if request.method == "POST" else None)
    chosen = AccessToken.objects.filter(pk=token.pk)
    if form.is_bound and form.is_valid():
        _do(page, request, chosen, act, form)
        return redirect(back)
    return _ask(page, request, chosen, act, form, [], back)


def found(page: Any, request: HttpRequest, object_id: str) -> AccessToken:
    """The token at this address, for whoever may change it."""
    token: AccessToken | None = page.get_object(request, unquote(object_id))
    if not page.has_change_permission(request, token):
        raise PermissionDenied
    if token is None:
        raise Http404
    return token


def _ask(
    page: Any,
    request: HttpRequest,
    chosen: AccessTokenQuerySet,
    act: Act,
    form: forms.Form,
    hidden: list[tuple[str, str]],
    back: str,
) -> HttpResponse:
    return ask(
        page,
        request,
        form,
        title=act.title,
        explained=act.explained,
        back=back,
        chosen=list(chosen.select_related("owner__team")[:SHOWN]),
        more=max(0, chosen.count() - SHOWN),
        hidden=hidden,
    )


def ask(
    page: Any,
    request: HttpRequest,
    form: forms.BaseForm,
    *,
    title: Any,
    explained: Any,
    back: str,
    **more: Any,
) -> HttpResponse:
    """The page on which such a form is filled in."""
    context = {
        **page.admin_site.each_context(request),
        "title": title,
        "explained": explained,
        "opts": page.model._meta,
        **laid_out(form),
        **more,
        "back_url": back,
    }
    return render(request, "admin/accounts/accesstoken/act.html", context)


def laid_out(form: forms.BaseForm) -> dict[str, Any]:
    """For a template: some fields may be folded away, unless something is wrong with one of them."""
    folded = getattr(form, "folded", ())
    return {
        "form": form,
        "fields": [field for field in form if field.name not in folded],
        "folded": [form[name] for name in folded],
        "unfolded": any(form[name].errors for name in folded),
    }


def _do(page: Any, request: HttpRequest, chosen: AccessTokenQuerySet, act: Act, form: forms.BaseForm) -> None:
    # Once changed, they may not be found any more by what made them chosen.
    keys = list(chosen.values_list("pk", flat=True))
    number, by = 0, cast(int, request.user.pk)
    for start in range(0, len(keys), BATCH):
        batch = AccessToken.objects.filter(pk__in=keys[start : start + BATCH])
        number += act.do(batch, form.cleaned_data)
        LogEntry.objects.log_actions(by, batch, CHANGE, change_message=[{"changed": {"fields": act.fields}}])
    said = ngettext("%(n)d access token changed.", "%(n)d access tokens changed.", number) % {"n": number}
    page.message_user(request, said, messages.SUCCESS if number else messages.WARNING)
