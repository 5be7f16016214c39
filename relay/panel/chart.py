"""A line through readings, drawn by the server: the points of an SVG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 720, 120
# More points than pixels tell nothing more.
MOST_POINTS = 360


@dataclass(frozen=True, slots=True)
class Line:
    """`points` and `area` as SVG writes them; the line goes from `since` to `until`, between `least` and `most`."""

    points: str
    area: str
    since: datetime
    until: datetime
    least: int
    most: int
    width: int = WIDTH
    height: int = HEIGHT


def line(readings: Iterable[tuple[datetime, int]], until: datetime) -> Line | None:
    """Readings by time; each holds until the next. None if there are too few for a line."""
    found = _thinned(list(readings), until)
    if not found:
        return None
    since = found[0][0]
    seconds = (until - since).total_seconds()
    if seconds <= 0:
        return None
    values = [value for _at, value in found]
    least, most = min(0, *values), max(1, *values)

    def place(at: datetime, value: int) -> str:
        x = WIDTH * (at - since).total_seconds() / seconds
        y = HEIGHT - HEIGHT * (value - least) / (most - least)
        return f"{x:.1f},{y:.1f}"

    steps = []
    before = found[0][1]
    for at, value in found:
        steps += [place(at, before), place(at, value)]
        before = value
    points = " ".join([*steps, place(until, before)])
    floor = f"{WIDTH},{HEIGHT} 0,{HEIGHT}"
    return Line(points, f"{points} {floor}", since, until, min(values), max(values))


def _thinned(readings: list[tuple[datetime, int]], until: datetime) -> list[tuple[datetime, int]]:
    """The first, and of each slice of time the last: jumps stay where they are."""
    if len(readings) <= MOST_POINTS:
        return readings
    since = readings[0][0]
    width = max((until - since) / MOST_POINTS, (until - since).resolution)
    last = {(at - since) // width: (at, value) for at, value in readings}
    return [readings[0], *last.values()]
