"""Where the link on a person's sheet leads: they choose a password, and are signed in.

As with an invitation, what proves it goes no further than the first request; the session then holds who it is about.
"""

from __future__ import annotations

import time

from django.contrib import messages
from django.contrib.auth.forms import SetPasswordForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from accounts import first_password, signing_in
from accounts.models import User
from relay.portal.joining import redirect_from_secret

SESSION_KEY = "first_password"
# For whoever goes away from the open page, and shares the browser.
OPEN_SECONDS = 3600


@sensitive_variables("proof")
@never_cache
@require_safe
def open_link(request: HttpRequest, pk: int, proof: str) -> HttpResponse:
    """The same answer whatever the link is."""
    user = first_password.find(pk, proof)
    if user is not None:
        request.session[SESSION_KEY] = {
            "user": user.pk,
            "before": user.get_session_auth_hash(),
            "since": time.time(),
        }
    else:
        request.session.pop(SESSION_KEY, None)
    return redirect_from_secret("first-password")


@sensitive_post_parameters("new_password1", "new_password2")
@sensitive_variables("form")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def choose(request: HttpRequest) -> HttpResponse:
    person = _person(request)
    if person is None or request.user.is_authenticated:
        return render(request, "portal/first_password_over.html", {"person": person}, status=404)
    form = SetPasswordForm(person, request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        try:
            first_password.choose(person, form.cleaned_data["new_password1"])
        except first_password.LinkOver:
            return render(request, "portal/first_password_over.html", status=404)
        del request.session[SESSION_KEY]
        signing_in.begin_without_code(request, person)
        messages.success(request, _("Your password is set. Your user name is %(name)s.") % {"name": person})
        return redirect("portal:home")
    return render(request, "portal/first_password.html", {"form": form, "person": person})


def _person(request: HttpRequest) -> User | None:
    opened = request.session.get(SESSION_KEY) or {}
    if not 0 <= time.time() - opened.get("since", 0) <= OPEN_SECONDS:
        return None
    person = User.objects.filter(pk=opened["user"], is_active=True).first()
    is_same = person is not None and constant_time_compare(person.get_session_auth_hash(), opened["before"])
    return person if is_same else None
