"""`verify` finds whatever is wrong and nothing else, and disturbs nobody."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relay.ledger import verify as module
from relay.ledger.deciding import Row
from relay.ledger.items import Reservation
from relay.ledger.rollups import FIRST_BYTE_BOUNDS, KEY_COLUMNS, SUM_COLUMNS, Hours, contribution
from relay.ledger.sql import ROW_COLUMNS
from relay.ledger.verify import verify
from relay.models import Meter, Pruning, UsageHour, UsageRecord
from tests.ledger import making, written

pytestmark = pytest.mark.django_db(transaction=True)


def everything_that_happens() -> None:
    """One of each: open, done, failed, disconnected, extended, on another key, lost, and lost but settled later."""
    written.admit(points=5)
    done, failed, left, extended, moved, lost, late = (written.admit(points=10) for _ in range(7))
    written.change(extended, Reservation(7, 300, 0, 25))
    written.change(moved, moved.reservations[0], candidates=(making.candidate(2),), bot="Other")
    written.settle(
        making.settlement(done, points=4),
        making.not_started(failed),
        making.settlement(left, "disconnected", points=3, completion_tokens=1),
        making.settlement(extended, points=21, completion_tokens=250),
        making.settlement(moved, key_id=2, bot="Other", points=6, first_byte_ms=40_000),
        making.lost(lost),
        making.lost(late),
    )
    written.settle(making.settlement(late, points=2, bot="Fallback"))


def test_what_the_ledger_wrote_is_right(transactional_db: None) -> None:
    everything_that_happens()

    verified = verify()

    assert verified.differences == ()
    assert (verified.records, verified.meters, verified.pruned_before) == (8, 6, None)
    assert Meter.objects.get(pk="team:1").day_points == 5 + 4 + 3 + 21 + 6 + 10 + 2


def test_who_came_from_a_team_of_another_calendar_counts_in_periods_of_its_own(
    transactional_db: None,
) -> None:
    """From UTC to 14 hours before it: the day there, and once a month the month, ends at another moment."""
    first = written.admit(points=100)
    written.used(points=1, team=2, time_zone="Pacific/Kiritimati")
    written.used(points=2)
    written.settle(making.settlement(first, points=5))

    verified = verify()

    assert verified.differences == ()
    assert Meter.objects.get(pk="user:1").day_points == 5 + 1 + 2
    days = {each.pk: each.day_ends for each in Meter.objects.all()}
    assert days["user:1"] == days["token:1"] == days["team:1"] != days["team:2"]


WRONG = [
    (
        "UPDATE relay_meter SET day_points = 52 WHERE id = 'user:1'",
        "user:1: the meter says 52 points, its records say 51, in the day that ends at ",
    ),
    (
        "UPDATE relay_meter SET month_points = month_points - 1 WHERE id = 'token:1'",
        "token:1: the meter says 50 points, its records say 51, in the month that ends at ",
    ),
    (
        "UPDATE relay_meter SET in_flight = 2 WHERE id = 'key:1'",
        "key:1: the meter says 2 requests in flight, there are 1 open records",
    ),
    (
        "UPDATE relay_usagehour SET points = points + 3, lost = lost - 1 WHERE lost = 1",
        "the rollup has 1 fewer lost, 3 more points than the records",
    ),
    (
        "UPDATE relay_usagehour SET first_byte_more = 0, first_byte_30000 = 1 WHERE bot = 'Other'",
        "bot 'Other': the rollup has 1 more first_byte_30000, 1 fewer first_byte_more than the records",
    ),
    (
        "DELETE FROM relay_usagehour WHERE bot = 'Fallback'",
        "bot 'Fallback': the rollup has 1 fewer requests, 7 fewer prompt_tokens, 100 fewer completion_tokens, "
        "2 fewer points, 50 fewer total_ms, 1 fewer first_byte_250 than the records",
    ),
    (
        "UPDATE relay_usagerecord SET total_ms = 51 WHERE bot = 'Fallback'",
        "bot 'Fallback': the rollup has 1 fewer total_ms than the records",
    ),
    (
        "DELETE FROM relay_meter WHERE id = 'team:1'",
        "team:1: no meter, and 51 points by the records of the day that ends at ",
    ),
    (
        "UPDATE relay_meter SET day_ends = 0, day_points = 0 WHERE id = 'user:1'",
        "and the meter counts the day that ends at 1970-01-01 00:00 UTC",
    ),
    (
        "UPDATE relay_meter SET month_ends = month_ends - 86400, month_points = 0 WHERE id = 'token:1'",
        "token:1: 51 points by the records of the month that ends at ",
    ),
    (
        "UPDATE relay_meter SET day_ends = day_ends + 86400, day_points = 0 WHERE id = 'team:1'",
        "team:1: 51 points by the records of the day that ends at ",
    ),
    ("DELETE FROM relay_meter WHERE id = 'key:1'", "key:1: no meter, and 1 open records"),
]


@pytest.mark.parametrize(("statement", "said"), WRONG)
def test_it_finds_what_is_wrong(transactional_db: None, statement: str, said: str) -> None:
    everything_that_happens()
    written.execute(statement)

    differences = verify().differences

    assert any(said in difference for difference in differences), differences


def test_it_finds_a_record_that_is_gone(transactional_db: None) -> None:
    written.used(10)
    UsageRecord.objects.all().delete()

    differences = verify().differences

    # Of the token, the user and the team a day and a month each, and the rollup.
    assert len(differences) == 7
    assert sum("the meter says 10 points, its records say 0" in each for each in differences) == 6


NOW = datetime(2026, 5, 13, 12, 34, 56, tzinfo=UTC)
FIRST_BYTES = [None, 0, 1, *(bound + more for bound in FIRST_BYTE_BOUNDS for more in (0, 1))]
ROWS = [
    *(making.row(first_byte_ms=ms) for ms in FIRST_BYTES),
    *(making.row(outcome=each) for each in ("done", "failed", "disconnected", "lost")),
    making.row(total_ms=None, images=3, model="Größe '%s", bot="ビット"),
    making.row(key_id=0),
    making.row(started_at=NOW.replace(minute=0, second=0), points=0),
    making.row(started_at=NOW.replace(minute=59, second=59, microsecond=999_999)),
    making.row(started_at=NOW + timedelta(days=3, hours=11)),
]


def stored(row: Row) -> None:
    values: dict[str, Any] = {each: getattr(row, each) for each in ROW_COLUMNS}
    # A record of an early release may have no key.
    UsageRecord.objects.create(**values | {"key_id": row.key_id or None, "streamed": True})


def test_it_adds_up_exactly_as_the_ledger_does(transactional_db: None) -> None:
    hours = Hours()
    for row in ROWS:
        stored(row)
        hours.add(row, +1)
    for values in hours.rows():
        UsageHour.objects.create(**dict(zip((*KEY_COLUMNS, *SUM_COLUMNS), values, strict=True)))

    assert verify().differences == ()
    assert len({contribution(row) for row in ROWS}) > 10


@pytest.mark.parametrize(("pruned_before", "wrong"), [(None, 2), (NOW, 1), (NOW + timedelta(hours=2), 0)])
def test_it_compares_only_hours_wholly_after_what_was_pruned(
    transactional_db: None, pruned_before: datetime | None, wrong: int
) -> None:
    for hours_later in (0, 1):
        stored(making.row(id=uuid.uuid4(), started_at=NOW + timedelta(hours=hours_later)))
    if pruned_before:
        Pruning.objects.create(pk=1, pruned_before=pruned_before)

    differences = verify().differences

    assert [re.search(r"^hour \S+ (\d+)", each) is not None for each in differences] == [True] * wrong


@pytest.mark.parametrize(
    ("pruned_days_ago", "wrong"),
    # The day ended 95 days ago and began 98 days ago at the earliest, the month 90 and 123.
    [(None, 6), (200, 6), (99, 3), (95, 0), (10, 0)],
)
def test_it_leaves_out_periods_of_which_records_may_be_gone(
    transactional_db: None, pruned_days_ago: int | None, wrong: int
) -> None:
    """Of the token, the user and the team a day and a month each."""
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    day_ends, month_ends = (int((now - timedelta(days=days)).timestamp()) for days in (95, 90))
    for id_ in ("token:1", "user:1", "team:1"):
        Meter.objects.create(pk=id_, day_ends=day_ends, day_points=5, month_ends=month_ends, month_points=5)
    if pruned_days_ago is not None:
        Pruning.objects.create(pk=1, pruned_before=now - timedelta(days=pruned_days_ago))

    assert len(verify().differences) == wrong


def test_a_period_that_is_not_over_is_always_checked(transactional_db: None) -> None:
    written.used(10)
    Meter.objects.filter(pk="user:1").update(day_points=11, month_points=11)
    Pruning.objects.create(pk=1, pruned_before=datetime.now(UTC))

    assert len(verify().differences) == 2


def test_servers_go_on_writing_and_it_sees_one_moment(transactional_db: None) -> None:
    written.used(10)

    with module._snapshot():
        before = UsageRecord.objects.count()
        written.used(10)
        assert UsageRecord.objects.count() == before == 1

    assert UsageRecord.objects.count() == 2
