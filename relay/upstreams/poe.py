"""Asks a Poe bot over HTTP and tells what it says as Events; knows nothing of limits or retries."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict, cast
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp.client_proto import ResponseHandler
from aiohttp_socks import ProxyConnector

from relay.errors import RelayError, UpstreamBroken, UpstreamUnauthorized, UpstreamUnknownBot
from relay.events import ChatRequest, Event, FilePart

from . import poe_errors, poe_protocol
from .poe_answer import Answer, Deadlines
from .poe_protocol import Uploaded
from .sse import SSEReader

__all__ = ["Deadlines", "Key", "Poe"]

_READ_BUFFER = 32 * 1024  # aiohttp holds twice this and then stops reading from the socket
_LARGE_BODY = 1024 * 1024  # from here on aiohttp wants a file, which it sends without holding up the loop
_UPLOADS_AT_ONCE = 4
_MAX_UPLOAD_ANSWER = 64 * 1024
_ERROR_BODY_WAIT = 5.0
_END_OF_BODY_WAIT = 1.0


class _Pool(TypedDict):
    limit: int
    ttl_dns_cache: int
    keepalive_timeout: float


_POOL: _Pool = {"limit": 0, "ttl_dns_cache": 60, "keepalive_timeout": 30.0}  # limit 0 is no limit
_PATIENCE = Deadlines()

_uploaded = msgspec.json.Decoder(Uploaded)


@dataclass(frozen=True, slots=True)
class Key:
    """What is needed of a Poe key. The two URLs end in a slash; `proxy` is an address or empty."""

    secret: str = field(repr=False)
    base_url: str
    upload_url: str
    proxy: str = field(default="", repr=False)  # its address may hold a password


class Poe:
    """Speaks Poe's bot protocol. One session, with its pool of connections, for each outbound proxy."""

    def __init__(self, deadlines: Deadlines = _PATIENCE, *, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        self._deadlines = deadlines
        self._max_event_bytes = max_event_bytes
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._open: set[aiohttp.ClientResponse] = set()

    async def stream(self, chat: ChatRequest, *, bot: str, key: Key) -> AsyncGenerator[list[Event], None]:
        """Yields what arrived together as one list, and an empty one after `heartbeat` seconds of silence,
        be it before Poe's status or after.

        Raises UpstreamError or UserError. Closing it, or cancelling who waits for it, closes the connection.
        """
        total_at = asyncio.get_running_loop().time() + self._deadlines.total
        with poe_errors.failures_told():
            _check_secret(key)
            opening = asyncio.create_task(self._begin(chat, bot, key, total_at))
            try:
                while not (await asyncio.wait((opening,), timeout=self._deadlines.heartbeat))[0]:
                    yield []
            except BaseException:
                opening.cancel()
                opening.add_done_callback(_close_unread)
                # Its connection is closed when this raises: what is settled then holds nothing at Poe.
                await asyncio.wait((opening,))
                await asyncio.sleep(0)
                raise
            response, first_at = opening.result()
            self._open.add(response)
            answer = Answer(
                response, SSEReader(self._max_event_bytes), self._deadlines, first_at, total_at, key.secret
            )
            try:
                await _refuse_all_but_events(response, key.secret)
                while (said := await answer.read()) is not None:
                    yield said
                if not answer.has_begun:
                    raise UpstreamBroken("the bot's answer ended before it began")
            finally:
                answer.stop()
                self._leave(response, is_complete=answer.is_complete)

    async def close(self) -> None:
        """Closes every connection; streams that still run fail."""
        for response in tuple(self._open):
            self._close(response)
        sessions = tuple(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    def _leave(self, response: aiohttp.ClientResponse, *, is_complete: bool) -> None:
        """Closes the connection, unless the bot said `done` and the body ends within a second.

        When the end arrives, aiohttp puts the connection back into its pool, whether anybody reads or not.
        """
        if response.content.is_eof() or not is_complete:
            self._close(response)
            return
        timer = asyncio.get_running_loop().call_later(_END_OF_BODY_WAIT, self._close, response)

        def ended() -> None:
            timer.cancel()
            self._open.discard(response)

        response.content.on_eof(ended)

    def _close(self, response: aiohttp.ClientResponse) -> None:
        response.close()
        self._open.discard(response)

    def _session(self, proxy: str) -> aiohttp.ClientSession:
        session = self._sessions.get(proxy)
        if session is None:
            session = self._sessions[proxy] = _new_session(proxy, self._deadlines)
        return session

    async def _begin(
        self, chat: ChatRequest, bot: str, key: Key, total_at: float
    ) -> tuple[aiohttp.ClientResponse, float]:
        session = self._session(key.proxy)
        uploads: dict[FilePart, Uploaded] = {}
        if files := _files(chat):
            async with asyncio.timeout_at(total_at):
                uploads = await self._upload_all(session, files, key)
        return await self._ask(session, poe_protocol.query(chat, uploads), bot, key, total_at)

    async def _ask(
        self, session: aiohttp.ClientSession, body: bytes, bot: str, key: Key, total_at: float
    ) -> tuple[aiohttp.ClientResponse, float]:
        """The answer's status and headers, and the time by which its first event is due."""
        first_at = asyncio.get_running_loop().time() + self._deadlines.first_event
        async with asyncio.timeout_at(min(first_at, total_at)):
            response = await session.post(
                key.base_url + quote(bot, safe=""),
                data=body if len(body) < _LARGE_BODY else io.BytesIO(body),
                headers={
                    "Authorization": f"Bearer {key.secret}",
                    "Accept": "text/event-stream",
                    "Cache-Control": "no-store",
                    "Content-Type": "application/json",
                },
                allow_redirects=False,
            )
        return response, first_at

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


def _close_unread(opening: asyncio.Task[tuple[aiohttp.ClientResponse, float]]) -> None:
    """The caller left in the very moment in which the bot answered."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].close()


async def _refuse_all_but_events(response: aiohttp.ClientResponse, secret: str) -> None:
    """Raises what a status other than 200 means, or UpstreamBroken for a body that is no event stream."""
    if response.status != 200:
        body = await _error_body(response)
        raise poe_errors.from_status(response.status, response.headers, body, secret)
    if response.content_type != "text/event-stream":
        raise UpstreamBroken("Poe answered with something that is no event stream")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UpstreamBroken("Poe answered with a compression that nobody asked for")


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """As much of it as arrives in time: the status alone says enough."""
    try:
        async with asyncio.timeout(_ERROR_BODY_WAIT):
            return await _beginning(response, poe_errors.MAX_ERROR_BODY)
    except (OSError, aiohttp.ClientError):
        return b""


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
    return aiohttp.ClientTimeout(
        total=None, connect=deadlines.connect, sock_connect=deadlines.connect, sock_read=read
    )


class _Connection(ResponseHandler):
    """aiohttp 3.14 wakes its parser after each chunk that is taken, paused or not: half of what taking them costs."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:
            super().resume_reading(resume_parser)


def _new_session(proxy: str, deadlines: Deadlines) -> aiohttp.ClientSession:
    """Made on the running loop. Only the arguments decide where it connects: no environment, no cookies."""
    is_socks = proxy.startswith("socks")
    connector = _socks_connector(proxy) if is_socks else aiohttp.TCPConnector(**_POOL)
    connections = partial(_Connection, loop=asyncio.get_running_loop())
    connector._factory = cast("partial[ResponseHandler]", connections)
    return aiohttp.ClientSession(
        connector=connector,
        proxy=None if is_socks or not proxy else proxy,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_timeouts(deadlines),
        headers={"User-Agent": "poe-relay", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_READ_BUFFER,
    )


def _socks_connector(proxy: str) -> ProxyConnector:
    """As curl reads the schemes: with an `h` the proxy resolves names, without it we do."""
    scheme, _, rest = proxy.partition("://")
    try:
        return ProxyConnector.from_url(
            f"{scheme.removesuffix('h')}://{rest}", rdns=scheme.endswith("h"), **_POOL
        )
    except ValueError:
        raise UpstreamBroken("the address of the outbound proxy cannot be used") from None


def _form(file: FilePart) -> aiohttp.FormData:
    """Names and types come from clients: whatever could break out of a header is replaced."""
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
