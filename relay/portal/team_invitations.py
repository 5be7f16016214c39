"""Inviting people into the own team, for whoever manages it: a link that is shown once, and can be taken back."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from accounts.models import Invitation
from accounts.views import address
from relay.portal import team
from relay.portal.team_forms import InvitationForm
from relay.portal.token_forms import LIMITS

SHOWN = 100


@sensitive_variables("secret", "context")
@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def invitations(request: HttpRequest) -> HttpResponse:
    manager = team.manager_of(request)
    form = InvitationForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        try:
            made, secret = Invitation.objects.make(manager, manager.team, **form.cleaned_data)
        except ValidationError as exc:
            form.add_error(None, exc)
        else:
            team.note(manager, made)
            link = f"{address(request)}{reverse('join-link', args=[secret])}"
            context = {"team": manager.team, "invitation": made, "link": link}
            return render(request, "portal/team_invited.html", context)
    context = {
        "team": manager.team,
        # An administrator, who is shown all there are, has the others in the panel.
        "invitations": Invitation.objects.shown_to(manager).filter(team=manager.team)[:SHOWN],
        "form": form,
        "limits": [form[name] for name in LIMITS],
    }
    return render(request, "portal/team_invitations.html", context)


@never_cache
@login_required
@require_POST
def take_back(request: HttpRequest, pk: int) -> HttpResponse:
    manager = team.manager_of(request)
    invitation = get_object_or_404(Invitation.objects.shown_to(manager), pk=pk, team=manager.team_id)
    invitation.revoke(manager)
    team.note(manager, invitation, "taken back")
    messages.success(request, _("Nobody joins by this link any more."))
    return redirect("team:invitations")
