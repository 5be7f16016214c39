"""The portal's first pages: signing in, and what a signed-in person needs to connect an app."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.signing_in import sign_in


@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def home(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated or request.method == "POST":
        return sign_in(request)
    return render(request, "portal/home.html", {"api_base": f"{address(request)}/v1"})


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect("portal:home")


@require_safe
def icon(request: HttpRequest) -> HttpResponse:
    """Browsers ask for this address whatever a page says."""
    return redirect(static("portal/icon.svg"))


def address(request: HttpRequest) -> str:
    """Where people reach this site: server.public_url, else the address that they just used."""
    public: str = settings.CONFIG.server.public_url
    return public or request.build_absolute_uri("/").rstrip("/")
