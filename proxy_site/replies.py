"""How a request reaches the application and its answer the socket, on the shortest way.

Stock Daphne goes through Twisted's deferreds, hands each header of the answer to Twisted's own table and from there to
the connection, each chunk in three parts to a buffer, and the buffer to the socket on the next turn of the loop, with two
`epoll_ctl`. Here a head leaves with what is there of its body in one write, at once where nothing waits before it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any
from urllib.parse import unquote

from daphne.http_protocol import WebRequest
from daphne.utils import HEADER_NAME_RE, INVALID_HEADER_VALUE_BYTES
from twisted.internet.tcp import Server as Connection
from twisted.web import http
from twisted.web.http import Request

ASGI = {"version": "3.0"}
# In the scope: the reply itself, by which parts of a body leave that nobody has to wait for.
REPLY = "poe_relay.reply"
NO_BODY = frozenset(http.NO_BODY_CODES)
BAD_IN_VALUE = re.compile(b"[%b]" % re.escape(bytes(INVALID_HEADER_VALUE_BYTES)))


class DirectConnection(Connection):
    """A TCP connection whose `write` tries the socket at once; what it does not take waits as ever."""

    # A thousand clients that read nothing are to be borne, and an answer that is read never waits here.
    bufferSize = 32 * 1024
    __slots__ = ("_host", "_peer")

    def __init__(self, *args: Any) -> None:
        self._host: Any = None
        self._peer: Any = None
        super().__init__(*args)

    def write(self, data: bytes) -> None:
        if self.connected and not (self._tempDataLen or self.dataBuffer or self._writeDisconnected):
            try:
                sent = self.socket.send(data)
            except OSError:
                # It takes nothing now; a lost connection is found again, and dealt with, when the loop writes.
                sent = 0
            data = data[sent:]
        if data:
            super().write(data)

    # Neither address changes. Twisted asks the system for one with each request, and lets go of the GIL for it.

    def getHost(self) -> Any:
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def getPeer(self) -> Any:
        if self._peer is None:
            self._peer = super().getPeer()
        return self._peer


class DirectReply(WebRequest):
    """Between Twisted's request and an ASGI application: a scope and one message in, messages to bytes out."""

    # Python keeps up to 30 attributes of an object in 300 bytes, and a few more in 1,600: Twisted's and Daphne's own are too
    # many. Some of theirs stand here too, all of which they set when a request begins. In parts, or mypy would take them for
    # all that there are.
    __slots__ = (
        *(
            "_head",
            "_response_started",
            "_when_left",
            "application_queue",
            "client_addr",
            "client_scheme",
            "cookies",
            "host",
        ),
        *("notifications", "query_string", "received_cookies", "requestHeaders", "request_start"),
        *("responseHeaders", "server", "server_addr"),
    )
    root_path = ""
    _response_started: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._head: bytes | None = None
        # As Daphne's own does, which reaches Twisted's by a module that looks for deprecated names at each access.
        self.client_addr: list[Any] | None = None
        self.server_addr: list[Any] | None = None
        self.application_queue: Any = None
        self._when_left: Callable[[], None] | None = None
        Request.__init__(self, *args, **kwargs)
        self.server = self.channel.factory.server
        self._response_started = False
        self.server.protocol_connected(self)

    def process(self) -> Any:
        """As Daphne's own does for HTTP; what is no HTTP, or not as it should be, is still its own to deal with."""
        headers = self._clean_headers()
        path, _mark, query = self.uri.partition(b"?")
        if headers is None or self.requestHeaders.hasHeader(b"upgrade") or not self.uri.isascii():
            return super().process()
        self.request_start = time.time()
        self.client_addr = [str(self.client.host), self.client.port]
        self.server_addr = [str(self.host.host), self.host.port]
        self.client_scheme = "https" if self.isSecure() else "http"
        self.query_string = query
        scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": self.clientproto.rpartition(b"/")[2].decode("ascii"),
            "method": self.method.decode("ascii"),
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "root_path": self.root_path,
            "scheme": self.client_scheme,
            "query_string": query,
            "headers": headers,
            "client": self.client_addr,
            "server": self.server_addr,
        }
        if self.method != b"HEAD":
            scope[REPLY] = self
        inbox = self.server.create_application(self, scope)
        self.application_queue = inbox
        if inbox is not None:
            inbox.put_nowait({"type": "http.request", "body": self.content.getvalue(), "more_body": False})
        return None

    def _clean_headers(self) -> list[tuple[bytes, bytes]] | None:
        """In lower case, without those that WSGI could take for another (CVE-2015-0219); None if one is malformed."""
        headers = []
        for name, values in self.requestHeaders.getAllRawHeaders():
            lowered = _lowered(name)
            if lowered is None:
                return None
            for value in values:
                if BAD_IN_VALUE.search(value):
                    return None
                if b"_" not in lowered:
                    headers.append((lowered, value))
        return headers

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Raises ValueError for a message out of turn, or a header that would break out of its line."""
        if self.finished or self.channel is None:
            return
        kind = message["type"]
        if kind == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
        elif kind == "http.response.body":
            if not self._response_started:
                raise ValueError("a body before its head")
            self._say(message.get("body", b""), message.get("more_body", False))
        else:
            raise ValueError(f"no such message: {kind}")

    def finish(self) -> None:
        # As Daphne's own does, but for that module.
        if self.application_queue:
            self.send_disconnect()
        Request.finish(self)
        self.server.protocol_disconnected(self)

    def when_left(self, tell: Callable[[], None] | None) -> None:
        """Called when the client hangs up, at once if it has; None: no more. A task that receives would cost a request 3 %."""
        self._when_left = tell
        if tell is not None and self._disconnected:
            tell()

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        if self._when_left is not None:
            self._when_left()

    def takes_more(self) -> bool:
        """Whether a part of the body that is said now leaves, as far as anybody knows."""
        is_here = not self.finished and self.channel is not None and not self._disconnected
        return is_here and bool(self.startedWriting)

    def say(self, part: bytes) -> None:
        """A part, not empty, of a body that has begun and goes on. Only while it `takes_more`."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(part), part) if self.chunked else part)

    def has_said_nothing(self) -> bool:
        """Whether nothing was sent yet: a head that was not, is forgotten."""
        if self.startedWriting:
            return False
        self._head, self._response_started, self.chunked = None, False, 0
        return True

    def _begin(self, status: int, headers: Any) -> None:
        if self._response_started:
            raise ValueError("a second head")
        self.code = status
        lines = [_status_line(self.clientproto, status)]
        names = set()
        for name, value in headers:
            names.add(name.lower())
            lines.append(b"%b: %b\r\n" % (name, value))
        # What Twisted itself has to say: that the connection will be closed.
        for name, values in self.responseHeaders.getAllRawHeaders():
            lines += [b"%b: %b\r\n" % (name, value) for value in values]
        if b"server" not in names:
            lines.append(b"server: %b\r\n" % self.server.server_name.encode())
        if b"content-length" not in names and self._may_be_chunked(status):
            self.chunked = 1
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines):
            raise ValueError("a header with a line break")
        self._head = head + b"\r\n"
        self._response_started = True

    def _may_be_chunked(self, status: int) -> bool:
        return self.clientproto == b"HTTP/1.1" and self.method != b"HEAD" and status not in NO_BODY

    def _say(self, body: bytes, more: bool) -> None:
        data = b""
        if self._head is not None:
            data, self._head, self.startedWriting = self._head, None, 1
        if body and self.method != b"HEAD" and self.code not in NO_BODY:
            data += b"%x\r\n%b\r\n" % (len(body), body) if self.chunked else body
        if not more and self.chunked:
            data += b"0\r\n\r\n"
            self.chunked = 0  # said: Twisted need not say it again
        if data and not self._disconnected:
            self.channel.transport.write(data)
        if not more:
            self.finish()


@lru_cache(maxsize=1024)
def _lowered(name: bytes) -> bytes | None:
    return name.lower() if HEADER_NAME_RE.fullmatch(name) else None


@cache
def _status_line(version: bytes, status: int) -> bytes:
    return b"%b %d %b\r\n" % (version, status, http.RESPONSES.get(status, b"Unknown"))
