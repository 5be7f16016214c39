"""The ledger on the real database: exactly once, in groups, to the point, over several processes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connections
from msgspec.structs import replace

from accounts.models import AccessToken, TokenActivity
from relay.directory import read_version
from relay.errors import AllKeysBusy, BudgetExceeded, GivenUp, RateLimited, RelayError, Unavailable
from relay.ledger import Admission, Admitted, Ledger, Stale, sqlite, sweep
from relay.ledger.rollups import KEY_COLUMNS, SUM_COLUMNS, contribution, key_of
from relay.ledger.sql import ROW_COLUMNS
from relay.limits import Limits
from relay.models import Meter, Process, RefusalHour, UsageHour, UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.conftest import in_database, wait_for
from tests.ledger import making
from tests.ledger.conftest import Ledgers
from tests.ledger.making import candidate, change, not_started, reservation, row, settlement

pytestmark = pytest.mark.asyncio
on_sqlite = pytest.mark.skipif(
    "postgresql" in str(django_settings.DATABASES["default"]["ENGINE"]), reason="SQLite's own locks"
)


async def admission(*reservations: Any, **fields: Any) -> Admission:
    version = await in_database(read_version)
    return making.admission(*reservations, version=version, **fields)


def copies(of: Admission, count: int) -> list[Admission]:
    return [replace(of, id=uuid.uuid4()) for _ in range(count)]


async def answers(ledger: Ledger, which: list[Admission]) -> list[Any]:
    return await asyncio.gather(*map(ledger.admit, which), return_exceptions=True)


async def flushed(*ledgers: Ledger) -> None:
    for each in ledgers:
        assert await asyncio.to_thread(each.flush, 5)


async def records() -> list[UsageRecord]:
    return await in_database(lambda: list(UsageRecord.objects.order_by("started_at")))


async def meters() -> dict[str, Meter]:
    return await in_database(lambda: {meter.id: meter for meter in Meter.objects.all()})


# One request.


async def test_a_record_is_there_before_admit_returns(ledger: Ledger, cast: Cast) -> None:
    token = cast.bob.token
    one = await admission(
        reservation(points=7, output=30, prompt=12),
        token=token.pk,
        user=cast.bob.user.pk,
        team=cast.physics.pk,
    )

    admitted = await ledger.admit(one)

    assert admitted.key_id == 1
    (record,) = await records()
    assert (record.id, record.outcome, record.user_name, record.process) == (
        one.id,
        "open",
        "bob",
        ledger.process,
    )
    assert (record.prompt_tokens, record.completion_tokens, record.points) == (12, 30, 7)
    assert (record.token_prefix, record.wire, record.streamed) == ("sk-poe-abcdef", "openai-chat", True)
    assert record.started_at == one.started_at and record.tokens_estimated
    activity = await in_database(TokenActivity.objects.get)
    assert activity.token_id == token.pk
    assert abs((datetime.now(UTC) - activity.last_used_at).total_seconds()) < 60
    team = (await meters())[f"team:{cast.physics.pk}"]
    assert (team.in_flight, team.day_points, team.month_points) == (1, 7, 7)
    assert (record.day_ends, record.month_ends) == (team.day_ends, team.month_ends) > (time.time(), 0)


async def test_it_settles_once(ledger: Ledger) -> None:
    one = await admission(reservation(points=9))
    await ledger.admit(one)

    full = settlement(one, finish_reason="stop", completion_tokens=34, images=2, points=4, bot="Other")
    ledger.settle(full)
    ledger.settle(settlement(one, "failed", completion_tokens=1))
    await flushed(ledger)

    (record,) = await records()
    assert (record.outcome, record.completion_tokens, record.images, record.points) == ("done", 34, 2, 4)
    assert (record.first_byte_ms, record.total_ms, record.finish_reason, record.bot) == (
        5,
        50,
        "stop",
        "Other",
    )
    found = await meters()
    assert {meter.in_flight for meter in found.values()} == {0}
    assert found["team:1"].day_points == 4


async def test_a_change_is_kept_and_its_key_is_the_one_that_is_let_go(ledger: Ledger) -> None:
    one = await admission(reservation(points=9), candidates=(candidate(1), candidate(2)))
    await ledger.admit(one)

    answer = await ledger.change(change(one, reservation(points=11, output=90), candidates=(candidate(2),)))

    assert answer.key_id == 2
    (record,) = await records()
    assert (record.key_id, record.key_name, record.points, record.completion_tokens) == (2, "key 2", 11, 90)
    assert {id_: m.in_flight for id_, m in (await meters()).items() if id_.startswith("key")} == {
        "key:1": 0,
        "key:2": 1,
    }
    ledger.settle(settlement(one, key_id=1))
    await flushed(ledger)
    assert {meter.in_flight for meter in (await meters()).values()} == {0}


async def test_an_admission_at_an_old_version_is_stale_and_leaves_nothing(ledger: Ledger, cast: Cast) -> None:
    old = await admission()
    await in_database(people.mapping, "new", "N")
    fresh = await admission()

    refused, taken = await asyncio.gather(ledger.admit(old), ledger.admit(fresh), return_exceptions=True)

    assert isinstance(refused, Stale) and isinstance(taken, Admitted)
    assert [record.id for record in await records()] == [fresh.id]


async def test_a_refusal_leaves_nothing_but_its_count(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "HEARTBEAT_SECONDS", 0.05)
    ledger = ledgers.open()
    one = await admission(of_team=Limits(points_per_day=0))

    for answer in await answers(ledger, copies(one, 3)):
        assert isinstance(answer, BudgetExceeded) and answer.retry_after is not None

    assert await records() == []

    def counted() -> list[Any]:
        return list(RefusalHour.objects.values_list("team_id", "user_id", "token_id", "limit", "refusals"))

    for _ in range(40):
        if found := await in_database(counted):
            break
        await asyncio.sleep(0.03)
    assert found == [(1, 1, 1, "points_per_day", 3)]


async def test_a_cancelled_admission_is_settled_as_nothing(ledger: Ledger) -> None:
    one = await admission(reservation(points=9))
    task = asyncio.create_task(ledger.admit(one))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await flushed(ledger)

    assert [(r.outcome, r.error_code, r.points) for r in await records()] in (
        [],
        [("failed", "not_started", 0)],
    )
    assert {(m.in_flight, m.day_points) for m in (await meters()).values()} <= {(0, 0)}


# Many.


async def test_many_at_once_are_all_written(ledger: Ledger) -> None:
    many = copies(await admission(reservation(points=3)), 300)

    async def one(each: Admission) -> None:
        await ledger.admit(each)
        ledger.settle(settlement(each, points=2))

    await asyncio.gather(*map(one, many))
    await flushed(ledger)

    assert {(r.id, r.outcome) for r in await records()} == {(each.id, "done") for each in many}
    found = await meters()
    assert found["team:1"].day_points == 600 and found["key:1"].in_flight == 0
    assert (await in_database(UsageHour.objects.values("requests", "points", "failed").get)) == {
        "requests": 300,
        "points": 600,
        "failed": 0,
    }


async def test_hours_are_the_sums_of_the_records(ledger: Ledger) -> None:
    """Whatever was lost, corrected or never begun on the way, and by whichever bot it was answered."""
    many = copies(await admission(reservation(points=9)), 60)
    await answers(ledger, many)
    for i, each in enumerate(many):
        if i % 3 == 0:
            ledger.settle(settlement(each, "lost"))
        if i % 7 == 1:
            ledger.settle(not_started(each))
        outcome = ("done", "failed", "disconnected")[i % 3]
        if i % 4:
            ledger.settle(
                settlement(each, outcome, points=i % 9, bot=f"B{i % 2}", first_byte_ms=i * 700 or None)
            )
    await flushed(ledger)

    expected: Counter[Any] = Counter()
    for record in await records():
        if record.outcome == "open":
            continue
        fields = {name: getattr(record, name) for name in ROW_COLUMNS if hasattr(record, name)}
        same = row(**fields)
        for name, value in zip(SUM_COLUMNS, contribution(same), strict=True):
            expected[key_of(same), name] += value
    found: Counter[Any] = Counter()
    hours: list[dict[str, Any]] = await in_database(lambda: [{**each} for each in UsageHour.objects.values()])
    for hour in hours:
        for name in SUM_COLUMNS:
            found[tuple(hour[column] for column in KEY_COLUMNS), name] += hour[name]
    assert +found == +expected and len(expected) > len(SUM_COLUMNS)


async def test_meters_that_were_removed_are_made_again(ledger: Ledger) -> None:
    one = await admission(reservation(points=3))
    await ledger.admit(one)
    await in_database(lambda: Meter.objects.all().delete())

    await ledger.admit(replace(one, id=uuid.uuid4()))
    ledger.settle(settlement(one))
    await flushed(ledger)

    assert (await meters())["team:1"].in_flight == 0  # two were open, and one of them was forgotten
    assert Counter(r.outcome for r in await records()) == {"open": 1, "done": 1}


async def test_what_somebody_else_changes_counts_from_the_next_admission_on(ledger: Ledger) -> None:
    one = await admission(reservation(points=3), of_team=Limits(points_per_day=100))
    await ledger.admit(one)
    await in_database(lambda: Meter.objects.filter(id="team:1").update(day_points=98))

    (refused,) = await answers(ledger, [replace(one, id=uuid.uuid4())])

    assert isinstance(refused, BudgetExceeded)


async def test_a_record_that_somebody_else_ended_is_not_ended_again(ledger: Ledger) -> None:
    one = await admission(reservation(points=3))
    await ledger.admit(one)
    await in_database(lambda: UsageRecord.objects.update(outcome="failed", points=0))

    ledger.settle(settlement(one))
    await flushed(ledger)

    assert [(r.outcome, r.points) for r in await records()] == [("failed", 0)]


async def test_slots_that_the_ledger_itself_puts_right_count_from_the_next_admission_on(
    ledger: Ledger,
) -> None:
    one = await admission(of_token=Limits(requests_in_flight=2))
    await ledger.admit(one)
    ledger._store.set_slots(["token:1"])  # nothing is wrong yet
    await in_database(lambda: Meter.objects.filter(id="token:1").update(in_flight=2))
    (refused,) = await answers(ledger, [replace(one, id=uuid.uuid4())])

    ledger._store.set_slots(["token:1"])

    assert isinstance(refused, RateLimited)
    assert isinstance(await ledger.admit(replace(one, id=uuid.uuid4())), Admitted)


async def test_who_is_only_refused_is_refused_again(ledger: Ledger) -> None:
    """Its meters were made in transactions that were rolled back."""
    none = await admission(of_team=Limits(requests_in_flight=0), token=9, user=9, team=9)
    some = await admission()
    for _ in range(4):
        refused, taken = await answers(
            ledger, [replace(none, id=uuid.uuid4()), replace(some, id=uuid.uuid4())]
        )
        assert isinstance(refused, RateLimited) and isinstance(taken, Admitted)
    assert len(await records()) == 4


async def test_a_token_that_was_removed_meanwhile_is_settled_all_the_same(ledger: Ledger, cast: Cast) -> None:
    one = await admission(token=cast.bob.token.pk)
    await ledger.admit(one)
    await in_database(lambda: AccessToken.objects.filter(pk=cast.bob.token.pk).delete())
    gone = await admission(token=cast.bob.token.pk)

    ledger.settle(settlement(one))
    await ledger.admit(gone)
    await flushed(ledger)

    assert Counter(r.outcome for r in await records()) == {"done": 1, "open": 1}
    assert not await in_database(TokenActivity.objects.exists)


# One bad item.


BAD_ADMISSIONS: list[dict[str, Any]] = [
    {"bot": "half a pair \ud800"},
    {"bot": "nothing \0 at all"},
    {"user_name": "x" * 500},
    {"time_zone": "No/Where"},
    {"user_id": 2**63},
    {"reservations": (reservation(points=2**64),)},
    {"reservations": (reservation(prompt=-20),)},
]


async def test_bad_items_are_refused_and_not_their_batch(ledger: Ledger) -> None:
    base = await admission()
    good = copies(base, len(BAD_ADMISSIONS))
    bad = [replace(base, id=uuid.uuid4(), **fields) for fields in BAD_ADMISSIONS]

    found = await answers(ledger, [each for pair in zip(good, bad, strict=True) for each in pair])
    await flushed(ledger)

    assert {type(each) for each in found[::2]} == {Admitted}
    # One database takes what another refuses; none is in doubt.
    written = {record.id for record in await records()}
    assert written >= {each.id for each in good}
    for each, answer in zip(bad, found[1::2], strict=True):
        assert isinstance(answer, Admitted) is (each.id in written)
        assert isinstance(answer, Admitted | RelayError)
    assert {type(each) for each in found[1::2]} >= {RelayError}


async def test_a_twin_is_refused(ledger: Ledger) -> None:
    base = await admission()
    await ledger.admit(base)
    good = copies(base, 4)
    found = await answers(ledger, [*good[:2], base, *good[2:]])
    assert [type(each) for each in found] == [Admitted, Admitted, RelayError, Admitted, Admitted]


BAD_SETTLEMENTS: list[dict[str, Any]] = [
    {"completion_tokens": -1},
    {"points": 2**64},
    {"completion_tokens": 2**40},
    {"finish_reason": "x" * 500},
    {"bot": "half a pair \ud800"},
    {"bot": "nothing \0 at all"},
    {"outcome": "never heard of"},
]


async def test_bad_settlements_do_not_stop_the_others(ledger: Ledger) -> None:
    """Nor do they leave their records open and their slots taken."""
    one = await admission()
    good, bad = copies(one, len(BAD_SETTLEMENTS)), copies(one, len(BAD_SETTLEMENTS))
    await answers(ledger, [*good, *bad])

    for fine, each, fields in zip(good, bad, BAD_SETTLEMENTS, strict=True):
        ledger.settle(replace(settlement(each), **fields))
        ledger.settle(settlement(fine))
    await flushed(ledger)

    outcomes = {record.id: (record.outcome, record.error_code) for record in await records()}
    assert {outcomes[each.id] for each in good} == {("done", "")}
    assert {outcomes[each.id] for each in bad} <= {("done", ""), ("lost", "unsettled")}
    assert {meter.in_flight for meter in (await meters()).values()} == {0}
    assert isinstance((await answers(ledger, copies(one, 1)))[0], Admitted)


# Exact, over two processes.


async def race(ledgers: list[Ledger], one: Admission, count: int, settle: bool = False) -> Counter[str]:
    told: Counter[str] = Counter()

    async def ask(number: int) -> None:
        ledger, each = ledgers[number % len(ledgers)], replace(one, id=uuid.uuid4())
        await asyncio.sleep(number % 7 / 1000)
        try:
            admitted = await ledger.admit(each)
        except RelayError as exc:
            told[exc.limit if isinstance(exc, RateLimited) else exc.code] += 1
            return
        told["admitted"] += 1
        if settle:
            await asyncio.sleep(0.002)
            ledger.settle(settlement(each, points=each.reservations[0].points, key_id=admitted.key_id))

    await asyncio.gather(*map(ask, range(count)))
    await flushed(*ledgers)
    return told


@pytest.mark.parametrize(
    ("limits", "admitted"),
    [
        ({"of_team": Limits(points_per_day=50)}, 25),
        ({"of_user": Limits(points_per_month=51)}, 25),
        ({"of_token": Limits(requests_in_flight=25)}, 25),
        ({"of_team": Limits(tokens_per_minute=400)}, 26),
        ({"of_user": Limits(requests_per_minute=25)}, 25),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
async def test_limits_are_exact_over_two_processes(limits: Any, admitted: int, ledgers: Ledgers) -> None:
    one = await admission(reservation(points=2, output=10, prompt=5), **limits)
    began = time.monotonic()

    told = await race([ledgers.open(), ledgers.open()], one, 120)

    took = time.monotonic() - began
    # What comes back while it runs: tokens and requests by the minute.
    ((its,),) = (tuple(limits.values()),)
    back = int(took * ((its.tokens_per_minute or 0) / 15 + (its.requests_per_minute or 0)) / 60) + 1
    least = admitted
    assert (
        least <= told["admitted"] <= (least if its.points_per_day or its.points_per_month else least + back)
    )
    assert sum(told.values()) == 120 and len(told) == 2
    assert len(await records()) == told["admitted"]
    assert (await meters())["team:1"].day_points == 2 * told["admitted"]


async def test_budgets_are_exact_while_requests_come_and_go(ledgers: Ledgers) -> None:
    one = await admission(reservation(points=3), of_team=Limits(points_per_day=100, requests_in_flight=20))

    told = await race([ledgers.open(), ledgers.open()], one, 150, settle=True)

    found = await meters()
    assert told["admitted"] * 3 == found["team:1"].day_points == sum(r.points for r in await records()) <= 100
    assert {meter.in_flight for meter in found.values()} == {0}


async def test_a_keys_slots_are_exact_over_two_processes(ledgers: Ledgers) -> None:
    candidates = tuple(
        candidate(key, key_limits=Limits(requests_in_flight=slots)) for key, slots in ((1, 7), (2, 5))
    )
    one = await admission(candidates=candidates)

    told = await race([ledgers.open(), ledgers.open()], one, 40)

    assert told == {"admitted": 12, AllKeysBusy.limit: 28}
    assert Counter(record.key_id for record in await records()) == {1: 7, 2: 5}


async def test_two_processes_settle_one_record_once(ledgers: Ledgers) -> None:
    """One of them took it for lost."""
    here, there = ledgers.open(), ledgers.open()
    many = copies(await admission(reservation(points=9)), 40)
    await answers(here, many)

    for each in many:
        there.settle(settlement(each, "lost"))
        here.settle(settlement(each, points=4))
    await flushed(here, there)

    assert {(r.outcome, r.points) for r in await records()} == {("done", 4)}
    found = await meters()
    assert found["team:1"].day_points == 160 and found["key:1"].in_flight == 0
    sums = await in_database(lambda: [(h.requests, h.lost, h.points) for h in UsageHour.objects.all()])
    assert sums == [(40, 0, 160)]


@on_sqlite
async def test_what_others_write_about_others_is_no_reason_to_read_an_open_record_again(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = ledgers.open(), ledgers.open()
    many = copies(await admission(reservation(points=9)), 40)
    ours, theirs = many[:20], many[20:]
    await answers(here, ours)
    await answers(there, theirs)
    monkeypatch.setattr(sqlite, "_row", None)

    for one, other in zip(ours, theirs, strict=True):
        # Doubtful; known, since it has grown; doubtful again before it ends.
        await here.change(change(one, reservation(points=11)))
        for each, ledger in ((other, there), (one, here)):
            ledger.settle(settlement(each, points=4))
            await flushed(ledger)

    assert {(r.outcome, r.points) for r in await records()} == {("done", 4)}
    found = await meters()
    assert found["team:1"].day_points == 160 and found["key:1"].in_flight == 0


async def test_a_change_and_the_end_of_one_record_may_come_together(ledgers: Ledgers) -> None:
    here, there = ledgers.open(), ledgers.open()
    one = await admission(reservation(points=9))
    await here.admit(one)
    await there.admit(replace(one, id=uuid.uuid4()))

    asked = asyncio.create_task(here.change(change(one, reservation(points=11))))
    here.settle(settlement(one, points=4), may_wait=True)
    here.settle(settlement(one, points=4))
    with suppress(GivenUp):
        await asked
    await flushed(here)

    assert Counter((r.outcome, r.points) for r in await records()) == {("done", 4): 1, ("open", 9): 1}


async def test_an_open_record_that_others_gave_up_is_read_again(ledgers: Ledgers) -> None:
    here, there = ledgers.open(), ledgers.open()
    many = copies(await admission(reservation(points=9)), 3)
    await answers(here, many)
    there.settle(settlement(many[1], "lost"))
    await flushed(there)

    for each in many:
        here.settle(settlement(each, points=4))
    await flushed(here)

    assert {(r.outcome, r.points) for r in await records()} == {("done", 4)}
    sums = await in_database(lambda: [(h.requests, h.lost, h.points) for h in UsageHour.objects.all()])
    assert sums == [(3, 0, 12)] and (await meters())["key:1"].in_flight == 0


# Signs of life.


async def test_a_process_is_known_while_it_lives(ledgers: Ledgers) -> None:
    ledger = ledgers.open()

    def names() -> list[str]:
        return [each.name for each in Process.objects.all()]

    assert await in_database(names) == [ledger.process]
    (beat,) = await in_database(lambda: list(Process.objects.all()))
    assert abs(beat.heartbeat_at / 1e6 - time.time()) < 60
    assert await asyncio.to_thread(ledger.close)
    assert await in_database(names) == []
    assert not list((django_settings.CONFIG.data_dir / "spool").glob(f"{ledger.process}*"))


# SQLite's locks.


def held(statement: str) -> Callable[[], None]:
    """Another program's transaction on the test database; call what it returns to end it."""
    other = sqlite3.connect(str(connections["default"].settings_dict["NAME"]), isolation_level=None)
    other.execute(statement)

    def release() -> None:
        other.execute("ROLLBACK")
        other.close()

    return release


@on_sqlite
async def test_it_waits_for_another_writer(ledger: Ledger) -> None:
    one = await admission()
    release = held("BEGIN IMMEDIATE")
    task = asyncio.create_task(ledger.admit(one))
    await asyncio.sleep(0.1)
    assert not task.done()
    release()
    assert isinstance(await task, Admitted)


@on_sqlite
async def test_a_writer_that_does_not_end_is_a_database_that_is_away(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    ledger, one, ended = ledgers.open(), await admission(), await admission()
    await ledger.admit(ended)
    release = held("BEGIN IMMEDIATE")
    try:
        (refused,) = await answers(ledger, [one])
        ledger.settle(settlement(ended))
        assert isinstance(refused, Unavailable) and refused.retry_after == 2
        assert wait_for(lambda: ledger.spool_bytes, 1)
    finally:
        release()
    await flushed(ledger)
    assert [r.outcome for r in await records()] == ["done"] and ledger.spool_bytes == 0


@on_sqlite
async def test_a_process_that_stopped_in_its_turn_stops_nobody_for_long(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP in the middle of a transaction: its turn is held by a file lock."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    ledger, stopped = ledgers.open(), ledgers.open()
    one, ended = await admission(), await admission()
    await ledger.admit(ended)
    stopped._store._take_turn()  # type: ignore[attr-defined]
    try:
        (refused,) = await answers(ledger, [one])
        ledger.settle(settlement(ended))
        assert isinstance(refused, Unavailable)
        assert wait_for(lambda: ledger.spool_bytes, 1)
    finally:
        stopped._store._give_turn()  # type: ignore[attr-defined]
    await flushed(ledger)
    assert [r.outcome for r in await records()] == ["done"]


@on_sqlite
async def test_nobody_starves_behind_a_busy_writer(ledgers: Ledgers) -> None:
    here, there = ledgers.open(), ledgers.open()
    one = await admission()
    busy = [asyncio.create_task(here.admit(each)) for each in copies(one, 60)]
    waits = []
    for each in copies(one, 10):
        began = time.monotonic()
        await there.admit(each)
        waits.append(time.monotonic() - began)
    await asyncio.gather(*busy)
    assert max(waits) < 1
