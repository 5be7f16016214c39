"""Asks a Poe bot over HTTP and tells what it says as Events; knows nothing of limits or retries.

Questions go over connections of our own, for speed; files that they bring along are uploaded first (poe_uploads).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from urllib.parse import quote

from relay.errors import RelayError, UpstreamBroken, UpstreamUnauthorized
from relay.events import ChatRequest, Event, FilePart

from . import poe_errors, poe_protocol
from .connection import Connection
from .dialing import Dialer
from .poe_answer import Answer, Deadlines
from .poe_key import Key
from .poe_protocol import Uploaded
from .poe_uploads import Kept, Uploader, files_of, refuse_too_large
from .pool import Pool
from .sse import SSEReader
from .targets import Address, address

__all__ = ["Deadlines", "Kept", "Key", "Poe", "Uploaded", "refuse_too_large"]

_ERROR_BODY_WAIT = 5.0
_END_OF_BODY_WAIT = 1.0


_HEADERS = (
    "User-Agent: poe-relay\r\n"
    "Accept: text/event-stream\r\n"
    "Accept-Encoding: identity\r\n"
    "Cache-Control: no-store\r\n"
    "Content-Type: application/json\r\n"
)
_PATIENCE = Deadlines()


@dataclass(frozen=True, slots=True)
class _Opening:
    """What a question waits for before it can be asked: a connection, and the uploads that its body names."""

    connection: Connection
    body: bytes
    first_at: float  # by then its first event is due


class Poe:
    """Speaks Poe's bot protocol. Its connections are kept apart for each address and each outbound proxy."""

    def __init__(
        self,
        deadlines: Deadlines = _PATIENCE,
        *,
        max_event_bytes: int = 8 * 1024 * 1024,
        kept: Kept | None = None,
    ) -> None:
        self._deadlines = deadlines
        self._max_event_bytes = max_event_bytes
        self._pool = Pool(Dialer(deadlines.connect))
        self._uploader = Uploader(deadlines, kept)

    async def stream(
        self,
        chat: ChatRequest,
        *,
        bot: str,
        key: Key,
        at_once: Callable[[list[Event]], bool] | None = None,
    ) -> AsyncGenerator[list[Event], None]:
        """Yields what arrived together as one list, and an empty one after `heartbeat` seconds of silence,
        be it before Poe's status or after.

        While it is waited for, what arrives is given to `at_once`: if that takes it, it is not yielded.

        Raises UpstreamError or UserError. Closing it, or cancelling who waits for it, closes the connection.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        total_at = now + self._deadlines.total
        told_at = now
        with poe_errors.failures_told():
            _check_secret(key)
            to = address(key.base_url, key.proxy)
            files = files_of(chat)
            body = b"" if files else poe_protocol.query(chat, {})
            free = None if files else self._pool.take(to.target)
            if free is not None:  # nothing to wait for, so nothing is paid for a task
                opening = _Opening(free, body, now + self._deadlines.first_event)
            else:
                task = asyncio.create_task(self._open(chat, files, body, to, key, total_at))
                try:
                    silent_for = self._deadlines.heartbeat
                    while not (await asyncio.wait((task,), timeout=told_at + silent_for - loop.time()))[0]:
                        yield []
                        told_at = loop.time()
                except BaseException:
                    task.cancel()
                    task.add_done_callback(_close_unasked)
                    await asyncio.wait((task,))
                    raise
                opening = task.result()
                del task
            connection = opening.connection
            answer = Answer(
                connection,
                SSEReader(self._max_event_bytes),
                self._deadlines,
                told_at,
                opening.first_at,
                total_at,
                key.secret,
            )
            try:
                connection.ask(_head(to, bot, key.secret, len(opening.body)), opening.body)
                # An answer may take minutes, and what was asked may be long.
                del opening, chat, files, body
                while not await answer.has_head():
                    yield []
                if connection.status != 200:
                    raise await _refusal(connection, key.secret)
                _refuse_all_but_events(connection)
                if at_once is not None:
                    answer.tell(at_once)
                while (said := await answer.read()) is not None:
                    yield said
                if not answer.has_begun:
                    raise UpstreamBroken("the bot's answer ended before it began")
            finally:
                connection.leave(_END_OF_BODY_WAIT if answer.is_complete else 0)

    async def close(self) -> None:
        """Closes every connection; streams that still run fail."""
        self._pool.close()
        await self._uploader.close()

    async def _open(
        self, chat: ChatRequest, files: list[FilePart], body: bytes, to: Address, key: Key, total_at: float
    ) -> _Opening:
        """Uploads the files, if there are any: the body is made of their answers then."""
        if files:
            async with asyncio.timeout_at(total_at):
                uploads = await self._uploader.upload_all(files, key)
            body = poe_protocol.query(chat, uploads)
        first_at = asyncio.get_running_loop().time() + self._deadlines.first_event
        connection = self._pool.take(to.target)
        if connection is None:
            async with asyncio.timeout_at(min(first_at, total_at)):
                connection = await self._pool.open(to.target)
        return _Opening(connection, body, first_at)


def _close_unasked(opening: asyncio.Task[_Opening]) -> None:
    """The caller left in the very moment in which the connection was there."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().connection.close()


def _head(to: Address, bot: str, secret: str, size: int) -> bytes:
    """Of a question. The one who calls has looked at the secret: it can end no line."""
    return (
        f"POST {to.start}{quote(bot, safe='')} HTTP/1.1\r\n{to.headers}{_HEADERS}"
        f"Authorization: Bearer {secret}\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def _refuse_all_but_events(connection: Connection) -> None:
    """Raises UpstreamBroken for a body that is no plain event stream."""
    headers = connection.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "text/event-stream":
        raise UpstreamBroken("Poe answered with something that is no event stream")
    codings = (headers.get("content-encoding", "identity"), headers.get("transfer-encoding", "chunked"))
    if tuple(coding.lower() for coding in codings) != ("identity", "chunked"):
        raise UpstreamBroken("Poe answered with a compression that nobody asked for")


async def _refusal(connection: Connection, secret: str) -> RelayError:
    """What a status other than 200 means, and as much of its body as arrives in time: the status says enough."""
    until = asyncio.get_running_loop().time() + _ERROR_BODY_WAIT
    body = bytearray()
    try:
        while len(body) < poe_errors.MAX_ERROR_BODY and (chunk := await connection.read(until)):
            body += chunk
    except UpstreamBroken:
        pass
    beginning = bytes(body[: poe_errors.MAX_ERROR_BODY])
    return poe_errors.from_status(connection.status, connection.headers, beginning, secret)


def _check_secret(key: Key) -> None:
    if not (key.secret.isascii() and key.secret.isprintable()):
        raise UpstreamUnauthorized("the Poe key holds characters that no key has")
