"""Where a connection goes: API routes to the lean handler, WebSockets to channels, all else to Django."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

pages = get_asgi_application()

from proxy_site.lean import LeanHandler, Receive, Scope, Send
from relay.api.urls import is_api
from relay.pipeline import Relay

relay = Relay(settings.CONFIG)
api = LeanHandler(relay, "relay.api.urls")


async def application(scope: Scope, receive: Receive, send: Send) -> Any:
    if scope["type"] != "http":
        # No page uses a WebSocket yet: refused before it is accepted.
        return await send({"type": "websocket.close"})
    handler: Any = api if is_api(scope["path"]) else pages
    return await handler(scope, receive, send)
