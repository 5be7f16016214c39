"""What a failure says about a Poe key or its account, and how long it is left alone. Pure: no clock, no database.

ok        is asked
failing   another key answered what this one could not (5xx, a broken connection, silence), or it cannot be reached
          again and again: left alone for a while, then one real request tries it
cooling   Poe says too many requests: the account is left alone for as long as Poe says, or longer each time
resting   the account has no points left: until its balance says otherwise
retired   Poe refuses the key: until an administrator acts

What a user caused, and what is the bot's own failure, is no key's fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from relay.errors import (
    RelayError,
    UpstreamError,
    UpstreamOutOfPoints,
    UpstreamRateLimited,
    UpstreamUnauthorized,
    UpstreamUnknownBot,
)

Whose = Literal["key", "account"]

# The first pause and the longest, in seconds; each further one in a row is twice as long.
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
# So much of a pause is left to chance, so that keys that failed together do not come back together.
JITTER = 0.2
# Where the balance cannot be read, a request tries an account without points after so long, and then less and less often.
FIRST_REST, LONGEST_REST = 900.0, 6 * 3600.0
# So often in a row a key cannot be reached, with no other key to compare it with, before it is left alone.
UNREACHABLE = 5
RANK = {"ok": 0, "failing": 1, "cooling": 2, "resting": 3, "retired": 4}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`retry_after` in seconds, where Poe said it."""

    whose: Whose
    state: str
    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a key or an account fares. `until` is None where nobody knows, or where there is no end."""

    state: str = "ok"
    reason: str = ""
    since: datetime = datetime.fromtimestamp(0, UTC)
    until: datetime | None = None
    failures: int = 0
    # Of an account: its balance, if it was read lately.
    points: int | None = field(default=None, compare=False)


def verdict_of(exc: RelayError) -> Verdict | None:
    """What is certain at once."""
    if isinstance(exc, UpstreamError) and exc.is_hearsay:
        return None
    match exc:
        case UpstreamUnauthorized():
            return Verdict("key", "retired", exc.message)
        case UpstreamOutOfPoints():
            return Verdict("account", "resting", exc.message)
        case UpstreamRateLimited():
            return Verdict("account", "cooling", exc.message, exc.retry_after)
    return None


def suspicion_of(exc: RelayError) -> Verdict | None:
    """What is certain once another key has answered the same question: it might be the bot's failure, or all of Poe's."""
    if not isinstance(exc, UpstreamError) or isinstance(exc, UpstreamUnknownBot) or verdict_of(exc):
        return None
    return Verdict("key", "failing", exc.message)


def after(
    standing: Standing,
    verdict: Verdict,
    *,
    asked_at: datetime,
    now: datetime,
    chance: Callable[[], float],
) -> Standing | None:
    """How it fares then; None if nothing changes. `chance` is from 0 up to 1."""
    is_due = standing.until is not None and standing.until <= now
    if RANK[standing.state] > RANK[verdict.state] and not is_due:
        return None
    if verdict.state == "resting" and (standing.points or 0) > 0:
        return None  # too few for this bot, or the last ones just went: its balance is read again at once
    if standing.state == verdict.state and (verdict.state == "retired" or asked_at <= standing.since):
        return None  # it was asked before it was known: no further failure
    failures = standing.failures + 1
    return Standing(
        verdict.state, verdict.reason[:300], now, _until(verdict, failures, now, chance), failures
    )


def _until(verdict: Verdict, failures: int, now: datetime, chance: Callable[[], float]) -> datetime | None:
    if verdict.state == "retired":
        return None
    if verdict.retry_after is not None and verdict.state == "cooling":
        # Not earlier than Poe says, and not all at once.
        return now + timedelta(seconds=verdict.retry_after * (1 + JITTER * chance()))
    first, longest = (
        (FIRST_REST, LONGEST_REST) if verdict.state == "resting" else (FIRST_PAUSE, LONGEST_PAUSE)
    )
    pause = min(longest, first * 2 ** min(failures - 1, 20))
    return now + timedelta(seconds=pause * (1 + JITTER * (2 * chance() - 1)))


def well(standing: Standing, reason: str, now: datetime) -> Standing | None:
    """Again, or None if it was."""
    return None if standing.state == "ok" else Standing("ok", reason, now)
