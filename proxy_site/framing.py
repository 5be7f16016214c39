"""Where a request begins and ends, and what about its head nobody may read in two ways. Knows bytes, not connections.

A proxy in front and the relay must agree about where a request ends, or one client's bytes become another one's
request. So whatever RFC 9112 lets a server refuse or mend is refused. Twisted is lenient about the rest of it: line
ends within a head, folded lines, `Transfer-Encoding` beside HTTP/1.0, `identity`, and trailers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from relay.api.urls import is_api
from relay.errors import BadRequest, RelayError, UnsupportedMedia

# A control character within a line, or white space before it: a folded line, or a second one for whoever takes LF or CR
# for a line end. 0x85 is a line end to some, and to Daphne a reason for a page of its own.
_ODD = rb"\x00-\x08\x0a-\x1f\x7f\x85"
AMISS = re.compile(rb"[%b]|\A[ \t]" % _ODD)
_NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# A whole head without a reason to look closer: each line ends with CRLF and holds nothing amiss, each header has a name.
PLAIN_HEAD = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.[01]\r\n(?:%b:[^%b]*\r\n)+\r\n" % (_NAME, _ODD))
TRAILER = re.compile(rb"%b:[^\r\n\0]*" % _NAME)
# More bytes than that nobody sends; Python refuses to read thousands of digits as a number.
MOST_DIGITS = 18
# Which one counts is anybody's guess.
ONCE = (b"host", b"authorization", b"content-type", b"content-length", b"transfer-encoding")
# Sixteen bytes.
WEB_SOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
# By these a body's end is known.
LENGTHS = (b"content-length", b"transfer-encoding")


def is_amiss(line: bytes) -> bool:
    """Whether this line of a head, without its CRLF, may be read as more or less than one line."""
    return AMISS.search(line) is not None


def plain_head(data: bytes, most: int) -> list[bytes] | None:
    """The lines of the head that this begins with, if all of it is here, nothing about it is odd and it is no longer."""
    found = PLAIN_HEAD.match(data, 0, most)
    return found[0].split(b"\r\n")[:-2] if found else None


def is_length_clear(name: bytes, value: bytes, version: bytes) -> bool:
    """Whether this header, named as Twisted does, leaves no doubt about the length of the body."""
    if name == b"Content-Length":
        return len(value) <= MOST_DIGITS
    if name == b"Transfer-Encoding":
        return value.lower() == b"chunked" and version == b"HTTP/1.1"
    return True


def are_trailers_clear(lines: Iterable[bytes]) -> bool:
    return all(TRAILER.fullmatch(line) for line in lines)


def path_of(target: bytes) -> str:
    """As the application will see it."""
    return unquote(target.partition(b"?")[0].decode("ascii"))


def why_not(method: bytes, target: bytes, version: bytes, headers: Any) -> RelayError | None:
    """Why a request with this head is refused, whatever its body may be. `headers` are Twisted's."""
    if not target.isascii() or not (target.startswith(b"/") or (method, target) == (b"OPTIONS", b"*")):
        return BadRequest("The path must begin with / and be ASCII.", code="malformed_request")
    for name in ONCE:
        if len(headers.getRawHeaders(name) or ()) > 1:
            return BadRequest(f"The header {name.decode()} was sent more than once.", code="duplicate_header")
    if version == b"HTTP/1.1" and not headers.hasHeader(b"host"):
        return BadRequest("The header host is missing.", code="missing_host")
    for coding in headers.getRawHeaders(b"content-encoding") or ():
        if coding.strip().lower() not in (b"", b"identity"):
            return UnsupportedMedia("Send the body as it is, without Content-Encoding.")
    return _why_not_upgrade(method, path_of(target), version, headers)


def _why_not_upgrade(method: bytes, path: str, version: bytes, headers: Any) -> RelayError | None:
    """Only WebSocket is anything to us. A client that could also speak HTTP/2 (Java's says so each time) goes on without."""
    wanted: list[bytes] = headers.getRawHeaders(b"upgrade") or []
    if not any(b"websocket" in protocol.lower() for protocol in wanted):
        return None
    if is_api(path):
        return BadRequest(
            "This route does not speak WebSocket: Poe has nothing in real time.", code="unsupported_upgrade"
        )
    if len(wanted) > 1 or headers.hasHeader(b"content-length") or headers.hasHeader(b"transfer-encoding"):
        return BadRequest("A WebSocket begins without a body.", code="unsupported_upgrade")
    if wanted[0].lower() == b"websocket" and not _begins_web_socket(method, version, headers):
        return BadRequest(
            "A WebSocket begins with GET, HTTP/1.1, Connection: Upgrade, Sec-WebSocket-Version: 13 and one "
            "Sec-WebSocket-Key.",
            code="unsupported_upgrade",
        )
    return None


def _begins_web_socket(method: bytes, version: bytes, headers: Any) -> bool:
    keys: list[bytes] = headers.getRawHeaders(b"sec-websocket-key") or []
    return (
        (method, version) == (b"GET", b"HTTP/1.1")
        and len(keys) == 1
        and WEB_SOCKET_KEY.fullmatch(keys[0]) is not None
        and headers.getRawHeaders(b"sec-websocket-version") == [b"13"]
        and b"upgrade" in tokens(headers, b"connection")
    )


def tokens(headers: Any, name: bytes) -> set[bytes]:
    """What all fields of this name list, parted by commas, in small letters."""
    fields: list[bytes] = headers.getRawHeaders(name) or []
    return {token.strip(b" \t").lower() for field in fields for token in field.split(b",")}
