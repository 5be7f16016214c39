"""Asks a Poe bot over HTTP and tells what it says as Events; knows nothing of limits or retries.

Questions go over connections of our own, for speed; uploads go over aiohttp, for its forms.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import quote

import msgspec

from relay.errors import RelayError, UpstreamBroken, UpstreamUnauthorized, UpstreamUnknownBot
from relay.events import ChatRequest, Event, FilePart

from . import poe_errors, poe_protocol
from .connection import Connection
from .dialing import Dialer
from .poe_answer import Answer, Deadlines
from .poe_protocol import Uploaded
from .pool import Pool
from .sse import SSEReader
from .targets import Address, address

if TYPE_CHECKING:  # loaded by the first upload: it takes 8 MB
    import aiohttp
    from aiohttp_socks import ProxyConnector

__all__ = ["Deadlines", "Key", "Poe"]

_UPLOADS_AT_ONCE = 4
_MAX_UPLOAD_ANSWER = 64 * 1024
_ERROR_BODY_WAIT = 5.0
_END_OF_BODY_WAIT = 1.0


_HEADERS = (
    "User-Agent: poe-relay\r\n"
    "Accept: text/event-stream\r\n"
    "Accept-Encoding: identity\r\n"
    "Cache-Control: no-store\r\n"
    "Content-Type: application/json\r\n"
)


class _UploadPool(TypedDict):
    limit: int
    ttl_dns_cache: int
    keepalive_timeout: float


_POOL: _UploadPool = {"limit": 0, "ttl_dns_cache": 60, "keepalive_timeout": 30.0}  # limit 0 is no limit
_PATIENCE = Deadlines()

_uploaded = msgspec.json.Decoder(Uploaded)


@dataclass(frozen=True, slots=True)
class Key:
    """What is needed of a Poe key. The two URLs end in a slash; `proxy` is an address or empty."""

    secret: str = field(repr=False)
    base_url: str
    upload_url: str
    proxy: str = field(default="", repr=False)  # its address may hold a password


@dataclass(frozen=True, slots=True)
class _Opening:
    """What a question waits for before it can be asked: a connection, and the uploads that its body names."""

    connection: Connection
    body: bytes
    first_at: float  # by then its first event is due


class Poe:
    """Speaks Poe's bot protocol. Its connections are kept apart for each address and each outbound proxy."""

    def __init__(self, deadlines: Deadlines = _PATIENCE, *, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        self._deadlines = deadlines
        self._max_event_bytes = max_event_bytes
        self._pool = Pool(Dialer(deadlines.connect))
        self._sessions: dict[str, aiohttp.ClientSession] = {}  # for uploads, by proxy

    async def stream(self, chat: ChatRequest, *, bot: str, key: Key) -> AsyncGenerator[list[Event], None]:
        """Yields what arrived together as one list, and an empty one after `heartbeat` seconds of silence,
        be it before Poe's status or after.

        Raises UpstreamError or UserError. Closing it, or cancelling who waits for it, closes the connection.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        total_at = now + self._deadlines.total
        beat_at = now + self._deadlines.heartbeat
        with poe_errors.failures_told():
            _check_secret(key)
            to = address(key.base_url, key.proxy)
            files = _files(chat)
            body = b"" if files else poe_protocol.query(chat, {})
            free = None if files else self._pool.take(to.target)
            if free is not None:  # nothing to wait for, so nothing is paid for a task
                opening = _Opening(free, body, now + self._deadlines.first_event)
            else:
                task = asyncio.create_task(self._open(chat, files, body, to, key, total_at))
                try:
                    while not (await asyncio.wait((task,), timeout=beat_at - loop.time()))[0]:
                        yield []
                        beat_at = loop.time() + self._deadlines.heartbeat
                except BaseException:
                    task.cancel()
                    task.add_done_callback(_close_unasked)
                    await asyncio.wait((task,))
                    raise
                opening = task.result()
            connection = opening.connection
            answer = Answer(
                connection,
                SSEReader(self._max_event_bytes),
                self._deadlines,
                beat_at,
                opening.first_at,
                total_at,
                key.secret,
            )
            try:
                connection.ask(_head(to, bot, key.secret, len(opening.body)), opening.body)
                # An answer may take minutes, and what was asked may be long.
                del opening, chat
                while not await answer.has_head():
                    yield []
                if connection.status != 200:
                    raise await _refusal(connection, key.secret)
                _refuse_all_but_events(connection)
                while (said := await answer.read()) is not None:
                    yield said
                if not answer.has_begun:
                    raise UpstreamBroken("the bot's answer ended before it began")
            finally:
                connection.leave(_END_OF_BODY_WAIT if answer.is_complete else 0)

    async def close(self) -> None:
        """Closes every connection; streams that still run fail."""
        self._pool.close()
        sessions = tuple(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    async def _open(
        self, chat: ChatRequest, files: list[FilePart], body: bytes, to: Address, key: Key, total_at: float
    ) -> _Opening:
        """Uploads the files, if there are any: the body is made of their answers then."""
        if files:
            async with asyncio.timeout_at(total_at):
                uploads = await self._upload_all(self._session(key.proxy), files, key)
            body = poe_protocol.query(chat, uploads)
        first_at = asyncio.get_running_loop().time() + self._deadlines.first_event
        connection = self._pool.take(to.target)
        if connection is None:
            async with asyncio.timeout_at(min(first_at, total_at)):
                connection = await self._pool.open(to.target)
        return _Opening(connection, body, first_at)

    def _session(self, proxy: str) -> aiohttp.ClientSession:
        session = self._sessions.get(proxy)
        if session is None:
            session = self._sessions[proxy] = _new_session(proxy, self._deadlines)
        return session

    async def _upload_all(
        self, session: aiohttp.ClientSession, files: list[FilePart], key: Key
    ) -> dict[FilePart, Uploaded]:
        free = asyncio.Semaphore(_UPLOADS_AT_ONCE)

        async def upload(file: FilePart) -> Uploaded:
            async with free:
                return await self._upload(session, file, key)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(upload(file)) for file in files]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {file: task.result() for file, task in zip(files, tasks, strict=True)}

    async def _upload(self, session: aiohttp.ClientSession, file: FilePart, key: Key) -> Uploaded:
        async with session.post(
            key.upload_url + "file_upload_3RD_PARTY_POST",
            data=_form(file),
            headers={"Authorization": key.secret, "Accept": "application/json"},
            timeout=_timeouts(self._deadlines, read=self._deadlines.idle),
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                body = await _beginning(response, poe_errors.MAX_ERROR_BODY)
                raise _upload_refused(
                    poe_errors.from_status(response.status, response.headers, body, key.secret)
                )
            body = await _beginning(response, _MAX_UPLOAD_ANSWER)
        try:
            return _uploaded.decode(body)
        except (ValueError, RecursionError):
            raise UpstreamBroken("Poe answered an upload with something that nobody can read") from None


def _files(chat: ChatRequest) -> list[FilePart]:
    """Every file that comes as bytes; one that occurs twice is uploaded once."""
    parts = (part for message in chat.messages for part in message.parts)
    return list(dict.fromkeys(part for part in parts if isinstance(part, FilePart) and part.url is None))


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


async def _beginning(response: aiohttp.ClientResponse, size: int) -> bytes:
    body = bytearray()
    while len(body) < size and (chunk := await response.content.readany()):
        body += chunk
    return bytes(body[:size])


def _check_secret(key: Key) -> None:
    if not (key.secret.isascii() and key.secret.isprintable()):
        raise UpstreamUnauthorized("the Poe key holds characters that no key has")


def _upload_refused(error: RelayError) -> RelayError:
    """At the upload address a 404 is about the address, not about a bot."""
    if isinstance(error, UpstreamUnknownBot):
        return UpstreamBroken("Poe has no upload at the configured address", retry_after=error.retry_after)
    return error


def _timeouts(deadlines: Deadlines, *, read: float | None = None) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(
        total=None, connect=deadlines.connect, sock_connect=deadlines.connect, sock_read=read
    )


def _new_session(proxy: str, deadlines: Deadlines) -> aiohttp.ClientSession:
    """Made on the running loop. Only the arguments decide where it connects: no environment, no cookies."""
    import aiohttp

    is_socks = proxy.startswith("socks")
    connector = _socks_connector(proxy) if is_socks else aiohttp.TCPConnector(**_POOL)
    return aiohttp.ClientSession(
        connector=connector,
        proxy=None if is_socks or not proxy else proxy,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_timeouts(deadlines),
        headers={"User-Agent": "poe-relay", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )


def _socks_connector(proxy: str) -> ProxyConnector:
    """As curl reads the schemes: with an `h` the proxy resolves names, without it we do."""
    from aiohttp_socks import ProxyConnector

    scheme, _, rest = proxy.partition("://")
    try:
        return ProxyConnector.from_url(
            f"{scheme.removesuffix('h')}://{rest}", rdns=scheme.endswith("h"), **_POOL
        )
    except ValueError:
        raise UpstreamBroken("the address of the outbound proxy cannot be used") from None


def _form(file: FilePart) -> aiohttp.FormData:
    """Names and types come from clients: whatever could break out of a header is replaced."""
    import aiohttp

    name = (
        "".join("_" if letter in '"\\' or not letter.isprintable() else letter for letter in file.name)
        or "file"
    )
    content_type = file.content_type
    if not (content_type.isascii() and content_type.isprintable() and "/" in content_type):
        content_type = "application/octet-stream"
    form = aiohttp.FormData(quote_fields=False)  # quoted, a name in another script would arrive as %E6%96%87
    form.add_field("file", io.BytesIO(file.data or b""), filename=name, content_type=content_type)
    return form
