"""Meters and the rules that they hold: one function for each limit. Whole numbers only, no clock and no database.

A level is a bucket that requests (or tokens) fill and that time drains (GCRA: at most the limit at once, then at the
limit's rate). Its unit is a sixty-millionth, so that a limit of N per minute drains N units each microsecond.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from relay.ledger.items import Reservation
from relay.limits import NEVER, UNLIMITED, Level, Limits

UNIT = 60_000_000
SECOND = 1_000_000
# Processes on one database may see its clock a little out of order; a step back beyond this is a clock that was set.
CLOCK_STEP = 5 * SECOND
# When a request in flight will end is unknown: come back soon.
IN_FLIGHT_WAIT = 1.0
# So long a request that tries a blocked key keeps others from trying it too, unless its answer comes before.
PROBE = 60 * SECOND
# When a request that is under way will tell how a key fares is unknown: come back soon.
PROBE_WAIT = 1.0
# A limit of nothing at all never ends by waiting.
NEVER_WAIT = 60.0


@dataclass(slots=True)
class Meter:
    """A row of relay_meter as it is read, changed and written back. `at` in microseconds, periods in seconds."""

    id: str
    at: int = 0
    requests_level: int = 0
    tokens_level: int = 0
    in_flight: int = 0
    day_ends: int = 0
    day_points: int = 0
    month_ends: int = 0
    month_points: int = 0
    # Of a Poe key or account: microseconds before which it is not asked. From then on one request at a time tries it,
    # until `relay.pool` says that it is well again (0). Below 0: it is being tried, others wait. NEVER: until somebody acts.
    blocked_until: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit of what value refuses, and after how many seconds it would not."""

    limit: str
    value: int
    wait_seconds: float
    left: int = 0
    # Requests under way, which may give back some of what they reserved.
    under_way: int = 0


def drain(meter: Meter, limits: Limits, now: int) -> None:
    """Bring the levels to this moment, at the rates that the limits have now."""
    elapsed = now - meter.at
    if elapsed > 0 or elapsed < -CLOCK_STEP:
        meter.at = now
    if elapsed < 0:
        elapsed = 0
    if meter.requests_level:
        meter.requests_level = _drained(meter.requests_level, limits.requests_per_minute, elapsed)
    if meter.tokens_level:
        meter.tokens_level = _drained(meter.tokens_level, limits.tokens_per_minute, elapsed)


def _drained(level: int, per_minute: int | None, elapsed: int) -> int:
    """A limit that was lowered finds its bucket full and no fuller: nobody pays for hours for what was allowed."""
    if per_minute is None:
        return 0
    full = per_minute * UNIT
    left = (level if level < full else full) - per_minute * elapsed
    return left if left > 0 else 0


def take(meter: Meter, limits: Limits, reservation: Reservation) -> None:
    """A request with this reservation begins; its slot apart."""
    if limits is not UNLIMITED:
        if limits.requests_per_minute is not None:
            meter.requests_level += UNIT
        if limits.tokens_per_minute is not None:
            meter.tokens_level += (reservation.prompt_tokens + reservation.output_tokens) * UNIT
    if reservation.points:
        meter.day_points += reservation.points
        meter.month_points += reservation.points


def add_tokens(meter: Meter, limits: Limits, tokens: int) -> None:
    if limits.tokens_per_minute is not None:
        meter.tokens_level += tokens * UNIT


def blocked_for(key: Meter, account: Meter, now: int) -> float:
    """For how many seconds a Poe key is not to be asked; 0: it may be tried."""
    return max(_blocked_for(key.blocked_until, now), _blocked_for(account.blocked_until, now))


def _blocked_for(until: int, now: int) -> float:
    if until < 0:
        return PROBE_WAIT if -until > now else 0
    if until >= NEVER:
        return math.inf
    return max(0, until - now) / SECOND


def try_out(blocked: Meter, now: int) -> None:
    """Mark what is about to be tried."""
    if blocked.blocked_until:
        blocked.blocked_until = -(now + PROBE)


# The rules. Each is asked about a request with this reservation, on a meter that was drained and whose periods are the
# current ones, and answers with a refusal or None.


def requests_per_minute(meter: Meter, limits: Limits, reservation: Reservation) -> Refusal | None:
    """At most the limit at once; what was used comes back at the limit's rate per minute."""
    return _level_rule("requests_per_minute", meter.requests_level, 1, limits.requests_per_minute)


def tokens_per_minute(meter: Meter, limits: Limits, reservation: Reservation) -> Refusal | None:
    """Prompt and reserved answer together, at most the limit at once, back at the limit's rate per minute."""
    return _level_rule(
        "tokens_per_minute",
        meter.tokens_level,
        reservation.tokens,
        limits.tokens_per_minute,
    )


def requests_in_flight(meter: Meter, limits: Limits, reservation: Reservation) -> Refusal | None:
    """At most the limit at the same time."""
    limit = limits.requests_in_flight
    if limit is None or meter.in_flight < limit:
        return None
    return Refusal("requests_in_flight", limit, IN_FLIGHT_WAIT)


def points_per_day(meter: Meter, limits: Limits, reservation: Reservation) -> Refusal | None:
    """What was used and is reserved today, with this, is at most the limit."""
    return _budget_rule(
        "points_per_day", meter, meter.day_points, meter.day_ends, reservation, limits.points_per_day
    )


def points_per_month(meter: Meter, limits: Limits, reservation: Reservation) -> Refusal | None:
    """What was used and is reserved this month, with this, is at most the limit."""
    return _budget_rule(
        "points_per_month", meter, meter.month_points, meter.month_ends, reservation, limits.points_per_month
    )


Rule = Callable[[Meter, Limits, Reservation], Refusal | None]
RULES: tuple[Rule, ...] = (
    requests_per_minute,
    tokens_per_minute,
    requests_in_flight,
    points_per_day,
    points_per_month,
)
# What a larger reservation of a running request is asked: it is no further request.
EXTENSION_RULES: tuple[Rule, ...] = (tokens_per_minute, points_per_day, points_per_month)
BUDGETS = frozenset({"points_per_day", "points_per_month"})
# With a key that a user or a team brought along: not even a budget that Poe's corrections have overdrawn is asked.
OWN_RULES: tuple[Rule, ...] = (requests_per_minute, tokens_per_minute, requests_in_flight)
OWN_EXTENSION_RULES: tuple[Rule, ...] = (tokens_per_minute,)


def fits(meter: Meter, limits: Limits, reservation: Reservation) -> bool:
    """Whether no rule refuses, in one look: almost always nothing does, and then no rule need be asked."""
    return limits is UNLIMITED or (
        (limits.requests_in_flight is None or meter.in_flight < limits.requests_in_flight)
        and _has_room(meter, limits, 1, reservation, 1)
    )


# Room is ample if so many times what a request reserves is left behind.
AMPLE = 10


def is_ample(meter: Meter, limits: Limits, reservation: Reservation) -> bool:
    """Whether it fits and leaves half of the slots, room for another request this minute, and ten times its tokens and points."""
    return limits is UNLIMITED or (
        (limits.requests_in_flight is None or (meter.in_flight + 1) * 2 <= limits.requests_in_flight)
        and _has_room(meter, limits, 2, reservation, 1 + AMPLE)
    )


def _has_room(meter: Meter, limits: Limits, requests: int, reservation: Reservation, times: int) -> bool:
    """For so many requests, and so many times the reservation's tokens and points."""
    return (
        (
            limits.requests_per_minute is None
            or meter.requests_level + requests * UNIT <= limits.requests_per_minute * UNIT
        )
        and (
            limits.tokens_per_minute is None
            or meter.tokens_level + (reservation.prompt_tokens + reservation.output_tokens) * times * UNIT
            <= limits.tokens_per_minute * UNIT
        )
        and (
            limits.points_per_day is None
            or meter.day_points + reservation.points * times <= limits.points_per_day
        )
        and (
            limits.points_per_month is None
            or meter.month_points + reservation.points * times <= limits.points_per_month
        )
    )


def _level_rule(name: str, level: int, wanted: int, limit: int | None) -> Refusal | None:
    if limit is None:
        return None
    over = level + wanted * UNIT - limit * UNIT
    if over <= 0:
        return None
    if limit == 0:
        return Refusal(name, 0, NEVER_WAIT)
    return Refusal(name, limit, -(-over // limit) / SECOND, max(0, limit - -(-level // UNIT)))


def _budget_rule(
    name: str, meter: Meter, used: int, ends: int, reservation: Reservation, limit: int | None
) -> Refusal | None:
    if limit is None or used + reservation.points <= limit:
        return None
    wait = max(1.0, ends - meter.at / SECOND)
    return Refusal(name, limit, wait, max(0, limit - used), meter.in_flight)


# How the limits stand.

# Left, level, limit.
Stand = tuple[int, int, int]


def tighter(than: Stand | None, level: int, limit: int | None) -> Stand | None:
    """The one of the two with the least left."""
    if limit is None:
        return than
    left = limit - -(-level // UNIT)
    if left < 0:
        left = 0
    return (left, level, limit) if than is None or left < than[0] else than


def level(stand: Stand | None) -> Level | None:
    if stand is None:
        return None
    left, filled, limit = stand
    return Level(limit, left, filled / limit / SECOND if limit else NEVER_WAIT)
