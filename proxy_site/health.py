"""What machines ask a server about itself: does it live, should it be sent requests, what has it counted. Without Django."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from proxy_site.config import Server
from proxy_site.draining import draining
from proxy_site.lean import Scope, Send, is_told_by_proxy, is_trusted
from proxy_site.metrics import CONTENT_TYPE, Metrics
from relay.errors import Unavailable
from relay.pipeline import Relay

log = logging.getLogger(__name__)

JSON, TEXT = "application/json", "text/plain; charset=utf-8"
# The database is asked at most so often, however many ask.
KEPT_SECONDS = 1.0
# Whoever asks has little patience, and a database that takes longer is no help to a request either.
DATABASE_SECONDS = 2.0
METHODS = ("GET", "HEAD")
# Who sends one of these asks for somebody else.
FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip")

# Answers, and says with which status.
Page = Callable[[Scope, Send], Awaitable[int]]


async def alive(scope: Scope, send: Send) -> int:
    """The process runs and its event loop turns: no database, no Django."""
    return await respond(scope, send, 200, TEXT, b"ok")


@dataclass(frozen=True, slots=True)
class Checked:
    at: float
    database: bool

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.at < KEPT_SECONDS


class Readiness:
    """Whether requests should be sent here, with the reasons."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._checked: Checked | None = None
        self._checking: asyncio.Task[Checked] | None = None

    async def page(self, scope: Scope, send: Send) -> int:
        if draining.is_on:
            return await respond(scope, send, 503, JSON, msgspec.json.encode({"status": "draining"}))
        checked = await self._check()
        directory = self._relay.directory
        is_loaded = directory.read_at is not None
        is_ready = checked.database and is_loaded
        said = {
            "status": "ready" if is_ready else "not ready",
            "checks": {
                "database": {"ok": checked.database},
                "directory": {"ok": is_loaded, "version": directory.version, "age_seconds": self._age()},
                "spool": {"bytes": self._relay.spool_bytes},
            },
        }
        return await respond(scope, send, 200 if is_ready else 503, JSON, msgspec.json.encode(said))

    def _age(self) -> float | None:
        read_at = self._relay.directory.read_at
        return None if read_at is None else round(max(0.0, time.time() - read_at), 1)

    async def _check(self) -> Checked:
        """The last check, if it is fresh; or else that which is under way, or a new one."""
        if self._checked is not None and self._checked.is_fresh:
            return self._checked
        if self._checking is None:
            self._checking = asyncio.create_task(self._ask_database())
        return await asyncio.shield(self._checking)

    async def _ask_database(self) -> Checked:
        """Reading the directory's version is the least that the database must do for any request."""
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                await self._relay.directory.refresh()
            works = True
        except (Unavailable, TimeoutError):
            works = False
        except Exception as exc:
            log.exception("readiness cannot be checked", exc_info=exc)
            works = False
        self._checked, self._checking = Checked(time.monotonic(), works), None
        return self._checked


class MetricsPage:
    """What was counted, for whoever asks from a configured network; to others it does not exist."""

    def __init__(self, metrics: Metrics, server: Server) -> None:
        self._metrics = metrics
        self._networks = [ipaddress.ip_network(each) for each in server.metrics_networks]

    async def page(self, scope: Scope, send: Send) -> int:
        if not self._may_see(scope):
            return await respond(scope, send, 404, TEXT, b"Not found")
        self._metrics.sample()
        return await respond(scope, send, 200, CONTENT_TYPE, await asyncio.to_thread(self._metrics.page))

    def _may_see(self, scope: Scope) -> bool:
        if not scope.get("client") or not is_trusted(scope["client"][0], self._networks):
            return False
        # A proxy that nobody configured would make everybody look like a neighbour.
        is_forwarded = any(name in FORWARDED for name, _value in scope["headers"])
        return not is_forwarded or is_told_by_proxy(scope)


async def respond(scope: Scope, send: Send, status: int, content_type: str, body: bytes) -> int:
    """The whole answer; HEAD gets it without the body, other methods are refused."""
    headers = [(b"cache-control", b"no-store")]
    if scope["method"] not in METHODS:
        status, content_type, body = 405, TEXT, b"Method not allowed"
        headers.append((b"allow", ", ".join(METHODS).encode()))
    headers += [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
    return status
