"""A pool of Poe keys over hours that pass at once: the relay's own pipeline, ledger and keeper, with a clock of the test's own.

Only Poe, the database and the time are made up. A fault is what every question to a key meets between two moments.
"""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from proxy_site.config import Config
from relay.directory import AccountEntry, KeyEntry
from relay.errors import (
    RelayError,
    UpstreamError,
    UpstreamFailed,
    UpstreamOutOfPoints,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnknownBot,
    UpstreamUnreachable,
    UserError,
)
from relay.events import ChatRequest, Event, Finish, Message, Text, TextPart
from relay.ledger import Ledger
from relay.ledger.deciding import Page
from relay.ledger.meters import Meter
from relay.ledger.spool import Spool
from relay.limits import UNLIMITED, Limits
from relay.pipeline import Relay
from relay.pool import Keeper, health
from relay.pool.health import Standing, Whose
from relay.pool.keeping import Rule, block_of
from relay.upstreams.poe import Key
from relay.visit import Asking
from tests.entries import caller, mapping
from tests.ledger.making import NOON, VERSION
from tests.ledger.memory import MemoryStore

BEGIN = datetime.fromtimestamp(NOON / 1e6, UTC)
MINUTE, HOUR = 60.0, 3600.0
# As the background reads balances.
BALANCE_SECONDS = 300.0

FAILURES: dict[str, type[RelayError]] = {
    "401": UpstreamUnauthorized,
    "402": UpstreamOutOfPoints,
    "403": UpstreamUnauthorized,
    "429": UpstreamRateLimited,
    "500": UpstreamFailed,
    "529": UpstreamFailed,
    "reset": UpstreamUnreachable,
    "slow": UpstreamTimeout,
    # A heartbeat first, as streams have it: the head of the answer has left by then.
    "hang": UpstreamTimeout,
    "404": UpstreamUnknownBot,
    # In words of a bot's own.
    "said": UpstreamUnauthorized,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """In seconds since the beginning. `retry_after` is what Poe says with a 429."""

    key: int
    kind: str
    begins: float
    ends: float
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    at: float
    whose: Whose
    id: int
    was: str
    became: str


@dataclass
class Asked:
    """One question that reached Poe."""

    at: float
    key: int
    fault: str


class LockedStore(MemoryStore):
    """Whoever changes a meter from outside waits until a batch is written, as on a database."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()

    def begin(self, meter_ids: Iterable[str], record_ids: Iterable[uuid.UUID]) -> Page:
        self.lock.acquire()
        return super().begin(meter_ids, record_ids)

    def commit(self, page: Page) -> None:
        try:
            super().commit(page)
            self.commits.clear()
        finally:
            self.lock.release()

    def rollback(self) -> None:
        self.lock.release()


@dataclass
class Simulation:
    """Keys are numbered from 1, each of an account of the same number."""

    relay: Relay
    store: LockedStore
    faults: list[Fault]
    seconds: float = 0.0
    standings: dict[tuple[Whose, int], Standing] = field(default_factory=lambda: defaultdict(Standing))
    changes: list[Change] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    failed: list[tuple[float, str]] = field(default_factory=list)
    number: int = 0
    # Reading a balance costs nothing: it is read again after so long.
    balances_at: float = BALANCE_SECONDS

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.seconds)

    def fault_of(self, key: int) -> Fault | None:
        return next((f for f in self.faults if f.key == key and f.begins <= self.seconds < f.ends), None)

    def state_of(self, key: int) -> str:
        return max(
            (self.standings[whose, key].state for whose in ("key", "account")),
            key=health.RANK.__getitem__,
        )

    # As the database keeps it.

    def apply(self, whose: Whose, id_: int, rule: Rule) -> None:
        with self.store.lock:
            was = self.standings[whose, id_]
            became = rule(was, self.now())
            if became is None:
                return
            self.standings[whose, id_] = became
            meter = self.store.meters.setdefault(f"{whose}:{id_}", Meter(f"{whose}:{id_}"))
            meter.blocked_until = block_of(became)
            if became != was:
                self.changes.append(Change(self.seconds, whose, id_, was.state, became.state))

    def revive(self, whose: Whose, id_: int) -> None:
        self.apply(whose, id_, lambda was, now: health.well(was, "somebody acted", now))

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.store.now = NOON + int(self.seconds * 1e6)
        if self.seconds >= self.balances_at:
            self.balances_at += BALANCE_SECONDS
            for (whose, id_), standing in list(self.standings.items()):
                if standing.state == "resting" and not ((f := self.fault_of(id_)) and f.kind == "402"):
                    self.revive(whose, id_)

    # As Poe answers.

    async def stream(
        self, chat: ChatRequest, *, bot: str, key: Key, at_once: object = None
    ) -> AsyncGenerator[list[Event], None]:
        number = int(key.secret)
        fault = self.fault_of(number)
        self.asked.append(Asked(self.seconds, number, fault.kind if fault else ""))
        await asyncio.sleep(0)
        if fault is not None and fault.kind == "hang":
            yield []
        if fault is not None:
            failure = FAILURES[fault.kind](f"scripted: {fault.kind}", retry_after=fault.retry_after)
            if isinstance(failure, UpstreamError):
                failure.is_hearsay = fault.kind == "said"
            raise failure
        if chat.messages[0].text.startswith("too long"):
            raise UserError("too long", code="context_length_exceeded")
        yield [Text("yes"), Finish("stop")]

    async def close(self) -> None:
        pass

    # As people ask.

    async def ask(self, text: str = "Hello") -> str:
        """The code of what came of it, empty if it was answered."""
        self.number += 1
        chat = ChatRequest("gpt-4o", (Message("user", (TextPart(f"{text} {self.number}"),)),), stream=True)
        who = caller(version=VERSION)
        try:
            answer = await self.relay.ask(Asking("", "", f"req_{self.number}", "test"), who, chat)
            async with answer:
                async for _events in answer:
                    pass
        except RelayError as exc:
            self.failed.append((self.seconds, exc.code))
            return exc.code
        self.answered[answer.key_id] += 1
        return ""

    async def ask_many(self, count: int, text: str = "Hello") -> list[str]:
        return list(await asyncio.gather(*[self.ask(text) for _ in range(count)]))


def make(
    config: Config,
    directory: Path,
    weights: Iterable[int],
    faults: Iterable[Fault] = (),
    seed: int = 1,
    priorities: Mapping[int, int] | None = None,
) -> Simulation:
    relay, store = Relay(config), LockedStore()
    relay._ledger = Ledger(store, Spool(directory))
    simulation = Simulation(relay, store, list(faults))
    relay.poe = simulation  # type: ignore[assignment]
    relay.keeper = Keeper(simulation.apply, clock=simulation.now, chance=random.Random(seed).random)
    for number, weight in enumerate(weights, 1):
        relay.directory.accounts[number] = AccountEntry(
            **_entry(number), team_id=None, is_demo=False, base_url="", upload_url="", limits=UNLIMITED
        )
        relay.directory.keys[number] = KeyEntry(
            **_entry(number),
            account_id=number,
            priority=(priorities or {}).get(number, 0),
            weight=weight,
            limits=Limits(requests_in_flight=50),
            proxy="",
            secret=str(number),
        )
    relay.directory.mappings[1] = mapping()
    relay.directory._index_mappings()
    relay.directory.version = VERSION
    return simulation


def _entry(number: int) -> dict[str, Any]:
    return {"id": number, "name": f"number {number}", "enabled": True}
