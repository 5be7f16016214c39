"""Half an hour of everything at once: nothing may pile up, neither memory nor descriptors nor tasks nor open records.

`python -m bench.faults.soak [--quick] [--sqlite | --postgres]`
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

import aiohttp

from bench import faulty, servers
from bench.faults import readers, rig
from bench.faults.rig import CHUNK, WORDS_PER_CHUNK, Findings, Server, Site
from bench.faults.smuggling import hang_up

SAMPLE_SECONDS = 1.0
# Until what was hung up on is let go of by all, and between two looks: Daphne's own look comes once a second.
QUIET_SECONDS, LOOK_SECONDS = 20.0, 0.5
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS, PAUSE_SECONDS = 12, 0.02
# What fails before the first word, and after it.
BEFORE, AFTER = ("refuses", "resets", "cannot"), ("breaks", "stops", "babbles")


@dataclass(frozen=True, slots=True)
class Sizes:
    seconds: float = 1800.0
    # Of these: the time in which memory may still grow. Caches fill, the allocator finds its size.
    warm_seconds: float = 600.0
    at_once: int = 24
    faults: float = 0.01
    most_mb_per_hour: float = 1.0
    # So many samples become one: what is in flight at a moment is noise.
    block: int = 30


# Two minutes cannot tell 1 MB an hour from nothing.
QUICK = Sizes(seconds=180.0, warm_seconds=60.0, most_mb_per_hour=60.0, block=10)


# The upstream.


@dataclass(slots=True)
class Upstream:
    """Bots that answer a few words, and bots that fail, each in its own way."""

    base_url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the relay let go
        finally:
            self._open.discard(writer)
            await hang_up(writer)

    def hang_up(self) -> None:
        """On the connections that the relay keeps for the next request."""
        for writer in self._open:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can take another request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        bot = head.split(" ", 2)[1].rpartition("/")[2]
        self.asked[bot] += 1
        if bot == "refuses":
            writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
            return True
        if bot == "resets":
            writer.transport.abort()
            return False
        writer.write(HEAD)
        if bot == "cannot":
            writer.write(_http(b'event: error\ndata: {"allow_retry": false, "text": "no"}\n\n') + _http(b""))
            return True
        for number in range(CHUNKS):
            writer.write(_http(CHUNK))
            await writer.drain()
            await asyncio.sleep(PAUSE_SECONDS)
            if number and bot in AFTER:
                _fail(bot, writer)
                return False
        writer.write(_http(b"event: done\ndata: {}\n\n") + _http(b""))
        return True


def _fail(bot: str, writer: asyncio.StreamWriter) -> None:
    match bot:
        case "breaks":
            writer.transport.abort()
        case "stops":
            writer.write(b"3000\r\nevent: te")
        case "babbles":
            writer.write(_http(b"event: text\ndata: {\n\n"))


def _http(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, backlog=2048)
    made.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/bot/"
    try:
        yield made
    finally:
        server.close()
        made.hang_up()


# The clients.


@dataclass(slots=True)
class Load:
    """What the clients did, and each answer that was none of those it should be."""

    port: int
    token: str
    sizes: Sizes
    did: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    async def run(self, seconds: float) -> None:
        """Many clients, and each goes on to something else when it has an answer."""
        until = time.monotonic() + seconds
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", connector=connector) as session:
            await asyncio.gather(
                *(self._client(session, random.Random(n), until) for n in range(self.sizes.at_once))
            )

    async def _client(self, session: aiohttp.ClientSession, dice: random.Random, until: float) -> None:
        while time.monotonic() < until:
            what = dice.random()
            try:
                async with asyncio.timeout(rig.ASK_SECONDS):
                    if what < 0.10:
                        await self._refused(session, dice)
                    elif what < 0.14:
                        await self._malformed(dice)
                    elif what < 0.28:
                        await self._leaves(session, dice)
                    else:
                        await self._asks(session, dice, streamed=what < 0.72)
            except (TimeoutError, OSError, aiohttp.ClientError) as exc:
                self.wrong[f"{type(exc).__name__} without an answer"] += 1

    async def _asks(self, session: aiohttp.ClientSession, dice: random.Random, *, streamed: bool) -> None:
        model = dice.choice(BEFORE + AFTER) if dice.random() < self.sizes.faults else "answers"
        self.did["faults" if model != "answers" else "streams" if streamed else "whole answers"] += 1
        async with self._post(session, question(model, streamed=streamed)) as answer:
            text = await answer.text()
        if not is_right(model, streamed, answer.status, text):
            self.wrong[f"{model}, {'streamed' if streamed else 'whole'}: {answer.status} {text[-80:]}"] += 1

    async def _leaves(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        """Some before the first word, some in the middle, some almost at the end."""
        self.did["disconnects"] += 1
        try:
            async with (
                asyncio.timeout(dice.uniform(0, CHUNKS * PAUSE_SECONDS)),
                self._post(session, question("answers", streamed=dice.random() < 0.7)) as answer,
            ):
                await answer.read()
        except TimeoutError:
            pass

    async def _refused(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        """Requests that ask for what nobody may have, over connections that go on."""
        self.did["bad requests"] += 1
        name, status, (method, path, token, body) = dice.choice(REFUSED)
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"}
        async with session.request(method, path, headers=headers, data=body) as answer:
            await answer.read()
        if answer.status != status:
            self.wrong[f"{name}: {answer.status}"] += 1

    async def _malformed(self, dice: random.Random) -> None:
        """What is no request at all, over a connection that ends with it."""
        self.did["malformed requests"] += 1
        name, status, sent = dice.choice(MALFORMED)
        received, is_over = await readers.read_all(self.port, sent)
        if not received.startswith(b"HTTP/1.1 %d " % status) or not is_over:
            self.wrong[f"{name}: {received[:40]!r}"] += 1

    def _post(
        self, session: aiohttp.ClientSession, body: bytes
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        return session.post("/v1/chat/completions", headers=headers, data=body)


def question(model: str, *, streamed: bool) -> bytes:
    messages = [{"role": "user", "content": "How are you?"}]
    return json.dumps({"model": model, "stream": streamed, "messages": messages}).encode()


CHAT = "/v1/chat/completions"
# Method, path, token if it is another one, body.
REFUSED: tuple[tuple[str, int, tuple[str, str, str, bytes]], ...] = (
    ("an unknown token", 401, ("POST", CHAT, "sk-poe-nobody", question("answers", streamed=True))),
    ("no JSON", 400, ("POST", CHAT, "", b'{"model": ')),
    ("no messages", 400, ("POST", CHAT, "", b'{"model": "answers"}')),
    ("an unknown page", 404, ("POST", "/v1/nothing", "", b"{}")),
    ("another method", 405, ("DELETE", CHAT, "", b"")),
)
MALFORMED = (
    ("two hosts", 400, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    (
        "two lengths",
        400,
        b"POST /v1/models HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ),
    ("large headers", 431, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-A: %s\r\n\r\n" % (b"a" * 20_000)),
)


def is_right(model: str, streamed: bool, status: int, text: str) -> bool:
    """The whole answer, or that it failed: with a status if nothing was said before."""
    words = text.count(rig.WORD.strip())
    if model == "answers":
        return (
            status == 200
            and words == CHUNKS * WORDS_PER_CHUNK
            and (not streamed or text.endswith("data: [DONE]\n\n"))
        )
    # A reset takes with it what was not read yet, so that nothing may have been said all the same.
    may_have_begun = streamed and model in AFTER
    return '"error"' in text and (status in (502, 503, 504) or (status == 200 and may_have_begun))


# The server, as seen from outside.


@dataclass(frozen=True, slots=True)
class Held:
    descriptors: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.tasks} tasks"

    def is_within(self, other: Held) -> bool:
        return self.descriptors <= other.descriptors and self.tasks <= other.tasks


async def held(server: Server) -> Held:
    page = b"GET %s HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n" % faulty.TASKS.encode()
    received, _is_over = await readers.read_all(server.port, page)
    # Counted while it is answered: the connection of the question is gone, that of nobody else came.
    return Held(len(list(Path(f"/proc/{server.pid}/fd").iterdir())), int(received.split(b"\r\n")[-4]))


async def at_rest(server: Server, least: Held | None = None) -> Held:
    """When it holds no more than that; or when it has not let go of anything for a while."""
    seen = await held(server)
    until = time.monotonic() + QUIET_SECONDS
    unchanged = 0
    while time.monotonic() < until and (unchanged < 3 if least is None else not seen.is_within(least)):
        await asyncio.sleep(LOOK_SECONDS)
        before, seen = seen, await held(server)
        unchanged = unchanged + 1 if seen == before else 0
    return seen


@dataclass(frozen=True, slots=True)
class Slope:
    """The straight line through samples of memory; `error` is two standard errors of it."""

    mb_per_hour: float
    error: float
    first_mb: float
    last_mb: float

    @classmethod
    def of(cls, samples: list[tuple[float, float]], block: int) -> Slope:
        """Of (seconds, MB), so many together: what is seen twice within a second is not seen twice."""
        blocks = [samples[start : start + block] for start in range(0, len(samples) - block + 1, block)]
        xs = [fmean(seconds for seconds, _mb in each) / 3600 for each in blocks]
        ys = [median(mb for _seconds, mb in each) for each in blocks]
        if len(blocks) < 3:
            raise ValueError(f"{len(samples)} samples are too few for a line")
        middle_x, middle_y = fmean(xs), fmean(ys)
        spread = sum((x - middle_x) ** 2 for x in xs)
        slope = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread
        off = sum((y - middle_y - slope * (x - middle_x)) ** 2 for x, y in zip(xs, ys, strict=True))
        return cls(slope, 2 * (off / (len(xs) - 2) / spread) ** 0.5, ys[0], ys[-1])


async def sample(server: Server) -> list[tuple[float, float]]:
    """(seconds, MB), appended to until it is cancelled."""
    found: list[tuple[float, float]] = []
    process, began = servers.Server(server.port, server.pid), time.monotonic()
    try:
        while True:
            found.append((time.monotonic() - began, process.rss_mb()))
            await asyncio.sleep(SAMPLE_SECONDS)
    except asyncio.CancelledError:
        return found


# The story.


async def story(site: Site, findings: Findings, quick: bool) -> None:
    await tell(site, findings, QUICK if quick else Sizes())


async def tell(site: Site, findings: Findings, sizes: Sizes) -> None:
    async with upstream() as bots:
        site.write("UPDATE relay_poeaccount SET base_url = ?", bots.base_url)
        server = await asyncio.to_thread(site.start, 0, {}, "bench.faulty")
        load = Load(server.port, site.token, sizes)
        # What the first requests load stays.
        await load.run(min(5.0, sizes.seconds / 2))
        bots.hang_up()
        before = await at_rest(server)
        sampling = asyncio.create_task(sample(server))
        await load.run(sizes.seconds)
        sampling.cancel()
        samples = await sampling
        bots.hang_up()
        after = await at_rest(server, before)
        findings.note(
            f"{sizes.seconds:g} s: " + ", ".join(f"{n:,} {name}" for name, n in sorted(load.did.items()))
        )
        asked = bots.asked.total()
        findings.note(f"the upstream failed {asked - bots.asked['answers']:,} of {asked:,}")
        findings.claim(
            "everybody was answered as they should be",
            not load.wrong,
            dict(load.wrong.most_common(5)) or "all",
        )
        claim_level(findings, samples, sizes)
        findings.claim(
            "descriptors and tasks are what they were before",
            after.is_within(before),
            f"{before} before, {after} after",
        )
        await readers.books_agree(findings, server)
        settled = await site.seconds_until_settled(10)
        findings.claim("no record is left open, no slot taken", settled is not None, site.outcomes())
        await rig.claim_in_order(site, findings)


def claim_level(findings: Findings, samples: list[tuple[float, float]], sizes: Sizes) -> None:
    # A leak goes on as it began; what fills up does not.
    tenth = max(1, len(samples) // 10)
    parts = [samples[start : start + tenth] for start in range(0, tenth * 10, tenth)]
    findings.note(
        "MB, tenth by tenth: " + ", ".join(f"{median(mb for _at, mb in part):.1f}" for part in parts if part)
    )
    slope = Slope.of([each for each in samples if each[0] >= sizes.warm_seconds], sizes.block)
    findings.claim(
        f"memory grows by less than {sizes.most_mb_per_hour:g} MB an hour after {sizes.warm_seconds:g} s",
        slope.mb_per_hour < sizes.most_mb_per_hour,
        f"{slope.mb_per_hour:+.2f} ± {slope.error:.2f} MB an hour; {slope.first_mb:.1f} MB at first, {slope.last_mb:.1f} MB at last",
    )


if __name__ == "__main__":
    sys.exit(rig.main(story, __doc__ or ""))
