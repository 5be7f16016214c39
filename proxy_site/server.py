"""Daphne, hardened by subclassing only: back-pressure, a body limit, one broken stream breaks one connection, drain.

Stock Daphne buffers without limit for a reader that reads nothing, reads whole bodies of any size before anything
else runs, loses its bookkeeping for good when an application fails in the middle of a stream, and cuts every stream
at SIGTERM. Import this module only after the event loop policy is set: daphne.server makes its loop when imported.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server
from twisted.internet import defer, reactor
from twisted.internet.interfaces import IPushProducer
from twisted.web import http
from zope.interface import implementer

from proxy_site.lean import CORS
from relay.api.answers import error_response
from relay.api.request import new_request_id
from relay.api.urls import is_api
from relay.errors import BadRequest, PayloadTooLarge, RelayError

log = logging.getLogger(__name__)

# Twisted reads each request's Content-Type with the e-mail parser (75 us); there are but a few in use.
http._parseContentType = lru_cache(maxsize=256)(http._parseContentType)

DRAIN_POLL_SECONDS = 0.05
INTERRUPT_SECONDS = 2.0
# A reader that reads nothing for so long is cut: its request holds a connection to Poe.
STUCK_SECONDS = 30.0
# How long the rest of a refused body is still read, and thrown away: a client that is still writing must see the answer.
LINGER_SECONDS = 1.0
ONCE = (b"host", b"authorization", b"content-type")
# Twisted lacks the newer ones, such as 429.
http.RESPONSES.update(
    {status.value: status.phrase.encode() for status in HTTPStatus if status not in http.RESPONSES}
)


@implementer(IPushProducer)
class HardenedRequest(WebRequest):
    """One request. Its application's `send` waits while the client does not read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.can_write = asyncio.Event()
        self.can_write.set()
        self._is_producer = False
        self._refused = False
        self._seen = 0
        super().__init__(*args, **kwargs)

    # Back-pressure: the transport tells when its buffer is full and when it is empty again.

    def pauseProducing(self) -> None:
        self.can_write.clear()

    def resumeProducing(self) -> None:
        self.can_write.set()

    def stopProducing(self) -> None:
        self.can_write.set()

    def handle_reply(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and not self._is_producer and self.channel is not None:
            self._is_producer = True
            self.registerProducer(self, True)
        super().handle_reply(message)

    def finish(self) -> None:
        if self._is_producer and self.channel is not None:
            self._is_producer = False
            self.unregisterProducer()
        super().finish()

    def connectionLost(self, reason: Any) -> None:
        self.can_write.set()
        super().connectionLost(reason)

    # The body limit, before anything is kept or any of our code runs.

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        if length is not None and length > self.server.max_body_bytes:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        if self._refused:
            return
        self._seen += len(data)
        if self._seen > self.server.max_body_bytes:
            self._refuse_body()
            return
        super().handleContentChunk(data)

    def _refuse_body(self) -> None:
        megabytes = self.server.max_body_bytes // 1_000_000
        self._refuse(PayloadTooLarge(f"The body is larger than {megabytes} MB."))

    def _refuse(self, exc: RelayError) -> None:
        """Answer before any application runs, and hang up. Nothing more of this connection is kept."""
        self._refused = True
        channel = self.channel
        channel.transport.write(bare_refusal(exc))
        reactor.callLater(LINGER_SECONDS, channel.loseConnection)

    def _why_not(self) -> RelayError | None:
        headers = self.requestHeaders
        for name in ONCE:
            if len(headers.getRawHeaders(name) or ()) > 1:
                return BadRequest(
                    f"The header {name.decode()} was sent more than once.", code="duplicate_header"
                )
        if headers.hasHeader(b"upgrade") and is_api(self.path.decode("ascii", "replace")):
            return BadRequest("This route does not speak WebSocket.", code="unsupported_upgrade")
        return None

    def process(self) -> Any:
        if self._refused:
            return None
        if (refused := self._why_not()) is not None:
            return self._refuse(refused)
        # Only Daphne's own command line may set it; a client that sends it would choose the site's root path.
        self.requestHeaders.removeHeader(b"daphne-root-path")
        return super().process()

    def handle_exception(self, exception: BaseException) -> None:
        if not self._response_started:
            super().handle_exception(exception)
        elif self.channel is not None:
            # The client must see that this is no proper end.
            self.channel.transport.abortConnection()


def bare_refusal(exc: RelayError) -> bytes:
    """The whole answer as it goes over the wire, in the API's own words."""
    response = error_response(exc)
    headers = [*CORS, (b"x-request-id", new_request_id().encode()), (b"content-type", b"application/json")]
    headers += [(b"connection", b"close"), (b"content-length", b"%d" % len(response.content))]
    lines = [b"HTTP/1.1 %d %s" % (exc.status, http.RESPONSES[exc.status])]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + response.content


class HardenedFactory(HTTPFactory):
    def log(self, request: Any) -> None:
        """Twisted's own access log, which nobody reads."""

    def buildProtocol(self, addr: Any) -> Any:
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = HardenedRequest
        channel = protocol._channel
        received = channel.dataReceived

        def unless_reset(data: bytes) -> None:
            if _is_reset(channel.transport):
                channel.transport.abortConnection()
            else:
                received(data)

        channel.dataReceived = unless_reset
        return protocol


def _is_reset(transport: Any) -> bool:
    """Whether the client's reset arrived together with this data: uvloop then closes its poll without a word to Twisted,
    which would never learn that the client is gone (MagicStack/uvloop#552, twisted/twisted#11904).
    """
    try:
        transport.getHandle().getpeername()
    except OSError:
        return True
    return False


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
