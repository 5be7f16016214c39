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
        return f"{'ok  ' if self.is_met else 'MISS'} {self.text}: {self._shown()}"

    def _shown(self) -> str:
        if self.seen is None:
            return "not measured"
        return f"{self.seen:,.2f}" if self.seen >= 1 else f"{self.seen:.3g}"


def at_most(text: str, seen: float | None, limit: float) -> Goal:
    return Goal(f"{text} (at most {limit:,g})", seen, seen is not None and seen <= limit)


def at_least(text: str, seen: float | None, limit: float) -> Goal:
    return Goal(f"{text} (at least {limit:,g})", seen, seen is not None and seen >= limit)
