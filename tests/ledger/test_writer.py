"""The ledger's thread on a store that fails in every way: nobody waits for long, and nothing that ended is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay.errors import AllKeysBusy, BeyondLimit, NoKeyAvailable, RateLimited, RelayError, Unavailable
from relay.ledger import Admission, Admitted, BadItem, Settlement, Stale, sweep, writer
from relay.ledger.deciding import Page
from relay.ledger.meters import Meter
from relay.ledger.rollups import contribution, key_of
from relay.ledger.spool import SETTLEMENTS_AT_ONCE, Spool
from relay.ledger.store import Conflict
from relay.limits import NEVER, UNLIMITED, Limits
from relay.pool import Queue
from tests.conftest import wait_for
from tests.ledger import making
from tests.ledger.conftest import Gate, Kept
from tests.ledger.making import (
    VERSION,
    admission,
    candidate,
    change,
    reservation,
    row,
    settlement,
)
from tests.ledger.memory import MemoryStore

pytestmark = pytest.mark.asyncio
Make = Callable[..., Kept]
DOWN = ConnectionError("down")


def fail(*errors: Exception) -> Callable[[Page], None]:
    """Raises these, one each time it is called, then nothing more."""
    left = list(errors)

    def hook(page: Page) -> None:
        if left:
            raise left.pop(0)

    return hook


async def admitted(kept: Kept, *which: Admission) -> list[Admitted]:
    return await asyncio.gather(*map(kept.ledger.admit, which))


async def answers(kept: Kept, *which: Admission) -> list[Admitted | BaseException]:
    return await asyncio.gather(*map(kept.ledger.admit, which), return_exceptions=True)


def ids(of: list[Settlement]) -> list[uuid.UUID]:
    return [each.id for each in of]


# When all is well.


async def test_a_record_is_written_before_admit_returns_and_settled_after(kept: Callable[..., Kept]) -> None:
    here, one = kept(), admission(reservation(points=5))

    (answer,) = await admitted(here, one)
    assert answer.key_id == 1 and answer.reservation == one.reservations[0]
    assert here.store.outcome(one) == ("open", "")
    here.ledger.settle(settlement(one))
    assert await here.flushed()

    assert here.store.outcome(one) == ("done", "")
    assert here.on_disk() == []


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may look at another thread's"
)
async def test_its_thread_is_woken_up_in_time_and_no_other(kept: Make) -> None:
    kept()
    (ledger,) = (each.native_id for each in threading.enumerate() if each.name == "ledger")

    def late_by(thread: int | None) -> int:
        return int(Path(f"/proc/{thread}/timerslack_ns").read_text())

    assert wait_for(lambda: late_by(ledger) == writer.WAKE_UP_NS)
    assert late_by(threading.get_native_id()) > writer.WAKE_UP_NS


async def test_what_waits_goes_into_one_transaction(kept: Make) -> None:
    here = kept()
    gate = Gate(here.store)
    first = asyncio.create_task(here.ledger.admit(admission()))
    await gate.reached()
    many = [admission() for _ in range(50)]
    tasks = [asyncio.create_task(here.ledger.admit(each)) for each in many]
    await asyncio.sleep(0.01)
    before = len(here.store.commits)
    gate.open()
    await asyncio.gather(first, *tasks)

    assert [len(page.inserted) for page in here.store.commits[before:]] == [1, 50]


async def test_a_full_loop_is_asked_for_less_often(kept: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are asked for 50 ms apart share a transaction where the loop took a tenth of a second to hear the last ones."""
    monkeypatch.setattr(writer, "LAG_WEIGHT", 1.0)
    monkeypatch.setattr(writer, "MOST_CROWD_SECONDS", 1.0)
    here = kept()

    async def written_together(loop_is_full: bool) -> list[int]:
        gate = Gate(here.store)
        several = [asyncio.create_task(here.ledger.admit(admission()))]
        await gate.reached()
        # One alone is at the door: these are a crowd behind it.
        several += [asyncio.create_task(here.ledger.admit(admission())) for _ in range(3)]
        await asyncio.sleep(0.01)
        before = len(here.store.commits)
        gate.open()
        if loop_is_full:
            assert wait_for(lambda: sum(len(page.inserted) for page in here.store.commits[before:]) == 4)
            time.sleep(0.1)  # noqa: ASYNC251 this is how it is full
        await asyncio.gather(*several)
        first = asyncio.create_task(here.ledger.admit(admission()))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, here.ledger.admit(admission()))
        return [len(page.inserted) for page in here.store.commits[before:] if page.inserted]

    assert (await written_together(loop_is_full=True))[-1] == 2
    assert (await written_together(loop_is_full=False))[-2:] == [1, 1]


@pytest.mark.parametrize(
    ("limits", "error", "limited"),
    [
        (Limits(requests_in_flight=0), RateLimited, "requests_in_flight"),
        (Limits(tokens_per_minute=14), BeyondLimit, "tokens_per_minute"),
    ],
    ids=str,
)
async def test_a_refusal_writes_nothing_and_is_counted_once(
    kept: Make, monkeypatch: pytest.MonkeyPatch, limits: Limits, error: type[RelayError], limited: str
) -> None:
    monkeypatch.setattr(sweep, "HEARTBEAT_SECONDS", 0.05)
    here = kept()
    none = admission(of_user=limits)
    before = len(here.store.rows)

    for answer in await answers(here, *[none] * 3):
        assert isinstance(answer, error)

    assert len(here.store.rows) == before
    assert wait_for(lambda: sum(here.store.refusals.values()) >= 3, 2)
    await asyncio.sleep(0.15)
    (((_hour, *who), count),) = here.store.refusals.items()
    assert (who, count) == ([1, 1, 1, limited], 3)


async def test_where_the_loop_hears_at_once_nobody_is_waited_for(kept: Make) -> None:
    here = kept()
    while not here.ledger._is_crowded:
        await answers(here, admission(), admission())
    took = []
    for _ in range(10):
        here.ledger._is_crowded = True
        began = time.monotonic()
        await admitted(here, admission())
        took.append(time.monotonic() - began)

    assert min(took) < 0.008


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a test takes."""
    monkeypatch.setattr(writer, "PATIENT_SECONDS", 30.0)


async def ended(kept: Kept, *which: Admission) -> None:
    """Admitted one after the other and settled, each of which may wait; all of it has arrived in the ledger's thread."""
    for each in which:
        await admitted(kept, each)
        kept.ledger.settle(settlement(each), may_wait=True)
    assert wait_for(lambda: len(kept.ledger._patient) == len(which))


@pytest.mark.usefixtures("patience")
async def test_an_admission_goes_before_settlements_that_may_wait(kept: Make) -> None:
    here, ones, other = kept(), [admission(), admission()], admission()
    await ended(here, *ones)

    await admitted(here, other)

    assert [here.store.outcome(each) for each in (*ones, other)] == [("open", "")] * 3
    assert await here.flushed()
    assert [here.store.outcome(each) for each in ones] == [("done", "")] * 2
    assert list(here.store.commits[-1].updated) == [each.id for each in ones]


async def test_a_settlement_that_may_wait_does_not_wait_for_long(kept: Make) -> None:
    here, one = kept(), admission()
    await admitted(here, one)
    here.ledger.settle(settlement(one), may_wait=True)

    assert wait_for(lambda: here.store.outcome(one) == ("done", ""))


@pytest.mark.usefixtures("patience")
async def test_a_settlement_that_does_not_wait_takes_along_those_that_would(kept: Make) -> None:
    here, patient, urgent = kept(), admission(), admission()
    await ended(here, patient)
    await admitted(here, urgent)

    here.ledger.settle(settlement(urgent))

    assert wait_for(lambda: here.store.outcome(urgent) == ("done", ""))
    assert list(here.store.commits[-1].updated) == [patient.id, urgent.id]


@pytest.mark.usefixtures("patience")
async def test_enough_settlements_are_written_at_once(kept: Make) -> None:
    here, many = kept(), [admission() for _ in range(writer.ENOUGH)]
    await admitted(here, *many)
    here.ledger._is_crowded = False

    for each in many:
        here.ledger.settle(settlement(each), may_wait=True)

    assert wait_for(lambda: here.store.outcome(many[-1]) == ("done", ""))


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "limits", [Limits(requests_in_flight=1), Limits(points_per_day=9), Limits(tokens_per_minute=21)], ids=str
)
async def test_nobody_is_refused_for_want_of_what_a_waiting_settlement_gives_back(
    kept: Make, limits: Limits
) -> None:
    here = kept()
    reserved = reservation(points=5)
    one, other, third = (admission(reserved, of_user=limits) for _ in range(3))
    await admitted(here, one)
    here.ledger.settle(settlement(one, points=1, completion_tokens=1), may_wait=True)
    assert wait_for(lambda: here.ledger._patient)

    await admitted(here, other)
    assert isinstance((await answers(here, third))[0], RateLimited)

    assert here.store.outcome(one) == ("done", "")
    assert [len(page.inserted) for page in here.store.commits if one.id in page.updated] == [1]
    assert here.ledger._unsettled == []


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("limits", "in_flight"),
    [(Limits(tokens_per_minute=150), None), (UNLIMITED, 1)],
    ids=["reservation", "key"],
)
async def test_nobody_gets_less_for_want_of_it(kept: Make, limits: Limits, in_flight: int | None) -> None:
    """A smaller reservation, or a key that the conversation was not on."""
    here, keys = kept(), (candidate(1, key_limits=Limits(requests_in_flight=in_flight)), candidate(2))
    one, other = (
        admission(reservation(output=100), reservation(output=20), of_user=limits, candidates=keys)
        for _ in range(2)
    )
    await admitted(here, one)
    here.ledger.settle(settlement(one, completion_tokens=1), may_wait=True)
    assert wait_for(lambda: here.ledger._patient)

    (answer,) = await admitted(here, other)

    assert (answer.key_id, answer.reservation) == (1, other.reservations[0])
    assert here.store.outcome(one) == ("done", "")


async def test_one_that_can_never_be_made_takes_no_others_along(kept: Make) -> None:
    here, (first, bad, last) = kept(), [admission() for _ in range(3)]
    await admitted(here, first, bad, last)

    def fails() -> Settlement:
        raise MemoryError

    here.ledger.settle(settlement(first), may_wait=True)
    here.ledger.settle(fails, fails, may_wait=True)
    here.ledger.settle(settlement(last), may_wait=True)
    assert await here.flushed()

    assert [here.store.outcome(each)[0] for each in (first, bad, last)] == ["done", "open", "done"]


@pytest.mark.usefixtures("patience")
async def test_what_may_wait_is_on_disk_as_soon_as_the_database_is_down(kept: Make) -> None:
    here, one = kept(), admission()
    await ended(here, one)
    here.store.is_down = True

    assert isinstance((await answers(here, admission()))[0], Unavailable)

    assert wait_for(here.on_disk)
    assert ids(here.on_disk())[0] == one.id


@pytest.mark.usefixtures("patience")
async def test_closing_writes_what_would_have_waited(kept: Make) -> None:
    here, one = kept(), admission()
    await ended(here, one)

    assert await asyncio.to_thread(here.ledger.close)

    assert here.store.outcome(one) == ("done", "")


async def test_a_refusal_for_good_is_no_second_transaction(kept: Make) -> None:
    here = kept()
    here.store.meters["key:1"] = Meter("key:1", blocked_until=NEVER)
    before = len(here.store.begun)

    (refused,) = await answers(here, admission())

    assert isinstance(refused, NoKeyAvailable)
    assert await here.flushed()
    assert len(here.store.begun) - before == 1


@pytest.mark.parametrize(("seconds", "counted"), [(10, 1), (100, 0)])
async def test_who_asks_again_is_no_refusal_yet(kept: Make, seconds: float, counted: int) -> None:
    """All keys are busy for a minute: told at once to who waits ten seconds at most, and asked again by others."""
    here = kept()
    busy = (candidate(1, key_limits=Limits(requests_per_minute=1)),)
    await admitted(here, admission(candidates=busy))

    async def ask(queue_seconds: float) -> Admitted:
        return await here.ledger.admit(admission(candidates=busy, queue_seconds=queue_seconds))

    waiting = asyncio.create_task(Queue(seconds).admit(lambda: frozenset({1}), ask))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    waiting.cancel()

    assert len(done) == counted == sum(here.ledger._refused.values())
    assert all(isinstance(each.exception(), AllKeysBusy) for each in done)


async def test_a_stale_admission_does_not_hold_up_the_others(kept: Make) -> None:
    here = kept()
    old, new = await answers(here, admission(version=VERSION - 1), admission())
    assert isinstance(old, Stale) and isinstance(new, Admitted)


async def test_a_tokens_use_is_noted_once_in_a_while(kept: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = kept()
    for _ in range(3):
        await admitted(here, admission(token=3))
    monkeypatch.setattr(writer, "LAST_USED_EVERY", 0)
    await admitted(here, admission(token=3))

    assert [page.used_tokens for page in here.store.commits if page.inserted] == [[3], [], [], [3]]


async def test_answers_find_their_loop(kept: Make) -> None:
    """Also where another loop that waits in the same batch is gone."""
    here = kept()
    gate = Gate(here.store)
    mine = asyncio.create_task(here.ledger.admit(admission()))
    await gate.reached()

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(here.ledger.admit(admission()))
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    await asyncio.to_thread(elsewhere)
    gate.open()

    assert isinstance(await mine, Admitted)
    assert await here.flushed() and here.is_running()


# Down.


async def test_a_database_that_is_down_refuses_at_once_and_leaves_nothing(kept: Make) -> None:
    here, one = kept(), admission()
    here.store.is_down = True
    began = time.monotonic()

    with pytest.raises(Unavailable) as refused:
        await here.ledger.admit(one)

    assert refused.value.retry_after == 2 and time.monotonic() - began < 1.5
    here.store.is_down = False
    assert await here.flushed()
    assert here.store.rows == {}
    assert isinstance((await answers(here, admission()))[0], Admitted)


async def test_what_was_never_sent_to_the_database_leaves_nothing_on_disk(kept: Make) -> None:
    """An outage of an hour under a flood of requests must not fill the disk."""
    here = kept()
    here.store.is_down = True

    refused = await answers(here, *[admission() for _ in range(50)])
    await asyncio.sleep(0.05)

    assert all(isinstance(each, Unavailable) for each in refused)
    assert here.ledger.spool_bytes == 0


async def test_it_serves_as_soon_as_the_database_does(kept: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request does not wait for the next try: it is one."""
    here = kept()
    monkeypatch.setattr(writer, "RETRY_MOST", 60.0)
    here.store.is_down = True
    await answers(here, admission())
    here.ledger._retry_at = time.monotonic() + 60
    here.store.is_down = False

    assert isinstance((await answers(here, admission()))[0], Admitted)


async def test_what_ends_while_it_is_down_is_on_disk_and_written_in_order_later(kept: Make) -> None:
    here, many = kept(), [admission() for _ in range(7)]
    await admitted(here, *many)
    here.store.is_down = True

    for each in many:
        here.ledger.settle(settlement(each))
    assert wait_for(lambda: len(here.on_disk()) == 7, 2)
    assert ids(here.on_disk()) == [each.id for each in many]
    assert not await here.flushed(0.05)
    here.store.is_down = False
    assert await here.flushed()

    written = [id_ for page in here.store.commits for id_ in page.updated]
    assert written == [each.id for each in many]
    assert here.on_disk() == [] and here.ledger.spool_bytes == 0


async def test_it_is_on_disk_until_the_commit_has_happened(kept: Make) -> None:
    here, one = kept(), admission()
    await admitted(here, one)
    seen: list[list[uuid.UUID]] = []
    here.store.is_down = True
    here.ledger.settle(settlement(one))
    assert wait_for(here.on_disk, 2)
    here.store.before_commit = lambda page: seen.append(ids(here.on_disk()))
    here.store.after_commit = lambda page: seen.append(ids(here.on_disk()))
    here.store.is_down = False
    assert await here.flushed()

    assert seen == [[one.id], [one.id]]
    assert here.on_disk() == []


async def test_a_thousand_that_piled_up_are_written_in_bites(kept: Make) -> None:
    here, many = kept(), [admission() for _ in range(1000)]
    await admitted(here, *many)
    here.store.is_down = True
    for each in many:
        here.ledger.settle(settlement(each))
    assert wait_for(lambda: len(here.on_disk()) == 1000, 5)
    before = len(here.store.commits)
    left: list[int] = []
    here.store.after_commit = lambda page: left.append(len(here.on_disk()))

    here.store.is_down = False
    assert await here.flushed()

    sizes = [len(page.updated) for page in here.store.commits[before:] if page.updated]
    assert sizes == [SETTLEMENTS_AT_ONCE] * 5
    assert left == [1000] * 5 and here.on_disk() == []
    assert {row.outcome for row in here.store.rows.values()} == {"done"}
    assert here.store.meters["team:1"].in_flight == 0


async def test_requests_are_admitted_while_a_pile_is_written(kept: Make) -> None:
    here, many = kept(), [admission() for _ in range(500)]
    await admitted(here, *many)
    gate = Gate(here.store)
    for each in many:
        here.ledger.settle(settlement(each))
    await gate.reached()
    task = asyncio.create_task(here.ledger.admit(admission()))
    await asyncio.sleep(0.01)
    gate.open()
    await task

    assert here.store.meters["team:1"].in_flight > 0  # not behind the last of the pile
    assert await here.flushed()
    assert here.store.meters["team:1"].in_flight == 1


async def test_down_again_in_the_middle_of_a_pile_keeps_all_that_is_left_on_disk(kept: Make) -> None:
    here, many = kept(), [admission() for _ in range(700)]
    await admitted(here, *many)
    here.store.is_down = True
    for each in many[:650]:
        here.ledger.settle(settlement(each))
    assert wait_for(lambda: len(here.on_disk()) == 650, 5)

    def down_after_two(page: Page) -> None:
        if sum(row.outcome == "done" for row in here.store.rows.values()) >= 400:
            here.store.is_down = True

    here.store.after_commit = down_after_two
    here.store.is_down = False
    assert wait_for(lambda: here.store.is_down, 2)
    for each in many[650:]:
        here.ledger.settle(settlement(each))

    def left() -> bool:
        unwritten = {each.id for each in many if here.store.rows[each.id].outcome == "open"}
        return unwritten <= set(ids(here.on_disk()))

    assert wait_for(left, 2)
    here.store.after_commit = lambda page: None
    here.store.is_down = False
    assert await here.flushed()
    assert {row.outcome for row in here.store.rows.values()} == {"done"}


async def test_a_spool_that_cannot_be_written_stops_nobody(
    kept: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, one = kept(), admission()
    await admitted(here, one)
    here.store.is_down = True

    def full(settlements: list[Settlement]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(here.spool, "append", full)
    here.ledger.settle(settlement(one))
    with pytest.raises(Unavailable):
        await here.ledger.admit(admission())
    here.store.is_down = False

    assert await here.flushed()
    assert here.store.outcome(one)[0] == "done"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")])
async def test_a_spool_that_cannot_be_cleared_stops_nobody(
    error: Exception, kept: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "ADMIT_SECONDS", 0.2)
    here, one = kept(), admission()
    await admitted(here, one)
    here.store.is_down = True
    here.ledger.settle(settlement(one))
    assert wait_for(here.on_disk, 2)

    def broken() -> None:
        raise error

    with caplog.at_level(logging.CRITICAL), monkeypatch.context() as patched:
        patched.setattr(here.spool, "clear", broken)
        here.store.is_down = False
        await here.flushed(0.1)

        assert here.is_running()
        assert isinstance((await answers(here, admission()))[0], Admitted | Unavailable)
    here.ledger.settle(settlement(one))
    assert await here.flushed()
    assert here.store.outcome(one)[0] == "done" and here.on_disk() == []


# Commits of which nobody knows whether they happened.


async def test_an_admission_that_was_committed_after_all_is_settled_as_nothing(kept: Make) -> None:
    here, one = (
        kept(),
        admission(reservation(points=40), of_team=Limits(points_per_day=40, tokens_per_minute=15)),
    )
    here.store.after_commit = fail(DOWN)

    with pytest.raises(Unavailable):
        await here.ledger.admit(one)
    assert await here.flushed()

    assert here.store.outcome(one) == ("failed", "not_started")
    team = here.store.meters["team:1"]
    assert (team.in_flight, team.day_points, team.tokens_level) == (0, 0, 0)
    assert here.store.meters["key:1"].in_flight == 0


async def test_a_settlement_that_was_committed_after_all_counts_once(kept: Make) -> None:
    here, one = kept(), admission(reservation(points=40))
    await admitted(here, one)
    here.store.after_commit = fail(DOWN, DOWN)

    here.ledger.settle(settlement(one, points=7))
    assert await here.flushed()

    assert here.store.outcome(one)[0] == "done" and here.store.meters["team:1"].day_points == 7
    (sums,) = here.store.sums.values()
    assert tuple(sums) == contribution(here.store.rows[one.id])
    assert here.on_disk() == []


async def test_a_change_that_was_committed_after_all_is_what_the_settlement_corrects(kept: Make) -> None:
    here = kept()
    one = admission(reservation(points=1, output=10), candidates=(candidate(1), candidate(2)))
    await admitted(here, one)
    here.store.after_commit = fail(DOWN)
    other = change(one, reservation(points=9, output=90), candidates=(candidate(2),))

    with pytest.raises(Unavailable):
        await here.ledger.change(other)
    here.ledger.settle(settlement(one, points=3))  # whoever asked thinks that it has the first key
    assert await here.flushed()

    meters = here.store.meters
    assert here.store.rows[one.id].key_id == 2
    assert (meters["key:1"].in_flight, meters["key:2"].in_flight, meters["team:1"].day_points) == (0, 0, 3)


async def test_an_admission_of_unknown_end_and_a_crash(kept: Make, tmp_path: Path) -> None:
    """The process dies before the database is back: the next one settles it from the spool."""
    here, one = kept(), admission()

    def then_down(page: Page) -> None:
        here.store.is_down = True
        raise DOWN

    here.store.after_commit = then_down
    with pytest.raises(Unavailable):
        await here.ledger.admit(one)
    assert wait_for(here.on_disk, 2)
    content = (tmp_path / "spool" / f"{here.spool.process}.jsonl").read_bytes()

    heir_store, other = MemoryStore(), tmp_path / "other"
    heir_store.rows, heir_store.meters = here.store.rows, here.store.meters
    heir_store.processes_of = here.store.processes_of
    other.mkdir()
    (other / f"{here.spool.process}.jsonl").write_bytes(content)
    heir = kept(heir_store, other)

    assert wait_for(lambda: heir.store.outcome(one) == ("failed", "not_started"), 2)
    assert heir.store.meters["key:1"].in_flight == 0


# In each other's way.


@pytest.mark.parametrize("conflicts", [1, 3])
@pytest.mark.parametrize("where", ["before_begin", "before_commit"])
async def test_a_conflict_is_tried_again(where: str, conflicts: int, kept: Make) -> None:
    here, one = kept(), admission(reservation(points=3))
    hook = fail(*[Conflict("deadlock")] * conflicts)
    setattr(here.store, where, (lambda: hook(None)) if where == "before_begin" else hook)  # type: ignore[arg-type]

    assert isinstance((await answers(here, one))[0], Admitted)

    assert here.store.meters["team:1"].day_points == 3 and here.store.meters["team:1"].in_flight == 1
    assert len(here.store.rows) == 1


async def test_conflicts_without_an_end_are_a_database_that_is_away(kept: Make) -> None:
    here = kept()
    hook = fail(*[Conflict("deadlock")] * writer.CONFLICT_TRIES)
    here.store.before_commit = hook

    (refused,) = await answers(here, admission())

    assert isinstance(refused, Unavailable) and refused.retry_after == 2
    assert isinstance((await answers(here, admission()))[0], Admitted)


async def test_meters_that_were_not_locked_are_locked_the_next_time(kept: Make) -> None:
    """Whoever settles may name another key than the record has."""
    here, one = kept(), admission(candidates=(candidate(5),))
    await admitted(here, one)
    before = len(here.store.begun)

    here.ledger.settle(settlement(one, key_id=1))
    assert await here.flushed()

    first, again = here.store.begun[before:][:2]
    assert set(again) - set(first) == {"key:5"} and again == sorted(again)
    assert here.store.meters["key:5"].in_flight == 0


# One bad item.


def refuse(*bad: Admission) -> Callable[[Page], None]:
    marked = {each.id for each in bad}

    def hook(page: Page) -> None:
        settled = {id_ for id_, row in page.updated.items() if row.outcome != "lost"}
        if marked & (settled | {row.id for row in page.inserted}):
            raise BadItem("DataError")

    return hook


async def batch(here: Kept, *items: Admission, settled: list[Settlement]) -> list[Any]:
    """These all in one transaction."""
    gate = Gate(here.store)
    here.ledger.settle(settlement(admission()))  # nobody's
    await gate.reached()
    tasks = [asyncio.create_task(here.ledger.admit(each)) for each in items]
    await asyncio.sleep(0.01)
    for each in settled:
        here.ledger.settle(each)
    gate.open()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_bad_admission_is_refused_and_not_its_batch(kept: Make) -> None:
    here, bad, good = kept(), admission(), [admission() for _ in range(5)]
    earlier = admission()
    await admitted(here, earlier)
    here.store.before_commit = refuse(bad)

    found = await batch(here, *good[:2], bad, *good[2:], settled=[settlement(earlier)])
    assert await here.flushed()

    assert [type(each) for each in found] == [Admitted, Admitted, RelayError, *[Admitted] * 3]
    assert here.store.outcome(earlier)[0] == "done"
    assert {row.id for row in here.store.rows.values()} == {earlier.id, *(each.id for each in good)}


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_who_left_beside_a_bad_one_leaves_nothing_open(
    how: str, kept: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "expired":
        monkeypatch.setattr(writer, "ADMIT_SECONDS", 0.05)
    here, one, bad = kept(), admission(reservation(points=9)), admission()
    here.store.before_commit = refuse(bad)
    gate = Gate(here.store)
    here.ledger.settle(settlement(admission()))
    await gate.reached()
    task, other = (asyncio.create_task(here.ledger.admit(each)) for each in (one, bad))
    await asyncio.sleep(0.01)
    if how == "cancelled":
        task.cancel()
    await asyncio.wait({task})
    gate.open()
    await asyncio.gather(task, other, return_exceptions=True)

    assert await here.flushed()
    assert one.id not in here.store.rows
    assert not any(meter.in_flight for meter in here.store.meters.values())


async def test_a_bad_settlement_is_left_out_and_not_its_batch(kept: Make) -> None:
    here, bad, good = kept(), admission(), [admission() for _ in range(4)]
    await admitted(here, bad, *good)
    here.store.before_commit = refuse(bad)

    one_more = admission()
    found = await batch(here, one_more, settled=[settlement(each) for each in (*good[:2], bad, *good[2:])])
    assert await here.flushed()

    assert isinstance(found[0], Admitted)
    assert {here.store.outcome(each)[0] for each in good} == {"done"}
    # Its record is not open for ever, and its slot is free.
    assert here.store.outcome(bad) == ("lost", "unsettled")
    assert here.store.meters["key:1"].in_flight == 1


async def test_what_waits_on_disk_stays_there_while_a_bad_one_is_looked_for(kept: Make) -> None:
    """Killed at any moment of it, nothing is lost."""
    here, bad, good = kept(), admission(), [admission() for _ in range(6)]
    await admitted(here, bad, *good)
    here.store.is_down = True
    for each in (*good[:3], bad, *good[3:]):
        here.ledger.settle(settlement(each))
    assert wait_for(lambda: len(here.on_disk()) == 7, 2)
    refused, missing = refuse(bad), []

    def look(page: Page) -> None:
        unwritten = {each.id for each in good if here.store.rows[each.id].outcome == "open"}
        missing.append(len(unwritten - set(ids(here.on_disk()))))
        refused(page)

    here.store.before_commit = look
    here.store.is_down = False
    assert await here.flushed()

    assert {here.store.outcome(each)[0] for each in good} == {"done"}
    assert not any(missing)


async def test_down_while_a_bad_one_is_looked_for_loses_nothing(kept: Make) -> None:
    here, bad, good = kept(), admission(), [admission() for _ in range(6)]
    await admitted(here, bad, *good)
    refused = refuse(bad)

    def down_at_the_third(page: Page) -> None:
        refused(page)
        if sum(here.store.outcome(each)[0] == "done" for each in good) == 2:
            here.store.is_down = True
            raise DOWN

    here.store.before_commit = down_at_the_third
    await batch(here, settled=[settlement(each) for each in (*good[:3], bad, *good[3:])])
    assert wait_for(lambda: here.store.is_down, 2)
    unwritten = {each.id for each in good[2:]}
    assert wait_for(lambda: unwritten <= set(ids(here.on_disk())), 2)

    here.store.before_commit = refused
    here.store.is_down = False
    assert await here.flushed()
    assert {here.store.outcome(each)[0] for each in good} == {"done"}


async def test_a_batch_that_cannot_be_decided_is_taken_apart(
    kept: Make, caplog: pytest.LogCaptureFixture
) -> None:
    here = kept()
    bad, good = admission(time_zone="Nowhere/At_All"), admission(team=2, token=2, user=2)

    with caplog.at_level(logging.CRITICAL):
        found = await batch(here, bad, good, settled=[])

    assert [type(each) for each in found] == [RelayError, Admitted]
    assert here.is_running()


async def test_a_settlement_that_cannot_be_made_stops_nobody(
    kept: Make, caplog: pytest.LogCaptureFixture
) -> None:
    here, one, another = kept(), admission(), admission()
    await admitted(here, one, another)

    def broken() -> Settlement:
        raise KeyError("?")

    with caplog.at_level(logging.CRITICAL):
        here.ledger.settle(broken)
        here.ledger.settle(broken, lambda: making.lost(another))
        here.ledger.settle(lambda: settlement(one))
        assert await here.flushed()

    assert (here.store.outcome(one)[0], here.store.outcome(another)[0]) == ("done", "lost")
    assert here.store.meters["key:1"].in_flight == 0


async def test_a_key_with_no_candidates_is_refused_when_the_database_is_away(kept: Make) -> None:
    """The keys' account was just removed."""
    here = kept()
    here.store.is_down = True
    (refused,) = await answers(here, admission(candidates=()))
    assert isinstance(refused, RelayError)


# Who waits, and for how long.


async def test_nobody_waits_longer_than_the_deadline(kept: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ADMIT_SECONDS", 0.1)
    here, one, late = kept(), admission(), admission()
    await admitted(here, one)
    gate = Gate(here.store)
    began = time.monotonic()
    waiting = asyncio.create_task(answers(here, late))
    changing = asyncio.create_task(here.ledger.change(change(one, reservation(output=50))))

    (refused,) = await waiting
    with pytest.raises(Unavailable):
        await changing

    assert isinstance(refused, Unavailable) and refused.retry_after == 2
    assert time.monotonic() - began < 1.5
    gate.open()
    assert await here.flushed()
    # It was written too late, and is settled as nothing; what it had asked for first is as it was.
    assert late.id not in here.store.rows or here.store.outcome(late) == ("failed", "not_started")
    assert here.store.meters["key:1"].in_flight == 1


async def test_the_deadline_is_two_seconds() -> None:
    assert writer.ADMIT_SECONDS == 2.0


@pytest.mark.parametrize("when", ["queued", "in the transaction", "committed"])
async def test_a_cancelled_admission_is_settled_as_nothing(when: str, kept: Make) -> None:
    here, one = kept(), admission(reservation(points=9))
    gate = Gate(here.store)
    if when == "queued":
        here.ledger.settle(settlement(admission()))
        await gate.reached()
    task = asyncio.create_task(here.ledger.admit(one))
    if when == "queued":
        await asyncio.sleep(0.01)
    else:
        await gate.reached()
    if when == "committed":
        gate.open()
        here.ledger.flush(5)  # on the loop, so that the answer cannot be taken yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    assert await here.flushed()

    if when == "queued":
        assert one.id not in here.store.rows
    else:
        assert here.store.outcome(one) == ("failed", "not_started")
        team = here.store.meters["team:1"]
        assert (team.in_flight, team.day_points) == (0, 0)


# Closing.


async def test_closing_writes_what_is_left_and_signs_off(kept: Make, tmp_path: Path) -> None:
    here, many = kept(), [admission() for _ in range(450)]
    await admitted(here, *many)
    for each in many:
        here.ledger.settle(settlement(each))

    assert await asyncio.to_thread(here.ledger.close)

    assert {row.outcome for row in here.store.rows.values()} == {"done"}
    assert here.store.is_closed and here.store.beats == {}
    assert list((tmp_path / "spool").iterdir()) == []


async def test_closing_writes_how_many_were_refused(kept: Make) -> None:
    here = kept()
    await answers(here, admission(of_team=Limits(points_per_day=0)))

    assert await asyncio.to_thread(here.ledger.close)
    assert sum(here.store.refusals.values()) == 1


async def test_closing_while_the_database_is_down_leaves_it_to_the_next_process(
    kept: Make, tmp_path: Path
) -> None:
    here, many = kept(), [admission() for _ in range(5)]
    await admitted(here, *many)
    here.store.is_down = True
    for each in many:
        here.ledger.settle(settlement(each, points=2))

    assert not await asyncio.to_thread(here.ledger.close, 0.1)
    assert ids(here.on_disk()) == [each.id for each in many]
    here.store.is_down = False
    heir = kept(here.store)

    assert wait_for(lambda: {here.store.outcome(each)[0] for each in many} == {"done"}, 2)
    assert wait_for(lambda: [path.stem for path in (tmp_path / "spool").iterdir()] == [heir.spool.process], 2)
    assert here.store.meters["team:1"].in_flight == 0 and here.store.meters["team:1"].day_points == 10


async def test_closing_before_a_pile_is_written_leaves_the_rest_on_disk(kept: Make) -> None:
    """The database is not down, only slow."""
    here, many = kept(), [admission() for _ in range(800)]
    await admitted(here, *many)
    here.store.before_commit = lambda page: time.sleep(0.15)
    for each in many:
        here.ledger.settle(settlement(each))

    assert not await asyncio.to_thread(here.ledger.close, 0.2)
    assert wait_for(lambda: not here.is_running(), 2)

    unwritten = {each.id for each in many if here.store.rows[each.id].outcome == "open"}
    assert unwritten <= set(ids(here.on_disk()))


async def test_closing_while_the_database_hangs_leaves_it_on_disk(kept: Make) -> None:
    here, one, other = kept(), admission(), admission()
    await admitted(here, one, other)
    gate = Gate(here.store)
    here.ledger.settle(settlement(one))
    await gate.reached()
    here.ledger.settle(settlement(other))

    assert not await asyncio.to_thread(here.ledger.close, 0.1)
    # The process ends now, and its thread with it.
    left = ids(here.on_disk())
    gate.open()

    assert set(left) == {one.id, other.id}


# What the dead left.


def left_behind(directory: Path, *settlements: Settlement) -> str:
    """The file of a process that is gone."""
    dead = Spool(directory)
    dead.append(list(settlements))
    dead._file.close()
    return dead.process


def open_record(store: MemoryStore, process: str, **fields: Any) -> Admission:
    one = admission(**fields)
    store.rows[one.id] = row(id=one.id, outcome="open", key_id=1, first_byte_ms=None, total_ms=None)
    store.processes_of[one.id] = process
    for id_ in ("token:1", "user:1", "team:1", "key:1"):
        store.meters.setdefault(id_, Meter(id_)).in_flight += 1
    return one


async def test_it_takes_over_what_a_dead_process_left(kept: Make, tmp_path: Path) -> None:
    store = MemoryStore()
    ended, unfinished = admission(), None
    process = left_behind(tmp_path / "spool", settlement(ended, points=2))
    store.rows[ended.id] = row(id=ended.id, outcome="open")
    store.processes_of[ended.id] = process
    unfinished = open_record(store, process)
    store.beats[process] = store.now

    kept(store)

    assert wait_for(lambda: process not in store.beats, 2)
    assert store.outcome(ended) == ("done", "") and store.outcome(unfinished) == ("lost", "process_died")
    assert store.meters["key:1"].in_flight == 0
    assert not (tmp_path / "spool" / f"{process}.jsonl").exists()


async def test_what_cannot_be_read_stops_no_sweep(
    kept: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sweep, "HEARTBEAT_SECONDS", 0.02)
    (tmp_path / "spool" / "a-foreign.jsonl").mkdir(parents=True)
    one = admission()
    left_behind(tmp_path / "spool", settlement(one))
    with caplog.at_level(logging.WARNING):
        here = kept()
        assert wait_for(lambda: len(list((tmp_path / "spool").glob("*.jsonl"))) == 2, 5)
        await asyncio.sleep(0.2)

    said = [record.getMessage() for record in caplog.records if "process" not in record.getMessage()]
    assert said == ["the spool a-foreign.jsonl cannot be read: Is a directory"]
    assert not here.ledger._is_down


async def test_two_who_start_at_once_take_it_over_once(kept: Make, tmp_path: Path) -> None:
    store = MemoryStore()
    ended = [admission() for _ in range(300)]
    processes = [left_behind(tmp_path / "spool", *map(settlement, ended[i::3])) for i in range(3)]
    for each in ended:
        store.rows[each.id], store.processes_of[each.id] = row(id=each.id, outcome="open"), processes[0]

    spools = [Spool(tmp_path / "spool") for _ in range(2)]
    found = await asyncio.gather(*[asyncio.to_thread(each.orphans) for each in spools])

    assert sorted(o.process for those in found for o in those) == sorted(processes)
    for those in found:
        for orphan in those:
            orphan.release()
    for spool in spools:
        spool.close()
    kept(store)
    assert wait_for(lambda: {row.outcome for row in store.rows.values()} == {"done"}, 2)
    ((_key, sums),) = store.sums.items()
    assert sums[0] == 300


async def test_one_bad_settlement_of_a_dead_process_does_not_stop_the_sweep(
    kept: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "HEARTBEAT_SECONDS", 0.05)
    store, bad, good, others = MemoryStore(), admission(), admission(), admission()
    process = left_behind(tmp_path / "spool", settlement(bad), settlement(good))
    another = left_behind(tmp_path / "spool", settlement(others))
    for each, whose in ((bad, process), (good, process), (others, another)):
        store.rows[each.id], store.processes_of[each.id] = row(id=each.id, outcome="open"), whose
    unfinished = open_record(store, process)
    store.before_commit = refuse(bad)
    kept(store)

    assert wait_for(lambda: store.outcome(unfinished)[0] == "lost", 1)
    assert wait_for(lambda: store.outcome(good)[0] == store.outcome(others)[0] == "done", 1)
    assert wait_for(lambda: store.outcome(bad)[0] == "lost", 1)


async def test_an_orphan_is_kept_while_the_database_is_down(
    kept: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "HEARTBEAT_SECONDS", 0.05)
    store, ended = MemoryStore(), admission()
    store.rows[ended.id] = row(id=ended.id, outcome="open")
    process = left_behind(tmp_path / "spool", settlement(ended))
    store.processes_of[ended.id] = process
    hook = fail(DOWN, DOWN, DOWN)
    store.before_commit = lambda page: page.updated and hook(page)
    kept(store)

    assert wait_for(lambda: store.outcome(ended)[0] == "done", 3)
    assert wait_for(lambda: not (tmp_path / "spool" / f"{process}.jsonl").exists(), 2)


class Killed(BaseException):
    """As SIGKILL: nothing of the process catches it."""


@pytest.mark.parametrize("seed", range(6))
async def test_killed_at_any_moment_the_next_one_puts_it_right(
    seed: int, kept: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Before or after a commit, with the database up or down, with settlements on disk or not yet."""
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(writer, "ADMIT_SECONDS", 0.05)
    chance, store, told = random.Random(seed), MemoryStore(), dict[uuid.UUID, str]()
    safe: set[uuid.UUID] = set()

    async def one(here: Kept) -> None:
        each = admission(reservation(points=8))
        try:
            await here.ledger.admit(each)
        except Unavailable:
            told[each.id] = "unavailable"
            return
        told[each.id] = "admitted"
        await asyncio.sleep(chance.random() / 100)
        here.ledger.settle(settlement(each, points=2))

    for _generation in range(4):
        here, countdown = kept(store), [chance.randint(1, 6)]

        def hook(page: Page, left: list[int] = countdown) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise Killed
            store.is_down = chance.random() < 0.2

        setattr(store, chance.choice(["before_commit", "after_commit"]), hook)
        deadline = time.monotonic() + 1
        while here.is_running() and time.monotonic() < deadline:
            await asyncio.gather(*[one(here) for _ in range(5)])
            store.is_down = False
        assert not here.is_running()
        safe |= {each.id for each in here.on_disk() if each.outcome == "done"}
        here.let_go()
        store.before_commit = store.after_commit = lambda page: None
        store.is_down = False
    done = {id_ for id_, row in store.rows.items() if row.outcome == "done"}
    last = kept(store)

    assert wait_for(lambda: not store._open(), 3)
    assert wait_for(lambda: [each.stem for each in (tmp_path / "spool").iterdir()] == [last.spool.process], 2)
    rows = store.rows
    for id_, answer in told.items():
        if answer == "admitted":
            assert rows[id_].outcome in ("done", "lost")
        else:
            assert id_ not in rows or rows[id_].outcome in ("failed", "lost")
    # What was on disk or in the database when it was killed is not lost.
    assert {rows[id_].outcome for id_ in done | safe} <= {"done"}
    assert {meter.in_flight for meter in store.meters.values()} == {0}
    assert store.meters["team:1"].day_points == sum(row.points for row in rows.values())
    assert sum(sums[0] for sums in store.sums.values()) == len(rows)


# All of it at once.


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_fails_the_books_are_right_in_the_end(seed: int, kept: Make, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    chance, here = random.Random(seed), kept()
    limits = Limits(points_per_day=400, requests_in_flight=30, tokens_per_minute=4000)

    def before(page: Page) -> None:
        if chance.random() < 0.25:
            raise chance.choice([DOWN, Conflict("deadlock"), Conflict("deadlock"), OSError("disk")])

    def after(page: Page) -> None:
        team = here.store.meters.get("team:1")
        most.append((team.in_flight, team.day_points) if team else (0, 0))
        if chance.random() < 0.15:
            raise DOWN

    here.store.before_commit, here.store.after_commit = before, after
    told: dict[uuid.UUID, str] = {}
    most: list[tuple[int, int]] = []

    async def one(number: int) -> None:
        each = admission(
            reservation(points=8, output=60), of_team=limits, candidates=(candidate(1), candidate(2))
        )
        try:
            answer = await here.ledger.admit(each)
        except Unavailable:
            told[each.id] = "unavailable"
            return
        except RelayError:
            told[each.id] = "refused"
            return
        told[each.id] = "done"
        key = answer.key_id
        if number % 3 == 0:
            try:
                wanted = reservation(points=9, output=70)
                key = (
                    await here.ledger.change(change(each, wanted, key=key, candidates=(candidate(2),)))
                ).key_id
            except RelayError:
                pass
        if number % 5:
            await asyncio.sleep(0)
        here.ledger.settle(settlement(each, points=number % 8, key_id=key, completion_tokens=number % 50))

    for start in range(0, 120, 20):
        await asyncio.gather(*map(one, range(start, start + 20)))
        await asyncio.sleep(0.005)
    here.store.before_commit = here.store.after_commit = lambda page: None
    assert await here.flushed()

    assert max(slots for slots, _points in most) <= 30
    assert max(points for _slots, points in most) <= 400
    rows = here.store.rows
    for id_, answer in told.items():
        if answer == "done":
            assert rows[id_].outcome == "done"
        elif answer == "unavailable":
            assert id_ not in rows or rows[id_].error_code == "not_started"
        else:
            assert id_ not in rows
    assert Counter(told.values())["done"] > 10
    for meter in here.store.meters.values():
        assert meter.in_flight == 0
    points = sum(row.points for row in rows.values())
    assert {here.store.meters[id_].day_points for id_ in ("token:1", "user:1", "team:1")} == {points}
    expected: Counter[Any] = Counter()
    for each in rows.values():
        for i, value in enumerate(contribution(each)):
            expected[key_of(each), i] += value
    assert +expected == +Counter({(k, i): v for k, vs in here.store.sums.items() for i, v in enumerate(vs)})
    assert here.on_disk() == []
