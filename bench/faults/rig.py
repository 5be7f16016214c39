"""What the fault scripts share: a database, an installation, relay servers, an upstream that counts, clients, findings.

The upstream and the clients live on the script's own event loop, so that their moments are of one clock. Whatever
blocks (starting and stopping a server, a long query) goes to a thread: `await asyncio.to_thread(site.start)`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from bench import servers

SQLITE, POSTGRES = "SQLite", "PostgreSQL"
# One token of o200k wherever it stands: what was said is counted by looking for it.
WORD = " hello"
WORDS_PER_CHUNK = 5
# `c20d50`: 20 chunks, 50 ms apart, all at once if 0. `c20d50w300`: 300 ms pass before the first. What follows a dash
# is the script's own: the mapping is a wildcard, so the usage record and the upstream name the request by it.
BOT = re.compile(r"c(\d+)d(\d+)(?:w(\d+))?(?:-.*)?")
ASK_SECONDS = 60.0


# The upstream.


@dataclass(slots=True)
class Asked:
    """A request as the upstream saw it. Moments are those of time.monotonic()."""

    model: str
    began: float
    # When each chunk was written.
    said: list[float] = field(default_factory=list)
    ended: float | None = None
    # When its connection was gone before the end.
    left: float | None = None

    @property
    def tokens(self) -> int:
        return len(self.said) * WORDS_PER_CHUNK

    def tokens_until(self, moment: float) -> int:
        return sum(at <= moment for at in self.said) * WORDS_PER_CHUNK


class Upstream:
    """Speaks Poe's bot protocol on 127.0.0.1, notes each request and how many there are at once."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.most_in_flight = 0
        self.base_url = ""
        self._asking: set[_Conversation] = set()

    @property
    def in_flight(self) -> int:
        return len(self._asking)

    def began(self, model: str, conversation: _Conversation) -> Asked:
        asked = Asked(model, time.monotonic())
        self.asked.append(asked)
        self._asking.add(conversation)
        if self.in_flight > self.most_in_flight:
            # The loop may tell of a new request before it tells that another one was let go of.
            left = sum(each.is_left() for each in self._asking)
            self.most_in_flight = max(self.most_in_flight, self.in_flight - left)
        return asked

    def ended(self, asked: Asked, conversation: _Conversation) -> None:
        asked.ended = time.monotonic()
        self._asking.discard(conversation)

    def left(self, asked: Asked, conversation: _Conversation) -> None:
        asked.left = time.monotonic()
        self._asking.discard(conversation)


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    counting = Upstream()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Conversation(counting), "127.0.0.1", 0, backlog=2048)
    counting.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/bot/"
    try:
        yield counting
    finally:
        server.close()


class _Conversation(asyncio.Protocol):
    """A connection of the upstream: one request after the other."""

    def __init__(self, counting: Upstream) -> None:
        self._counting = counting
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._asked: Asked | None = None
        self._chunks = self._pause = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not found or length is None or len(body) < int(length[1]):
            return
        self._buffer = body[int(length[1]) :]
        self._begin(head.split(b" ", 2)[1].decode().rpartition("/")[2])

    def _begin(self, bot: str) -> None:
        script = BOT.fullmatch(bot)
        assert script is not None, bot
        self._asked = self._counting.began(bot, self)
        self._chunks, self._pause = int(script[1]), int(script[2])
        self._after(int(script[3] or 0), self._open)

    def _open(self) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self._say()

    def _say(self) -> None:
        """One chunk and then the next, or all of them."""
        asked = self._asked
        assert asked is not None
        chunks = 1 if self._pause else self._chunks
        self._transport.write(_http_chunk(CHUNK * chunks))
        asked.said += [time.monotonic()] * chunks
        self._chunks -= chunks
        self._after(self._pause, self._say if self._chunks else self._end)

    def _end(self) -> None:
        assert self._asked is not None
        self._counting.ended(self._asked, self)
        self._asked = None
        self._transport.write(_http_chunk(b"event: done\ndata: {}\n\n") + b"0\r\n\r\n")

    def _after(self, milliseconds: int, do: Callable[[], None]) -> None:
        if milliseconds:
            self._timer = self._loop.call_later(milliseconds / 1000, do)
        else:
            do()

    def eof_received(self) -> None:
        # Here, not when the connection is lost: that is told a turn of the loop later.
        self._gone()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()

    def is_left(self) -> bool:
        """While it is asked: the other side has closed it, as the system knows."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def _gone(self) -> None:
        if self._asked is not None:
            self._counting.left(self._asked, self)
            self._asked = None
        if self._timer is not None:
            self._timer.cancel()


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNK = b'event: text\ndata: {"text": "%s"}\n\n' % (WORD * WORDS_PER_CHUNK).encode()


# A client.


@dataclass(slots=True)
class Reply:
    """What became of a request. Moments are those of time.monotonic(); status 0: the connection broke without one."""

    model: str
    sent: float
    status: int = 0
    code: str = ""
    retry_after: float | None = None
    # Received; `is_whole`: with the end of the stream.
    tokens: int = 0
    is_whole: bool = False
    first_token: float | None = None
    left: float | None = None
    ended: float = 0.0


@dataclass(frozen=True, slots=True)
class Leaving:
    """When a client hangs up: so many seconds after the first token, or after it has asked. `hard`: by a reset."""

    after_first_token: float | None = None
    after_asking: float | None = None
    hard: bool = False


NEVER = Leaving()


async def ask(port: int, token: str, model: str, leaving: Leaving = NEVER) -> Reply:
    """A streamed chat completion over a connection of its own; a failure to connect is a reply of status 0."""
    reply = Reply(model, time.monotonic())
    asking = _Asking(reply, request(token, model), leaving)
    try:
        async with asyncio.timeout(ASK_SECONDS):
            await asyncio.get_running_loop().create_connection(lambda: asking, "127.0.0.1", port)
            await asking.over
    except TimeoutError:
        asking.abort()
        reply.code = "no answer in time"
    except OSError as exc:
        reply.code = type(exc).__name__
    reply.ended = time.monotonic()
    return reply


def request(token: str, model: str) -> bytes:
    body = (
        b'{"model": "%s", "stream": true, "messages": [{"role": "user", "content": "hi"}]}' % model.encode()
    )
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        b"Authorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (token.encode(), len(body), body)
    )


class _Asking(asyncio.Protocol):
    def __init__(self, reply: Reply, request: bytes, leaving: Leaving) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reply = reply
        self._request = request
        self._leaving = leaving
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)
        self._leave_in(self._leaving.after_asking)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._reply.first_token is None and WORD.encode() in self._received:
            self._reply.first_token = time.monotonic()
            self._leave_in(self._leaving.after_first_token)

    def connection_lost(self, exc: Exception | None) -> None:
        received, reply = bytes(self._received), self._reply
        if found := re.match(rb"HTTP/1\.1 (\d+)", received):
            reply.status = int(found[1])
        if reply.status != 200:
            code = re.search(rb'"code": ?"(\w+)"', received)
            reply.code = code[1].decode() if code else ""
            wait = re.search(rb"(?i)\r\nretry-after: *([\d.]+)", received)
            reply.retry_after = float(wait[1]) if wait else None
        reply.tokens = received.count(WORD.encode())
        reply.is_whole = b"[DONE]" in received and received.endswith(b"0\r\n\r\n")
        if not self.over.done():
            self.over.set_result(None)

    def _leave_in(self, seconds: float | None) -> None:
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._leave)

    def _leave(self) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if self._leaving.hard:
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._reply.left = time.monotonic()
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


# The installation.


@dataclass(slots=True)
class Server:
    """A relay process. `stop` and `kill` block; neither may be called twice."""

    port: int
    pid: int
    _child: subprocess.Popen[str]
    _stack: ExitStack

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if it does not end."""
        self._stack.close()

    def kill(self) -> None:
        """SIGKILL."""
        self._child.kill()
        self._stack.close()

    def tell(self, number: int) -> None:
        """Send a signal."""
        self._child.send_signal(number)

    def exit_status(self, seconds: float) -> int | None:
        """None: it still runs after so long. Blocks."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def workers(self) -> set[int]:
        """The processes that it supervises."""
        return set(map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP; SIGCONT when the block ends."""
        self._child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._child.send_signal(signal.SIGCONT)


@dataclass(slots=True)
class Site:
    """An installation: a database, a data directory, an access token; the servers that run on it."""

    kind: str
    database_url: str
    env: dict[str, str]
    logs: Path
    upstream: Upstream
    token: str
    running: list[Server] = field(default_factory=list)
    _started: int = 0

    def start(self, port: int = 0, env: dict[str, str] | None = None, module: str = "manage") -> Server:
        """`manage.py serve`, or that of a module in its place; ready when this returns. Blocks."""
        self._started += 1
        log = self.logs / f"relay-{self._started}.log"
        command = [sys.executable, "-m", module, "serve", "--port", str(port)]
        with ExitStack() as stack:
            child = stack.enter_context(
                servers.process(command, log, core=None, env={**self.env, **(env or {})})
            )
            server = Server(servers.await_address(child, log), child.pid, child, stack.pop_all())
        self.running.append(server)
        return server

    async def start_all(self, number: int) -> list[Server]:
        """So many servers on the one database, started side by side."""
        return list(await asyncio.gather(*(asyncio.to_thread(self.start) for _ in range(number))))

    def stop_all(self) -> None:
        while self.running:
            self.running.pop().stop()

    def kill(self, server: Server) -> None:
        """`kill -9`. Blocks until it is gone."""
        self.running.remove(server)
        server.kill()

    def read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query, over a connection of its own; `?` stands for a value."""
        if self.kind == POSTGRES:
            import psycopg

            with psycopg.connect(self.database_url, autocommit=True) as connection:
                return connection.execute(_for_psycopg(statement), values).fetchall()
        with _sqlite(self.database_url) as reading:
            return reading.execute(statement, values).fetchall()

    def write(self, statement: str, *values: object) -> None:
        """One statement, committed: a limit or a rate, for example. The relay knows it with the next request."""
        if self.kind == POSTGRES:
            import psycopg

            with psycopg.connect(self.database_url, autocommit=True) as connection:
                connection.execute(_for_psycopg(statement), values)
            return
        with _sqlite(self.database_url) as writing:
            writing.execute(statement, values)

    def number(self, statement: str, *values: object) -> int:
        """The only value of a query."""
        return int(self.read(statement, *values)[0][0] or 0)

    def outcomes(self, models: str = "%") -> dict[str, int]:
        """How many usage records there are of each outcome, of the models that are like this."""
        rows = self.read(
            "SELECT outcome, count(*) FROM relay_usagerecord WHERE model LIKE ? GROUP BY outcome", models
        )
        return {outcome: int(number) for outcome, number in sorted(rows)}

    def in_flight(self) -> int:
        """The slots that are taken, of tokens, users, teams and Poe keys together."""
        return self.number("SELECT sum(abs(in_flight)) FROM relay_meter")

    async def seconds_until_settled(self, most: float) -> float | None:
        """Until no record is open and no slot is taken; None if that takes longer than `most`."""
        began = time.monotonic()
        while time.monotonic() < began + most:
            if not await asyncio.to_thread(self._is_open):
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        return None

    def _is_open(self) -> bool:
        return "open" in self.outcomes() or bool(self.in_flight())

    def verify(self) -> tuple[int, str]:
        """`manage.py ledger verify`: its exit status and what it printed. Blocks."""
        done = subprocess.run(
            [sys.executable, "manage.py", "ledger", "verify"],
            cwd=servers.ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def complaints(self) -> dict[str, int]:
        """What the servers logged of things that nobody foresaw, and how often."""
        said = "".join(log.read_text(errors="replace") for log in self.logs.glob("relay-*.log"))
        lines = re.findall(r"^(?:[\w.]+(?:Error|Exception)\b.*|.*slots are put right.*)$", said, re.MULTILINE)
        return dict(Counter(re.sub(r"0x[0-9a-f]+", "0x…", line)[:200] for line in lines))


def _for_psycopg(statement: str) -> Any:
    return statement.replace("%", "%%").replace("?", "%s")


@contextmanager
def _sqlite(url: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@asynccontextmanager
async def site(kind: str, database_url: str, directory: Path) -> AsyncIterator[Site]:
    """A fresh installation with its upstream; every model is a bot of that upstream. Its servers are stopped at the end."""
    env = servers.relay_environment(directory / "data", database_url)
    async with upstream() as counting:
        token = await asyncio.to_thread(servers.fill, env, counting.base_url, ["*"])
        made = Site(kind, database_url, env, directory, counting, token)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.stop_all)


@contextmanager
def database(kind: str, directory: Path) -> Iterator[str]:
    """The address of an empty database; a PostgreSQL runs as long as the block."""
    if kind == SQLITE:
        (directory / "data").mkdir()
        yield f"sqlite:///{directory}/data/poe-relay.sqlite3"
        return
    from tests import postgres

    with ExitStack() as stack:
        with servers.uninterrupted():
            url = stack.enter_context(postgres.server())
        yield url


def noon_zone() -> str:
    """A time zone in which it is about noon: no day ends while a budget of the day is tried."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


# Findings, and the command line.


class Findings:
    """Prints what was seen, and remembers what was missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def note(self, text: str) -> None:
        print(f"     {text}", flush=True)

    def leave_out(self, what: str, without: str, quick: bool) -> None:
        """What cannot be tried without these programs: a miss, but for the short form."""
        if quick:
            self.note(f"{without} is not installed: {what} is not tried")
        else:
            self.claim(f"{what} is tried", False, f"{without} is not installed")

    def claim(self, text: str, holds: bool, seen: object) -> None:
        """What must hold, and the figure that shows whether it does."""
        print(f"{'ok  ' if holds else 'MISS'} {text}: {seen}", flush=True)
        if not holds:
            self.missed.append(f"{text}: {seen}")


async def claim_in_order(site: Site, findings: Findings) -> None:
    """When all is over: the books agree with the records, and no server met what it did not foresee."""
    status, said = await asyncio.to_thread(site.verify)
    findings.claim(
        "`manage.py ledger verify` finds no difference", status == 0, " ".join(said.splitlines()[-3:])
    )
    complaints = site.complaints()
    findings.claim("no server logged an unforeseen error", not complaints, complaints or "none")


def percentile(values: list[float], share: float) -> float:
    """0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


Story = Callable[[Site, Findings, bool], Awaitable[None]]


def main(story: Story, about: str, given: list[str] | None = None) -> int:
    """Tell the story on each database that the command line names; the exit status."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="the short form")
    parser.add_argument("--sqlite", action="store_true", help="only on SQLite")
    parser.add_argument("--postgres", action="store_true", help="only on PostgreSQL")
    said = parser.parse_args(given)
    wanted = [kind for kind, only in ((SQLITE, said.sqlite), (POSTGRES, said.postgres)) if only]
    findings = Findings()
    for kind in wanted or [SQLITE, POSTGRES]:
        began = time.monotonic()
        print(f"== {kind}, load average {os.getloadavg()[0]:.2f}", flush=True)
        tell(story, kind, findings, quick=said.quick)
        findings.note(f"took {time.monotonic() - began:.0f} s")
    for miss in findings.missed:
        print(f"MISSED {miss}", file=sys.stderr)
    return 1 if findings.missed else 0


def tell(story: Story, kind: str, findings: Findings, *, quick: bool) -> None:
    """The story on a fresh installation on this kind of database."""

    async def told(url: str, directory: Path) -> None:
        async with site(kind, url, directory) as fresh:
            await story(fresh, findings, quick)

    with tempfile.TemporaryDirectory(prefix="poe-relay-fault-") as name:
        directory = Path(name)
        with database(kind, directory) as url:
            asyncio.run(told(url, directory))
