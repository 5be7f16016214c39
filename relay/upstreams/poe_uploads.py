"""Uploads files to Poe, each once to an account: whoever wants the same at the same moment shares one upload.

Over aiohttp, which sends a long body piece by piece; the first upload loads it, since it takes 8 MB.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

import msgspec

from relay.errors import PayloadTooLarge, RelayError, UpstreamBroken, UpstreamUnknownBot, UserError
from relay.events import ChatRequest, FilePart

from . import poe_errors
from .poe_answer import Deadlines
from .poe_key import Key
from .poe_protocol import Uploaded

if TYPE_CHECKING:
    import aiohttp
    from aiohttp_socks import ProxyConnector

MEGABYTE = 1_000_000
# Poe's own limit.
MAX_FILE_MB = 50
# Of all requests of this process together: each holds its file in memory until it is sent.
AT_ONCE = 4
# A longer file is hashed in a thread: 1 MB takes about a millisecond.
_OFF_LOOP_BYTES = MEGABYTE
_MAX_ANSWER = 64 * 1024
_PIECE = 64 * 1024
# What the upload address says of a file that it does not want.
_BAD_FILE = (400, 413, 415, 422)


class _ConnectionPool(TypedDict):
    limit: int
    ttl_dns_cache: int
    keepalive_timeout: float


_POOL: _ConnectionPool = {"limit": 0, "ttl_dns_cache": 60, "keepalive_timeout": 30.0}  # limit 0 is no limit
_uploaded = msgspec.json.Decoder(Uploaded)


class Kept(Protocol):
    """Remembers where Poe keeps a file, for all processes. Neither of these fails: at worst a file is uploaded again."""

    async def find(self, account_id: int, digest: str) -> Uploaded | None: ...

    async def keep(self, account_id: int, digest: str, uploaded: Uploaded) -> None: ...


def files_of(chat: ChatRequest) -> list[FilePart]:
    """Every file that comes as bytes; one that occurs twice is uploaded once."""
    parts = (part for message in chat.messages for part in message.parts)
    return list(dict.fromkeys(part for part in parts if isinstance(part, FilePart) and part.url is None))


def refuse_too_large(chat: ChatRequest) -> None:
    """Raises PayloadTooLarge for a file that Poe would not take."""
    for file in files_of(chat):
        if (size := len(file.data or b"")) > MAX_FILE_MB * MEGABYTE:
            raise PayloadTooLarge(
                f"The file {file.name[:100]!r} has {size / MEGABYTE:.1f} MB: Poe takes at most {MAX_FILE_MB} MB.",
                code="file_too_large",
            )


@dataclass(slots=True, eq=False)
class _Running:
    """An upload, and how many requests wait for it."""

    task: asyncio.Task[Uploaded]
    waiting: int = 0


class Uploader:
    """Its connections are kept apart for each outbound proxy."""

    def __init__(self, deadlines: Deadlines, kept: Kept | None = None) -> None:
        self._deadlines = deadlines
        self._kept = kept
        self._free = asyncio.Semaphore(AT_ONCE)
        self._running: dict[tuple[int, str], _Running] = {}
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def upload_all(self, files: list[FilePart], key: Key) -> dict[FilePart, Uploaded]:
        """Where each of these is to be found. Raises the first failure, once the others have been let go of."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._once(file, key)) for file in files]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {file: task.result() for file, task in zip(files, tasks, strict=True)}

    async def close(self) -> None:
        """Uploads that still run fail."""
        for running in tuple(self._running.values()):
            running.task.cancel()
        sessions = tuple(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    async def _once(self, file: FilePart, key: Key) -> Uploaded:
        """One upload for all who want it now. What fails, fails for the one who began it: the others begin anew."""
        name = (key.account_id, await _digest_of(file))
        while True:
            running = self._running.get(name)
            is_ours = running is None
            if running is None:
                running = self._begin(name, file, key)
            await self._wait_for(name, running)
            if running.task.cancelled():  # nobody who waits for it did that
                raise UpstreamBroken("the upload was cut off: the relay stops")
            if is_ours or _has_worked(running.task):
                return running.task.result()

    def _begin(self, name: tuple[int, str], file: FilePart, key: Key) -> _Running:
        running = _Running(asyncio.create_task(self._find_or_upload(name, file, key)))

        def ended(task: asyncio.Task[Uploaded]) -> None:
            self._forget(name, running)
            _has_worked(task)  # whoever began it may have left: then nobody asks for its failure

        running.task.add_done_callback(ended)
        self._running[name] = running
        return running

    async def _wait_for(self, name: tuple[int, str], running: _Running) -> None:
        """The last one who leaves ends it."""
        running.waiting += 1
        try:
            await asyncio.wait((running.task,))
        finally:
            running.waiting -= 1
            if not running.waiting and not running.task.done():
                self._forget(name, running)
                running.task.cancel()

    def _forget(self, name: tuple[int, str], running: _Running) -> None:
        if self._running.get(name) is running:
            del self._running[name]

    async def _find_or_upload(self, name: tuple[int, str], file: FilePart, key: Key) -> Uploaded:
        if self._kept is not None and (found := await self._kept.find(*name)) is not None:
            return found
        async with self._free:
            uploaded = await self._upload(file, key)
        if self._kept is not None:
            await self._kept.keep(*name, uploaded)
        return uploaded

    async def _upload(self, file: FilePart, key: Key) -> Uploaded:
        data = file.data or b""
        boundary, before, after = _form(file)
        async with self._session(key.proxy).post(
            key.upload_url + "file_upload_3RD_PARTY_POST",
            data=_pieces(before, data, after),
            headers={
                "Authorization": key.secret,
                "Accept": "application/json",
                "Content-Type": f"multipart/form-data; boundary={boundary.decode()}",
                "Content-Length": str(len(before) + len(data) + len(after)),
            },
            timeout=_timeouts(self._deadlines, read=self._deadlines.idle),
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                body = await _beginning(response, poe_errors.MAX_ERROR_BODY)
                error = poe_errors.from_status(response.status, response.headers, body, key.secret)
                raise _refused(response.status, error, file.name)
            body = await _beginning(response, _MAX_ANSWER)
        try:
            return _uploaded.decode(body)
        except (ValueError, RecursionError):
            raise UpstreamBroken("Poe answered an upload with something that nobody can read") from None

    def _session(self, proxy: str) -> aiohttp.ClientSession:
        session = self._sessions.get(proxy)
        if session is None:
            session = self._sessions[proxy] = _new_session(proxy, self._deadlines)
        return session


async def _digest_of(file: FilePart) -> str:
    if len(file.data or b"") <= _OFF_LOOP_BYTES:
        return digest(file)
    return await asyncio.to_thread(digest, file)


def digest(file: FilePart) -> str:
    """Of name, content type and bytes: Poe tells a bot the name, and guesses by it what the file is."""
    label = msgspec.json.encode((file.name, file.content_type))
    hashed = hashlib.sha256(b"%d:%b" % (len(label), label))
    hashed.update(file.data or b"")
    return hashed.hexdigest()


def _has_worked(task: asyncio.Task[Uploaded]) -> bool:
    return not task.cancelled() and task.exception() is None


async def _beginning(response: aiohttp.ClientResponse, size: int) -> bytes:
    body = bytearray()
    while len(body) < size and (chunk := await response.content.readany()):
        body += chunk
    return bytes(body[:size])


def _refused(status: int, error: RelayError, name: str) -> RelayError:
    """At the upload address a 404 is about the address, not about a bot. It is a server of its own, perhaps behind a guard
    of its own: what it says is nothing that a Poe key is blamed for."""
    if status in _BAD_FILE and isinstance(error, UpstreamBroken):
        return UserError(f"Poe does not take the file {name[:100]!r}.", code="file_refused")
    if isinstance(error, UpstreamUnknownBot):
        error = UpstreamBroken("Poe has no upload at the configured address", retry_after=error.retry_after)
    return poe_errors.as_hearsay(error)


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


def _form(file: FilePart) -> tuple[bytes, bytes, bytes]:
    """The boundary, and what goes before and after the file in a form that has no other field.

    Names and types come from clients: whatever could break out of a header is replaced. A name in another script stays.
    """
    name = (
        "".join("_" if letter in '"\\' or not letter.isprintable() else letter for letter in file.name)
        or "file"
    )
    content_type = file.content_type
    if not (content_type.isascii() and content_type.isprintable() and "/" in content_type):
        content_type = "application/octet-stream"
    boundary = secrets.token_hex(16).encode()
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: {content_type}\r\n\r\n'
    return boundary, b"--%b\r\n%b" % (boundary, head.encode()), b"\r\n--%b--\r\n" % boundary


async def _pieces(before: bytes, data: bytes, after: bytes) -> AsyncIterator[bytes | memoryview]:
    """Without a copy of the file, which aiohttp's own forms make."""
    yield before
    whole = memoryview(data)
    for start in range(0, len(data), _PIECE):
        yield whole[start : start + _PIECE]
    yield after
