"""The tokens of a member, for whoever manages the team: issued, rotated, limited, revoked with a reason."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from accounts.models import AccessToken, User
from relay.portal import members, team
from relay.portal.team_forms import ReasonForm, TokenLimitsForm
from relay.portal.token_forms import LIMITS, TokenForm
from relay.portal.tokens import issued, show_once


@sensitive_variables("made")
@never_cache
@login_required
@require_POST
def issue(request: HttpRequest, pk: int) -> HttpResponse:
    manager = team.manager_of(request)
    member = team.member_of(manager, pk)
    form = TokenForm(request.POST, prefix="token")
    if form.is_valid():
        made = issued(form, lambda chosen: AccessToken.objects.issue_to_member(manager, member, **chosen))
        if made is not None:
            team.note(manager, made[0])
            return show_once(request, *made)
    return members.show_member(request, manager, member, new_token=form)


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def show(request: HttpRequest, pk: int) -> HttpResponse:
    """Its limits are saved here."""
    manager, token = _managed(request, pk)
    form = TokenLimitsForm(request.POST if request.method == "POST" else None, instance=token)
    if form.is_bound and form.is_valid():
        try:
            _managed(request, pk)[1].limit(manager, **form.chosen)
        except ValidationError as exc:
            form.add_error(None, exc)
        else:
            team.note(manager, token, "Limits")
            messages.success(request, _("Saved. It counts from the next request on."))
            return redirect("team:token", pk=pk)
    return _show(request, token, form, ReasonForm())


@sensitive_variables("plain")
@never_cache
@login_required
@require_POST
def rotate(request: HttpRequest, pk: int) -> HttpResponse:
    manager, token = _managed(request, pk)
    overlap = timedelta(hours=settings.CONFIG.relay.token_overlap_hours)
    try:
        successor, plain = token.rotate_by(manager, overlap)
    except PermissionDenied:
        messages.error(request, _("A token that does not work any more cannot be rotated."))
        return redirect("team:token", pk=pk)
    team.note(manager, successor)
    return show_once(request, successor, plain)


@never_cache
@login_required
@require_POST
def revoke(request: HttpRequest, pk: int) -> HttpResponse:
    manager, token = _managed(request, pk)
    form = ReasonForm(request.POST)
    if not form.is_valid():
        return _show(request, token, TokenLimitsForm(instance=token), form)
    token.revoke(manager, form.cleaned_data["reason"])
    team.note(manager, token, "enabled", "reason")
    messages.success(request, _("“%(name)s” is revoked.") % {"name": token.name})
    return redirect("team:member", pk=token.owner_id)


def _managed(request: HttpRequest, pk: int) -> tuple[User, AccessToken]:
    """A token of somebody whom this manager looks after; others cannot be found."""
    manager = team.manager_of(request)
    member = team.member_of(manager, get_object_or_404(AccessToken, pk=pk).owner_id)
    token = AccessToken.objects.shown_to(member).filter(pk=pk).first()
    if token is None:
        raise Http404
    return manager, token


def _show(
    request: HttpRequest, token: AccessToken, form: TokenLimitsForm, reason: ReasonForm
) -> HttpResponse:
    context = {
        "team": token.team,
        # As it is stored: a form that is refused has changed the other one.
        "token": AccessToken.objects.select_related("activity", "owner__team").get(pk=token.pk),
        "form": form,
        "limits": [form[name] for name in LIMITS],
        "reason": reason["reason"],
        "hours": f"{settings.CONFIG.relay.token_overlap_hours:g}",
    }
    return render(request, "portal/team_token.html", context)
