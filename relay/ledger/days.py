"""Adds up the days that are over: what charts over months read instead of hundreds of thousands of hours.

A day, by UTC, is added up once nothing changes in it any more. What changes in it all the same (a lost request that was not,
what Poe charged) is noted by a trigger in the transaction of the change, and the day is added up anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import add
from typing import Any

from django.db.models import Min, Model, QuerySet, Sum

from relay.ledger.rollups import SHARE_COLUMNS, SUM_COLUMNS
from relay.models import AddedUp, LateHour, ModelDay, TeamHour, TokenDay, UsageHour
from relay.turn import now as moment
from relay.turn import transaction_in_turn

DAY = timedelta(days=1)
# After the end of a day. A change is noted if its hour began two hours ago, which is one hour after its end; the other hour
# is for transactions that take long. Both go by the database's clock.
CLOSED_AFTER = timedelta(hours=2)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
ALL_TEAMS = 0
# No transaction is to take 50 ms; so many rows take a fifth of that.
ROWS_AT_ONCE, NOTES_AT_ONCE = 200, 500

Sums = dict[tuple[Any, ...], tuple[int, ...]]


class Overtaken(Exception):
    """Another process adds up."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a day is added up into: by which columns of the hours, and which sums of them."""

    model: type[Model]
    keys: tuple[str, ...]
    sums: tuple[str, ...]

    @property
    def is_by_hour(self) -> bool:
        return "hour" in self.keys

    def of_day(self, day: datetime) -> QuerySet[Any]:
        rows = self.model._default_manager.order_by()
        return (
            rows.filter(hour__gte=day, hour__lt=day + DAY) if self.is_by_hour else rows.filter(day=day.date())
        )

    def stored(self, day: datetime) -> Sums:
        return _sums(self.of_day(day).values_list(*self.keys, *self.sums), len(self.keys))

    def counted(self, day: datetime) -> Sums:
        """As it should be."""
        hours = UsageHour.objects.filter(hour__gte=day, hour__lt=day + DAY).order_by()
        by_keys = hours.values_list(*self.keys).annotate(**{f"all_{name}": Sum(name) for name in self.sums})
        found = _sums(by_keys, len(self.keys))
        return found | _of_all_teams(found) if self.is_by_hour else found

    def row(self, day: datetime, key: tuple[Any, ...], sums: tuple[int, ...]) -> Model:
        of_day = {} if self.is_by_hour else {"day": day.date()}
        return self.model(**of_day, **dict(zip((*self.keys, *self.sums), (*key, *sums), strict=True)))


TABLES = (
    Table(TeamHour, ("hour", "team_id"), SUM_COLUMNS),
    Table(TokenDay, ("team_id", "user_id", "token_id"), SHARE_COLUMNS),
    Table(ModelDay, ("team_id", "model"), SHARE_COLUMNS),
)


def _sums(rows: QuerySet[Any, tuple[Any, ...]], keys: int) -> Sums:
    """PostgreSQL's sums of whole numbers are no whole numbers for Python."""
    return {row[:keys]: tuple(map(int, row[keys:])) for row in rows}


def _of_all_teams(found: Sums) -> Sums:
    totals: dict[datetime, tuple[int, ...]] = {}
    for (hour, _team), sums in found.items():
        totals[hour] = tuple(map(add, totals[hour], sums)) if hour in totals else sums
    return {(hour, ALL_TEAMS): sums for hour, sums in totals.items()}


def added_until() -> datetime:
    return AddedUp.objects.filter(pk=1).values_list("until", flat=True).first() or NEVER


def midnight(moment: datetime) -> datetime:
    """The beginning of its day in UTC."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def add_up() -> bool:
    """Days that changed, or else the next one that is over; whether there may be more to do.

    One process at a time; the work of one that comes too late is dropped, with Overtaken. Notes are read before the hours:
    what is not yet in the sums is noted after them.
    """
    added = AddedUp.objects.get_or_create(pk=1, defaults={"until": NEVER})[0]
    notes = dict(LateHour.objects.order_by("pk").values_list("pk", "hour")[:NOTES_AT_ONCE])
    if notes:
        for day in sorted({midnight(hour) for hour in notes.values() if hour < added.until}):
            _write(day, added)
        with _turn(added):
            LateHour.objects.filter(pk__in=notes).delete()
        return True
    next_hour = UsageHour.objects.filter(hour__gte=added.until).aggregate(first=Min("hour"))["first"]
    if next_hour is None or _is_open(day := midnight(next_hour)):
        return False
    _write(day, added)
    with _turn(added):
        AddedUp.objects.filter(pk=1).update(until=day + DAY)
    return True


def _is_open(day: datetime) -> bool:
    return moment() < (day + DAY + CLOSED_AFTER).timestamp()


def _write(day: datetime, added: AddedUp) -> None:
    """Only what differs, a little at a time: a day that is added up anew differs in a few rows."""
    for table in TABLES:
        counted, stored = table.counted(day), table.stored(day)
        rows = [table.row(day, key, sums) for key, sums in counted.items() if stored.get(key) != sums]
        unique = list(table.keys) if table.is_by_hour else ["day", *table.keys]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            with _turn(added):
                table.model._default_manager.bulk_create(
                    rows[start : start + ROWS_AT_ONCE],
                    update_conflicts=True,
                    unique_fields=unique,
                    update_fields=table.sums,
                )


@contextmanager
def _turn(added: AddedUp) -> Iterator[None]:
    """A transaction, unless another process has added up since `added` was read."""
    with transaction_in_turn():
        ours = AddedUp.objects.filter(pk=1, changes=added.changes)
        if not ours.update(changes=added.changes + 1):
            raise Overtaken
        yield
    added.changes += 1


# For `ledger verify`.


def differences() -> Iterator[str]:
    """What is added up and is not the sum of its hours, in plain words. Days that are to be added up anew are left out."""
    until = added_until()
    first = UsageHour.objects.aggregate(first=Min("hour"))["first"]
    noted = set(map(midnight, LateHour.objects.values_list("hour", flat=True)))
    day = midnight(first) if first else until
    while day < until:
        for table in TABLES if day not in noted else ():
            counted, stored = table.counted(day), table.stored(day)
            for key in sorted(counted.keys() | stored.keys()):
                if counted.get(key) != stored.get(key):
                    yield _difference(table, day, key, counted.get(key), stored.get(key))
        day += DAY


def _difference(
    table: Table,
    day: datetime,
    key: tuple[Any, ...],
    counted: tuple[int, ...] | None,
    stored: tuple[int, ...] | None,
) -> str:
    of = ", ".join(f"{name} {value!r}" for name, value in zip(table.keys, key, strict=True) if name != "hour")
    when = f"hour {key[0]:%Y-%m-%d %H}:00 UTC" if table.is_by_hour else f"day {day:%Y-%m-%d} UTC"
    nothing = (0,) * len(table.sums)
    said = ", ".join(
        f"{name} {is_} instead of {right}"
        for name, is_, right in zip(table.sums, stored or nothing, counted or nothing, strict=True)
        if is_ != right
    )
    return f"{when}, {of}: {said or 'a row of nothing'}"
