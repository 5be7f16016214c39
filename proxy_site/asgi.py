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
    if scope["path"] == "/healthz":
        return await alive(send)
    handler: Any = api if is_api(scope["path"]) else pages
    return await handler(scope, receive, send)


async def alive(send: Send) -> None:
    """The process runs and its event loop turns: no database, no Django."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
