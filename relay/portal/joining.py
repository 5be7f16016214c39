"""Where an invitation leads: somebody new chooses a name and a password, and is shown the first token, once.

The secret of the link goes no further than the first request: a redirect takes it out of the address, so that no later
request, log line or Referer has it, and the session holds the invitation's number.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.forms import UserCreationForm, UsernameField
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from accounts import signing_in
from accounts.invitations import Invitation, InvitationOver
from accounts.models import User
from relay.portal.tokens import show_once

SESSION_KEY = "invitation"


class JoinForm(UserCreationForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = ("username",)
        field_classes: ClassVar = {"username": UsernameField}


@sensitive_variables("secret")
@never_cache
@require_safe
def open_link(request: HttpRequest, secret: str) -> HttpResponse:
    """The same answer whatever the secret is."""
    invitation = Invitation.objects.find(secret)
    if invitation is not None:
        request.session[SESSION_KEY] = invitation.pk
    else:
        request.session.pop(SESSION_KEY, None)
    return redirect_from_secret("join")


def redirect_from_secret(to: str) -> HttpResponse:
    """Away from an address that nobody else is to learn."""
    response = redirect(to)
    response["Referrer-Policy"] = "no-referrer"
    return response


@sensitive_post_parameters("password1", "password2")
@sensitive_variables("plain", "form")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def join(request: HttpRequest) -> HttpResponse:
    invitation = _invitation(request)
    if invitation is None:
        return render(request, "portal/join_over.html", status=404)
    if request.user.is_authenticated:
        return render(request, "portal/join_signed_in.html", {"team": invitation.team})
    form = JoinForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        try:
            return _join(request, invitation, form.cleaned_data)
        except InvitationOver:
            return render(request, "portal/join_over.html", status=404)
        except IntegrityError:
            form.add_error("username", form.instance.unique_error_message(User, ("username",)))
    return render(request, "portal/join.html", {"form": form, "team": invitation.team})


def _invitation(request: HttpRequest) -> Invitation | None:
    found = (
        Invitation.objects.select_related("team", "made_by")
        .filter(pk=request.session.get(SESSION_KEY, 0))
        .first()
    )
    return found if found is not None and found.is_open else None


@sensitive_variables("plain", "given")
def _join(request: HttpRequest, invitation: Invitation, given: dict[str, Any]) -> HttpResponse:
    person, token, plain = User.objects.join(invitation, given["username"], given["password1"])
    del request.session[SESSION_KEY]
    signing_in.begin(request, person)
    return show_once(request, token, plain)
