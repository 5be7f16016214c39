"""Hourly rollups: what they hold is the sum of the settled records, whatever was corrected on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from relay.ledger.deciding import Meters, Page, Row, settle
from relay.ledger.items import Settlement
from relay.ledger.meters import Meter
from relay.ledger.rollups import (
    FIRST_BYTE_BOUNDS,
    KEY_COLUMNS,
    SUM_COLUMNS,
    Hours,
    contribution,
    histogram,
    hour_of,
    key_of,
)
from relay.models import UsageHour
from tests.ledger.making import NOON, row

quick = settings(deadline=None, max_examples=60, derandomize=True)


def test_its_columns_are_the_tables() -> None:
    columns = {field.name for field in UsageHour._meta.get_fields()} - {"id"}
    assert columns == {*KEY_COLUMNS, *SUM_COLUMNS}
    assert len(contribution(row())) == len(SUM_COLUMNS)


@pytest.mark.parametrize(
    ("first_byte_ms", "column"),
    [
        (None, None),
        (0, "first_byte_250"),
        (250, "first_byte_250"),
        (251, "first_byte_500"),
        (500, "first_byte_500"),
        (1000, "first_byte_1000"),
        (1999, "first_byte_2000"),
        (5000, "first_byte_5000"),
        (10_000, "first_byte_10000"),
        (30_000, "first_byte_30000"),
        (30_001, "first_byte_more"),
        (10**9, "first_byte_more"),
    ],
)
def test_each_answer_is_in_one_bin(first_byte_ms: int | None, column: str | None) -> None:
    names = [name for name in SUM_COLUMNS if name.startswith("first_byte_")]
    counts = dict(zip(names, histogram(first_byte_ms), strict=True))
    assert [name for name, count in counts.items() if count] == ([column] if column else [])
    assert len(names) == len(FIRST_BYTE_BOUNDS) + 1


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [("done", ()), ("failed", ("failed",)), ("disconnected", ("disconnected",)), ("lost", ("lost",))],
)
def test_what_a_record_adds(outcome: str, counted: tuple[str, ...]) -> None:
    added = dict(zip(SUM_COLUMNS, contribution(row(outcome=outcome, images=2)), strict=True))
    expected = {"requests": 1, "prompt_tokens": 5, "completion_tokens": 10, "images": 2, "points": 3}
    expected |= {"total_ms": 900, "first_byte_500": 1} | dict.fromkeys(counted, 1)
    assert {name: n for name, n in added.items() if n} == expected


def test_the_hour_is_the_one_in_which_it_started_in_utc() -> None:
    there = timezone(timedelta(hours=5, minutes=45))
    moment = datetime(2026, 5, 13, 1, 44, 59, 999_999, tzinfo=there)
    assert hour_of(moment) == datetime(2026, 5, 12, 19, tzinfo=UTC)
    assert key_of(row(started_at=moment))[0].utcoffset() == timedelta(0)


ROWS = st.builds(
    lambda **fields: row(**fields),
    outcome=st.sampled_from(["done", "failed", "disconnected", "lost"]),
    token_id=st.integers(1, 2),
    user_id=st.integers(1, 2),
    key_id=st.integers(0, 2),
    bot=st.sampled_from(["A", "B"]),
    model=st.sampled_from(["m", "n"]),
    started_at=st.datetimes(datetime(2026, 5, 13, 11), datetime(2026, 5, 13, 14), timezones=st.just(UTC)),
    completion_tokens=st.integers(0, 100),
    prompt_tokens=st.integers(0, 100),
    points=st.integers(0, 9),
    images=st.integers(0, 2),
    first_byte_ms=st.none() | st.integers(0, 40_000),
    total_ms=st.none() | st.integers(0, 60_000),
)


@quick
@given(st.lists(ROWS, max_size=12), st.lists(ROWS, max_size=5))
def test_sums_are_those_of_the_rows_that_are_there(kept: list[Row], removed: list[Row]) -> None:
    hours = Hours()
    for each in [*kept, *removed]:
        hours.add(each, +1)
    for each in removed:
        hours.add(each, -1)

    found = {values[: len(KEY_COLUMNS)]: values[len(KEY_COLUMNS) :] for values in hours.rows()}

    expected: dict[tuple[object, ...], tuple[int, ...]] = {}
    for each in kept:
        old = expected.get(key_of(each), (0,) * len(SUM_COLUMNS))
        expected[key_of(each)] = tuple(a + b for a, b in zip(old, contribution(each), strict=True))
    assert found == expected
    assert list(found) == sorted(found)


def test_what_cancels_out_is_not_written() -> None:
    hours = Hours()
    hours.add(row(), +1)
    hours.add(row(), -1)
    assert hours.rows() == []


@pytest.mark.parametrize("bot", ["GPT-4o", "Another"])
def test_a_lost_record_that_ended_after_all_leaves_only_its_end(bot: str) -> None:
    """Removed where it was, added where it is: the bot that answered may be another than the one that was asked."""
    open_row = row(outcome="open", first_byte_ms=None, total_ms=None, points=9, completion_tokens=500)
    page = Page(
        1,
        NOON,
        Meters({id_: Meter(id_) for id_ in ("token:1", "user:1", "team:1", "key:1")}),
        {open_row.id: open_row},
    )
    end = Settlement(
        open_row.id, 1, 1, 1, 1, "done", completion_tokens=7, points=2, bot=bot, first_byte_ms=9, total_ms=20
    )

    settle(page, replace(end, outcome="lost", bot=""))
    lost_key = key_of(open_row)
    assert dict(zip(SUM_COLUMNS, page.hours.sums[lost_key], strict=True))["lost"] == 1
    assert dict(zip(SUM_COLUMNS, page.hours.sums[lost_key], strict=True))["points"] == 9
    settle(page, end)

    (values,) = page.hours.rows()
    assert values[: len(KEY_COLUMNS)] == key_of(page.rows[open_row.id])
    assert values[len(KEY_COLUMNS) :] == contribution(page.rows[open_row.id])
    assert (values[KEY_COLUMNS.index("bot")], page.rows[open_row.id].points) == (bot, 2)
