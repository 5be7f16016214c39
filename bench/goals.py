"""What is to be reached, and what was seen: `ok` or `MISS`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    text: str
    # None: it could not be measured, which is a miss.
    seen: float | None
    is_met: bool

    def __str__(self) -> str:
        seen = "not measured" if self.seen is None else f"{self.seen:,.2f}"
        return f"{'ok  ' if self.is_met else 'MISS'} {self.text}: {seen}"


def at_most(text: str, seen: float | None, limit: float) -> Goal:
    return Goal(f"{text} (at most {limit:,g})", seen, seen is not None and seen <= limit)


def at_least(text: str, seen: float | None, limit: float) -> Goal:
    return Goal(f"{text} (at least {limit:,g})", seen, seen is not None and seen >= limit)
