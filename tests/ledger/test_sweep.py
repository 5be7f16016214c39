"""What dead processes left, on the real database: swept, replayed and put right, and nothing of the living."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from msgspec.structs import replace

from relay.directory import read_version
from relay.errors import Unavailable
from relay.ledger import Admission, Admitted, Ledger, Settlement, sweep
from relay.ledger.deciding import Batch, decide
from relay.ledger.opening import open_store
from relay.ledger.spool import Spool
from relay.models import Meter, Process, UsageHour, UsageRecord
from tests.conftest import in_database
from tests.ledger import making
from tests.ledger.conftest import Ledgers
from tests.ledger.making import candidate, change, reservation, settlement

pytestmark = pytest.mark.asyncio
SPOOL = django_settings.CONFIG.data_dir / "spool"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "HEARTBEAT_SECONDS", 0.03)
    monkeypatch.setattr(sweep, "LEASE_SECONDS", 0.3)


@pytest.fixture(autouse=True)
def no_spool_is_left(transactional_db: None) -> Iterator[None]:
    yield
    left = list(SPOOL.glob("*"))
    for path in left:
        path.unlink()
    assert left == []


class Dead:
    """A process of another host that wrote these records and then nothing more."""

    def __init__(self, name: str = "elsewhere:1:dead") -> None:
        self.name = name
        self.store = open_store(name)

    def admit(self, *which: Admission, beat: bool = True) -> None:
        batch = Batch([*which])
        page = self.store.begin(batch.meter_ids(), [])
        decide(page, batch)
        assert all(isinstance(answer, Admitted) for answer in batch.answers), batch.answers
        page.heartbeat = self.name if beat else ""
        self.store.commit(page)
        self.store.close()


def copies(count: int, *reservations: Any, **fields: Any) -> list[Admission]:
    one = making.admission(*reservations, version=read_version(), **fields)
    return [replace(one, id=uuid.uuid4()) for _ in range(count)]


def left_here(*settlements: Settlement) -> str:
    """A dead process of this host: its file is there, and nobody holds it."""
    spool = Spool(SPOOL)
    spool.append(list(settlements))
    spool._file.close()
    return spool.process


def outcomes() -> Counter[tuple[str, str]]:
    return Counter(UsageRecord.objects.values_list("outcome", "error_code"))


def slots() -> dict[str, int]:
    return {meter.id: meter.in_flight for meter in Meter.objects.all() if meter.in_flight}


async def becomes(expected: Any, read: Any, seconds: float = 1.5) -> bool:
    deadline = time.monotonic() + seconds
    while (found := await in_database(read)) != expected:
        if time.monotonic() > deadline:
            raise AssertionError(f"{found} is not {expected}")
        await asyncio.sleep(0.02)
    return True


async def test_records_of_a_process_without_a_sign_of_life_are_lost(quick: None, ledgers: Ledgers) -> None:
    many = await in_database(copies, 5, reservation(points=9, output=70))
    await in_database(Dead().admit, *many)

    ledgers.open()

    assert await becomes({("lost", "process_died"): 5}, outcomes)
    assert await becomes({}, slots)
    kept = await in_database(lambda: set(UsageRecord.objects.values_list("points", "completion_tokens")))
    assert kept == {(9, 70)}
    team = await in_database(Meter.objects.get, pk="team:1")
    assert team.day_points == 45
    hours = await in_database(lambda: list(UsageHour.objects.values_list("requests", "lost", "points")))
    assert hours == [(5, 5, 45)]
    assert await becomes(False, Process.objects.filter(name="elsewhere:1:dead").exists)


async def test_records_of_a_process_that_never_gave_a_sign_of_life_are_lost_too(
    quick: None, ledgers: Ledgers
) -> None:
    await in_database(Dead().admit, *await in_database(copies, 3), beat=False)
    ledgers.open()
    assert await becomes({("lost", "process_died"): 3}, outcomes)


async def test_more_than_one_bite(quick: None, ledgers: Ledgers) -> None:
    await in_database(Dead().admit, *await in_database(copies, sweep.SWEEP_AT_ONCE * 2 + 50))
    ledgers.open()
    assert await becomes({("lost", "process_died"): sweep.SWEEP_AT_ONCE * 2 + 50}, outcomes)
    assert await becomes({}, slots)


async def test_nobody_is_judged_by_who_has_not_lived_as_long(quick: None, ledgers: Ledgers) -> None:
    """After an outage all are silent; whoever is first back must not bury the others."""
    await in_database(Dead().admit, *await in_database(copies, 1))
    await asyncio.sleep(0.35)  # silent for longer than a lease

    began = time.monotonic()
    ledgers.open()
    await becomes({("lost", "process_died"): 1}, outcomes)

    assert time.monotonic() - began >= 0.3


async def test_an_outage_begins_the_lease_anew(
    quick: None, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledgers.open()
    await asyncio.sleep(0.35)
    begin = ledger._store.begin

    def down(*args: Any) -> Any:
        raise ConnectionError("down")

    monkeypatch.setattr(ledger._store, "begin", down)
    with pytest.raises(Unavailable):
        await ledger.admit((await in_database(copies, 1))[0])
    dead = await in_database(copies, 1)
    await in_database(Dead().admit, *dead)
    await in_database(lambda: Process.objects.update(heartbeat_at=1))
    monkeypatch.setattr(ledger._store, "begin", begin)
    began = time.monotonic()

    await becomes("lost", UsageRecord.objects.filter(pk=dead[0].id).values_list("outcome", flat=True).get)

    assert time.monotonic() - began >= 0.25


async def test_the_living_are_left_alone(quick: None, ledgers: Ledgers) -> None:
    here, there = ledgers.open(), ledgers.open()
    many = await in_database(copies, 4)
    await asyncio.gather(*map(here.admit, many))

    await asyncio.sleep(0.7)

    assert await in_database(outcomes) == {("open", ""): 4}
    assert {each.name for each in await in_database(lambda: list(Process.objects.all()))} == {
        here.process,
        there.process,
    }


async def test_a_process_of_this_host_is_known_to_be_dead_at_once(ledgers: Ledgers) -> None:
    """By its file, long before its lease is over; what it could not write is written first."""
    many = await in_database(copies, 5, reservation(points=9))
    process = left_here(settlement(many[0], points=2), settlement(many[1], "failed", points=0))
    await in_database(Dead(process).admit, *many)

    ledgers.open()

    assert await becomes({("done", ""): 1, ("failed", ""): 1, ("lost", "process_died"): 3}, outcomes)
    assert await becomes({}, slots)
    assert (await in_database(Meter.objects.get, pk="team:1")).day_points == 2 + 0 + 3 * 9
    assert await becomes(False, Process.objects.filter(name=process).exists)
    assert not (SPOOL / f"{process}.jsonl").exists()


async def test_two_that_start_at_once_sweep_once(quick: None, ledgers: Ledgers) -> None:
    many = await in_database(copies, 60, reservation(points=9))
    process = left_here(*[settlement(each, points=2) for each in many[:30]])
    await in_database(Dead(process).admit, *many)
    elsewhere = await in_database(copies, 150)
    await in_database(Dead().admit, *elsewhere)

    await asyncio.gather(asyncio.to_thread(ledgers.open), asyncio.to_thread(ledgers.open))

    assert await becomes({("done", ""): 30, ("lost", "process_died"): 180}, outcomes)
    assert await becomes({}, slots)
    sums = await in_database(lambda: list(UsageHour.objects.values_list("requests", "lost", "points")))
    assert sums == [(210, 180, 30 * 2 + 30 * 9 + 150)]


async def test_what_is_written_twice_counts_once(ledgers: Ledgers) -> None:
    """It died between the database's yes and the clearing of its file."""
    (one,) = await in_database(copies, 1, reservation(points=9))
    first = ledgers.open()
    await first.admit(one)
    first.settle(settlement(one, points=2))
    assert await asyncio.to_thread(first.close)
    left_here(settlement(one, points=2), settlement(one, points=2))

    second = ledgers.open()
    await asyncio.sleep(0.1)
    await asyncio.to_thread(second.flush, 5)

    assert (await in_database(Meter.objects.get, pk="team:1")).day_points == 2
    assert await in_database(lambda: list(UsageHour.objects.values_list("requests", "points"))) == [(1, 2)]


async def test_the_true_end_of_a_lost_record_is_written_when_it_comes(quick: None, ledgers: Ledgers) -> None:
    """A process that was stopped for a minute goes on."""
    (one,) = await in_database(copies, 1, reservation(points=9))
    await in_database(Dead("elsewhere:1:frozen").admit, one)
    ledger = ledgers.open()
    await becomes({("lost", "process_died"): 1}, outcomes)

    with pytest.raises(Unavailable):
        await ledger.change(change(one, reservation(points=20), candidates=(candidate(2),)))
    ledger.settle(settlement(one, points=2))
    assert await asyncio.to_thread(ledger.flush, 5)

    assert await in_database(outcomes) == {("done", ""): 1}
    assert (await in_database(Meter.objects.get, pk="team:1")).day_points == 2
    assert await in_database(slots) == {}
    sums = await in_database(lambda: list(UsageHour.objects.values_list("requests", "lost", "points")))
    assert sums == [(1, 0, 2)]


async def test_one_bad_settlement_of_a_dead_process_does_not_stop_the_sweep(
    quick: None, ledgers: Ledgers
) -> None:
    many = await in_database(copies, 3)
    bad = settlement(many[0], completion_tokens=-1)
    process = left_here(bad, settlement(many[1]))
    await in_database(Dead(process).admit, *many)

    ledgers.open()

    expected = {("lost", "unsettled"): 1, ("done", ""): 1, ("lost", "process_died"): 1}
    assert await becomes(expected, outcomes)
    assert await becomes({}, slots)


# Slots.


def spoil(**in_flight: int) -> None:
    for id_, n in in_flight.items():
        kind, number = id_.split("_")
        meter_id = f"{kind}:{number}"
        Meter.objects.update_or_create(pk=meter_id, defaults={"in_flight": n})


@pytest.mark.parametrize("wrong", [{"team_1": 0, "key_1": 99}, {"token_1": 1, "user_7": 3, "team_1": 7}])
async def test_slots_are_put_right(
    wrong: dict[str, int], quick: None, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(sweep, "REPAIR_SECONDS", 0.05)
    ledger = ledgers.open()
    many = await in_database(copies, 2)
    await asyncio.gather(*map(ledger.admit, many))
    right = dict.fromkeys(("token:1", "user:1", "team:1", "key:1"), 2)
    assert await in_database(slots) == right

    await in_database(spoil, **wrong)

    assert await becomes(right, slots)
    assert "slots are put right" in caplog.text
    for each in many:
        ledger.settle(settlement(each))
    assert await asyncio.to_thread(ledger.flush, 5)
    assert await in_database(slots) == {}


async def test_slots_that_are_right_stay_while_requests_come_and_go(
    quick: None, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """It counts while others write: never a moment between a meter and its records."""
    monkeypatch.setattr(sweep, "REPAIR_SECONDS", 0.0)
    both = [ledgers.open(), ledgers.open()]

    async def one(each: Admission, ledger: Ledger) -> None:
        await ledger.admit(each)
        await asyncio.sleep(0.001)
        ledger.settle(settlement(each))

    for _ in range(10):
        many = await in_database(copies, 20)
        await asyncio.gather(*[one(each, both[i % 2]) for i, each in enumerate(many)])
    for ledger in both:
        assert await asyncio.to_thread(ledger.flush, 5)

    assert "put right" not in caplog.text
    assert await in_database(slots) == {}
    assert await in_database(outcomes) == {("done", ""): 200}
