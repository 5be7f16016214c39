"""Floods: a gigabyte from nobody, and a thousand connections that take their time. What they cost everybody else."""

from __future__ import annotations

import asyncio
import re
import select
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import servers
from bench.faults import rig
from bench.faults.readers import connected
from bench.faults.rig import Findings, Server, Site

GIGABYTE = 1_000_000_000
PIECE = b"a" * 65_536
CHUNK = b"10000\r\n" + PIECE + b"\r\n"
# What the relay has read is what was sent, less what the two kernels hold.
KERNEL_BYTES = 524_288
MOST_BYTES = 1_000_000
MOST_MB = 8.0
# All of them are open before the first one is cut.
OPENED_PER_SECOND = 200
# Legitimate: a streamed answer of five chunks, one after the other for each of a few people.
BOT = "c5d0-legitimate"
PEOPLE = 4
MOST_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Sizes:
    slow: int = 1000
    quiet_seconds: float = 15.0
    # The product's deadlines, and until the last of them was cut.
    head_seconds: float = 24.0
    body_seconds: float = 50.0
    bodies: bool = True


FULL = Sizes()
QUICK = Sizes(slow=200, quiet_seconds=3.0, head_seconds=16.0, bodies=False)


# A gigabyte from nobody.


def pour(port: int, head: bytes, piece: bytes) -> tuple[bytes, int]:
    """Send until there is an answer; the answer, and how much was taken until then."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES // 8)
        client.sendall(head)
        client.setblocking(False)
        taken, left = 0, memoryview(piece)
        deadline = time.monotonic() + 10
        while taken < GIGABYTE and time.monotonic() < deadline:
            readable, writable, _ = select.select([client], [client], [], 1)
            if readable:
                return client.recv(65_536), taken
            if writable:
                sent = client.send(left)
                taken += sent
                left = left[sent:] if sent < len(left) else memoryview(piece)
        return b"", taken


async def a_gigabyte(site: Site, findings: Findings, server: Server) -> None:
    process = servers.Server(server.port, server.pid)
    await rig.ask(server.port, site.token, BOT)
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: relay\r\n"
    unknown = b"Authorization: Bearer sk-poe-0123456789\r\n"
    before = most = process.rss_mb()
    missed, figures = [], []
    for name, lines, piece in (
        ("without a token", b"Content-Length: %d\r\n\r\n" % GIGABYTE, PIECE),
        ("without a token, in chunks", b"Transfer-Encoding: chunked\r\n\r\n", CHUNK),
        # Longer than what anybody may send, and not.
        ("an unknown token", unknown + b"Content-Length: %d\r\n\r\n" % GIGABYTE, PIECE),
        ("an unknown token, 40 MB", unknown + b"Content-Length: 40000000\r\n\r\n", PIECE),
        ("an unknown token, in chunks", unknown + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK),
    ):
        answer, taken = await asyncio.to_thread(pour, server.port, start + lines, piece)
        most = max(most, process.rss_mb())
        figures.append(f"{name}: {taken // 1000} kB, {answer[9:12].decode()}")
        if answer[9:12] not in (b"401", b"413") or taken > MOST_BYTES + KERNEL_BYTES:
            missed.append(name)
    findings.claim("a gigabyte from nobody is refused within 1 MB read", not missed, "; ".join(figures))
    findings.claim(
        f"memory grows by less than {MOST_MB:g} MB", most - before < MOST_MB, f"{most - before:.1f} MB"
    )


# Slow ones.


async def legitimate(site: Site, server: Server, until: asyncio.Event) -> list[float]:
    """How long each answer took; infinite for one that was not whole."""
    took: list[float] = []

    async def person() -> None:
        while not until.is_set():
            reply = await rig.ask(server.port, site.token, BOT)
            took.append(reply.ended - reply.sent if reply.is_whole else float("inf"))
            await asyncio.sleep(0.02)

    await asyncio.gather(*(person() for _ in range(PEOPLE)))
    return took


@asynccontextmanager
async def beside(site: Site, server: Server) -> AsyncIterator[list[float]]:
    """How long legitimate answers took as long as the block runs; known at its end."""
    over = asyncio.Event()
    took: list[float] = []
    asking = asyncio.create_task(legitimate(site, server, over))
    try:
        yield took
    finally:
        over.set()
        took += await asking


async def slowly(port: int, how: list[str], number: int, seconds: float) -> tuple[str, int]:
    """Debian's slowhttptest, as long as it takes; what it says of its end, and how many it had open at most."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = ["slowhttptest", *how, "-c", str(number), "-r", str(OPENED_PER_SECOND), "-u", url, "-p", "3"]
    child = await asyncio.create_subprocess_exec(
        *command, "-l", str(int(seconds)), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    most = 0

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, connected(port))
            await asyncio.sleep(0.5)

    counting = asyncio.create_task(count())
    try:
        said, _ = await child.communicate()
    finally:
        counting.cancel()
        if child.returncode is None:
            child.terminate()
            await child.wait()
    # Between the codes that colour it.
    status = re.findall(rb"Exit status:(?:\x1b[^m]*m)? ([\w ]+)", said)
    return status[-1].decode().strip() if status else "no end", most


async def they_take_their_time(
    site: Site, findings: Findings, server: Server, sizes: Sizes, what: str, how: list[str], seconds: float
) -> None:
    quiet = asyncio.Event()
    asyncio.get_running_loop().call_later(sizes.quiet_seconds, quiet.set)
    alone = rig.percentile(await legitimate(site, server, quiet), 0.99)
    # What slowhttptest itself takes of this machine is none of the relay's doing.
    sink = servers.Server(server.port, server.pid)
    with tempfile.TemporaryDirectory() as name, servers.nginx(sink, Path(name), None) as nginx:
        async with beside(site, server) as elsewhere:
            await slowly(nginx.port, how, sizes.slow, seconds)
    began = time.monotonic()
    async with beside(site, server) as here:
        ended, most = await slowly(server.port, how, sizes.slow, seconds)
    lasted = time.monotonic() - began
    left = connected(server.port)
    findings.claim(
        f"{sizes.slow} connections with {what}: all are cut",
        ended == "No open connections left" and most >= sizes.slow and left == 0,
        f"{most} open at most, {left} after {lasted:.0f} s: {ended}",
    )
    busy, among = rig.percentile(elsewhere, 0.99), rig.percentile(here, 0.99)
    findings.claim(
        f"the legitimate p99 beside them is at most {MOST_RATIO:g} times that while nginx has them",
        among <= MOST_RATIO * busy,
        f"{among * 1000:.1f} ms of {len(here)}; {busy * 1000:.1f} ms of {len(elsewhere)} while nginx has them; "
        f"{alone * 1000:.1f} ms without",
    )


async def story(site: Site, findings: Findings, quick: bool) -> None:
    await tell(site, findings, QUICK if quick else FULL)


async def tell(site: Site, findings: Findings, sizes: Sizes) -> None:
    server = (await site.start_all(1))[0]
    await a_gigabyte(site, findings, server)
    if shutil.which("slowhttptest") is None or shutil.which("nginx") is None:
        findings.leave_out("what slow connections do", "slowhttptest or nginx", sizes is not FULL)
    else:
        slow = (site, findings, server, sizes)
        await they_take_their_time(*slow, "slow heads", ["-H", "-i", "2", "-x", "24"], sizes.head_seconds)
        if sizes.bodies:
            body = ["-B", "-i", "5", "-s", "8192", "-x", "24"]
            await they_take_their_time(*slow, "slow bodies", body, sizes.body_seconds)
    await rig.claim_in_order(site, findings)


if __name__ == "__main__":
    sys.exit(rig.main(story, "A gigabyte from nobody, and a thousand connections that take their time."))
