"""Reports add up the rollups of their scope, and ask nothing else."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bench.reading import reports_of
from relay import reports
from relay.ledger.rollups import SUM_COLUMNS
from relay.models import RefusalHour, UsageHour
from relay.reports import Day, FirstBytes, Scope, Share, Use
from tests import cast as people

pytestmark = pytest.mark.django_db

MIDNIGHT = datetime(2026, 5, 13, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WHOLE = Scope(MIDNIGHT - 10 * DAY, MIDNIGHT + 10 * DAY)


def hour(when: datetime = MIDNIGHT, **fields: Any) -> UsageHour:
    values: dict[str, Any] = dict.fromkeys(SUM_COLUMNS, 0)
    owners = {"team_id": 1, "user_id": 1, "token_id": 1, "key_id": 1, "model": "m", "bot": "B"}
    return UsageHour.objects.create(hour=when, **values | {"requests": 1} | owners | fields)


def refused(when: datetime = MIDNIGHT, limit: str = "points_per_day", count: int = 1, **owners: int) -> None:
    whose = {"team_id": 1, "user_id": 1, "token_id": 1, **owners}
    RefusalHour.objects.create(hour=when, limit=limit, refusals=count, **whose)


def test_totals_add_up() -> None:
    hour(requests=3, failed=1, prompt_tokens=10, completion_tokens=5, points=7, total_ms=900)
    hour(bot="C", requests=2, disconnected=1, lost=1, images=4, points=2, total_ms=100)

    use = reports.totals(WHOLE)

    assert use == Use(5, 1, 1, 1, 10, 5, 4, 9, 1000)
    assert (use.done, use.tokens, use.mean_seconds) == (2, 15, 0.2)


def test_nothing_adds_up_to_nothing() -> None:
    scope = Scope(MIDNIGHT, MIDNIGHT + DAY)

    assert reports.totals(scope) == Use() and Use().mean_seconds is None
    assert reports.by_day(scope, "UTC") == [Day(date(2026, 5, 13), Use())]
    assert reports.by_model(scope) == [] and reports.refused(scope) == []
    assert [slot.first_bytes.percentile(50) for slot in reports.slots(scope, "day", "UTC")] == [None]


@pytest.mark.parametrize(
    ("scope", "requests"),
    [
        (Scope(MIDNIGHT, MIDNIGHT + HOUR), 1),
        (Scope(MIDNIGHT, MIDNIGHT + HOUR + timedelta(seconds=1)), 1 + 10),
        (Scope(MIDNIGHT + timedelta(seconds=1), MIDNIGHT + 2 * HOUR), 10),
        (Scope(MIDNIGHT - DAY, MIDNIGHT), 100),
        (Scope(MIDNIGHT - DAY, MIDNIGHT + DAY, team_id=2), 10),
        (Scope(MIDNIGHT - DAY, MIDNIGHT + DAY, user_id=3), 100),
        (Scope(MIDNIGHT - DAY, MIDNIGHT + DAY, team_id=2, user_id=3), 0),
    ],
)
def test_it_counts_the_hours_that_begin_in_its_scope(scope: Scope, requests: int) -> None:
    hour(MIDNIGHT, requests=1)
    hour(MIDNIGHT + HOUR, requests=10, team_id=2)
    hour(MIDNIGHT - HOUR, requests=100, user_id=3)

    assert reports.totals(scope).requests == requests
    assert sum(day.use.requests for day in reports.by_day(scope, "UTC")) == requests
    assert sum(share.requests for share in reports.by_model(scope)) == requests


@pytest.mark.parametrize(
    ("zone", "days"),
    [
        ("UTC", {12: 0b0001, 13: 0b1110, 14: 0}),
        ("Asia/Shanghai", {13: 0b0111, 14: 0b1000}),
        ("America/Los_Angeles", {12: 0b0011, 13: 0b1100}),
    ],
)
def test_days_are_those_of_a_time_zone(zone: str, days: dict[int, int]) -> None:
    for bit, hours in enumerate((-1, 0, 8, 16)):
        hour(MIDNIGHT + hours * HOUR, points=1 << bit)

    scope = Scope(MIDNIGHT - 7 * HOUR, MIDNIGHT + DAY + HOUR)

    assert {each.day.day: each.use.points for each in reports.by_day(scope, zone)} == days


def test_a_day_on_which_the_clocks_are_set_is_one_row() -> None:
    began = datetime(2026, 10, 24, 22, tzinfo=UTC)  # midnight in Berlin, of a day of 25 hours
    for hours in range(25):
        hour(began + hours * HOUR)

    days = reports.by_day(Scope(began, began + 25 * HOUR), "Europe/Berlin")

    assert [(each.day, each.use.requests) for each in days] == [(date(2026, 10, 25), 25)]


@pytest.mark.parametrize(
    ("step", "zone", "since", "requests"),
    [
        # Clocks are set back: one hour of the night comes twice, and its day has 25.
        (
            "hour",
            "Europe/Berlin",
            datetime(2026, 10, 24, 23, tzinfo=UTC),
            [("01", 1)] + [("02", 1)] * 2 + [("03", 1)],
        ),
        ("day", "Europe/Berlin", datetime(2026, 10, 24, 23, tzinfo=UTC), [("25", 4)]),
        # Half an hour off, and for a part of the year a half less.
        (
            "hour",
            "Asia/Kolkata",
            datetime(2026, 5, 1, tzinfo=UTC),
            [("05", 1), ("06", 1), ("07", 1), ("08", 1)],
        ),
        (
            "hour",
            "Australia/Lord_Howe",
            datetime(2026, 4, 4, 13, tzinfo=UTC),
            [("00", 1), ("01", 1), ("01", 1), ("02", 1)],
        ),
        ("day", "Asia/Shanghai", datetime(2026, 5, 1, 14, tzinfo=UTC), [("01", 2), ("02", 2)]),
        ("month", "America/New_York", datetime(2026, 6, 1, 2, tzinfo=UTC), [("05", 2), ("06", 2)]),
    ],
)
def test_slots_follow_the_clock_on_the_wall(
    step: str, zone: str, since: datetime, requests: list[tuple[str, int]]
) -> None:
    for hours in range(4):
        hour(since + hours * HOUR)

    slots = reports.slots(Scope(since, since + 4 * HOUR), step, zone)

    said = {"hour": "%H", "day": "%d", "month": "%m"}[step]
    assert [(slot.start.strftime(said), slot.requests) for slot in slots] == requests


def test_a_slot_adds_up_and_one_without_use_is_there() -> None:
    hour(requests=5, failed=1, lost=2, disconnected=1, points=7, first_byte_250=1)
    hour(bot="C", requests=1, points=3, first_byte_250=1)

    first, second = reports.slots(Scope(MIDNIGHT, MIDNIGHT + 2 * HOUR), "hour", "UTC")

    assert (first.requests, first.errors, first.points, first.first_bytes.answers) == (6, 3, 10, 2)
    assert (second.start, second.requests, second.first_bytes.percentile(50)) == (MIDNIGHT + HOUR, 0, None)


def test_tokens_that_were_refused_are_told_by_limit() -> None:
    refused(count=3, token_id=4)
    refused(MIDNIGHT + HOUR, count=2, token_id=4)
    refused(limit="requests_per_minute", count=9, token_id=5)
    refused(MIDNIGHT - 30 * DAY, count=99)

    assert reports.refused(WHOLE) == [
        reports.Refused(5, "requests_per_minute", 9),
        reports.Refused(4, "points_per_day", 5),
    ]
    assert len(reports.refused(WHOLE, most=1)) == 1


def test_shares_are_the_greatest_first_and_at_most_so_many() -> None:
    hour(model="a", points=1, requests=9, failed=2, prompt_tokens=3, completion_tokens=4)
    hour(model="b", points=5)
    hour(model="b", bot="C", points=6)
    hour(model="c", points=1, requests=10)

    models = reports.by_model(WHOLE)

    assert models[0] == Share(None, "b", 2, 0, 0, 0, 11)
    assert [share.name for share in models] == ["b", "c", "a"]
    assert models[2].tokens == 7 and models[2].failed == 2
    assert [share.name for share in reports.by_model(WHOLE, most=1)] == ["b"]


def test_owners_have_their_names_and_those_that_are_gone_have_none() -> None:
    cast = people.make()
    bob: dict[str, Any] = {"user_id": cast.bob.user.pk, "token_id": cast.bob.token.pk}
    hour(points=2, **bob)
    hour(points=1, user_id=10**6, token_id=10**6)

    def named(shares: list[Share]) -> list[tuple[int | None, str, int]]:
        return [(share.id, share.name, share.points) for share in shares]

    assert named(reports.by_user(WHOLE)) == [(cast.bob.user.pk, "bob", 2), (10**6, "", 1)]
    assert named(reports.by_token(WHOLE)) == [(cast.bob.token.pk, "bob's phone", 2), (10**6, "", 1)]


@pytest.mark.parametrize(
    ("counts", "percent", "milliseconds"),
    [
        ((100, 0, 0, 0, 0, 0, 0, 0), 50, 125),
        ((100, 0, 0, 0, 0, 0, 0, 0), 100, 250),
        ((50, 50, 0, 0, 0, 0, 0, 0), 50, 250),
        ((50, 50, 0, 0, 0, 0, 0, 0), 75, 375),
        ((0, 0, 0, 0, 10, 0, 0, 0), 50, 3500),
        ((90, 0, 0, 0, 0, 0, 10, 0), 95, 20_000),
        ((1, 0, 0, 0, 0, 0, 0, 99), 50, 30_000),
        ((0, 0, 0, 0, 0, 0, 0, 5), 0, 30_000),
        ((4, 0, 0, 0, 0, 0, 0, 0), 0, 0),
        ((0, 0, 0, 0, 0, 0, 0, 0), 50, None),
    ],
)
def test_percentiles_come_from_the_histogram(
    counts: tuple[int, ...], percent: float, milliseconds: float | None
) -> None:
    assert FirstBytes(counts).percentile(percent) == milliseconds


def test_first_bytes_are_added_up_by_class() -> None:
    hour(first_byte_250=3, first_byte_more=1)
    hour(bot="C", first_byte_250=2, first_byte_10000=4)

    (slot,) = reports.slots(Scope(MIDNIGHT, MIDNIGHT + DAY), "day", "UTC")

    assert slot.first_bytes == FirstBytes((5, 0, 0, 0, 0, 4, 0, 1)) and slot.first_bytes.answers == 10


def test_every_report_is_a_few_statements_and_none_reads_records() -> None:
    hour()
    refused()

    for name, ask in reports_of(Scope(WHOLE.since, WHOLE.until, team_id=1)).items():
        with CaptureQueriesContext(connection) as asked:
            ask()
        statements = [each["sql"] for each in asked.captured_queries]
        assert 1 <= len(statements) <= 5 and "usagerecord" not in "".join(statements), name
