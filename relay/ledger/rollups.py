"""Hourly rollups: what a settled record adds to the hour in which it started."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from datetime import UTC, datetime
from functools import lru_cache
from operator import neg
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.ledger.deciding import Row

# The upper bounds of the histogram of the time to the first byte, in milliseconds.
FIRST_BYTE_BOUNDS = (250, 500, 1000, 2000, 5000, 10000, 30000)
KEY_COLUMNS = ("hour", "team_id", "user_id", "token_id", "key_id", "model", "bot")
SUM_COLUMNS = (
    "requests",
    "failed",
    "disconnected",
    "lost",
    "prompt_tokens",
    "completion_tokens",
    "images",
    "points",
    "total_ms",
    *(f"first_byte_{bound}" for bound in FIRST_BYTE_BOUNDS),
    "first_byte_more",
)
# What tables of shares show, and what is kept of a day: each further sum makes both longer.
SHARE_COLUMNS = ("requests", "failed", "prompt_tokens", "completion_tokens", "points")
Key = tuple[datetime, int, int, int, int, str, str]


class Hours:
    """Sums to be added to relay_usagehour, by its key."""

    def __init__(self) -> None:
        self._added: dict[Key, list[tuple[int, ...]]] = defaultdict(list)

    def add(self, row: Row, sign: int) -> None:
        values = contribution(row)
        self._added[key_of(row)].append(values if sign > 0 else tuple(map(neg, values)))

    @property
    def sums(self) -> dict[Key, list[int]]:
        return {key: list(map(sum, zip(*added, strict=True))) for key, added in self._added.items()}

    def rows(self) -> list[tuple[Any, ...]]:
        """In the order in which they are locked."""
        return [(*key, *sums) for key, sums in sorted(self.sums.items()) if any(sums)]


def hour_of(moment: datetime) -> datetime:
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return _hour(moment.year, moment.month, moment.day, moment.hour)


@lru_cache(maxsize=64)
def _hour(year: int, month: int, day: int, hour: int) -> datetime:
    """One object for all that ask: it is a part of keys, and keeps its hash."""
    return datetime(year, month, day, hour, tzinfo=UTC)


def key_of(row: Row) -> Key:
    return (
        hour_of(row.started_at),
        row.team_id,
        row.user_id,
        row.token_id,
        row.key_id,
        row.model,
        row.bot,
    )


def contribution(row: Row) -> tuple[int, ...]:
    """What a settled record adds, in the order of SUM_COLUMNS."""
    outcome = row.outcome
    return (
        1,
        int(outcome == "failed"),
        int(outcome == "disconnected"),
        int(outcome == "lost"),
        row.prompt_tokens,
        row.completion_tokens,
        row.images,
        row.points,
        row.total_ms or 0,
        *histogram(row.first_byte_ms),
    )


def histogram(first_byte_ms: int | None) -> list[int]:
    counts = [0] * (len(FIRST_BYTE_BOUNDS) + 1)
    if first_byte_ms is not None:
        counts[bisect_left(FIRST_BYTE_BOUNDS, first_byte_ms)] = 1
    return counts
