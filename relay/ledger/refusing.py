"""Why a request is refused, in words: which limit of whose, what is left of it, and when to come back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import attrgetter

from relay.errors import BeyondLimit, BudgetExceeded, RateLimited
from relay.ledger import meters as rules
from relay.ledger.items import Admission, Reservation
from relay.ledger.meters import Meter, Refusal
from relay.limits import Limits

WHOSE = ("this access token", "the owner of this access token", "the team")
TOKENS = attrgetter("tokens")


def refusals_of(
    asked: Iterable[tuple[Meter, Limits]], reservation: Reservation, of: tuple[rules.Rule, ...]
) -> list[tuple[int, Refusal]]:
    return [
        (whose, refused)
        for whose, (meter, its) in enumerate(asked)
        if not rules.fits(meter, its, reservation)
        for rule in of
        if (refused := rule(meter, its, reservation)) is not None
    ]


def refusal_of(
    found: list[Meter], limits: tuple[Limits, ...], reservation: Reservation, of: tuple[rules.Rule, ...]
) -> RateLimited | None:
    """The refusal that holds longest: when it is over, the others are too."""
    refusals = refusals_of(zip(found, limits, strict=True), reservation, of)
    if not refusals:
        return None
    whose, refused = max(refusals, key=lambda each: each[1].wait_seconds)
    kind = BudgetExceeded if refused.limit in rules.BUDGETS else RateLimited
    error = kind(_sentence(WHOSE[whose], refused, reservation), retry_after=refused.wait_seconds)
    error.limit = refused.limit
    return error


def _never_fits(refused: Refusal, reservation: Reservation) -> bool:
    return refused.limit in rules.BUDGETS and reservation.points > refused.value


def _sentence(whose: str, refused: Refusal, reservation: Reservation) -> str:
    limit = _named(refused.value, refused.limit)
    if _never_fits(refused, reservation):
        return (
            f"This request may need {reservation.points:,} points, more than the whole limit of {whose}: {limit}. "
            "Lower `max_tokens`, or ask your administrator."
        )
    match refused.limit:
        case "points_per_day" | "points_per_month":
            rest = f": {refused.left:,} are left and this request may need {reservation.points:,}"
            if refused.under_way:
                rest += f" ({refused.under_way} under way may give some back)"
        case "tokens_per_minute":
            rest = f": {refused.left:,} are left now and this request may need {reservation.tokens:,}"
        case _:
            rest = ""
    back = _duration(refused.wait_seconds)
    return f"The limit of {whose}, {limit}, is reached{rest}. Come back in {back}."


def _named(value: int, limit: str) -> str:
    """25 points per day; 1 request in flight."""
    what, _space, rest = limit.replace("_", " ").partition(" ")
    return f"{value:,} {what if value != 1 else what.removesuffix('s')} {rest}"


def _duration(seconds: float) -> str:
    units = ((1, "second", 120), (60, "minute", 7200), (3600, "hour", 172_800), (86_400, "day", math.inf))
    size, name = next((size, name) for size, name, most in units if seconds < most)
    count = max(1, math.ceil(seconds / size))
    return f"{count} {name}{'' if count == 1 else 's'}"


def beyond_limit(admission: Admission) -> BeyondLimit | None:
    """A request that no waiting would make fit."""
    reservations = admission.reservations
    least = reservations[0] if len(reservations) == 1 else min(reservations, key=TOKENS)
    tokens = least.tokens
    limited = zip((each.tokens_per_minute for each in admission.limits), WHOSE, strict=True)
    exceeded = [(limit, whose) for limit, whose in limited if limit is not None and tokens > limit]
    if not exceeded:
        return None
    limit, whose = min(exceeded, key=lambda each: each[0])
    return BeyondLimit(
        f"This request may need {tokens:,} tokens (prompt {least.prompt_tokens:,} and answer "
        f"{least.output_tokens:,}), more than the whole limit of {whose}: {limit:,} tokens per minute. "
        "Shorten it, or lower `max_tokens`."
    )
