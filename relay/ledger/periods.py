"""Days and months of budgets, by a team's calendar. A period is named by the second (since 1970) at which it ends."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from relay.ledger.meters import SECOND, Meter


def turn(team: Meter, others: list[Meter], time_zone: str, now: int) -> None:
    """Begin a new day and month where the team's have ended; the user and the token count in the team's.

    A period ends when it was said to end when it began: another time zone counts from the next one.
    """
    seconds = now // SECOND
    if seconds >= team.day_ends:
        team.day_ends, team.day_points = day_end(seconds, time_zone), 0
    if seconds >= team.month_ends:
        team.month_ends, team.month_points = month_end(seconds, time_zone), 0
    follow(team, others, now)


def follow(team: Meter, others: list[Meter], now: int) -> None:
    """Who came from a team of another calendar keeps what the running period has counted."""
    seconds = now // SECOND
    for meter in others:
        if meter.day_ends != team.day_ends:
            meter.day_points = meter.day_points if meter.day_ends > seconds else 0
            meter.day_ends = team.day_ends
        if meter.month_ends != team.month_ends:
            meter.month_points = meter.month_points if meter.month_ends > seconds else 0
            meter.month_ends = team.month_ends


def day_end(seconds: int, time_zone: str) -> int:
    """The first midnight there after this second."""
    today = datetime.fromtimestamp(seconds, _zone(time_zone)).date()
    return _first_midnight_after(seconds, today + timedelta(days=1), time_zone)


def month_end(seconds: int, time_zone: str) -> int:
    today = datetime.fromtimestamp(seconds, _zone(time_zone)).date()
    next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return _first_midnight_after(seconds, next_month, time_zone)


def _first_midnight_after(seconds: int, day: date, time_zone: str) -> int:
    while True:
        # Clocks that are set back across midnight have it twice.
        for fold in (0, 1):
            midnight = datetime.combine(day, time(fold=fold), _zone(time_zone))
            if (ends := int(midnight.timestamp())) > seconds:
                return ends
        day += timedelta(days=1)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
