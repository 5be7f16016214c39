"""Where a connection goes: API routes to the lean handler, WebSockets to channels, all else to Django; and each is told of."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

pages: Any = get_asgi_application()

from proxy_site import access_log, log_writer
from proxy_site.draining import draining
from proxy_site.health import MetricsPage, Page, Readiness, alive
from proxy_site.hosts import is_own_origin
from proxy_site.lean import LeanHandler, Receive, Scope, Send, client_address
from proxy_site.metrics import Metrics
from relay.api.urls import is_api
from relay.pipeline import Relay
from relay.visit import Visit, new_request_id

config = settings.CONFIG
relay = Relay(config)
api = LeanHandler(relay, "relay.api.urls")
metrics = Metrics(relay, log_writer.writer)
own_pages: dict[str, Page] = {
    "/healthz": alive,
    "/readyz": Readiness(relay).page,
    "/metrics": MetricsPage(metrics, config.server).page,
}
trusted = [ipaddress.ip_network(each) for each in config.server.trusted_proxies]

log_writer.writer.start()
access_log.listen(metrics.count)
if config.log.access:
    access_log.listen(access_log.lines_to(log_writer.writer, config.log.format))


async def application(scope: Scope, receive: Receive, send: Send) -> Any:
    if scope["type"] != "http":
        return await _websocket(scope, receive, send)
    path = scope["path"]
    visit = Visit(new_request_id(), scope["method"], scope["raw_path"].decode("ascii", "backslashreplace"))
    if path in own_pages:
        return await _own(own_pages[path], visit, scope, send)
    scope["visit"] = visit
    metrics.begin()
    try:
        if is_api(path):
            await api(scope, receive, send)
        else:
            visit.address = client_address(scope, trusted)
            # What Django calls REMOTE_ADDR: who signs in, not the proxy in front.
            scope["client"] = [visit.address, 0]
            await pages(scope, receive, _noting(visit, send))
    except Exception:
        visit.fail()
        raise
    finally:
        metrics.end()
        access_log.tell(visit)


async def _live_traffic(scope: Scope, receive: Receive, send: Send) -> None:
    # Loaded by the first who opens that page: channels takes some megabytes.
    from relay.panel.consumers import application as live

    await live(scope, receive, send)


sockets = {"/ws/live/": _live_traffic}


async def _websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Others than these are refused before they are accepted, which Daphne says with 403."""
    visit = Visit(new_request_id(), "GET", scope["path"], client_address(scope, trusted), status=403)
    headers = dict(scope["headers"])
    origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
    try:
        socket = sockets.get(scope["path"])
        if socket is None or not is_own_origin(origin, host):
            await send({"type": "websocket.close"})
            return
        await socket(scope, receive, _accepting(visit, send))
    except Exception:
        visit.fail()
        raise
    finally:
        access_log.tell(visit)


def _accepting(visit: Visit, send: Send) -> Send:
    async def noted(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.accept":
            visit.begin_answer(503 if draining.is_leaving else 101)
        await send(message)

    return noted


async def _own(page: Page, visit: Visit, scope: Scope, send: Send) -> None:
    """Asked again and again by machines: told of only when it fails."""
    visit.address = client_address(scope, trusted)
    try:
        visit.begin_answer(await page(scope, send))
    except Exception:
        visit.fail()
        raise
    finally:
        if visit.status >= 400:
            access_log.tell(visit)


def _noting(visit: Visit, send: Send) -> Send:
    """Notes of an answer of Django's what the lean handler notes of its own."""

    async def noted(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            visit.begin_answer(message["status"])
            message["headers"] = [*message["headers"], (b"x-request-id", visit.request_id.encode())]
        elif visit.method != "HEAD":
            visit.sent_bytes += len(message.get("body", b""))
        await send(message)

    return noted
