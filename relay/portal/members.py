"""A member, for whoever manages the team: added, limited, appointed, disabled and let in again."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from accounts.models import AccessToken, User
from accounts.views import address
from relay import reports
from relay.portal import team, usage
from relay.portal.team_forms import MemberForm, MemberLimitsForm
from relay.portal.token_forms import LIMITS, TokenForm


@sensitive_variables("password")
@never_cache
@login_required
@require_POST
def add(request: HttpRequest) -> HttpResponse:
    manager = team.manager_of(request)
    form = MemberForm(request.POST)
    if form.is_valid():
        try:
            member, password = User.objects.add_member(manager, form.cleaned_data["username"], **form.chosen)
        except ValidationError as exc:
            form.add_error(None, exc)
        else:
            team.note(manager, member)
            context = {"member": member, "password": password, "base": address(request)}
            return render(request, "portal/team_welcome.html", context)
    return team.show_people(request, manager, form)


@never_cache
@login_required
@require_safe
def show(request: HttpRequest, pk: int) -> HttpResponse:
    manager = team.manager_of(request)
    return show_member(request, manager, team.member_of(manager, pk))


@never_cache
@login_required
@require_POST
def limit(request: HttpRequest, pk: int) -> HttpResponse:
    manager = team.manager_of(request)
    member = team.member_of(manager, pk)
    form = MemberLimitsForm(request.POST, instance=member)
    if form.is_valid():
        try:
            member.limit(manager, **form.chosen)
        except ValidationError as exc:
            form.add_error(None, exc)
        else:
            team.note(manager, member, "Limits")
            messages.success(request, _("Saved. It counts from the next request on."))
            return redirect("team:member", pk=pk)
    return show_member(request, manager, member, limits=form)


@never_cache
@login_required
@require_POST
def appoint(request: HttpRequest, pk: int, role: str) -> HttpResponse:
    manager = team.manager_of(request)
    member = team.member_of(manager, pk)
    member.appoint(User.Role(role), manager)
    team.note(manager, member, "role")
    said = {
        User.Role.MANAGER: _("%(name)s manages the team now, as you do."),
        User.Role.MEMBER: _("%(name)s is a member now."),
    }
    messages.success(request, said[User.Role(role)] % {"name": member.username})
    return redirect("team:member", pk=pk)


@never_cache
@login_required
@require_POST
def disable(request: HttpRequest, pk: int) -> HttpResponse:
    manager = team.manager_of(request)
    member = team.member_of(manager, pk)
    member.disable(manager)
    team.note(manager, member, "active")
    messages.success(request, _("%(name)s is disabled, with all tokens.") % {"name": member.username})
    return redirect("team:member", pk=pk)


@never_cache
@login_required
@require_POST
def enable(request: HttpRequest, pk: int) -> HttpResponse:
    manager = team.manager_of(request)
    member = team.member_of(manager, pk)
    try:
        member.enable(manager)
    except PermissionDenied:
        messages.error(
            request, _("An administrator disabled them. Only an administrator lets them in again.")
        )
    else:
        team.note(manager, member, "active")
        messages.success(request, _("%(name)s may use the relay again.") % {"name": member.username})
    return redirect("team:member", pk=pk)


def show_member(
    request: HttpRequest,
    manager: User,
    member: User,
    *,
    limits: MemberLimitsForm | None = None,
    new_token: TokenForm | None = None,
) -> HttpResponse:
    limits_form = limits or MemberLimitsForm(instance=member)
    token_form = new_token or TokenForm(prefix="token")
    scope = team.month_of(member.team)
    scope = reports.Scope(scope.since, scope.until, scope.team_id, member.pk)
    context: dict[str, Any] = {
        "team": manager.team,
        # As it is stored: a form that is refused has changed the other one.
        "member": team.member_of(manager, member.pk),
        "access_tokens": AccessToken.objects.shown_to(member),
        "limits_form": limits_form,
        "limits": [limits_form[name] for name in LIMITS],
        "form": token_form,
        "token_limits": [token_form[name] for name in LIMITS],
        "budgets": usage.budgets(f"user:{member.pk}", member, member.team),
        "models": reports.by_model(scope, most=10),
    }
    return render(request, "portal/team_member.html", context)
