"""What was used, when and by whom: the queries behind every chart and summary.

They read rollups, never usage records: the hours, and what ledger/days.py has added up of them. A person's own are few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Case, Model, QuerySet, Sum, Value, When

from accounts.models import AccessToken, Team, User
from relay.ledger.days import ALL_TEAMS, DAY, added_until, midnight
from relay.ledger.rollups import FIRST_BYTE_BOUNDS, SHARE_COLUMNS
from relay.models import ModelDay, RefusalHour, TeamHour, TokenDay, UsageHour

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


USE_COLUMNS = tuple(each.name for each in fields(Use))


@dataclass(frozen=True, slots=True)
class Day:
    day: date
    use: Use


@dataclass(frozen=True, slots=True)
class Share:
    """Somebody's or something's part, in short: no more than is kept of a day.

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
class Refused:
    """A token of which a limit refused requests: its own limit, its owner's or its team's."""

    token_id: int
    limit: str
    count: int


def totals(scope: Scope) -> Use:
    return Use(*_between(scope, [scope.since], USE_COLUMNS)[0])


def by_day(scope: Scope, time_zone: str) -> list[Day]:
    """Every day of the scope, by the calendar there, also those without use.

    An hour belongs to the day in which it began: where the clocks are half an hour off, so are days.
    """
    starts = _starts(scope, "day", time_zone)
    sums = _between(scope, starts, USE_COLUMNS)
    return [Day(start.date(), Use(*its)) for start, its in zip(starts, sums, strict=True)]


SLOT_COLUMNS = ("requests", "failed", "lost", "points", *FIRST_BYTE_COLUMNS)
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
    """Every hour, day or month of the scope, by the calendar there, also those without use."""
    starts = _starts(scope, step, time_zone)
    return [
        Slot(start, requests, failed + lost, points, FirstBytes(tuple(counts)))
        for start, (requests, failed, lost, points, *counts) in zip(
            starts, _between(scope, starts, SLOT_COLUMNS), strict=True
        )
    ]


def _starts(scope: Scope, step: str, time_zone: str) -> list[datetime]:
    floor, next_ = STEPS[step]
    starts = [floor(scope.since.astimezone(ZoneInfo(time_zone)))]
    while (start := next_(starts[-1])) < scope.until:
        starts.append(start)
    return starts


def _between(scope: Scope, starts: Sequence[datetime], columns: Sequence[str]) -> list[list[int]]:
    """The sums of these columns from each of these moments to the next; from the last one to the end of the scope."""
    # In UTC: that of a wall is no order where clocks are set back.
    ends = [
        When(hour__lt=start.astimezone(UTC), then=Value(number)) for number, start in enumerate(starts[1:])
    ]
    place = Case(*ends, default=Value(len(starts) - 1))
    found = [[0] * len(columns) for _start in starts]
    for hours in _hours(scope):
        by_place = hours.order_by().annotate(place=place).values_list("place")
        for number, *sums in by_place.annotate(**_sums(columns)):
            found[number] = _added(found[number], sums)
    return found


def _hours(scope: Scope) -> Iterator[QuerySet[Any]]:
    """Of everybody or of a team there are added up ones, as far as they reach."""
    until = added_until() if scope.user_id is None else scope.since
    if until > scope.since:
        whose = ALL_TEAMS if scope.team_id is None else scope.team_id
        yield replace(scope, until=min(until, scope.until), team_id=whose).of(TeamHour.objects.all())
    if until < scope.until:
        yield replace(scope, since=max(until, scope.since)).of(UsageHour.objects.all())


def _sums(columns: Sequence[str]) -> Any:
    """An annotation may not be called as a column is."""
    return {f"all_{name}": Sum(name, default=0) for name in columns}


def _added(sums: list[int], more: list[Any]) -> list[int]:
    """PostgreSQL's sums of whole numbers are no whole numbers for Python."""
    return [one + int(other) for one, other in zip(sums, more, strict=True)]


def by_model(scope: Scope, most: int = MOST) -> list[Share]:
    return [Share(None, model, *sums) for model, sums in _greatest("model", ModelDay, scope, most)]


def by_user(scope: Scope, most: int = MOST) -> list[Share]:
    return _named(User, "username", _greatest("user_id", TokenDay, scope, most))


def by_team(scope: Scope, most: int = MOST) -> list[Share]:
    return _named(Team, "name", _greatest("team_id", TokenDay, scope, most))


def by_token(scope: Scope, most: int = MOST) -> list[Share]:
    return _named(AccessToken, "name", _greatest("token_id", TokenDay, scope, most))


Greatest = list[tuple[Any, list[int]]]


def _greatest(column: str, days: type[Model], scope: Scope, most: int) -> Greatest:
    """By points, then by requests."""
    found: dict[Any, list[int]] = defaultdict(lambda: [0] * len(SHARE_COLUMNS))
    for rows in _days_and_hours(scope, days):
        for value, *sums in rows.order_by().values_list(column).annotate(**_sums(SHARE_COLUMNS)):
            found[value] = _added(found[value], sums)
    return sorted(found.items(), key=_rank)[:most]


def _rank(share: tuple[Any, list[int]]) -> tuple[int, int, Any]:
    value, sums = share
    return (-sums[SHARE_COLUMNS.index("points")], -sums[SHARE_COLUMNS.index("requests")], value)


def _days_and_hours(scope: Scope, days: type[Model]) -> Iterator[QuerySet[Any]]:
    """The days of UTC in it that are added up, and the hours before and after them."""
    first, end = scope.since, scope.since
    if scope.user_id is None:
        first = midnight(scope.since + DAY - timedelta(microseconds=1))
        end = min(midnight(scope.until), added_until())
    if end <= first:
        yield scope.of(UsageHour.objects.all())
        return
    within = days._default_manager.filter(day__gte=first.date(), day__lt=end.date())
    yield within if scope.team_id is None else within.filter(team_id=scope.team_id)
    for since, until in ((scope.since, first), (end, scope.until)):
        if since < until:
            yield replace(scope, since=since, until=until).of(UsageHour.objects.all())


def _named(owners: type[Model], name: str, greatest: Greatest) -> list[Share]:
    living = owners._default_manager.filter(pk__in=[id_ for id_, _its in greatest])
    names: dict[int, str] = dict(living.values_list("pk", name))
    return [Share(id_, names.get(id_, ""), *sums) for id_, sums in greatest]


def refused(scope: Scope, most: int = MOST) -> list[Refused]:
    """Which tokens were refused most often, and because of which limit."""
    found = scope.of(RefusalHour.objects.all()).values("token_id", "limit")
    sums = found.annotate(count=Sum("refusals", default=0)).order_by("-count", "token_id", "limit")
    return [Refused(row["token_id"], row["limit"], row["count"]) for row in sums[:most]]
