"""The ledger alone in one process, as `bench.ledger` measures it: how long an admission takes, how much fits, what it costs.

Runs as a process of its own (`python -m bench.ledger_alone`), since Django's settings belong to one data directory. Fills a
fresh database with 20 people, each with an access token, in one team, all five limits set on each; prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, astuple, dataclass, field, replace
from decimal import Decimal
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from bench import quiet
from bench.quiet import QuietMachine

if TYPE_CHECKING:
    from relay.ledger import Admission, Admitted, Ledger, Reservation, Settlement
    from relay.ledger.deciding import Page
    from relay.ledger.store import Store

PEOPLE, KEYS = 20, 4
# High enough that nothing is refused: each limit is reckoned with all the same.
PER_MINUTE, TOKENS_PER_MINUTE, AT_ONCE, POINTS = 10**9, 10**10, 10**6, 10**12
# Between an admission and its settlement.
SHORT_ANSWER, RELAYED_ANSWER = 0.002, 0.045
WARM_REQUESTS = 200
# A loop kept busy: a tick each half millisecond, and each is work for this share of it.
TICK_SECONDS, BUSY_SHARE, MOST_BEHIND = 0.0005, 0.8, 10
TICKER = """
import os, sys, time
pipe, seconds = int(sys.argv[1]), float(sys.argv[2])
due = time.perf_counter()
while True:
    due += seconds
    time.sleep(max(0, due - time.perf_counter()))
    os.write(pipe, b".")
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """So many at once, each with an answer of so many seconds in between, until so many were admitted."""

    name: str
    at_once: int
    requests: int
    answer_seconds: float = 0.0
    busy: bool = False

    def shortened(self, factor: float) -> Trial:
        return replace(self, requests=int(self.requests * factor))


ONE_IDLE, MANY_IDLE = "one at a time, loop idle", "32 at once, loop idle"
ONE_BUSY, MANY_BUSY = "one at a time, loop at 80 %", "32 at once, loop at 80 %"
FULL, FULL_BUSY = "as many as fit, loop idle", "as many as fit, loop at 80 %"
TRIALS = (
    Trial(ONE_IDLE, 1, 1000),
    Trial(MANY_IDLE, 32, 6000, SHORT_ANSWER),
    Trial(ONE_BUSY, 1, 600, busy=True),
    # A loop that is at 80 % because it relays has some 600 requests a second; that many are asked for here.
    Trial(MANY_BUSY, 32, 3000, RELAYED_ANSWER, busy=True),
    # The loop has its 80 % and the clients ask again at once: the queue for what is left of the GIL is what is measured.
    Trial(FULL_BUSY, 32, 4000, SHORT_ANSWER, busy=True),
    Trial(FULL, 64, 15000),
)
QUICK = 0.2
# The trials are gone through so many times, and the medians count: the slowest hundredth of five seconds on a shared machine is
# whatever its neighbours did in them.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in milliseconds as their names say. CPU is the process's, the clients' side of it included."""

    name: str
    admit_p50_ms: float
    admit_p99_ms: float
    requests_per_s: float
    cpu_us: float
    ledger_cpu_us: float
    # The share of its time that the event loop's thread had a core.
    loop_share: float
    batch_mean: float
    held_p50_ms: float
    held_p99_ms: float
    held_us_per_item: float

    @classmethod
    def median_of(cls, rounds: Sequence[Figures]) -> Figures:
        """Of one trial."""
        return cls(rounds[0].name, *map(median, zip(*(astuple(each)[1:] for each in rounds), strict=True)))


class TimedStore:
    """A store that notes how long the meters' locks are held, from what `begin` returns to what `commit` returns."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.process = store.process
        self.held: list[float] = []
        self.items: list[int] = []
        self._since = 0.0

    def begin(self, meter_ids: Iterable[str], record_ids: Iterable[uuid.UUID]) -> Page:
        page = self.store.begin(meter_ids, record_ids)
        self._since = time.perf_counter()
        return page

    def commit(self, page: Page) -> None:
        self.store.commit(page)
        self.held.append(time.perf_counter() - self._since)
        self.items.append(len(page.inserted) + len(page.updated))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@dataclass(frozen=True, slots=True)
class Person:
    token_id: int
    token_prefix: str
    user_id: int
    name: str


@dataclass(slots=True)
class Installation:
    """What admissions are made of."""

    version: int
    team_id: int
    people: list[Person]
    # Key and account, as the database numbers them.
    keys: list[tuple[int, int]]
    numbers: random.Random = field(default_factory=lambda: random.Random(1))

    def admission(self, person: Person) -> Admission:
        """As the pipeline makes them: a guessed answer or a small one, all keys in an order of the conversation's."""
        from relay.ledger import Admission, Candidate
        from relay.limits import Limits

        limits = Limits(PER_MINUTE, TOKENS_PER_MINUTE, AT_ONCE, POINTS, POINTS)
        carried = Limits(requests_per_minute=PER_MINUTE, requests_in_flight=AT_ONCE)
        keys = self.numbers.sample(self.keys, len(self.keys))
        return Admission(
            version=self.version,
            request_id=f"req_{self.numbers.getrandbits(96):024x}",
            token_id=person.token_id,
            token_prefix=person.token_prefix,
            user_id=person.user_id,
            user_name=person.name,
            team_id=self.team_id,
            team_name="bench",
            time_zone="Asia/Shanghai",
            limits=(limits, limits, limits),
            model="gpt-4o",
            bot="GPT-4o",
            wire="openai-chat",
            streamed=True,
            reservations=_reservations(),
            candidates=tuple(
                Candidate(key_id, f"key {key_id}", carried, account_id, carried)
                for key_id, account_id in keys
            ),
        )


def _reservations() -> tuple[Reservation, ...]:
    from relay.ledger import reserve
    from relay.limits import RateCard

    rates = RateCard.of_points(1, Decimal("0.5"), Decimal("1.5"), None)
    assert rates is not None
    return tuple(reserve(rates, 27, tokens, 0) for tokens in (1000, 512))


def install() -> Installation:
    """Migrate and fill a fresh database."""
    from django.core.management import call_command

    from accounts.models import AccessToken, Team, User
    from relay.models import DirectoryVersion, PoeAccount, PoeKey

    call_command("migrate", interactive=False, verbosity=0)
    team = Team.objects.create(name="bench", time_zone="Asia/Shanghai")
    people = []
    for number in range(PEOPLE):
        user = User.objects.create(username=f"person-{number}", team=team)
        token, _plain = AccessToken.objects.issue(user, "bench")
        people.append(Person(token.pk, token.prefix, user.pk, user.username))
    set_limits()
    account = PoeAccount.objects.create(name="mock", requests_per_minute=PER_MINUTE)
    keys = []
    for number in range(KEYS):
        key = PoeKey(account=account, name=f"key {number}", requests_in_flight=AT_ONCE)
        key.store(f"mock-{number}-0123456789abcdef0123456789")
        key.save()
        keys.append((key.pk, account.pk))
    return Installation(DirectoryVersion.objects.get(pk=1).n, team.pk, people, keys)


def set_limits() -> None:
    """All five, on every team, user and token."""
    from accounts.models import AccessToken, Team, User

    for kind in (Team, User, AccessToken):
        kind._default_manager.update(
            requests_per_minute=PER_MINUTE,
            tokens_per_minute=TOKENS_PER_MINUTE,
            requests_in_flight=AT_ONCE,
            points_per_day=POINTS,
            points_per_month=POINTS,
        )


def _settlement(admission: Admission, admitted: Admitted) -> Settlement:
    from relay.ledger import Settlement

    return Settlement(
        id=admission.id,
        token_id=admission.token_id,
        user_id=admission.user_id,
        team_id=admission.team_id,
        key_id=admitted.key_id,
        outcome="done",
        finish_reason="stop",
        completion_tokens=34,
        points=2,
        bot=admission.bot,
        first_byte_ms=480,
        total_ms=2900,
    )


@contextmanager
def _busy_loop() -> Iterator[None]:
    """Keeps the running loop busy for its share of the time, what it does for the admissions included.

    The work comes as work does: a byte on a socket, from a process of its own, and each brings a little of it.
    """
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    command = [sys.executable, "-c", TICKER, str(theirs.fileno()), str(TICK_SECONDS)]
    ticker = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    work = _Work()
    loop.add_reader(ours, lambda: work.do(len(ours.recv(4096))))
    try:
        yield
    finally:
        loop.remove_reader(ours)
        ticker.kill()
        ticker.wait()
        ours.close()
        theirs.close()


class _Work:
    """As much of the loop's thread's time as is its share, since the ticks began."""

    def __init__(self) -> None:
        self._until = time.thread_time()

    def do(self, ticks: int) -> None:
        share, now = TICK_SECONDS * BUSY_SHARE, time.thread_time()
        # What could not be done in time is not made up for: no loop is kept at 100 %.
        self._until = min(self._until + ticks * share, now + MOST_BEHIND * share)
        end = min(self._until, now + 2 * share)
        while time.thread_time() < end:
            pass


async def _client(
    ledger: Ledger, installed: Installation, number: int, trial: Trial, left: list[int], took: list[float]
) -> None:
    person = installed.people[number % PEOPLE]
    while left[0] > 0:
        left[0] -= 1
        admission = installed.admission(person)
        began = time.perf_counter()
        admitted = await ledger.admit(admission)
        took.append(time.perf_counter() - began)
        if trial.answer_seconds:
            # Never the same, or all of them would ask in the same moment again and again.
            await asyncio.sleep(trial.answer_seconds * installed.numbers.uniform(0.2, 1.8))
        ledger.settle(partial(_settlement, admission, admitted), may_wait=not admitted.room_is_scarce)


async def _load(ledger: Ledger, installed: Installation, trial: Trial) -> list[float]:
    """How long each admission took; returns when all of it is settled."""
    took: list[float] = []
    left = [trial.requests]
    with _busy_loop() if trial.busy else nullcontext():
        await asyncio.gather(
            *(_client(ledger, installed, number, trial, left, took) for number in range(trial.at_once))
        )
    await asyncio.to_thread(ledger.flush, 30)
    return took


async def measure(ledger: Ledger, store: TimedStore, installed: Installation, trial: Trial) -> Figures:
    await _load(ledger, installed, Trial("", min(trial.at_once, WARM_REQUESTS), WARM_REQUESTS))
    store.held.clear()
    store.items.clear()
    clock = time.pthread_getcpuclockid(_ledger_thread())
    began, cpu, loop = time.perf_counter(), time.process_time(), time.thread_time()
    in_ledger = time.clock_gettime(clock)
    took = sorted(await _load(ledger, installed, trial))
    seconds = time.perf_counter() - began
    number = len(took)
    held = sorted(store.held)
    return Figures(
        name=trial.name,
        admit_p50_ms=_at(took, 0.5) * 1000,
        admit_p99_ms=_at(took, 0.99) * 1000,
        requests_per_s=number / seconds,
        cpu_us=(time.process_time() - cpu) / number * 1e6,
        ledger_cpu_us=(time.clock_gettime(clock) - in_ledger) / number * 1e6,
        loop_share=(time.thread_time() - loop) / seconds,
        batch_mean=sum(store.items) / max(1, len(store.items)),
        held_p50_ms=_at(held, 0.5) * 1000,
        held_p99_ms=_at(held, 0.99) * 1000,
        held_us_per_item=sum(held) / max(1, sum(store.items)) * 1e6,
    )


def _ledger_thread() -> int:
    (found,) = (each.ident for each in threading.enumerate() if each.name == "ledger")
    assert found is not None
    return found


def _at(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


async def measure_all(factor: float, rounds: int, machine_is: QuietMachine) -> list[Figures]:
    from django.conf import settings

    from proxy_site.memory import settle_memory
    from relay.ledger import Ledger
    from relay.ledger.opening import open_store
    from relay.ledger.spool import Spool

    installed = await asyncio.to_thread(install)
    settle_memory()  # as each worker does: one collection of all that Django is takes 45 ms
    spool = Spool(settings.CONFIG.data_dir / "spool")
    store = TimedStore(open_store(spool.process))
    ledger = Ledger(store, spool)
    try:
        measured = [
            [
                await _measured(machine_is, ledger, store, installed, trial.shortened(factor))
                for trial in TRIALS
            ]
            for _ in range(rounds)
        ]
        return [Figures.median_of(of_trial) for of_trial in zip(*measured, strict=True)]
    finally:
        await asyncio.to_thread(ledger.close)


async def _measured(
    machine_is: QuietMachine, ledger: Ledger, store: TimedStore, installed: Installation, trial: Trial
) -> Figures:
    # Nothing else runs on the loop while it is waited for the machine.
    for _ in machine_is.tries():
        figures = await measure(ledger, store, installed, trial)
    return figures


def main(arguments: list[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    import django

    django.setup()
    if arguments == ["limits"]:
        return set_limits()
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quiet.add_arguments(parser)
    said = parser.parse_args(arguments)
    machine_is = quiet.asked_for(said)
    factor, rounds = (QUICK, 1) if said.quick else (1.0, ROUNDS)
    found = uvloop.run(measure_all(factor, rounds, machine_is))
    print(json.dumps({"figures": [asdict(each) for each in found], "machine": machine_is.went()}))


if __name__ == "__main__":
    main(sys.argv[1:])
