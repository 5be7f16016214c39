"""What somebody may use, what a bot costs: the two settings that the ledger reckons with, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from msgspec import Struct

# Rates are kept in ten-thousandths of a point and per token in thousandths of that, so that costs are whole numbers.
PER_POINT = 10_000 * 1_000
# A block of a Poe key or account without an end, among moments in microseconds.
NEVER = 1 << 62
# Nobody sets limits beyond these; the levels of a meter must fit 64 bits.
MOST_REQUESTS, MOST_TOKENS = 10**9, 10**10


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no such limit. Points by the calendar of the team's time zone."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_in_flight: int | None = None
    points_per_day: int | None = None
    points_per_month: int | None = None

    @classmethod
    def of(
        cls, requests: int | None, tokens: int | None, in_flight: int | None, *points: int | None
    ) -> Limits:
        """As they are stored, in the order of the fields. Most rows have none: those share one object."""
        if requests is tokens is in_flight is None and not any(point is not None for point in points):
            return UNLIMITED
        return cls(_most(requests, MOST_REQUESTS), _most(tokens, MOST_TOKENS), in_flight, *points)

    def without_tokens(self) -> Limits:
        return replace(self, tokens_per_minute=None)

    @property
    def depend_on_the_answer(self) -> bool:
        return (
            self.tokens_per_minute is not None
            or self.points_per_day is not None
            or self.points_per_month is not None
        )


UNLIMITED = Limits()


def _most(limit: int | None, most: int) -> int | None:
    return limit if limit is None else min(limit, most)


@dataclass(frozen=True, slots=True)
class RateCard:
    """What a bot costs, as Poe sells it. Points are in ten-thousandths here; tokens by the thousand."""

    request: int = 0
    input: int = 0
    output: int = 0
    image: int = 0

    @classmethod
    def of_points(
        cls,
        request: Decimal | int | None,
        input: Decimal | int | None,
        output: Decimal | int | None,
        image: Decimal | int | None,
    ) -> RateCard | None:
        """None if nothing is known of what it costs."""
        rates = (request, input, output, image)
        if all(rate is None for rate in rates):
            return None
        return cls(*(int((rate or 0) * 10_000) for rate in rates))

    def points(self, prompt_tokens: int, completion_tokens: int, images: int) -> int:
        """Whole points, rounded up: nothing that costs is free."""
        by_token = prompt_tokens * self.input + completion_tokens * self.output
        by_piece = (self.request + images * self.image) * 1_000
        return -(-(by_token + by_piece) // PER_POINT)


class Level(Struct, frozen=True):
    """How far a limit per minute is used: what it is, what is left now, and after how many seconds all of it is back."""

    limit: int
    remaining: int
    reset_seconds: float


class RateLimits(Struct, frozen=True):
    """The tightest limit of each kind, for the headers that OpenAI's clients read. None: no such limit."""

    requests: Level | None = None
    tokens: Level | None = None
