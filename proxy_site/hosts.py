"""Which Host headers the pages answer to: the name in server.public_url, localhost, and any literal address.

A literal address is safe, since DNS rebinding needs a name; so the panel opens on every address of the machine
without a setting. API routes accept any Host: they read no cookie.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from functools import cache
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest

log = logging.getLogger(__name__)
UNKNOWN = (
    "This site does not know the name by which you opened it.\n"
    "If it is yours: set server.public_url in config.toml to the address that people open, and restart.\n"
    "如果这是你的站点：请将 config.toml 中的 server.public_url 设为大家访问的地址，然后重启。\n"
)


@cache
def _names() -> frozenset[str]:
    public = urlsplit(settings.CONFIG.public_url).hostname or ""
    return frozenset({"localhost", public.lower(), socket.gethostname().lower()})


def is_allowed(host: str) -> bool:
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    if name in _names():
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_own_origin(origin: str, host: str) -> bool:
    """Whether a page that a browser opened under this origin is one of ours: WebSockets carry cookies from anywhere."""
    try:
        its = urlsplit(origin)
        return is_allowed(its.netloc) and (its.netloc == host or its.hostname == _public_name())
    except ValueError:
        return False


def _public_name() -> str | None:
    return urlsplit(settings.CONFIG.public_url).hostname


def allowed_hosts(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        try:
            allowed = is_allowed(request.get_host())
        except (ValueError, DisallowedHost):
            allowed = False
        if not allowed:
            log.warning("refused a page for the unknown host %r", request.META.get("HTTP_HOST", "")[:200])
            return HttpResponseBadRequest(UNKNOWN, content_type="text/plain; charset=utf-8")
        return get_response(request)

    return middleware
