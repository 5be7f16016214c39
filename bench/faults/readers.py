"""Clients that never read, and answers that fail in the middle: what they cost, and that nobody is left hanging."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from bench import faulty, servers
from bench.faults import rig
from bench.faults.rig import Findings, Server, Site
from bench.faults.smuggling import hang_up

OFFERED_BYTES = 10_000_000
PIECE = b'event: text\ndata: {"text": "%s"}\n\n' % (b"all work and no play " * 100)
# So little that it leaves at once, past whoever waits for it.
WORDS = b'event: text\ndata: {"text": "%s"}\n\n' % (b"all work and no play " * 10)
OFFERS = {"pours": PIECE, "talks": WORDS}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
# So little a client's kernel takes for it.
RECEIVE_BYTES = 4096
# The sweep comes once a second, and a thousand are cut over some turns of the loop.
LATER_SECONDS = 15.0
HANG_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sizes:
    clients: int = 1000
    exceptions: int = 1000
    at_once: int = 50
    most_mb: float = 150.0
    # The product's own, unless it is shortened.
    stuck_seconds: float = 30.0
    is_shortened: bool = False


QUICK = Sizes(clients=100, exceptions=100, most_mb=50.0, stuck_seconds=3.0, is_shortened=True)


# The upstream.


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """Bots that pour out as much as is taken, or fail in the middle, each in its own way; their base address."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=2048)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/bot/"
    finally:
        server.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        bot = head.split(" ", 2)[1].rpartition("/")[2]
        writer.write(HEAD)
        if (piece := OFFERS.get(bot)) is not None:
            for _ in range(OFFERED_BYTES // len(piece)):
                writer.write(_chunk(piece))
                await writer.drain()
                await asyncio.sleep(0)  # each by itself
        else:
            writer.write(_chunk(PIECE))
            await writer.drain()
            await asyncio.sleep(0.01)
            _fail(bot, writer)
    except (OSError, asyncio.IncompleteReadError):
        pass  # the relay let go
    await hang_up(writer)


def _fail(bot: str, writer: asyncio.StreamWriter) -> None:
    match bot:
        case "resets":
            writer.transport.abort()
        case "stops":
            writer.write(b"3000\r\nevent: te")
        case "babbles":
            writer.write(_chunk(b"event: text\ndata: {\n\n"))
        case "cannot":
            writer.write(_chunk(b'event: error\ndata: {"allow_retry": false, "text": "no"}\n\n'))


FAILING = ("resets", "stops", "babbles", "cannot")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# The clients that never read.


def never_read(port: int, requests: list[bytes], number: int) -> list[socket.socket]:
    clients = []
    for request in islice(cycle(requests), number):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        client.connect(("127.0.0.1", port))
        client.sendall(request)
        clients.append(client)
    return clients


def cut(clients: list[socket.socket]) -> int:
    """How many of them were hung up on."""
    looking = select.poll()
    for client in clients:
        looking.register(client, 0)
    return sum(bool(event & (select.POLLHUP | select.POLLERR)) for _fd, event in looking.poll(0))


async def nobody_reads(site: Site, findings: Findings, sizes: Sizes, server: Server) -> None:
    process = servers.Server(server.port, server.pid)
    # What the first request loads is none of theirs.
    await rig.ask(server.port, site.token, "cannot")
    before = most = process.rss_mb()
    began = time.monotonic()
    requests = [rig.request(site.token, bot) for bot in OFFERS]
    clients = await asyncio.to_thread(never_read, server.port, requests, sizes.clients)
    asked = time.monotonic()
    try:
        while cut(clients) < sizes.clients and time.monotonic() < asked + sizes.stuck_seconds + LATER_SECONDS:
            most = max(most, process.rss_mb())
            await asyncio.sleep(0.1)
        took, gone = time.monotonic() - asked, cut(clients)
    finally:
        for client in clients:
            client.close()
    findings.note(f"{sizes.clients} clients asked within {asked - began:.1f} s")
    findings.claim(
        f"{sizes.clients} clients that never read, {OFFERED_BYTES // 1_000_000} MB offered each: memory grows by at most "
        f"{sizes.most_mb:g} MB",
        most - before <= sizes.most_mb,
        f"{before:.0f} MB before, {most:.0f} MB at most",
    )
    findings.claim(
        f"all of them are cut {sizes.stuck_seconds:g} s after they stopped reading",
        gone == sizes.clients,
        f"{gone} within {took:.1f} s of the last one's request",
    )
    settled = await site.seconds_until_settled(10)
    outcomes = {bot: site.outcomes(bot) for bot in OFFERS}
    findings.claim(
        "their requests are settled as disconnected",
        settled is not None
        and all(each == {"disconnected": sizes.clients // len(OFFERS)} for each in outcomes.values()),
        outcomes,
    )


# Answers that fail in the middle.


async def read_all(port: int, sent: bytes) -> tuple[bytes, bool]:
    """All that came; whether the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(sent)
        async with asyncio.timeout(HANG_SECONDS):
            while part := await reader.read(65_536):
                received += part
        return received, True
    except TimeoutError:
        return received, False
    except ConnectionError:
        return received, True
    finally:
        await hang_up(writer)


async def ask_all(port: int, requests: list[bytes], at_once: int) -> list[tuple[bytes, bool]]:
    limit = asyncio.Semaphore(at_once)

    async def ask(request: bytes) -> tuple[bytes, bool]:
        async with limit:
            return await read_all(port, request)

    return await asyncio.gather(*(ask(request) for request in requests))


async def answers_fail(site: Site, findings: Findings, sizes: Sizes, server: Server) -> None:
    """Half of them upstream, in four ways; the other half in an application that fails as none may."""
    half = sizes.exceptions // 2
    requests = [rig.request(site.token, FAILING[number % len(FAILING)]) for number in range(half)]
    answers = await ask_all(server.port, requests, sizes.at_once)
    ended = Counter(
        "hung" if not is_over else "told" if b'"error"' in received else "not told"
        for received, is_over in answers
    )
    findings.claim(
        f"{half} answers that failed upstream in the middle: each client is told, none hangs",
        ended == {"told": half},
        dict(ended),
    )
    fails = b"GET %s HTTP/1.1\r\nHost: relay\r\n\r\n" % faulty.FAILS.encode()
    answers = await ask_all(server.port, [fails] * half, sizes.at_once)
    ended = Counter(
        "hung" if not is_over else "whole" if received.endswith(b"0\r\n\r\n") else "cut"
        for received, is_over in answers
    )
    findings.claim(
        f"{half} answers whose application failed in the middle: each connection is cut, none looks whole",
        ended == {"cut": half},
        dict(ended),
    )


async def books_agree(findings: Findings, server: Server) -> None:
    """Daphne's bookkeeping comes once a second."""
    page = b"GET %s HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n" % faulty.TRACKED.encode()
    tracked = sockets = 0
    for _try in range(5):
        await asyncio.sleep(1.2)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        sockets = connected(server.port)
        writer.write(page)
        tracked = int((await reader.read()).split(b"\r\n")[-4])
        await hang_up(writer)
        if tracked == sockets == 1:
            break
    findings.claim(
        "the connections that the server tracks are the sockets that are open, this one",
        tracked == sockets == 1,
        f"{tracked} tracked, {sockets} open",
    )


def connected(port: int) -> int:
    """How many connections to this port are open, or hung up on one side alone."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # 01 ESTABLISHED, 08 CLOSE_WAIT
    return sum(row[1].endswith(f":{port:04X}") and row[3] in ("01", "08") for row in rows)


async def story(site: Site, findings: Findings, quick: bool) -> None:
    await tell(site, findings, QUICK if quick else Sizes())


async def tell(site: Site, findings: Findings, sizes: Sizes) -> None:
    async with upstream() as base_url:
        site.write("UPDATE relay_poeaccount SET base_url = ?", base_url)
        env = {faulty.STUCK: str(sizes.stuck_seconds)} if sizes.is_shortened else {}
        server = await asyncio.to_thread(site.start, 0, env, "bench.faulty")
        await nobody_reads(site, findings, sizes, server)
        await answers_fail(site, findings, sizes, server)
        await books_agree(findings, server)
        reply, _is_over = await read_all(server.port, rig.request(site.token, "cannot"))
        findings.claim("the next request is answered", b'"error"' in reply, reply[:15].decode())
        complaints = {
            text: number for text, number in site.complaints().items() if "this page fails" not in text
        }
        findings.claim("no server logged an unforeseen error", not complaints, complaints or "none")
        status, said = await asyncio.to_thread(site.verify)
        findings.claim(
            "`manage.py ledger verify` finds no difference", status == 0, " ".join(said.splitlines()[-3:])
        )


if __name__ == "__main__":
    sys.exit(rig.main(story, "Clients that never read, and answers that fail in the middle."))
