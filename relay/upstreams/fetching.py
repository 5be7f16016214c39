"""A single question over HTTP with a short answer, over the connections that bots are asked with; knows nothing of Poe."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from relay.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable

from . import poe_errors
from .connection import Connection
from .dialing import Dialer
from .pool import Pool
from .targets import Address, address

MOST_BODY = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """`headers` by names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


class Fetcher:
    """Asks with GET, or with POST where there is a body; `seconds` is how long the whole of it may take."""

    def __init__(
        self,
        connect_seconds: float,
        seconds: float,
        *,
        accept: str = "application/json",
        most: int = MOST_BODY,
    ) -> None:
        self._seconds = seconds
        self._accept = accept
        self._most = most
        self._pool = Pool(Dialer(connect_seconds))

    async def fetch(
        self,
        url: str,
        path: str = "",
        *,
        proxy: str = "",
        headers: str = "",
        body: bytes | None = None,
    ) -> Fetched:
        """`path` is appended as it is: it ends no line, nor does anything in `headers`. Raises UpstreamError."""
        with poe_errors.failures_told():
            to = address(url, proxy)
            question = _question(to, path, f"Accept: {self._accept}\r\n{headers}", body)
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._ask(to, question, may_repeat=body is None)
            except TimeoutError:
                raise UpstreamTimeout(f"the answer took more than {self._seconds:g} s") from None

    def close(self) -> None:
        """Closes every connection; what is being asked fails."""
        self._pool.close()

    async def _ask(self, to: Address, question: bytes, *, may_repeat: bool) -> Fetched:
        kept = self._pool.take(to.target) if may_repeat else None
        if kept is not None:
            try:
                return await _answer(kept, question, self._most)
            except UpstreamUnreachable:
                pass  # it was closed while the question was on its way
        return await _answer(await self._pool.open(to.target), question, self._most)


def _question(to: Address, path: str, headers: str, body: bytes | None) -> bytes:
    method = "GET" if body is None else "POST"
    length = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head = (
        f"{method} {to.start}{path} HTTP/1.1\r\n{to.headers}User-Agent: poe-relay\r\n"
        f"Accept-Encoding: identity\r\n{headers}{length}\r\n"
    )
    return head.encode() + (body or b"")


async def _answer(connection: Connection, question: bytes, most: int) -> Fetched:
    never = asyncio.get_running_loop().time() + 86400  # who calls has a deadline
    try:
        connection.ask(question, b"")
        while not connection.has_answered():
            await connection.wait(never)
        if connection.headers.get("content-encoding", "identity").lower() != "identity":
            raise UpstreamBroken("the answer has a compression that nobody asked for")
        body = bytearray()
        while (piece := await connection.read(never)) != b"":
            body += piece or b""
            if len(body) > most:
                raise UpstreamBroken(f"the answer is longer than {most // 1024 // 1024} MB")
        return Fetched(connection.status, connection.headers, bytes(body))
    finally:
        connection.leave(0)
