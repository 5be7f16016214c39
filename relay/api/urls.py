"""The API's own URLs: below /v1, and the same paths without it for clients that leave it out."""

from __future__ import annotations

from django.urls import path

from relay.api import api

_routes = api.urls
urlpatterns = [path("v1/", _routes), path("", _routes)]

# Without /v1 only these exact paths are the API's: everything else at the root is a page.
ALIASES = frozenset({"/models", "/chat/completions"})
ALIAS_PREFIXES = ("/models/",)


def is_api(route: str) -> bool:
    return route.startswith("/v1/") or route == "/v1" or route in ALIASES or route.startswith(ALIAS_PREFIXES)
