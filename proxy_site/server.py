"""Daphne's server, hardened by subclassing only: one broken stream breaks one connection, and a drain before it stops.

Stock Daphne loses its bookkeeping for good when an application fails in the middle of a stream, and cuts every stream
at SIGTERM. What is done for each connection is in `connection.py`. Import this module only after the event loop policy
is set: daphne.server makes its loop when imported.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from daphne.server import Server
from twisted.internet import defer, reactor

from proxy_site.connection import HardenedFactory

log = logging.getLogger(__name__)

DRAIN_POLL_SECONDS = 0.05
INTERRUPT_SECONDS = 2.0
# A reader that reads nothing for so long is cut: its request holds a connection to Poe.
STUCK_SECONDS = 30.0


class RelayServer(Server):
    """Serves `application` on an open socket until a signal, then drains: `at_exit` runs after the last stream."""

    def __init__(
        self,
        application: Any,
        listening: socket.socket,
        *,
        max_body_bytes: int,
        drain_seconds: float,
        at_exit: Callable[[], Awaitable[None]],
        ready: Callable[[], None],
    ) -> None:
        super().__init__(
            application,
            endpoints=["the open socket"],
            signal_handlers=False,
            verbosity=0,
            server_name="poe-relay",
            request_buffer_size=max_body_bytes + 1,
            ready_callable=self._listen,
        )
        self.endpoints: list[str] = []
        self.max_body_bytes = max_body_bytes
        self._socket = listening
        self._drain_seconds = drain_seconds
        self._at_exit = at_exit
        self._ready = ready
        self._stop_at: float | None = None

    def _listen(self) -> None:
        self.http_factory = HardenedFactory(self)
        port = reactor.adoptStreamPort(self._socket.fileno(), self._socket.family, self.http_factory)
        self.listeners.append(defer.succeed(port))
        self._socket.close()
        reactor.callLater(0, self._begin)

    def _begin(self) -> None:
        # From inside the running loop: uvloop loses a signal that comes between the handler and the loop's start.
        loop = reactor._asyncioEventloop
        loop.add_signal_handler(signal.SIGTERM, self._on_signal, self._drain_seconds)
        loop.add_signal_handler(signal.SIGINT, self._on_signal, INTERRUPT_SECONDS)
        self._ready()

    def _on_signal(self, grace: float) -> None:
        """The first signal starts the drain, the second one ends it at once."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + grace
            reactor.stop()
        else:
            self._stop_at = 0.0

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        await super().handle_reply(protocol, message)
        can_write = getattr(protocol, "can_write", None)
        if can_write is None or can_write.is_set():
            return
        try:
            await asyncio.wait_for(can_write.wait(), STUCK_SECONDS)
        except TimeoutError:
            if protocol.channel is not None:
                protocol.channel.transport.abortConnection()
            raise ConnectionAbortedError("the client stopped reading") from None

    def application_checker(self) -> None:
        try:
            super().application_checker()
        except Exception:
            log.exception("Daphne's bookkeeping failed on one connection")
            reactor.callLater(1, self.application_checker)

    def kill_all_applications(self) -> defer.Deferred[Any]:
        """Twisted waits for this before it stops: streams end, the rest is cancelled and settled."""
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        for listener in self.listeners:
            listener.addCallback(lambda port: port.stopListening())
        while self._running() and time.monotonic() < (self._stop_at or 0):
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        cut = self._running()
        for task in cut:
            task.cancel()
        if cut:
            await asyncio.wait(cut, timeout=5)
        await self._at_exit()

    def _running(self) -> list[asyncio.Future[Any]]:
        tasks = [details.get("application_instance") for details in self.connections.values()]
        return [task for task in tasks if task is not None and not task.done()]
