"""Servers on 127.0.0.1 that do what a test says: an upstream, an HTTP proxy and a SOCKS5 proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from relay.upstreams.poe import Key

SECRET = "pb-secret-0123456789"


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Upstream:
    """What a scripted upstream has seen."""

    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)  # a client closed its connection

    def key(
        self,
        proxy: str = "",
        *,
        secret: str = SECRET,
        host: str = "127.0.0.1",
        scheme: str = "http",
        account_id: int = 1,
    ) -> Key:
        root = f"{scheme}://{host}:{self.port}/"
        return Key(
            secret=secret,
            base_url=root + "bot/",
            upload_url=root + "poe_api/",
            account_id=account_id,
            proxy=proxy,
        )


Script = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def upstream(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Serves each request by `script` until the client leaves or the script closes the connection."""
    seen = Upstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        seen.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                request = await read_request(reader)
                seen.requests.append(request)
                waiting = asyncio.ensure_future(script(request, writer))
                gone = asyncio.ensure_future(_until_gone(reader, seen))
                await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                waiting.cancel()
                await asyncio.gather(waiting, gone, return_exceptions=True)
        seen.left.set()
        writer.close()

    async with listening(serve, tls) as seen.port:
        yield seen


async def _until_gone(reader: asyncio.StreamReader, seen: Upstream) -> None:
    while not reader.at_eof() and reader.exception() is None:  # told to nobody but who reads
        await asyncio.sleep(0.005)
    seen.left.set()


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.append(writer)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(tracked, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.001)  # until the loop has closed them


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body)


# Pieces of scripts.


def start(writer: asyncio.StreamWriter, status: str = "200 OK", **headers: str) -> None:
    """The head of a chunked answer; `content_type="..."` means the header Content-Type."""
    lines = {"content_type": "text/event-stream", "transfer_encoding": "chunked", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode())


def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def finish(writer: asyncio.StreamWriter) -> None:
    writer.write(b"0\r\n\r\n")


def event(name: str, data: object) -> bytes:
    return f"event: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()


def text(words: str) -> bytes:
    return event("text", {"text": words})


DONE = event("done", {})


def answering(body: bytes, status: str = "200 OK", **headers: str) -> Script:
    """Sends `body` as one chunk and ends as it should."""

    async def script(_: Request, writer: asyncio.StreamWriter) -> None:
        start(writer, status, **headers)
        chunk(writer, body)
        finish(writer)
        await writer.drain()

    return script


# Proxies.


@dataclass
class Proxy:
    port: int = 0
    asked: list[str] = field(default_factory=list)  # what clients wanted to reach
    authorization: list[str] = field(default_factory=list)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass  # the other end is told by closing, too
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def http_proxy() -> AsyncIterator[Proxy]:
    """Forwards one request of absolute form for each connection."""
    seen = Proxy()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        seen.asked.append(request.target)
        seen.authorization.append(request.headers.get("proxy-authorization", ""))
        host, _, path = request.target.removeprefix("http://").partition("/")
        name, _, port = host.partition(":")
        there, out = await asyncio.open_connection(name, int(port))
        headers = {name: value for name, value in request.headers.items() if not name.startswith("proxy-")}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        out.write(f"{request.method} /{path} HTTP/1.1\r\n{lines}\r\n".encode() + request.body)
        try:
            await _pipe(there, writer)
        finally:
            out.close()

    async with listening(serve) as seen.port:
        yield seen


@contextlib.asynccontextmanager
async def connect_proxy(
    answer: bytes = b"HTTP/1.1 200 Connected\r\n\r\n", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Proxy]:
    """Opens a way to 127.0.0.1 whatever name is asked for, if its answer is the one that says so."""
    seen = Proxy()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        seen.asked.append(f"{request.method} {request.target}")
        seen.authorization.append(request.headers.get("proxy-authorization", ""))
        writer.write(answer)
        await writer.drain()
        if b" 200 " not in answer:
            if answer:
                await reader.read()
            writer.close()
            return
        there, out = await asyncio.open_connection("127.0.0.1", int(request.target.rpartition(":")[2]))
        await asyncio.gather(_pipe(reader, out), _pipe(there, writer))

    async with listening(serve, tls) as seen.port:
        yield seen


@contextlib.asynccontextmanager
async def socks5_proxy() -> AsyncIterator[Proxy]:
    """Connects to 127.0.0.1 whatever name is asked for, so that a test can tell who resolves names."""
    seen = Proxy()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        kind = (await reader.readexactly(4))[3]
        length = 4 if kind == 1 else (await reader.readexactly(1))[0]
        address = await reader.readexactly(length)
        port = int.from_bytes(await reader.readexactly(2), "big")
        host = ".".join(map(str, address)) if kind == 1 else address.decode()
        seen.asked.append(f"{host}:{port}")
        there, out = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        await asyncio.gather(_pipe(reader, out), _pipe(there, writer))

    async with listening(serve) as seen.port:
        yield seen
