"""When a Poe account runs out of points, if it goes on being used as in the last days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

# Readings of so many days are looked at; of less than an hour nothing can be said.
LOOKED_AT = timedelta(days=7)
LEAST = timedelta(hours=1)
# Nobody plans further ahead, and a date in a thousand years says no more.
FURTHEST = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Forecast:
    """`runs_out`: None if it lasts longer than anybody plans."""

    points_a_day: int
    runs_out: datetime | None


def forecast(readings: Sequence[tuple[datetime, int]], now: datetime) -> Forecast | None:
    """Of readings by time, the last of which is what is left. A rise is a grant or a purchase, and no use.

    A grant to come is left out: what is not spent may be lost with it, or may add up; Poe does not say.
    """
    if len(readings) < 2 or readings[-1][0] - readings[0][0] < LEAST:
        return None
    used = sum(max(0, before - after) for (_at, before), (_then, after) in pairwise(readings))
    days = (now - readings[0][0]) / timedelta(days=1)
    a_day = used / days
    left = readings[-1][1]
    if not used or left / a_day > FURTHEST / timedelta(days=1):
        return Forecast(round(a_day), None)
    return Forecast(round(a_day), now + timedelta(days=max(0, left) / a_day))
