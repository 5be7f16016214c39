"""What a page may load and do, told to the browser with every page: the Content Security Policy and its neighbours."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

SHARED = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "manifest-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}
# unfold is built on Alpine, which makes functions of its attributes, and sets styles in attributes.
PANEL = {
    **SHARED,
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
}
# Bots answer with pictures that lie elsewhere.
PLAYGROUND = {**SHARED, "img-src": "'self' data: blob: https:"}
BY_PREFIX = (("/admin/", PANEL), ("/me/playground/", PLAYGROUND), ("/", SHARED))

PERMISSIONS = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


def _said(policy: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in policy.items())


POLICIES = tuple((prefix, _said(policy)) for prefix, policy in BY_PREFIX)


def content_security_policy(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        policy = next(said for prefix, said in POLICIES if request.path.startswith(prefix))
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers.setdefault("Permissions-Policy", PERMISSIONS)
        return response

    return middleware
