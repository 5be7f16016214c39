"""What was used, when and by whom: the queries behind every chart and summary. They read rollups, never usage records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Model, QuerySet, Sum

from accounts.models import AccessToken, Team, User
from relay.ledger.rollups import FIRST_BYTE_BOUNDS
from relay.models import PoeKey, RefusalHour, UsageHour

FIRST_BYTE_COLUMNS = (*(f"first_byte_{bound}" for bound in FIRST_BYTE_BOUNDS), "first_byte_more")
# Charts and tables show the greatest; nobody reads thousands of rows.
MOST = 100


@dataclass(frozen=True, slots=True)
class Scope:
    """The hours that began from `since` on and before `until`; of all, or of one team or user."""

    since: datetime
    until: datetime
    team_id: int | None = None
    user_id: int | None = None

    def of(self, rollups: QuerySet[Any]) -> QuerySet[Any]:
        found = rollups.filter(hour__gte=self.since, hour__lt=self.until)
        if self.team_id is not None:
            found = found.filter(team_id=self.team_id)
        if self.user_id is not None:
            found = found.filter(user_id=self.user_id)
        return found


@dataclass(frozen=True, slots=True)
class Use:
    """Sums of settled requests. A request counts in the hour in which it began; lost ones at their reservation."""

    requests: int = 0
    failed: int = 0
    disconnected: int = 0
    lost: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    images: int = 0
    points: int = 0
    total_ms: int = 0

    @property
    def done(self) -> int:
        return self.requests - self.failed - self.disconnected - self.lost

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def mean_seconds(self) -> float | None:
        return self.total_ms / self.requests / 1000 if self.requests else None

    def __add__(self, other: Use) -> Use:
        return Use(*(getattr(self, name) + getattr(other, name) for name in USE_COLUMNS))


USE_COLUMNS = tuple(each.name for each in fields(Use))
# An annotation may not be called as a column is.
_SUMS: Any = {f"all_{name}": Sum(name, default=0) for name in USE_COLUMNS}


def _use(row: dict[str, Any]) -> Use:
    return Use(*(row[name] for name in _SUMS))


@dataclass(frozen=True, slots=True)
class Day:
    day: date
    use: Use


@dataclass(frozen=True, slots=True)
class Share:
    """Somebody's or something's part, in short: each further sum is dear, since SQLite sorts all rows with it.

    `id` is None for what has only a name; the name of what is gone is empty.
    """

    id: int | None
    name: str
    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    points: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


SHARE_COLUMNS = ("requests", "failed", "prompt_tokens", "completion_tokens", "points")
_SHARE_SUMS: Any = {f"all_{name}": Sum(name, default=0) for name in SHARE_COLUMNS}


@dataclass(frozen=True, slots=True)
class FirstBytes:
    """How long answers took to begin: how many in each class of the histogram (see rollups.FIRST_BYTE_BOUNDS)."""

    counts: tuple[int, ...]

    def __add__(self, other: FirstBytes) -> FirstBytes:
        return FirstBytes(tuple(map(sum, zip(self.counts, other.counts, strict=True))))

    @property
    def answers(self) -> int:
        return sum(self.counts)

    def percentile(self, percent: float) -> float | None:
        """In milliseconds, as if answers were spread evenly within a class; at most the last bound."""
        before, wanted = 0, self.answers * percent / 100
        lower = 0
        for count, upper in zip(self.counts, FIRST_BYTE_BOUNDS, strict=False):
            if count and before + count >= wanted:
                return lower + (upper - lower) * max(0.0, wanted - before) / count
            before, lower = before + count, upper
        return float(lower) if self.answers else None


@dataclass(frozen=True, slots=True)
class Slot:
    """An hour, a day or a month of a chart. An error is what failed or was lost: a client that hung up is none."""

    start: datetime
    requests: int
    errors: int
    points: int
    first_bytes: FirstBytes

    def __add__(self, other: Slot) -> Slot:
        return Slot(
            self.start,
            self.requests + other.requests,
            self.errors + other.errors,
            self.points + other.points,
            self.first_bytes + other.first_bytes,
        )


@dataclass(frozen=True, slots=True)
class Refusals:
    limit: str
    count: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A token of which a limit refused requests: its own limit, its owner's or its team's."""

    token_id: int
    limit: str
    count: int


def totals(scope: Scope) -> Use:
    return _use(scope.of(UsageHour.objects.all()).aggregate(**_SUMS))


def by_day(scope: Scope, time_zone: str) -> list[Day]:
    """Every day of the scope, by the calendar there, also those without use.

    An hour belongs to the day in which it began: where the clocks are half an hour off, so are days.
    """
    zone = ZoneInfo(time_zone)
    days: dict[date, Use] = defaultdict(Use)
    for row in scope.of(UsageHour.objects.all()).order_by().values("hour").annotate(**_SUMS):
        hour: datetime = row["hour"]
        days[hour.astimezone(zone).date()] += _use(row)
    return [Day(day, days[day]) for day in _days(scope, zone)]


def _days(scope: Scope, zone: ZoneInfo) -> Iterator[date]:
    day = scope.since.astimezone(zone).date()
    last = (scope.until - timedelta(microseconds=1)).astimezone(zone).date()
    while day <= last:
        yield day
        day += timedelta(days=1)


NO_FIRST_BYTES = FirstBytes((0,) * len(FIRST_BYTE_COLUMNS))
_SLOT_SUMS: Any = {
    f"all_{name}": Sum(name, default=0)
    for name in ("requests", "failed", "lost", "points", *FIRST_BYTE_COLUMNS)
}
# The beginning of the hour, day or month that a moment is in, and of the next one.
STEPS: dict[str, tuple[Callable[[datetime], datetime], Callable[[datetime], datetime]]] = {
    # As rollups have it: where clocks are half an hour off, an hour begins at half past.
    "hour": (
        lambda moment: _in_utc(moment, lambda utc: utc.replace(minute=0, second=0, microsecond=0)),
        lambda start: _in_utc(start, lambda utc: utc + timedelta(hours=1)),
    ),
    "day": (
        lambda moment: moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0),
        lambda start: start + timedelta(days=1),
    ),
    "month": (
        lambda moment: moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0),
        lambda start: (start + timedelta(days=32)).replace(day=1),
    ),
}


def _in_utc(moment: datetime, change: Callable[[datetime], datetime]) -> datetime:
    """Where clocks are set back an hour comes twice: there no arithmetic is right."""
    return change(moment.astimezone(UTC)).astimezone(moment.tzinfo)


def slots(scope: Scope, step: str, time_zone: str) -> list[Slot]:
    """Every hour, day or month of the scope, by the calendar there, also those without use. One query."""
    zone = ZoneInfo(time_zone)
    floor, next_ = STEPS[step]
    # Names one, also where clocks are set back.
    found: dict[datetime, Slot] = {}
    start = floor(scope.since.astimezone(zone))
    while start < scope.until:
        found[start.astimezone(UTC)] = Slot(start, 0, 0, 0, NO_FIRST_BYTES)
        start = next_(start)
    for row in scope.of(UsageHour.objects.all()).order_by().values("hour").annotate(**_SLOT_SUMS):
        start = floor(row["hour"].astimezone(zone))
        requests, failed, lost, points, *counts = (row[name] for name in _SLOT_SUMS)
        found[start.astimezone(UTC)] += Slot(
            start, requests, failed + lost, points, FirstBytes(tuple(counts))
        )
    return list(found.values())


def by_model(scope: Scope, most: int = MOST) -> list[Share]:
    return _by("model", scope, most)


def by_bot(scope: Scope, most: int = MOST) -> list[Share]:
    return _by("bot", scope, most)


def by_user(scope: Scope, most: int = MOST) -> list[Share]:
    return _by("user_id", scope, most, User, "username")


def by_team(scope: Scope, most: int = MOST) -> list[Share]:
    return _by("team_id", scope, most, Team, "name")


def by_token(scope: Scope, most: int = MOST) -> list[Share]:
    return _by("token_id", scope, most, AccessToken, "name")


def by_key(scope: Scope, most: int = MOST) -> list[Share]:
    return _by("key_id", scope, most, PoeKey, "name")


def _by(
    column: str, scope: Scope, most: int, named: type[Model] | None = None, name: str = ""
) -> list[Share]:
    """The greatest first: by points, then by requests."""
    found = scope.of(UsageHour.objects.all()).values(column).annotate(**_SHARE_SUMS)
    rows = list(found.order_by("-all_points", "-all_requests", column)[:most])
    sums = [(row[column], [row[each] for each in _SHARE_SUMS]) for row in rows]
    if named is None:
        return [Share(None, value, *its) for value, its in sums]
    living = named._default_manager.filter(pk__in=[id_ for id_, _its in sums])
    names: dict[int, str] = dict(living.values_list("pk", name))
    return [Share(id_, names.get(id_, ""), *its) for id_, its in sums]


def first_bytes(scope: Scope) -> FirstBytes:
    sums: Any = {name: Sum(name, default=0) for name in FIRST_BYTE_COLUMNS}
    found = scope.of(UsageHour.objects.all()).aggregate(**sums)
    return FirstBytes(tuple(found[name] for name in FIRST_BYTE_COLUMNS))


def refusals(scope: Scope) -> list[Refusals]:
    """By limit, the most frequent first."""
    found = scope.of(RefusalHour.objects.all()).values("limit").annotate(count=Sum("refusals", default=0))
    return [Refusals(row["limit"], row["count"]) for row in found.order_by("-count", "limit")]


def refused(scope: Scope, most: int = MOST) -> list[Refused]:
    """Which tokens were refused most often, and because of which limit."""
    found = scope.of(RefusalHour.objects.all()).values("token_id", "limit")
    sums = found.annotate(count=Sum("refusals", default=0)).order_by("-count", "token_id", "limit")
    return [Refused(row["token_id"], row["limit"], row["count"]) for row in sums[:most]]
