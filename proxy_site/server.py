"""Daphne's server, hardened by subclassing only: one broken stream breaks one connection, and a drain before it stops.

Stock Daphne loses its bookkeeping for good when an application fails in the middle of a stream, and cuts every stream
at SIGTERM. What is done for each connection is in `connection.py`, how connections are taken in `accepting.py`. Import this
module only after the event loop policy is set: daphne.server makes its loop when imported.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from daphne.server import Server
from twisted.internet import defer, reactor
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    STDLibLogObserver,
    globalLogPublisher,
)

from proxy_site.accepting import AcceptingPort
from proxy_site.bodies import Bodies
from proxy_site.draining import draining
from proxy_site.factory import HardenedFactory
from proxy_site.web_sockets import HardenedWebSocket
from proxy_site.workers import Seat

log = logging.getLogger(__name__)

DRAIN_POLL_SECONDS = 0.05
INTERRUPT_SECONDS = 2.0
# A connection without a request is hung up after so long: a client that asks again and again is rather told by its next
# answer, since a request that crosses the hang-up on its way is lost.
IDLE_SECONDS = 0.5
# What was cancelled lets go of its bot within so long.
CANCEL_SECONDS = 5.0


class Inbox:
    """What an application receives, for one reader. An asyncio.Queue is 2.5 KB, of which each idle stream holds one."""

    __slots__ = ("_messages", "_reader")

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._reader: asyncio.Future[None] | None = None

    def put_nowait(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def get(self) -> dict[str, Any]:
        while not self._messages:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._messages.pop(0)


def hear_failures() -> None:
    """Daphne throws away what Twisted has to say, failures of ours that it met included: these are logged."""
    failures = LogLevelFilterPredicate(defaultLogLevel=LogLevel.error)
    globalLogPublisher.addObserver(FilteringLogObserver(STDLibLogObserver("twisted"), [failures]))


class RelayServer(Server):
    """Serves `application` on an open socket until a signal, then drains: `at_exit` runs after the last stream.

    With a seat it is one worker of several, and also drains when its supervisor dismisses it or is gone.
    """

    def __init__(
        self,
        application: Any,
        listening: socket.socket,
        *,
        bodies: Bodies,
        drain_seconds: float,
        drain_notice_seconds: float,
        seat: Seat | None,
        at_exit: Callable[[], Awaitable[None]],
        ready: Callable[[], None],
    ) -> None:
        super().__init__(
            application,
            endpoints=["the open socket"],
            signal_handlers=False,
            verbosity=0,
            server_name="poe-relay",
            request_buffer_size=bodies.api + 1,
            ready_callable=self._listen,
        )
        self.endpoints: list[str] = []
        self._bodies = bodies
        self._socket = listening
        self._seat = seat
        self._drain_seconds = drain_seconds
        self._notice_seconds = drain_notice_seconds
        self._at_exit = at_exit
        self._ready = ready
        self._accepts_until = 0.0
        self._stop_at = math.inf

    def _listen(self) -> None:
        hear_failures()
        self.http_factory = HardenedFactory(self, self._bodies, reactor)
        self.ws_factory.protocol = HardenedWebSocket
        self._port = AcceptingPort.on(self._socket, self.http_factory, self._seat, reactor)
        self.listeners.append(defer.succeed(self._port))
        self._socket.close()
        reactor.callLater(0, self._begin)

    def _begin(self) -> None:
        # From inside the running loop: uvloop loses a signal that comes between the handler and the loop's start.
        loop = reactor._asyncioEventloop
        drain = (self._drain_seconds, self._notice_seconds)
        loop.add_signal_handler(signal.SIGTERM, self._on_signal, *drain)
        loop.add_signal_handler(signal.SIGINT, self._on_signal, INTERRUPT_SECONDS, 0.0)
        # The terminal was closed, or somebody takes this process for a supervisor: nothing is cut.
        loop.add_signal_handler(signal.SIGHUP, self._on_signal, *drain)
        if self._seat is not None:
            loop.add_reader(self._seat.control, self._on_dismissal, loop, self._seat)
        self._ready()

    def _on_signal(self, grace: float, notice: float) -> None:
        """The first signal starts the drain, the second one ends it at once."""
        if draining.is_on:
            self._stop_at = 0.0
            return
        draining.is_on = True
        self._leave(grace, notice)

    def _on_dismissal(self, loop: asyncio.AbstractEventLoop, seat: Seat) -> None:
        """End of file: another worker has taken its place, or nobody is left who would start another."""
        loop.remove_reader(seat.control)
        self._leave(self._drain_seconds, notice=0.0)

    def _leave(self, grace: float, notice: float) -> None:
        now = time.monotonic()
        self._stop_at = min(self._stop_at, now + notice + grace)
        if draining.is_leaving:
            return
        draining.is_leaving = True
        self._accepts_until = now + notice
        # First: whatever else fails here, the server stops.
        reactor.stop()
        for connection in self._port.connections:
            connection.end_with_this_answer()
        for protocol in tuple(self.connections):
            if isinstance(protocol, HardenedWebSocket):
                protocol.leave()

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Inbox | None:
        """As Daphne's own does, but what has ended well is forgotten at once: there may be thousands in a second."""
        details = self.connections.get(protocol)
        if details is None:
            return None
        inbox = Inbox()
        running = asyncio.ensure_future(
            self.application(scope, inbox.get, partial(self.handle_reply, protocol)),
            loop=reactor._asyncioEventloop,
        )
        running.add_done_callback(partial(self._forget, protocol, details))
        details["application_instance"] = running
        return inbox

    def _forget(self, protocol: Any, details: dict[str, Any], ended: asyncio.Future[Any]) -> None:
        if "disconnected" in details and not ended.cancelled() and ended.exception() is None:
            self.connections.pop(protocol, None)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        # As Daphne's own does, but without a look at the type of each header: `DirectReply` fails on another one.
        details = self.connections.get(protocol)
        if details is None or "disconnected" in details:
            return
        if draining.is_leaving and message["type"] == "http.response.start" and protocol.channel is not None:
            protocol.channel.persistent = False
            protocol.responseHeaders.setRawHeaders(b"connection", [b"close"])
        protocol.handle_reply(message)
        can_write = getattr(protocol, "can_write", None)
        if can_write is not None and not can_write.is_set():
            # Until the client reads, or its connection is cut: it has a deadline.
            await can_write.wait()

    def application_checker(self) -> None:
        self._go_on(super().application_checker, self.application_checker, seconds=1)

    def timeout_checker(self) -> None:
        self._go_on(super().timeout_checker, self.timeout_checker, seconds=2)

    def _go_on(self, check: Callable[[], None], again: Callable[[], None], seconds: float) -> None:
        """Daphne's own sees to it that it is called again, but not where it fails."""
        try:
            check()
        except Exception:
            log.exception("Daphne's bookkeeping failed on one connection")
            reactor.callLater(seconds, again)

    def kill_all_applications(self) -> defer.Deferred[Any]:
        """Twisted waits for this before it stops: streams end, the rest is cancelled and settled."""
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        while time.monotonic() < min(self._accepts_until, self._stop_at):
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        self._port.take_all()
        self._port.stopListening()
        hang_up_at = time.monotonic() + IDLE_SECONDS
        while (self._running() or self._port.connections) and (now := time.monotonic()) < self._stop_at:
            if now >= hang_up_at:
                self._hang_up_idle()
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        cut = self._running()
        for task in cut:
            task.cancel()
        if cut:
            await asyncio.wait(cut, timeout=CANCEL_SECONDS)
        try:
            await self._at_exit()
        except Exception:
            log.exception("what was settled may not be written")

    def _hang_up_idle(self) -> None:
        for connection in list(self._port.connections):
            if connection.is_idle():
                connection.loseConnection()

    def _running(self) -> list[asyncio.Future[Any]]:
        tasks = [details.get("application_instance") for details in self.connections.values()]
        return [task for task in tasks if task is not None and not task.done()]
