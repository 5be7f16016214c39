"""SIGTERM and SIGHUP under 500 streams: every stream ends as the bot ended it, nobody is turned away, nothing stays open.

`python -m bench.faults.drain [--quick] [--sqlite | --postgres]`
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from bench.faults import rig
from bench.faults.rig import Findings, Reply, Server, Site

PAUSE_MS = 200
# What the relay's default is; the longest stream ends well within it.
DRAIN_SECONDS = 30.0
# For what remains when the last stream has ended: its connection, the idle ones, the ledger.
EXIT_SECONDS = 5.0
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Sizes:
    streams: int = 500
    # The longest stream has so many chunks: 20 s.
    most_chunks: int = 100
    # Clients who ask for something short, again and again, over new connections, while workers are replaced.
    at_once: int = 16


SIZES = {False: Sizes(), True: Sizes(streams=100, most_chunks=20, at_once=8)}


@dataclass(slots=True)
class Streams:
    """Streams that are all under way."""

    asked: list[tuple[str, int]]
    replies: asyncio.Future[list[Reply]]

    async def broken(self) -> Counter[str]:
        """What was wrong with those that did not arrive as the bot said them, when all have ended."""
        chunks = dict(self.asked)
        wrong: Counter[str] = Counter()
        for reply in await self.replies:
            if reply.status != 200:
                wrong[f"{reply.status} {reply.code}"] += 1
            elif not reply.is_whole or reply.tokens != chunks[reply.model] * rig.WORDS_PER_CHUNK:
                wrong["cut"] += 1
        return wrong


async def story(site: Site, findings: Findings, quick: bool) -> None:
    for workers in (1, 2):
        await stop_under_streams(site, findings, SIZES[quick], workers)
    await replace_under_streams(site, findings, SIZES[quick])
    await rig.claim_in_order(site, findings)


async def stop_under_streams(site: Site, findings: Findings, sizes: Sizes, workers: int) -> None:
    server = await _start(site, workers)
    streams = await _stream(site, server, sizes, f"stop{workers}x")
    told = time.monotonic()
    server.tell(signal.SIGTERM)
    turned_away = await _turned_away(site, server)
    broken = await streams.broken()
    shares = await asyncio.to_thread(
        site.read,
        "SELECT count(*) FROM relay_usagerecord WHERE model LIKE ? GROUP BY process",
        f"%-stop{workers}x%",
    )
    last = time.monotonic() - told
    status = await asyncio.to_thread(server.exit_status, EXIT_SECONDS)
    ended = time.monotonic() - told

    who = "one process" if workers == 1 else f"{workers} workers"
    findings.claim(
        f"SIGTERM to {who}: all {sizes.streams} streams reach [DONE]",
        not broken,
        dict(broken) or f"{[number for (number,) in shares]} by process, the last after {last:.1f} s",
    )
    findings.claim(
        f"it exits 0 within {DRAIN_SECONDS:.0f} s",
        status == 0 and ended < DRAIN_SECONDS,
        f"{status} after {ended:.1f} s, {ended - last:.2f} s after the last stream",
    )
    findings.claim(
        "nobody new is kept waiting meanwhile",
        turned_away is not None and turned_away < 1,
        "never turned away" if turned_away is None else f"refused from {turned_away:.2f} s on",
    )
    outcomes = await asyncio.to_thread(site.outcomes)
    in_flight = await asyncio.to_thread(site.in_flight)
    findings.claim(
        "it leaves no record open, no slot taken", not in_flight and "open" not in outcomes, outcomes
    )


async def replace_under_streams(site: Site, findings: Findings, sizes: Sizes) -> None:
    server = await _start(site, 2)
    streams = await _stream(site, server, sizes, "replace")
    old = server.workers()
    is_over = asyncio.Event()
    crowd = [
        asyncio.create_task(_ask_until(is_over, site, server, number)) for number in range(sizes.at_once)
    ]
    told = time.monotonic()
    server.tell(signal.SIGHUP)
    replaced = await _seconds_until(lambda: len(server.workers() - old) == 2, told)
    broken = await streams.broken()
    left = await _seconds_until(lambda: not server.workers() & old, told)
    is_over.set()
    short = [reply for replies in await asyncio.gather(*crowd) for reply in replies]
    odd = Counter((reply.status, reply.code) for reply in short if reply.status != 200 or not reply.is_whole)

    findings.claim(
        f"SIGHUP to 2 workers: all {sizes.streams} streams reach [DONE]",
        not broken,
        dict(broken) or f"{replaced} s until two new workers were started",
    )
    findings.claim("whoever asks meanwhile is answered", not odd, dict(odd) or f"{len(short)} requests")
    findings.claim(
        f"the old workers are gone within {DRAIN_SECONDS:.0f} s of it, and a start",
        left is not None and left < DRAIN_SECONDS + EXIT_SECONDS,
        f"{left} s",
    )
    settled = await site.seconds_until_settled(EXIT_SECONDS)
    findings.claim(
        "no record is open, no slot taken", settled is not None, await asyncio.to_thread(site.outcomes)
    )


async def _start(site: Site, workers: int) -> Server:
    env = {"POE_RELAY_SERVER__WORKERS": str(workers), "POE_RELAY_SERVER__DRAIN_SECONDS": f"{DRAIN_SECONDS:g}"}
    before = await asyncio.to_thread(_serving, site)
    server = await asyncio.to_thread(site.start, 0, env)
    # The first is ready when the server says so; the others have a moment to become so.
    async with asyncio.timeout(START_SECONDS):
        while await asyncio.to_thread(_serving, site) < before + workers:
            await asyncio.gather(*(rig.ask(server.port, site.token, "c1d0-warm") for _ in range(4)))
    return server


def _serving(site: Site) -> int:
    """How many processes have answered a request, of all that ever ran."""
    return site.number("SELECT count(DISTINCT process) FROM relay_usagerecord")


async def _seconds_until(holds: Callable[[], bool], began: float) -> float | None:
    while time.monotonic() < began + DRAIN_SECONDS + 2 * EXIT_SECONDS:
        if holds():
            return round(time.monotonic() - began, 2)
        await asyncio.sleep(0.02)
    return None


async def _stream(site: Site, server: Server, sizes: Sizes, name: str) -> Streams:
    dice = random.Random(5)
    chunks = [dice.randint(1, sizes.most_chunks) for _ in range(sizes.streams - 1)] + [sizes.most_chunks]
    asked = [(f"c{size}d{PAUSE_MS}w500-{name}{number}", size) for number, size in enumerate(chunks)]
    before = len(site.upstream.asked)
    replies = asyncio.gather(*(rig.ask(server.port, site.token, model) for model, _ in asked))
    async with asyncio.timeout(START_SECONDS):
        while len(site.upstream.asked) < before + sizes.streams and not replies.done():
            await asyncio.sleep(0.02)
    return Streams(asked, replies)


async def _ask_until(is_over: asyncio.Event, site: Site, server: Server, client: int) -> list[Reply]:
    replies = []
    for number in itertools.count():
        replies.append(await rig.ask(server.port, site.token, f"c2d20-short{client}x{number}"))
        if is_over.is_set():
            break
    return replies


async def _turned_away(site: Site, server: Server) -> float | None:
    """After how many seconds a connection is refused."""
    began = time.monotonic()
    while time.monotonic() < began + EXIT_SECONDS:
        reply = await rig.ask(server.port, site.token, "c1d0-late")
        if reply.code == "ConnectionRefusedError":
            return reply.sent - began
        await asyncio.sleep(0.02)
    return None


if __name__ == "__main__":
    sys.exit(rig.main(story, __doc__ or ""))
