"""One connection under Daphne, hardened by subclassing only: deadlines, back-pressure, limits and refusals before the application.

Stock Daphne buffers without limit for a reader that reads nothing, and reads whole bodies of any size before anything else
runs. One of its requests is in `request.py`, all connections of a server in `factory.py`; what about a head is refused in
`framing.py`, how much a body may hold in `bodies.py`, how an answer leaves in `replies.py`; what listens, drains and stops in
`server.py`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import socket
import sys
from http import HTTPStatus
from typing import Any

from twisted.web import http

from proxy_site import access_log, framing
from proxy_site.access_log import NOT_ANSWERED
from proxy_site.bodies import SMALL_PAGE_BYTES, Share
from proxy_site.lean import CORS, client_address, is_trusted, named
from proxy_site.request import Gate, HardenedRequest
from relay.api.answers import error_response
from relay.api.dialects import VERSION, Dialect, spoken
from relay.api.request import credential_of
from relay.api.urls import is_api
from relay.errors import (
    AddressTooLong,
    BadRequest,
    HeadersTooLarge,
    PayloadTooLarge,
    RelayError,
    TooSlow,
    Unavailable,
)
from relay.visit import new_request_id

log = logging.getLogger(__name__)

HEAD_BYTES = 16_384
TARGET_BYTES = 8_192
# So much waits to be sent in the relay, and so much in the kernel, before the application waits.
UNSENT_BYTES = 8_192
# Of the next requests so much is taken while one is answered.
AHEAD_BYTES = 16_384
# Twisted lacks the newer ones, such as 429.
http.RESPONSES.update(
    {status.value: status.phrase.encode() for status in HTTPStatus if status not in http.RESPONSES}
)


class Phase(enum.Enum):
    """What a connection is waiting for."""

    NEW = enum.auto()  # the first byte
    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()  # of the application: no deadline here
    IDLE = enum.auto()  # the next request, if any
    CLOSING = enum.auto()  # the client, which reads the rest
    REFUSED = enum.auto()  # the client, which reads why and hangs up


# In seconds.
DEADLINES = {Phase.NEW: 10.0, Phase.HEAD: 10.0, Phase.BODY: 30.0, Phase.IDLE: 75.0, Phase.REFUSED: 1.0}
# A reader that reads next to nothing for so long is cut: its request holds a connection to Poe.
STUCK_SECONDS = 30.0
# Slower than so many bytes a second is standing still, in either direction.
LEAST_RATE = 1000
# Of what was refused so much is still read, and thrown away: a client that is still writing must see the answer.
LINGER_BYTES = 500_000
# Of <linux/tcp.h> and <net/tcp_states.h>; no other system has them.
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_TCP_CLOSE = 7


class HardenedChannel(http.HTTPChannel):
    """One connection and what it is waiting for: one request after the other."""

    # Not in the dictionary of Twisted's: see DirectReply. In parts, or mypy would take them for all that there are.
    __slots__ = (
        *(
            "_ahead_bytes",
            "_head_bytes",
            "_heard",
            "_introducing",
            "_left_to_discard",
            "_most",
            "_owes_continue",
        ),
        *("_phase", "_since", "_stuck", "_wire_bytes", "can_write"),
    )
    totalHeadersSize = MAX_LENGTH = HEAD_BYTES
    # Bytes are what counts.
    maxHeaders = HEAD_BYTES

    def __init__(self) -> None:
        super().__init__()
        # Of the application; the transport says when its buffer is full and when it is empty again.
        self.can_write = Gate()
        self._phase = Phase.NEW
        self._since = 0.0
        self._head_bytes = 0
        # Of the requests after the one that is being answered.
        self._ahead_bytes = 0
        # Of the body: what came over the wire, and when something last did.
        self._wire_bytes = 0
        self._heard = 0.0
        self._most = 0
        self._introducing: asyncio.Task[None] | None = None
        self._owes_continue = False
        # Since when the transport's buffer is full, and what was in it then.
        self._stuck: tuple[float, int] | None = None
        self._left_to_discard = LINGER_BYTES

    # What it is waiting for.

    def connectionMade(self) -> None:
        super().connectionMade()
        # The kernel would take megabytes for a client that does not read, and the relay as many from Poe.
        self.transport.bufferSize = UNSENT_BYTES
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self.transport.getHandle().setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._wait_for(Phase.NEW)

    def connectionLost(self, reason: Any) -> None:
        self.factory.watched.discard(self)
        self._stop_introducing()
        self.can_write.set()
        if self._phase is Phase.BODY:
            self._tell(new_request_id(), NOT_ANSWERED)
        super().connectionLost(reason)

    def _wait_for(self, phase: Phase) -> None:
        self._phase = phase
        if phase is Phase.ANSWER:
            if self._stuck is None:
                self.factory.watched.discard(self)
            return
        self._since = self.factory.reactor.seconds()
        self.factory.watched.add(self)

    def is_cut(self, now: float) -> bool:
        """Cuts it if a deadline has passed."""
        if self._stuck is not None and self._stands_still(now):
            self.transport.abortConnection()
            return True
        if now - self._since <= DEADLINES.get(self._phase, math.inf):
            return False
        if self._phase is Phase.BODY and not self._drips(now):
            return False
        self._cut()
        return True

    def _cut(self) -> None:
        match self._phase:
            case Phase.NEW | Phase.IDLE:
                self.loseConnection()
            case Phase.HEAD:
                seconds = DEADLINES[Phase.HEAD]
                self.refuse(TooSlow(f"The head of a request must be here within {seconds:g} seconds."))
            case Phase.BODY:
                self.refuse(TooSlow("The body came too slowly."))
            case _:
                self.transport.abortConnection()

    def _drips(self, now: float) -> bool:
        if self._introducing is not None:
            # It is us who do not read.
            return False
        return (
            now - self._heard > DEADLINES[Phase.BODY] or self._wire_bytes < (now - self._since) * LEAST_RATE
        )

    @property
    def is_refused(self) -> bool:
        return self._phase is Phase.REFUSED

    # What arrives.

    def dataReceived(self, data: bytes) -> None:
        if _is_reset(self.transport):
            self.transport.abortConnection()
            return
        if self.is_refused:
            self._discard(len(data))
            return
        if self._phase is Phase.NEW or self._phase is Phase.IDLE:
            self._wait_for(Phase.HEAD)
            lines = framing.plain_head(data, HEAD_BYTES) if self._begins_here() else None
            if lines is not None and len(lines[0]) <= TARGET_BYTES:
                if not self._head_received(lines, data):
                    return
                data = b""
        super().dataReceived(data)
        if self._busyReceiving:
            return
        if self._phase is Phase.IDLE and (self._buffer or self.requests):
            # The next request came together with one that was answered at once.
            self._wait_for(Phase.HEAD)
        if self._phase is Phase.HEAD and b"\n" in self._buffer:
            # Whoever takes LF for a line end has seen a whole head, perhaps.
            self._respondToBadRequestAndDisconnect()

    def _begins_here(self) -> bool:
        """Whether what arrives is the beginning of a request, after nothing."""
        waits = self._busyReceiving or self._buffer or self.requests or self.paused
        return bool(self.line_mode and self.persistent and not waits)

    def _head_received(self, lines: list[bytes], data: bytes) -> bool:
        """What Twisted does line by line, for a head that is whole and plain as nearly all are. False: no more is read.

        Each of ten to twenty lines goes through eight functions there, and copies all that waits behind it.
        """
        self._busyReceiving = True
        try:
            self._buffer = data.partition(b"\r\n\r\n")[2]
            super().lineReceived(lines[0])
            headers = self.requests[-1].requestHeaders
            for line in lines[1:]:
                name, _colon, value = line.partition(b":")
                if name.lower() not in framing.LENGTHS:
                    headers.addRawHeader(name, value.strip(b" \t"))
                elif not self.headerReceived(line):
                    return False
            super().lineReceived(b"")
            return not (self.is_refused or self.transport.disconnecting)
        finally:
            self._busyReceiving = False

    def lineReceived(self, line: bytes) -> bool:
        if self.is_refused:
            return True
        is_first = not self.requests
        self._head_bytes += len(line) + 2
        if is_first and len(line) > TARGET_BYTES:
            self.refuse(AddressTooLong(f"The request line is longer than {TARGET_BYTES} bytes."))
        elif self._head_bytes > HEAD_BYTES:
            self._refuse_head()
        elif framing.is_amiss(line):
            self._respondToBadRequestAndDisconnect()
        else:
            super().lineReceived(line)
        # True ends the reading of what else is there.
        return self.is_refused

    def lineLengthExceeded(self, line: bytes) -> None:
        if self.requests:
            self._refuse_head()
        else:
            self.refuse(AddressTooLong(f"The request line is longer than {TARGET_BYTES} bytes."))

    def _refuse_head(self) -> None:
        self.refuse(HeadersTooLarge(f"The head of the request is larger than {HEAD_BYTES // 1024} KiB."))

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        if not framing.is_length_clear(header, data, self._version):
            return bool(self._failChooseTransferDecoder())
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        refused = framing.why_not(self._command, self._path, self._version, request.requestHeaders)
        if refused is not None:
            self.refuse(refused)
            return
        if self.length != 0:
            self._begin_body(request)
        if not self.is_refused:
            super().allHeadersReceived()

    def rawDataReceived(self, data: bytes) -> bool:
        if self._handlingRequest:
            self._dataBuffer.append(data)
            self._ahead_bytes += len(data)
            if self._ahead_bytes > AHEAD_BYTES:
                # Twisted goes on reading while the client reads nothing. Reading is resumed when the answer is done.
                self._networkProducer.pauseProducing()
            return False
        self._wire_bytes += len(data)
        self._heard = self.factory.now
        super().rawDataReceived(data)
        if self._phase is Phase.BODY:
            self._look_at_sender(self.requests[-1], self._wire_bytes)
        return self.is_refused

    def _finishRequestBody(self, data: bytes) -> None:
        if not framing.are_trailers_clear(getattr(self._transferDecoder, "_trailerHeaders", ())):
            self._respondToBadRequestAndDisconnect()
            return
        super()._finishRequestBody(data)

    def allContentReceived(self) -> None:
        if self.is_refused:
            return
        if self._introducing is not None:
            # All of it came together: the application asks for itself, and must learn when the client leaves.
            self._stop_introducing()
            self._owes_continue = False
            self._networkProducer.resumeProducing()
        self._head_bytes = 0
        self._wait_for(Phase.ANSWER)
        super().allContentReceived()

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Twisted looks at the first field only, and parts it at blanks."""
        if version != b"HTTP/1.1":
            return False
        if b"close" not in framing.tokens(request.requestHeaders, b"connection"):
            return True
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def requestDone(self, request: Any) -> None:
        # First: what is parsed then may be the head of the next request.
        self._wait_for(Phase.IDLE)
        self._ahead_bytes = 0
        super().requestDone(request)

    # The body.

    def _begin_body(self, request: HardenedRequest) -> None:
        bodies = self.factory.bodies
        self._wire_bytes = 0
        self._heard = self.factory.now
        self._most = bodies.most(framing.path_of(self._path))
        self._wait_for(Phase.BODY)
        if self.length is not None and self.length > self._most:
            self._refuse_body()
        elif self.length is not None and not bodies.has_room(self.length):
            self._refuse_for_room()
        else:
            self._look_at_sender(request, 1 if self.length is None else self.length)

    def may_take(self, share: Share, size: int) -> bool:
        if self.is_refused:
            return False
        # Many small chunks are longer on the wire than they say.
        if share.size + size > self._most or self._wire_bytes > 2 * self._most:
            self._refuse_body()
            return False
        if not share.take(size):
            self._refuse_for_room()
            return False
        return True

    def _look_at_sender(self, request: HardenedRequest, size: int) -> None:
        """Read on only if a body of this size may be a stranger's, or when it is known whose it is."""
        if not request.share.is_strangers or self._introducing is not None:
            return
        free = self.factory.bodies.free_of_questions()
        if not is_api(framing.path_of(self._path)):
            if free == 0 and size > SMALL_PAGE_BYTES:
                self._refuse_for_room()
        elif size > free:
            self._networkProducer.pauseProducing()
            self._introducing = asyncio.ensure_future(self._introduce(request))

    async def _introduce(self, request: HardenedRequest) -> None:
        refused: RelayError | None = None
        try:
            credential = credential_of(_text(request, b"authorization"), _text(request, b"x-api-key"))
            await self.factory.bodies.authenticate(credential, self.client_address(request))
        except RelayError as exc:
            refused = exc
        except Exception:
            log.exception("a sender cannot be looked up")
            refused = Unavailable("The relay cannot tell who sent this.", retry_after=1)
        self._introducing = None
        if refused is not None:
            self.refuse(refused)
            return
        request.share.is_introduced()
        self._since = self._heard = self.factory.reactor.seconds()
        self._wire_bytes = 0
        if self._owes_continue:
            self._send100Continue()
        if not self._waitingForTransport:
            self._networkProducer.resumeProducing()

    def _stop_introducing(self) -> None:
        if self._introducing is not None:
            self._introducing.cancel()
            self._introducing = None

    def _send100Continue(self) -> None:
        self._owes_continue = self._introducing is not None
        if not self._owes_continue:
            super()._send100Continue()

    def _refuse_body(self) -> None:
        self.refuse(PayloadTooLarge(f"The body is larger than {self._most / 1_000_000:g} MB."))

    def _refuse_for_room(self) -> None:
        self.refuse(Unavailable("Too much is being sent at once. Try again shortly.", retry_after=1))

    # Refusals.

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(BadRequest("This is not a well-formed HTTP/1.1 request.", code="malformed_request"))

    def refuse(self, exc: RelayError) -> None:
        """Answer before any application runs, and hang up. Nothing more of this connection is kept."""
        if self.is_refused:
            return
        self._wait_for(Phase.REFUSED)
        self._stop_introducing()
        for request in self.requests:
            request.let_go()
        method, request_id = getattr(self, "_command", b""), new_request_id()
        answer = bare_refusal(exc, self._dialect(), request_id, with_body=method != b"HEAD")
        self.transport.write(answer)
        self._tell(request_id, exc.status, exc.code, len(answer.partition(b"\r\n\r\n")[2]))
        self.transport.loseWriteConnection()
        self._networkProducer.resumeProducing()

    def _tell(self, request_id: str, status: int, error_code: str = "", sent_bytes: int = 0) -> None:
        """Of a request that no application sees."""
        access_log.refused(
            request_id=request_id,
            method=getattr(self, "_command", b""),
            path=getattr(self, "_path", b"").partition(b"?")[0],
            address=self.client_address(self.requests[-1]) if self.requests else self.getPeer().host,
            status=status,
            error_code=error_code,
            sent_bytes=sent_bytes,
        )

    def _dialect(self) -> Dialect:
        """What is known of the request so far says in whose words it is refused."""
        path = getattr(self, "_path", b"").partition(b"?")[0].decode("latin-1")
        is_versioned = bool(self.requests) and self.requests[-1].requestHeaders.hasHeader(VERSION)
        return spoken(path, [(VERSION, b"")] if is_versioned else [])

    def _discard(self, size: int) -> None:
        self._left_to_discard -= size
        if self._left_to_discard < 0:
            self._networkProducer.pauseProducing()

    # Back-pressure: the transport says when its buffer is full and when it is empty again.

    def pauseProducing(self) -> None:
        self.can_write.clear()
        self._watch_reader()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._stuck = None
        if self._phase is Phase.ANSWER:
            self.factory.watched.discard(self)
        self.can_write.set()
        super().resumeProducing()
        if self._introducing is not None:
            self._networkProducer.pauseProducing()

    def loseConnection(self) -> None:
        self._wait_for(Phase.CLOSING)
        self._watch_reader()
        super().loseConnection()

    def _watch_reader(self) -> None:
        self._stuck = self.factory.reactor.seconds(), unsent(self.transport)
        self.factory.watched.add(self)

    def _stands_still(self, now: float) -> bool:
        assert self._stuck is not None
        since, before = self._stuck
        if now - since <= STUCK_SECONDS:
            return False
        left = unsent(self.transport)
        self._stuck = now, left
        return before - left < STUCK_SECONDS * LEAST_RATE

    # Where it comes from.

    def is_behind_proxy(self) -> bool:
        trusted = self.factory.trusted
        return bool(trusted) and is_trusted(str(self.getPeer().host), trusted)

    def client_address(self, request: HardenedRequest) -> str:
        forwarded = request.requestHeaders.getRawHeaders(b"x-forwarded-for") or ()
        scope = {
            "client": (str(self.getPeer().host), 0),
            "headers": [(b"x-forwarded-for", value) for value in forwarded],
        }
        return client_address(scope, self.factory.trusted)


def bare_refusal(exc: RelayError, dialect: Dialect, request_id: str, *, with_body: bool) -> bytes:
    """The whole answer as it goes over the wire, in the API's own words."""
    response = error_response(exc, dialect, request_id)
    headers = [*CORS, *named(request_id), (b"connection", b"close")]
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in response.items()]
    headers.append((b"content-length", b"%d" % len(response.content)))
    lines = [b"HTTP/1.1 %d %s" % (exc.status, http.RESPONSES[exc.status])]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (response.content if with_body else b"")


def unsent(transport: Any) -> int:
    """What the transport still holds of what was written. Twisted has no other way to ask."""
    return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)


def _text(request: HardenedRequest, name: bytes) -> str:
    values = request.requestHeaders.getRawHeaders(name) or [b""]
    return str(values[0].decode("latin-1"))


def _is_reset(transport: Any) -> bool:
    """Whether the client's reset arrived together with this data: uvloop then closes its poll without a word to Twisted,
    which would never learn that the client is gone (MagicStack/uvloop#552, twisted/twisted#11904).
    """
    sock = transport.getHandle()
    try:
        if _TCP_INFO is None:
            sock.getpeername()
            return False
        # Its first byte is the state. Unlike the other, this keeps the GIL.
        return bool(sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] == _TCP_CLOSE)
    except OSError:
        return True
