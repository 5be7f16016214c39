"""Days and months of budgets, by a team's calendar. A period is named by the second (since 1970) at which it ends."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from relay.ledger.meters import SECOND, Meter


def turn(token: Meter, user: Meter, team: Meter, time_zone: str, now: int) -> None:
    """Begin a new day and month where they have ended: the team's by the calendar there, the user's with the team's.

    A period ends when it was said to end when it began: another time zone, or another team, counts from the next one.
    """
    seconds = now // SECOND
    if seconds >= team.day_ends:
        team.day_ends, team.day_points = day_end(seconds, time_zone), 0
    if seconds >= team.month_ends:
        team.month_ends, team.month_points = month_end(seconds, time_zone), 0
    if seconds >= user.day_ends:
        user.day_ends, user.day_points = team.day_ends, 0
    if seconds >= user.month_ends:
        user.month_ends, user.month_points = team.month_ends, 0
    follow(token, user)


def follow(token: Meter, user: Meter) -> None:
    """A token counts in the periods of its user; what it counted in earlier ones is over."""
    if token.day_ends != user.day_ends:
        token.day_ends, token.day_points = user.day_ends, 0
    if token.month_ends != user.month_ends:
        token.month_ends, token.month_points = user.month_ends, 0


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
