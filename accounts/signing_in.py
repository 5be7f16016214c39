"""Signing in: the password, then the code of whoever has a second factor. The only code that begins a session.

`/` and `/admin/login/` are the same page. A session in which the code was not asked for, whatever began it, gets no
further than the page that asks: `second_factor_first` stands before every view, `is_through` before the WebSocket.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin import site
from django.contrib.auth import BACKEND_SESSION_KEY, login, logout
from django.contrib.auth.forms import AuthenticationForm
from django.core.signing import BadSignature
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import guessing, second_factor
from accounts.models import User

# In a session: who has said a right password, when, and where to go; and for which second factor a code was right.
AWAITED, PASSED = "awaited_code", "second_factor"
CODE_SECONDS = 300
WITHOUT_SECOND_FACTOR = ("portal:second-factor", "portal:sign-out", "set_language")
KNOWN_BROWSER = "known_browser"
KNOWN_SECONDS = 365 * 86400


class SignInForm(AuthenticationForm):
    """Django's, with patience for guessers."""

    request: HttpRequest

    def clean(self) -> dict[str, Any]:
        name = self.cleaned_data.get("username")
        if not name or not self.cleaned_data.get("password"):
            return super().clean()
        with guessing.counted(_paces(self.request, name)):
            return super().clean()

    @property
    def wait(self) -> int | None:
        """For how many seconds no password is looked at; None: this one was."""
        refusals = self.non_field_errors().as_data()
        return next((each.seconds for each in refusals if isinstance(each, guessing.TooManyGuesses)), None)


class CodeForm(forms.Form):
    code = forms.CharField(max_length=50)

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._user = user

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        second_factor.check(self._user, code)
        return code


def _paces(request: HttpRequest, name: str) -> dict[str, guessing.Pace]:
    """A browser that has signed in by this name before is told apart from the strangers who try it."""
    mark = _known_browser(request, name)
    if mark:
        return {guessing.by_browser(mark): guessing.OF_BROWSER}
    address = request.META.get("REMOTE_ADDR", "")
    return {
        guessing.at_name(name): guessing.OF_NAME,
        guessing.from_address(address): guessing.OF_ADDRESS,
    }


def _known_browser(request: HttpRequest, name: str) -> str:
    try:
        kept = request.get_signed_cookie(KNOWN_BROWSER, max_age=KNOWN_SECONDS)
    except (KeyError, BadSignature):
        return ""
    digest, _separator, mark = (kept or "").partition(":")
    return mark if digest == guessing.at_name(name) else ""


def sign_in(request: HttpRequest) -> HttpResponse:
    """The page that asks for name and password."""
    form = SignInForm(request, data=request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        return _enter(request, form.get_user(), target(request) or request.path)
    response = render(request, "portal/sign_in.html", {"form": form}, status=429 if form.wait else 200)
    if form.wait:
        response["Retry-After"] = str(form.wait)
    return response


@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def to_panel(request: HttpRequest) -> HttpResponse:
    """Where the panel sends whoever may not open it."""
    if request.method != "POST" and site.has_permission(request):
        return redirect(target(request) or "admin:index")
    return sign_in(request)


@sensitive_post_parameters("code")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def code(request: HttpRequest) -> HttpResponse:
    """The second step."""
    awaited = request.session.get(AWAITED) or {}
    user = _awaited_user(awaited)
    if user is None:
        request.session.pop(AWAITED, None)
        return redirect("portal:home")
    form = CodeForm(user, data=request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        user.backend = awaited["backend"]
        return _begin_session(request, user, awaited["next"])
    return render(request, "portal/code.html", {"form": form})


def _awaited_user(awaited: dict[str, Any]) -> User | None:
    """Not for ever, and not if the password was changed in between."""
    if not 0 <= time.time() - awaited.get("since", 0) <= CODE_SECONDS:
        return None
    user = User.objects.filter(pk=awaited["user"], is_active=True).first()
    is_same = user is not None and user.get_session_auth_hash() == awaited["password"]
    return user if is_same and second_factor.of(user) else None


def _enter(request: HttpRequest, user: User, then: str) -> HttpResponse:
    """The password was right. Nobody is signed in before the code is, too."""
    if second_factor.of(user) is None:
        return _begin_session(request, user, then)
    _await_code(request, user, then)
    return redirect("portal:code")


def _await_code(request: HttpRequest, user: User, then: str) -> None:
    logout(request)
    request.session[AWAITED] = {
        "user": user.pk,
        "backend": user.backend,
        "since": time.time(),
        "password": user.get_session_auth_hash(),
        "next": then,
    }


def begin(request: HttpRequest, user: User) -> None:
    """For whoever has said, or chosen just now, all that a sign-in asks for."""
    begin_without_code(request, user)
    pass_second_factor(request, user)


def begin_without_code(request: HttpRequest, user: User) -> None:
    """Where a second factor is there or demanded, the next page asks for it."""
    login(request, user)
    request.session.pop(AWAITED, None)


def _begin_session(request: HttpRequest, user: User, then: str) -> HttpResponse:
    begin(request, user)
    response = redirect(then or "portal:home")
    name = user.get_username()
    response.set_signed_cookie(
        KNOWN_BROWSER,
        f"{guessing.at_name(name)}:{_known_browser(request, name) or secrets.token_hex(16)}",
        max_age=KNOWN_SECONDS,
        httponly=True,
        secure=settings.SESSION_COOKIE_SECURE,
        samesite="Lax",
    )
    return response


def pass_second_factor(request: HttpRequest, user: User) -> None:
    """A code was right in this session; others are asked for one."""
    factor = second_factor.of(user)
    request.session[PASSED] = factor.mark if factor else ""


def is_through(user: User, session: Any) -> bool:
    """Whether somebody who is signed in has said all that a sign-in asks for."""
    factor = second_factor.of(user)
    if factor is None:
        return not second_factor.is_demanded_of(user)
    return bool(session.get(PASSED) == factor.mark)


def second_factor_first(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """No page before the code; and none before there is a second factor, where the configuration demands one."""

    def middleware(request: HttpRequest) -> HttpResponse:
        user = request.user
        if not user.is_authenticated or is_through(user, request.session):
            return get_response(request)
        if second_factor.of(user) is not None:
            user.backend = request.session[BACKEND_SESSION_KEY]
            _await_code(request, user, request.get_full_path() if request.method == "GET" else "")
            return redirect("portal:code")
        if request.path in {reverse(name) for name in WITHOUT_SECOND_FACTOR}:
            return get_response(request)
        messages.warning(request, _("Set up your second factor first: this site demands it of you."))
        return redirect("portal:second-factor")

    return middleware


def target(request: HttpRequest) -> str:
    """Where the person was going; only on this site."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    is_ours = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, request.is_secure())
    return wanted if is_ours else ""
