"""Hourly rollups: what a settled record adds to the hour in which it started."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from datetime import UTC, datetime
from operator import add, sub
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
        self.sums: dict[Key, list[int]] = defaultdict(lambda: [0] * len(SUM_COLUMNS))

    def add(self, row: Row, sign: int) -> None:
        key = key_of(row)
        self.sums[key] = list(map(add if sign > 0 else sub, self.sums[key], contribution(row)))

    def rows(self) -> list[tuple[Any, ...]]:
        """In the order in which they are locked."""
        return [(*key, *self.sums[key]) for key in sorted(self.sums) if any(self.sums[key])]


def hour_of(moment: datetime) -> datetime:
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.replace(minute=0, second=0, microsecond=0)


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
