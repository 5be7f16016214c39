"""Which paths are the API's: all below /v1, and its own routes without it, for clients that leave it out.

However a client spells a path (`/v1/v1/models`, `//v1//models/`), it is one route, which is never answered by a redirect:
many clients do not follow one, or lose the token on the way.
"""

from __future__ import annotations

import re
from functools import lru_cache

from django.urls import URLPattern, path

from relay.api import api

_urls = api.urls
urlpatterns = [path("v1/", _urls)]

_routes = [each for each in _urls[0] if isinstance(each, URLPattern) and str(each.pattern)]
# Without /v1 only these exact paths are the API's, and what has an id in it: everything else at the root is a page.
ALIASES = frozenset(f"/{each.pattern}" for each in _routes if not each.pattern.converters)
_WITH_ID = tuple(each.pattern for each in _routes if each.pattern.converters)

_SLASHES = re.compile("//+")
_VERSION = re.compile(r"(?:/v1)+(?=/|$)")


@lru_cache(maxsize=512)
def route_of(spelled: str) -> str | None:
    """The path below /v1, without a slash at its end; None: it is a page's."""
    plain = _SLASHES.sub("/", spelled)
    route = plain.rstrip("/")
    if version := _VERSION.match(route):
        return route[version.end() :]
    # No id has a line break in it, and no pattern meets one: that is the API's to say.
    on_one_line = route[1:].replace("\n", " ")
    is_alias = route in ALIASES or any(each.match(on_one_line) for each in _WITH_ID)
    return route if is_alias else None


def is_api(spelled: str) -> bool:
    return route_of(spelled) is not None
