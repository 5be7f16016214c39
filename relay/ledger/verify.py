"""Recomputes meters and rollups from the usage records, and days from their hours, in one snapshot of the database, and says what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Max, Min

from relay.ledger import days, sql
from relay.ledger.rollups import FIRST_BYTE_BOUNDS, KEY_COLUMNS, SUM_COLUMNS, hour_of
from relay.models import Meter, Pruning, UsageHour, UsageRecord
from relay.turn import now as moment

HOUR = timedelta(hours=1)
# So much of the rollups is compared at once.
WINDOW = timedelta(days=1)
# No period of a budget is longer, whatever a time zone does to its clocks.
LONGEST_DAY, LONGEST_MONTH = 3 * 86400, 33 * 86400
OWNERS = ("token", "user", "team")

# Both only read, and lock nothing that a server waits for: all statements see the moment of the first.
BEGIN = {"sqlite": "BEGIN DEFERRED", "postgresql": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
# An hour as the text 2026-05-13 12, in UTC.
HOUR_TEXT = {
    "sqlite": "substr({}, 1, 13)",
    "postgresql": "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24')",
}

# A team counts by its own calendar, a token by its user's: see UsageRecord.
POINTS = """
SELECT token_id, user_id, team_id, day_ends, month_ends, own_day_ends, own_month_ends,
    CAST(sum(points) AS bigint), count(*)
FROM relay_usagerecord GROUP BY 1, 2, 3, 4, 5, 6, 7
"""

_LOWER_BOUNDS = (None, *FIRST_BYTE_BOUNDS)
_UPPER_BOUNDS = (*FIRST_BYTE_BOUNDS, None)


def _count(condition: str) -> str:
    return f"count(CASE WHEN {condition} THEN 1 END)"


def _first_bytes(over: int | None, at_most: int | None) -> str:
    conditions = [f"first_byte_ms > {over}"] * (over is not None)
    conditions += [f"first_byte_ms <= {at_most}"] * (at_most is not None)
    return _count(" AND ".join(conditions))


# rollups.contribution, summed by the database; a test holds them together. In the order of SUM_COLUMNS.
CONTRIBUTIONS = (
    "count(*)",
    _count("outcome = 'failed'"),
    _count("outcome = 'disconnected'"),
    _count("outcome = 'lost'"),
    "sum(prompt_tokens)",
    "sum(completion_tokens)",
    "sum(images)",
    "sum(points)",
    "sum(coalesce(total_ms, 0))",
    *map(_first_bytes, _LOWER_BOUNDS, _UPPER_BOUNDS),
)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared, and in plain words what differs."""

    meters: int
    hours: int
    records: int
    pruned_before: datetime | None
    differences: tuple[str, ...]


def verify() -> Verified:
    with _snapshot() as cursor:
        pruned_before = Pruning.objects.values_list("pruned_before", flat=True).first()
        now = moment()
        periods = _Periods(now, pruned_before)
        for row in _rows(cursor, POINTS):
            periods.add(row)
        meters = list(Meter.objects.order_by("pk"))
        differences = [
            *_wrong_slots(cursor),
            *(said for meter in meters for said in periods.differences(meter)),
            *periods.counted_by_no_meter({meter.id: meter for meter in meters}),
            *_wrong_hours(cursor, pruned_before),
            *days.differences(),
        ]
        hours = UsageHour.objects.filter(hour__gte=_first_whole_hour(pruned_before)).count()
    return Verified(len(meters), hours, periods.records, pruned_before, tuple(differences))


@contextmanager
def _snapshot() -> Iterator[CursorWrapper]:
    """What the ORM reads meanwhile is of this snapshot too: it is the same connection."""
    with connection.cursor() as cursor:
        cursor.execute(BEGIN[connection.vendor])
        try:
            yield cursor
        finally:
            cursor.execute("ROLLBACK")


def _rows(cursor: CursorWrapper, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    cursor.execute(statement, parameters)
    return list(cursor.fetchall())


def _wrong_slots(cursor: CursorWrapper) -> Iterator[str]:
    for id_, said, right in _rows(cursor, sql.WRONG_SLOTS):
        yield f"{id_}: the meter says {said} requests in flight, there are {right} open records"
    for id_, number in _rows(cursor, sql.SLOTS_WITHOUT_A_METER):
        yield f"{id_}: no meter, and {number} open records"


# Points.


class _Periods:
    """The points of the records, by owner and by the period that they count in."""

    def __init__(self, now: int, pruned_before: datetime | None) -> None:
        self.records = 0
        self._now = now
        self._pruned_before = pruned_before.timestamp() if pruned_before else 0
        self._days: Counter[tuple[str, int]] = Counter()
        self._months: Counter[tuple[str, int]] = Counter()

    def add(self, row: tuple[int, ...]) -> None:
        """A row of POINTS."""
        token, user, team, day_ends, month_ends, own_day_ends, own_month_ends, points, records = row
        self.records += records
        self._days[f"team:{team}", day_ends] += points
        self._months[f"team:{team}", month_ends] += points
        for id_ in (f"token:{token}", f"user:{user}"):
            self._days[id_, own_day_ends] += points
            self._months[id_, own_month_ends] += points

    def differences(self, meter: Meter) -> Iterator[str]:
        if meter.id.partition(":")[0] not in OWNERS:
            return
        if self._has_all_records(meter.day_ends, LONGEST_DAY):
            yield from _difference(meter.id, "day", meter.day_ends, meter.day_points, self._days)
        if self._has_all_records(meter.month_ends, LONGEST_MONTH):
            yield from _difference(meter.id, "month", meter.month_ends, meter.month_points, self._months)

    def counted_by_no_meter(self, meters: dict[str, Meter]) -> Iterator[str]:
        """Of a period that is not over: until then, a meter that began to count in it stays with it."""
        for period, sums in (("day", self._days), ("month", self._months)):
            for (id_, ends), points in sorted(sums.items()):
                if not points or ends <= self._now:
                    continue
                meter = meters.get(id_)
                by_its_records = f"{points} points by the records of the {_period(period, ends)}"
                if meter is None:
                    yield f"{id_}: no meter, and {by_its_records}"
                elif (counts := meter.day_ends if period == "day" else meter.month_ends) != ends:
                    yield f"{id_}: {by_its_records}, and the meter counts the {_period(period, counts)}"

    def _has_all_records(self, ends: int, longest: int) -> bool:
        """Nothing is pruned of a period that is not over; of one that is over, if it began after what was pruned."""
        return ends > self._now or (ends > 0 and ends - longest >= self._pruned_before)


def _difference(
    id_: str, period: str, ends: int, points: int, sums: Counter[tuple[str, int]]
) -> Iterator[str]:
    right = sums[id_, ends]
    if points != right:
        yield (
            f"{id_}: the meter says {points} points, its records say {right}, in the {_period(period, ends)}"
        )


def _period(period: str, ends: int) -> str:
    return f"{period} that ends at {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC"


# Rollups.


def _wrong_hours(cursor: CursorWrapper, pruned_before: datetime | None) -> Iterator[str]:
    first, end = _hours_to_compare(pruned_before)
    statement = _compare_hours()
    while first < end:
        window = [
            connection.ops.adapt_datetimefield_value(each) for each in (first, min(end, first + WINDOW))
        ]
        for row in _rows(cursor, statement, *window, *window):
            yield _hour_difference(row)
        first += WINDOW


def _first_whole_hour(pruned_before: datetime | None) -> datetime:
    if pruned_before is None:
        return datetime(1970, 1, 1, tzinfo=UTC)
    hour = hour_of(pruned_before)
    return hour if hour == pruned_before else hour + HOUR


def _hours_to_compare(pruned_before: datetime | None) -> tuple[datetime, datetime]:
    of_records = UsageRecord.objects.aggregate(first=Min("started_at"), last=Max("started_at"))
    of_rollups = UsageHour.objects.aggregate(first=Min("hour"), last=Max("hour"))
    firsts = [found["first"] for found in (of_records, of_rollups) if found["first"]]
    lasts = [found["last"] for found in (of_records, of_rollups) if found["last"]]
    whole = _first_whole_hour(pruned_before)
    if not firsts:
        return whole, whole
    return max(whole, hour_of(min(firsts))), hour_of(max(lasts)) + HOUR


def _compare_hours() -> str:
    """What the rollups have more than the records, by key; nothing where they agree."""
    hour = HOUR_TEXT[connection.vendor]
    keys = ", ".join(KEY_COLUMNS)
    stored = ", ".join((hour.format("hour"), *KEY_COLUMNS[1:], *SUM_COLUMNS))
    owners = ("coalesce(key_id, 0)" if name == "key_id" else name for name in KEY_COLUMNS[1:])
    counted = ", ".join((hour.format("started_at"), *owners, *(f"-{each}" for each in CONTRIBUTIONS)))
    differing = " OR ".join(f"sum({name}) <> 0" for name in SUM_COLUMNS)
    more = ", ".join(f"CAST(sum({name}) AS bigint)" for name in SUM_COLUMNS)
    # Built from the names of columns; values are parameters.
    return (
        f"WITH both_sides ({keys}, {', '.join(SUM_COLUMNS)}) AS ("  # noqa: S608
        f"SELECT {stored} FROM relay_usagehour WHERE hour >= %s AND hour < %s "
        f"UNION ALL SELECT {counted} FROM relay_usagerecord "
        "WHERE outcome <> 'open' AND started_at >= %s AND started_at < %s GROUP BY 1, 2, 3, 4, 5, 6, 7) "
        f"SELECT {keys}, {more} FROM both_sides GROUP BY {keys} HAVING {differing} ORDER BY {keys}"
    )


def _hour_difference(row: tuple[Any, ...]) -> str:
    hour, team, user, token, key, model, bot, *more = row
    said = ", ".join(
        f"{abs(number)} {'more' if number > 0 else 'fewer'} {name}"
        for name, number in zip(SUM_COLUMNS, more, strict=True)
        if number
    )
    return (
        f"hour {hour}:00 UTC, team {team}, user {user}, token {token}, key {key}, model {model!r}, bot {bot!r}: "
        f"the rollup has {said} than the records"
    )
