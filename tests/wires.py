"""Connections in memory: the relay's own end of HTTP, a clock that stands still, and an application that notes what it got."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from proxy_site.bodies import Bodies
from proxy_site.factory import HardenedFactory

PEER = "192.0.2.7"


@dataclass
class Seen:
    """A request as the application was given it."""

    scope: dict[str, Any]
    body: bytes = b""

    @property
    def line(self) -> str:
        return f"{self.scope['method']} {self.scope['path']}"


class _Queue:
    """Of one request's messages; the answer is there with the last of the body."""

    def __init__(self, server: FakeServer, request: Any, seen: Seen) -> None:
        self._server, self._request, self._seen = server, request, seen

    def put_nowait(self, message: dict[str, Any]) -> None:
        if message["type"] != "http.request":
            return
        self._seen.body += message["body"]
        if not message["more_body"]:
            self._server.seen.append(self._seen)
            self._server.requests.append(self._request)
            if self._server.answers:
                self._server.answer(self._request)


class FakeServer:
    """In Daphne's place."""

    proxy_forwarded_address_header = None
    root_path = ""
    server_name = "poe-relay"
    request_buffer_size = 1_000_000_000

    def __init__(self) -> None:
        self.answers = True
        self.seen: list[Seen] = []
        self.requests: list[Any] = []
        # Requests that are on Daphne's books.
        self.open: list[Any] = []

    def protocol_connected(self, request: Any) -> None:
        self.open.append(request)

    def protocol_disconnected(self, request: Any) -> None:
        self.open = [each for each in self.open if each is not request]

    def create_application(self, request: Any, scope: dict[str, Any]) -> _Queue:
        return _Queue(self, request, Seen(scope))

    def log_action(self, *args: Any) -> None: ...

    def answer(self, request: Any, body: bytes = b"fine") -> None:
        head = [(b"content-length", b"%d" % len(body))]
        request.handle_reply({"type": "http.response.start", "status": 200, "headers": head})
        request.handle_reply({"type": "http.response.body", "body": body})


class Transport(StringTransport):
    """A client's end: reads at once unless it is told not to."""

    offset = 0

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", PEER, 4711))
        self.is_read = True
        self.dataBuffer = b""
        self._tempDataLen = 0
        self.is_aborted = self.is_half_closed = False

    def write(self, data: bytes) -> None:
        if self.is_read:
            super().write(data)
            return
        self._tempDataLen += len(data)
        if self._tempDataLen > 65_536:
            self.producer.pauseProducing()

    def read(self, size: int | None = None) -> None:
        """So much of what waits, or all of it."""
        self._tempDataLen -= self._tempDataLen if size is None else size
        if not self._tempDataLen:
            self.producer.resumeProducing()

    def loseWriteConnection(self) -> None:
        self.is_half_closed = True

    def abortConnection(self) -> None:
        self.is_aborted = True

    def unregisterProducer(self) -> None:
        """The tests go on looking at it."""

    def getHandle(self) -> Any:
        return self

    def getsockopt(self, *args: Any) -> bytes:
        """TCP_INFO of one that is open."""
        return b"\1"

    def getpeername(self) -> None: ...

    def setsockopt(self, *args: Any) -> None: ...


async def anybody(credential: str, address: str) -> None: ...


@dataclass
class Wire:
    """A connection to a relay of which nothing else exists."""

    authenticate: Callable[[str, str], Awaitable[object]] = anybody
    api: int = 5_000_000
    page: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    together: int = 20_000_000
    clock: Clock = field(default_factory=Clock)
    server: FakeServer = field(default_factory=FakeServer)

    def __post_init__(self) -> None:
        self.bodies = Bodies(
            api=self.api, page=self.page, together=self.together, authenticate=self.authenticate
        )
        self.factory = HardenedFactory(self.server, self.bodies, self.clock)
        self.factory.startFactory()
        self.connect()

    def connect(self) -> None:
        """A new connection; the ones before stay as they are."""
        self.transport = Transport()
        self.channel: Any = self.factory.buildProtocol(self.transport.getPeer())
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes, *, at_a_time: int | None = None) -> Wire:
        """All at once, or in pieces."""
        step = at_a_time or max(1, len(data))
        for start in range(0, len(data), step):
            self.channel.dataReceived(data[start : start + step])
        return self

    def wait(self, seconds: float) -> Wire:
        for _ in range(int(seconds)):
            self.clock.advance(1)
        return self

    @property
    def received(self) -> bytes:
        value: bytes = self.transport.value()
        return value

    @property
    def statuses(self) -> list[int]:
        """Of the answers so far."""
        return [int(each) for each in re.findall(rb"HTTP/1\.[01] (\d{3}) ", self.received)]

    @property
    def code(self) -> str:
        found = re.search(rb'"code":"(\w+)"', self.received)
        return found[1].decode() if found else ""

    @property
    def is_reading(self) -> bool:
        return bool(self.transport.producerState == "producing")

    @property
    def lines(self) -> list[str]:
        """What the application was asked."""
        return [seen.line for seen in self.server.seen]
