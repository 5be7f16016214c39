"""Days and months by a team's calendar, where clocks change, zones change and people change teams."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.ledger.meters import SECOND, Meter
from relay.ledger.periods import day_end, month_end, turn

quick = settings(deadline=None, max_examples=200, derandomize=True)
HOUR, DAY = 3600, 86_400
ZONES = [
    "UTC",
    "Asia/Shanghai",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "America/Santiago",
    "America/Asuncion",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Tehran",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "America/Nuuk",
]


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def wall(seconds: int, zone: str) -> str:
    return datetime.fromtimestamp(seconds, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize(
    ("now", "zone", "day", "month"),
    [
        ("2026-05-13 12:00", "UTC", "2026-05-14 00:00", "2026-06-01 00:00"),
        ("2026-05-13 23:59:59", "UTC", "2026-05-14 00:00", "2026-06-01 00:00"),
        ("2026-05-14 00:00", "UTC", "2026-05-15 00:00", "2026-06-01 00:00"),
        ("2026-01-31 12:00", "UTC", "2026-02-01 00:00", "2026-02-01 00:00"),
        ("2026-01-30 12:00", "UTC", "2026-01-31 00:00", "2026-02-01 00:00"),
        ("2026-02-28 23:00", "UTC", "2026-03-01 00:00", "2026-03-01 00:00"),
        ("2028-02-28 23:00", "UTC", "2028-02-29 00:00", "2028-03-01 00:00"),
        ("2028-02-29 23:00", "UTC", "2028-03-01 00:00", "2028-03-01 00:00"),
        ("2026-12-31 23:59", "UTC", "2027-01-01 00:00", "2027-01-01 00:00"),
        ("2026-12-01 00:00", "UTC", "2026-12-02 00:00", "2027-01-01 00:00"),
        ("2026-05-31 16:00", "Asia/Shanghai", "2026-06-01 16:00", "2026-06-30 16:00"),
        ("2026-05-31 15:59:59", "Asia/Shanghai", "2026-05-31 16:00", "2026-05-31 16:00"),
        ("2026-05-13 18:14:59", "Asia/Kathmandu", "2026-05-13 18:15", "2026-05-31 18:15"),
        # Clocks go forward and back: a day of 23 hours, one of 25.
        ("2026-03-28 23:00", "Europe/Berlin", "2026-03-29 22:00", "2026-03-31 22:00"),
        ("2026-10-24 22:00", "Europe/Berlin", "2026-10-25 23:00", "2026-10-31 23:00"),
        # Clocks go forward at midnight: the day begins at one o'clock.
        ("2018-11-04 02:00", "America/Sao_Paulo", "2018-11-04 03:00", "2018-12-01 02:00"),
        ("2018-11-04 03:00", "America/Sao_Paulo", "2018-11-05 02:00", "2018-12-01 02:00"),
        ("2026-04-23 12:00", "Africa/Cairo", "2026-04-23 22:00", "2026-04-30 21:00"),
        ("2026-03-28 12:00", "Asia/Beirut", "2026-03-28 22:00", "2026-03-31 21:00"),
        # Clocks go back at midnight: the last hour of the day comes twice.
        ("2018-02-18 01:30", "America/Sao_Paulo", "2018-02-18 03:00", "2018-03-01 03:00"),
        ("2018-02-18 02:30", "America/Sao_Paulo", "2018-02-18 03:00", "2018-03-01 03:00"),
        ("2026-10-29 20:30", "Africa/Cairo", "2026-10-29 22:00", "2026-10-31 22:00"),
        ("2026-10-29 21:30", "Africa/Cairo", "2026-10-29 22:00", "2026-10-31 22:00"),
        # Midnight comes twice: the day begins with the first.
        ("2020-11-01 03:59", "America/Havana", "2020-11-01 04:00", "2020-11-01 04:00"),
        ("2020-11-01 05:30", "America/Havana", "2020-11-02 05:00", "2020-12-01 05:00"),
        # A day that never was.
        ("2011-12-30 09:59", "Pacific/Apia", "2011-12-30 10:00", "2011-12-31 10:00"),
        ("2011-12-30 10:00", "Pacific/Apia", "2011-12-31 10:00", "2011-12-31 10:00"),
    ],
)
def test_where_a_period_ends(now: str, zone: str, day: str, month: str) -> None:
    seconds = at(now)
    assert wall(day_end(seconds, zone), "UTC")[:16] == day
    assert wall(month_end(seconds, zone), "UTC")[:16] == month


@pytest.mark.parametrize("zone", ZONES)
def test_days_follow_each_other_over_years_and_each_begins_a_new_date(zone: str) -> None:
    seconds, end = at("2017-06-25 12:00"), at("2027-02-03 12:00")
    ends = []
    while seconds < end:
        seconds = day_end(seconds, zone)
        ends.append(seconds)

    lengths = [b - a for a, b in pairwise(ends)]
    assert min(lengths) >= 22 * HOUR and max(lengths) <= 26 * HOUR
    dates = [wall(each, zone)[:10] for each in ends]
    assert len(set(dates)) == len(dates)
    assert all(wall(each - 1, zone)[:10] < date for each, date in zip(ends, dates, strict=True))


@pytest.mark.parametrize("zone", ZONES)
def test_a_month_ends_where_one_of_its_days_does(zone: str) -> None:
    seconds = month_end(at("2009-12-05 12:00"), zone)
    for _ in range(200):
        end = month_end(seconds, zone)
        assert day_end(end - 1, zone) == end
        assert wall(end, zone)[8:10] == "01" and 27 * DAY < end - seconds < 32 * DAY
        seconds = end


@quick
@given(
    seconds=st.integers(at("1996-01-01"), at("2037-01-01")),
    zone=st.sampled_from([*ZONES, "America/St_Johns", "America/Scoresbysund", "Asia/Amman", "Asia/Gaza"]),
)
def test_a_period_holds_its_moment_and_nothing_of_the_next_date(seconds: int, zone: str) -> None:
    day, month = day_end(seconds, zone), month_end(seconds, zone)
    today = wall(seconds, zone)
    assert seconds < day <= month and day - seconds <= 26 * HOUR
    assert wall(day, zone)[:10] > today[:10]
    assert wall(month, zone)[:7] > today[:7] and month - seconds <= 32 * DAY


def test_a_month_that_begins_twice_is_no_month_of_a_day() -> None:
    """Newfoundland, 1 November 2009: a minute after midnight it was 23:01 of October again."""
    in_october_again = at("2009-11-01 02:45")
    assert wall(in_october_again, "America/St_Johns") == "2009-10-31 23:15:00"

    end = month_end(in_october_again, "America/St_Johns")

    assert wall(end, "America/St_Johns")[:16] in ("2009-11-01 00:00", "2009-12-01 00:00")


# Turning.


def meters() -> tuple[Meter, Meter, Meter]:
    return Meter("team:1"), Meter("user:1"), Meter("token:1")


def spend(*of: Meter, points: int = 1) -> None:
    for meter in of:
        meter.day_points += points
        meter.month_points += points


def used(*of: Meter) -> list[tuple[int, int]]:
    return [(meter.day_points, meter.month_points) for meter in of]


def test_a_day_and_a_month_begin_at_nothing() -> None:
    team, user, token = meters()
    now = at("2026-05-31 12:00")
    turn(token, user, team, "UTC", now * SECOND)
    spend(team, user, token, points=5)

    turn(token, user, team, "UTC", (day_end(now, "UTC") - 1) * SECOND + 999_999)
    assert used(team, user, token) == [(5, 5)] * 3

    turn(token, user, team, "UTC", day_end(now, "UTC") * SECOND)
    assert used(team, user, token) == [(0, 0)] * 3
    assert {m.day_ends for m in (team, user, token)} == {at("2026-06-02")}
    assert {m.month_ends for m in (team, user, token)} == {at("2026-07-01")}


def test_a_day_turns_and_the_month_stays() -> None:
    team, user, token = meters()
    turn(token, user, team, "UTC", at("2026-05-13 12:00") * SECOND)
    spend(team, user, token, points=5)

    turn(token, user, team, "UTC", at("2026-05-20 12:00") * SECOND)

    assert used(team, user, token) == [(0, 5)] * 3


@pytest.mark.parametrize(
    ("before", "after"),
    [("Asia/Tokyo", "UTC"), ("UTC", "Asia/Tokyo"), ("America/Los_Angeles", "Pacific/Kiritimati")],
)
def test_a_changed_time_zone_counts_from_the_next_period(before: str, after: str) -> None:
    team, user, token = meters()
    now = at("2026-05-13 12:00")
    turn(token, user, team, before, now * SECOND)
    spend(team, user, token, points=5)
    ends, month_ends = team.day_ends, team.month_ends
    assert (ends, month_ends) == (day_end(now, before), month_end(now, before))

    turn(token, user, team, after, (ends - 1) * SECOND)
    assert used(team, user, token) == [(5, 5)] * 3 and team.day_ends == ends

    turn(token, user, team, after, ends * SECOND)
    assert used(team, user, token) == [(0, 5)] * 3
    assert team.day_ends == day_end(ends, after) and team.month_ends == month_ends

    turn(token, user, team, after, month_ends * SECOND)
    assert team.month_ends == month_end(month_ends, after)


def test_a_new_token_counts_in_the_period_of_its_team() -> None:
    team, user, token = meters()
    turn(token, user, team, "Asia/Tokyo", at("2026-05-13 12:00") * SECOND)
    spend(team, user, token)

    new = Meter("token:2")
    turn(new, user, team, "UTC", at("2026-05-13 13:00") * SECOND)

    assert (new.day_ends, new.month_ends) == (team.day_ends, team.month_ends)
    assert used(team, user, new) == [(1, 1), (1, 1), (0, 0)]


def test_who_moves_to_a_team_of_the_same_calendar_takes_along_what_was_used() -> None:
    team, user, token = meters()
    other = Meter("team:2")
    turn(token, user, team, "UTC", at("2026-05-13 12:00") * SECOND)
    spend(team, user, token, points=5)

    turn(token, user, other, "UTC", at("2026-05-13 13:00") * SECOND)

    assert used(other, user, token) == [(0, 0), (5, 5), (5, 5)]


def test_who_moves_to_a_team_of_another_calendar_keeps_the_running_periods_until_they_end() -> None:
    team, user, token = meters()
    other = Meter("team:2")
    turn(token, user, team, "UTC", at("2026-05-13 12:00") * SECOND)
    spend(team, user, token, points=5)

    turn(token, user, other, "Asia/Tokyo", at("2026-05-13 13:00") * SECOND)

    assert used(team, other, user, token) == [(5, 5), (0, 0), (5, 5), (5, 5)]
    assert user.day_ends == token.day_ends == team.day_ends != other.day_ends

    turn(token, user, other, "Asia/Tokyo", team.day_ends * SECOND)
    assert used(other, user, token) == [(0, 0), (0, 5), (0, 5)]
    assert user.day_ends == token.day_ends == other.day_ends > team.day_ends


def test_who_moves_after_midnight_begins_anew() -> None:
    team, user, token = meters()
    other = Meter("team:2")
    turn(token, user, team, "UTC", at("2026-05-13 12:00") * SECOND)
    spend(team, user, token, points=5)

    turn(token, user, other, "Asia/Tokyo", at("2026-05-14 01:00") * SECOND)

    assert used(other, user, token) == [(0, 0), (0, 5), (0, 5)]


def test_a_clock_that_was_set_back_turns_nothing() -> None:
    team, user, token = meters()
    turn(token, user, team, "UTC", at("2026-05-13 00:00:01") * SECOND)
    spend(team, user, token)

    turn(token, user, team, "UTC", at("2026-05-12 23:59:59") * SECOND)

    assert used(team, user, token) == [(1, 1)] * 3 and team.day_ends == at("2026-05-14")


def test_a_moment_before_its_day_ends_is_in_it_and_the_moment_itself_is_not() -> None:
    moment = datetime(2026, 5, 13, tzinfo=UTC)
    ends = int(moment.timestamp())
    for offset, same in ((timedelta(microseconds=-1), True), (timedelta(0), False)):
        _team, user, token = meters()
        team = Meter("team:1", day_ends=ends, day_points=3, month_ends=ends + 40 * DAY)
        turn(token, user, team, "UTC", int((moment + offset).timestamp() * SECOND))
        assert (team.day_points == 3) is same
