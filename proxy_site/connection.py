"""One connection under Daphne, hardened by subclassing only: back-pressure, a body limit, refusals before any of our code runs.

Stock Daphne buffers without limit for a reader that reads nothing and reads whole bodies of any size before anything else
runs. What listens, drains and stops is in `server.py`.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from daphne.http_protocol import HTTPFactory, WebRequest
from twisted.internet import reactor
from twisted.internet.interfaces import IPushProducer
from twisted.web import http
from zope.interface import implementer

from proxy_site.lean import CORS
from relay.api.answers import error_response
from relay.api.request import new_request_id
from relay.api.urls import is_api
from relay.errors import BadRequest, PayloadTooLarge, RelayError

# Twisted reads each request's Content-Type with the e-mail parser (75 us); there are but a few in use.
http._parseContentType = lru_cache(maxsize=256)(http._parseContentType)

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
