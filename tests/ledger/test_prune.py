"""Pruning removes what is old and over, a little at a time, and leaves the ledger verifiable wherever it is stopped."""

from __future__ import annotations

import fcntl
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections

from relay.ledger import prune as module
from relay.ledger.prune import prune
from relay.ledger.sql import ROW_COLUMNS
from relay.ledger.verify import verify
from relay.models import Meter, Pruning, UsageHour, UsageRecord
from tests import cast as people
from tests.ledger import making, written

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime.now(UTC)
SOON, LONG_AGO = int(NOW.timestamp()) + 3600, int(NOW.timestamp()) - 50 * 86400


def record(days_old: float, **fields: Any) -> UsageRecord:
    made = unsaved(NOW - timedelta(days=days_old), **fields)
    made.save(force_insert=True)
    return made


def unsaved(started_at: datetime, **values: Any) -> UsageRecord:
    row = making.row(started_at=started_at, **values)
    return UsageRecord(**{each: getattr(row, each) for each in ROW_COLUMNS} | {"streamed": True})


def left() -> list[float]:
    """How many days old the records are that are left."""
    return [
        round((NOW - each.started_at) / timedelta(days=1), 3)
        for each in UsageRecord.objects.order_by("-started_at")
    ]


@pytest.mark.parametrize(
    ("kept", "left_then", "watermark"),
    [
        (None, [1, 89.999], 90),
        ({"days_old": 95, "outcome": "open"}, [1, 89.999, 90.001, 91, 95], 95),
        ({"days_old": 92, "month_ends": SOON}, [1, 89.999, 90.001, 91, 92], 92),
        ({"days_old": 92, "day_ends": SOON}, [1, 89.999, 90.001, 91, 92], 92),
        ({"days_old": 92, "own_month_ends": SOON}, [1, 89.999, 90.001, 91, 92], 92),
        ({"days_old": 92, "own_day_ends": SOON}, [1, 89.999, 90.001, 91, 92], 92),
        ({"days_old": 92, "month_ends": LONG_AGO, "day_ends": LONG_AGO}, [1, 89.999], 90),
        ({"days_old": 92, "outcome": "lost"}, [1, 89.999], 90),
        # What is younger stays anyway.
        ({"days_old": 3, "outcome": "open"}, [1, 3, 89.999], 90),
    ],
)
def test_it_removes_what_is_older_than_everything_that_must_stay(
    transactional_db: None, kept: dict[str, Any] | None, left_then: list[float], watermark: int
) -> None:
    for days_old in (1, 89.999, 90.001, 91, 100, 400):
        record(days_old)
    if kept is not None:
        record(**kept)
    before = UsageRecord.objects.count()

    pruned = prune(NOW - timedelta(days=90))

    assert left() == left_then
    assert pruned.records == before - len(left())
    assert pruned.before == NOW - timedelta(days=watermark) == Pruning.objects.get().pruned_before


def test_many_are_removed_in_many_small_transactions(transactional_db: None) -> None:
    UsageRecord.objects.bulk_create(unsaved(NOW - timedelta(days=100, minutes=n // 7)) for n in range(300))
    sizes: list[int] = []

    class Counting(module._Pace):
        def small_transaction(self) -> Any:
            sizes.append(self.size)
            return super().small_transaction()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_Pace", Counting)
        pruned = prune(NOW - timedelta(days=90))

    assert pruned.records == 300 and not UsageRecord.objects.exists()
    assert len(sizes) > 3 and sum(sizes) >= 300


@pytest.mark.parametrize(("took", "size"), [(0.02, 50), (0.001, 150), (10.0, module.FEWEST)])
def test_it_removes_as_many_at_once_as_fit(took: float, size: int) -> None:
    pace = module._Pace()
    pace.size = 100

    pace.took(took)

    assert (pace.size, pace.seconds) == (size, [took])


def test_what_stops_it_leaves_the_ledger_verifiable(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watermark is there before the first record is gone."""
    old = NOW - timedelta(days=100)
    for minutes in range(30):
        written.used(1, old + timedelta(minutes=minutes))
    remove = module._remove

    def remove_and_die(rows: Any, pace: Any) -> int:
        remove(rows, pace)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_remove", remove_and_die)
    with pytest.raises(KeyboardInterrupt):
        prune(NOW - timedelta(days=90))

    assert 0 < UsageRecord.objects.count() < 30
    assert verify().differences == ()
    Pruning.objects.all().delete()
    assert verify().differences != ()


def test_after_it_everything_still_agrees_and_the_rollups_stay(transactional_db: None) -> None:
    for days in (100, 70, 40, 0):
        written.used(days + 1, NOW - timedelta(days=days))
    hours = list(UsageHour.objects.order_by("pk").values())

    assert prune(NOW - timedelta(days=1)).records == 3

    assert list(UsageHour.objects.order_by("pk").values()) == hours
    assert verify().differences == ()


def test_the_watermark_never_goes_back_nor_moves_for_nothing(transactional_db: None) -> None:
    prune(NOW)
    assert not Pruning.objects.exists()
    Pruning.objects.create(pk=1, pruned_before=NOW - timedelta(days=10))
    record(100)

    prune(NOW - timedelta(days=90))

    assert not UsageRecord.objects.exists()
    assert Pruning.objects.get().pruned_before == NOW - timedelta(days=10)


def test_it_waits_for_its_turn_on_sqlite(transactional_db: None) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite's writers take turns")
    record(100)

    def in_thread() -> None:
        try:
            prune(NOW - timedelta(days=90))
        finally:
            connections.close_all()

    thread = threading.Thread(target=in_thread)
    with open(f"{connection.settings_dict['NAME']}.turn", "a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        thread.start()
        time.sleep(0.2)
        assert UsageRecord.objects.exists() and not Pruning.objects.exists()
    thread.join(5)

    assert not UsageRecord.objects.exists()


@pytest.mark.parametrize(
    ("carries", "stays"),
    [
        ({}, False),
        ({"in_flight": 1}, True),
        ({"day_points": 1, "day_ends": SOON}, True),
        ({"day_points": 1, "day_ends": LONG_AGO}, False),
        ({"month_points": -1, "month_ends": SOON}, True),
        ({"month_points": 1, "month_ends": LONG_AGO, "requests_level": 7}, False),
    ],
)
def test_meters_of_owners_that_are_gone_go_when_they_carry_nothing(
    transactional_db: None, carries: dict[str, int], stays: bool
) -> None:
    cast = people.make()
    key = people.poe_key()
    living = [
        f"token:{cast.bob.token.pk}",
        f"user:{cast.bob.user.pk}",
        f"team:{cast.physics.pk}",
        f"key:{key.pk}",
        f"account:{key.account.pk}",
    ]
    gone = [f"{each.partition(':')[0]}:{10**6}" for each in living]
    Meter.objects.bulk_create(Meter(pk=id_, **carries) for id_ in (*living, *gone))

    pruned = prune(NOW)

    assert pruned.meters == (0 if stays else len(gone))
    assert set(Meter.objects.values_list("pk", flat=True)) == {*living, *(gone if stays else ())}
