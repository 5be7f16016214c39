"""The panel's first page: figures by hour, day and month, who and what uses most, how long points last, and what to do."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from relay.models import AccountHealth, BalanceReading, BotMapping, PoeKey, RefusalHour, State
from relay.panel.forecast import Forecast, forecast
from tests import cast as people
from tests.cast import Cast

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 5, 13, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture(autouse=True)
def nothing_is_kept() -> None:
    cache.clear()


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


def page(client: Client, by: str = "") -> str:
    response = client.get(f"/admin/?by={by}")
    assert response.status_code == 200
    return response.content.decode()


def charts(html: str) -> list[dict[str, Any]]:
    return [json.loads(unescape(found)) for found in re.findall(r'data-value="([^"]*)"', html)]


@pytest.mark.parametrize(
    ("by", "title", "slots"),
    [("", "Last 24 hours", 24), ("day", "Last 30 days", 30), ("month", "Last 12 months", 12)],
)
def test_it_shows_how_much_was_asked_by_hour_day_and_month(
    root: Client, cast: Cast, by: str, title: str, slots: int
) -> None:
    people.used(cast.bob, "gpt-4o", requests=8, failed=1, lost=1, points=1234, first_byte_500=8)

    html = page(root, by)

    asked, points, first_byte = charts(html)
    assert title in html and "1,234" in html and "25.0 %" in html
    assert [len(chart["labels"]) for chart in (asked, points, first_byte)] == [slots] * 3
    assert [each["data"][-1] for each in asked["datasets"]] == [6, 2]
    assert points["datasets"][0]["data"] == [0] * (slots - 1) + [1234]
    assert first_byte["datasets"][0]["data"][:-1] == [None] * (slots - 1)
    assert 0.25 < first_byte["datasets"][0]["data"][-1] < first_byte["datasets"][1]["data"][-1] <= 0.5


def test_it_takes_what_is_no_span_for_the_hours(root: Client) -> None:
    assert "Last 24 hours" in page(root, "<script>") and "&by" not in page(root, "century")


def test_it_names_those_who_use_most_and_leads_to_their_records(root: Client, cast: Cast) -> None:
    people.used(cast.bob, "gpt-4o", points=10)
    people.used(cast.charlie, "a&b", points=90)

    html = page(root)

    assert html.index(">charlie<") < html.index(">bob<")
    assert f'href="/admin/relay/usagerecord/?user={cast.charlie.user.pk}"' in html
    assert f'href="/admin/relay/usagerecord/?team={cast.chemistry.pk}"' in html
    assert 'href="/admin/relay/usagerecord/?model=a%26b"' in html


def test_it_has_a_number_for_who_is_gone(root: Client, cast: Cast) -> None:
    people.used(cast.charlie, "gpt-4o", points=10)
    number = cast.charlie.user.pk
    cast.charlie.user.delete()

    assert f"number {number}, gone" in page(root)


def test_it_asks_as_many_queries_however_much_was_used(root: Client, cast: Cast) -> None:
    people.poe_key()
    people.used(cast.bob, "gpt-4o")
    page(root)
    with CaptureQueriesContext(connection) as few:
        page(root)
    for who in (cast.alice, cast.charlie, cast.root):
        for number in range(4):
            people.used(who, f"model-{number}")
    for number in range(4):
        people.poe_key(name=f"key-{number}")
    with CaptureQueriesContext(connection) as many:
        page(root)

    assert len(many) == len(few)


def test_without_use_it_says_so(root: Client) -> None:
    html = page(root)

    assert "Nobody asked anything in this time" in html and "data-value" not in html


def test_it_needs_no_script_in_the_page(root: Client, cast: Cast) -> None:
    people.used(cast.bob, "gpt-4o")

    assert re.findall(r"<script(?![^>]*(?:src=|application/json))[^>]*>", page(root)) == []


# First steps.


def steps(html: str) -> dict[str, bool]:
    found = re.findall(r'aria-label="(done|to do)".*?<a [^>]*>([^<]*)</a>', html, re.DOTALL)
    return {title: said == "done" for said, title in found}


def test_a_fresh_installation_is_told_what_to_do_and_sees_what_is_done(root: Client, cast: Cast) -> None:
    demo = people.poe_key(name="demo", is_demo=True)
    people.mapping("demo-model", "Demo-Echo", account=demo.account)
    nothing = {
        "Add a Poe key": False,
        "Map models": False,
        "Issue an access token": True,
        "Ask something": False,
    }
    assert steps(page(root)) == nothing

    people.poe_key(name="ours")
    assert steps(page(root)) == nothing | {"Add a Poe key": True}

    people.mapping("gpt-4o", "GPT-4o")
    assert steps(page(root)) == nothing | {"Add a Poe key": True, "Map models": True}

    people.used(cast.bob, "gpt-4o")
    assert steps(page(root)) == {}


# What needs somebody.


def test_it_tells_of_a_mapping_whose_bot_is_gone(root: Client) -> None:
    people.mapping("old", "Old-Bot", found=BotMapping.Found.GONE, suggested_bot="New-Bot")
    people.mapping("private", "Mine", found=BotMapping.Found.UNLISTED)
    people.mapping("off", "Off-Bot", found=BotMapping.Found.GONE, enabled=False)

    html = page(root)

    assert (
        "The model old asks a bot that is gone from Poe: Old-Bot." in html
        and "The nearest is New-Bot." in html
    )
    assert "Mine" not in html and "Off-Bot" not in html


def refused(cast: Cast, limit: str, count: int, ago: timedelta = HOUR) -> None:
    whose = {"team_id": cast.physics.pk, "user_id": cast.bob.user.pk, "token_id": cast.bob.token.pk}
    RefusalHour.objects.create(hour=timezone.now() - ago, limit=limit, refusals=count, **whose)


def test_it_tells_who_could_not_work_because_of_a_limit(root: Client, cast: Cast) -> None:
    refused(cast, "points_per_day", 17)

    html = page(root)

    assert "bob was refused 17 times in a day: points per day." in html
    assert f"/admin/accounts/accesstoken/{cast.bob.token.pk}/change/" in html


@pytest.mark.parametrize(
    ("limit", "count", "ago"),
    [("requests_per_minute", 99, HOUR), ("points_per_day", 17, 26 * HOUR)],
)
def test_it_does_not_tell_of_limits_that_do_their_work(
    root: Client, cast: Cast, limit: str, count: int, ago: timedelta
) -> None:
    refused(cast, limit, count, ago)

    assert "was refused" not in page(root)


# How long points last.


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([], None),
        ([(NOW - DAY, 100)], None),
        ([(NOW - HOUR / 2, 100), (NOW, 50)], None),
        ([(NOW - DAY, 300), (NOW, 200)], Forecast(100, NOW + 2 * DAY)),
        # What was granted or bought in between is no use.
        (
            [(NOW - 2 * DAY, 300), (NOW - DAY, 200), (NOW - DAY, 900), (NOW, 800)],
            Forecast(100, NOW + 8 * DAY),
        ),
        # The last reading is old: what was used since is not known, but the days went by.
        ([(NOW - 2 * DAY, 300), (NOW - DAY, 200)], Forecast(50, NOW + 4 * DAY)),
        ([(NOW - DAY, 200), (NOW, 200)], Forecast(0, None)),
        ([(NOW - DAY, 1000), (NOW, 999)], Forecast(1, None)),
        ([(NOW - DAY, 100), (NOW, 0)], Forecast(100, NOW)),
        ([(NOW - DAY, 100), (NOW, -20)], Forecast(120, NOW)),
    ],
)
def test_points_run_out_as_they_were_used(
    readings: list[tuple[datetime, int]], expected: Forecast | None
) -> None:
    assert forecast(readings, NOW) == expected


def account(key: PoeKey, *points: int, **health: Any) -> None:
    now = timezone.now()
    AccountHealth.objects.create(account=key.account, since=now, balance=points[-1], balance_at=now, **health)
    for days, each in enumerate(reversed(points)):
        BalanceReading.objects.create(account=key.account, at=now - days * DAY, points=each)


def test_it_says_when_an_account_runs_out_and_shows_that_one_first(root: Client) -> None:
    account(people.poe_key(name="a-plenty"), 1_000_001, 1_000_000)
    account(people.poe_key(name="b-scarce"), 400, 300, state=State.COOLING)
    own = people.poe_key(name="somebody's own", counts_in_budgets=False)

    html = page(root)

    pool = html[html.index('id="pool"') :]
    expected = f"{timezone.localtime() + 3 * DAY:%Y-%m-%d}"
    assert f"Runs out on {expected}" in pool and "Lasts for more than a year" in pool
    assert pool.index("b-scarce") < pool.index("a-plenty") and own.account.name not in pool


def test_of_many_accounts_it_shows_some_and_how_many_more_there_are(root: Client) -> None:
    for number in range(15):
        people.poe_key(name=f"account {number:02}")

    assert "3 more" in page(root)
