"""What the ledger is told and what it answers: admissions, changes of an open record, settlements.

Many are made for each request. As Structs they take a tenth of the time of frozen dataclasses (measured: 0.8 and 9 us for
one of 16 fields).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct, field

from relay.chance import chance
from relay.limits import Limits, RateCard, RateLimits


class Stale(Exception):
    """The directory is newer than what this admission rests on: reload, look again, admit again."""


# The error code of a request that went nowhere: whoever asked had left, or was told that the database is too slow. It gives
# back what it took.
NOT_STARTED = "not_started"


class BadItem(Exception):
    """The database refuses this very item, whatever else is in its batch."""


def new_id() -> uuid.UUID:
    """A UUID of version 7: ordered by time, so that the index of millions of records grows at its end."""
    milliseconds, drawn = time.time_ns() // 1_000_000, int.from_bytes(chance(), "big")
    number = milliseconds << 80 | 7 << 76 | (drawn >> 62 & 0xFFF) << 64 | 2 << 62 | drawn & (1 << 62) - 1
    return uuid.UUID(int=number)


class Candidate(Struct, frozen=True):
    """A Poe key that may serve, with what it and its account may carry."""

    key_id: int
    key_name: str
    key_limits: Limits
    account_id: int
    account_limits: Limits


class Reservation(Struct, frozen=True):
    """What is set aside for a request: points and tokens, enough for so many output tokens and images of an answer."""

    prompt_tokens: int
    output_tokens: int
    images: int
    points: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


def reserve(rates: RateCard, prompt_tokens: int, output_tokens: int, images: int) -> Reservation:
    points = rates.points(prompt_tokens, output_tokens, images)
    return Reservation(prompt_tokens, output_tokens, images, points)


class Admission(Struct, frozen=True):
    """A request as it asks to be accepted. `version` is the directory's version that it was looked up in.

    `reservations` are tried in this order: the first that the limits allow is made. `candidates`: the first free one
    is claimed. `limits` are the token's, the user's and the team's.
    """

    version: int
    request_id: str
    token_id: int
    token_prefix: str
    user_id: int
    user_name: str
    team_id: int
    team_name: str
    time_zone: str
    limits: tuple[Limits, Limits, Limits]
    model: str
    bot: str
    wire: str
    streamed: bool
    reservations: tuple[Reservation, ...]
    candidates: tuple[Candidate, ...]
    # "own" on a Poe key that the caller brought along, else "estimated".
    accounting: str = "estimated"
    # If all keys are busy it is asked again for so long: that is no refusal yet.
    queue_seconds: float = 0.0
    id: uuid.UUID = field(default_factory=new_id)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def counts_tokens(self) -> tuple[bool, bool, bool]:
        token, user, team = (limits.tokens_per_minute is not None for limits in self.limits)
        return token, user, team


class Admitted(Struct, frozen=True):
    """What an admission got: a Poe key's slot and a reservation; and how its limits stand now.

    Where room is scarce, within the caller's limits or the key's, what is not used is wanted back at once. A probe is the first
    to ask a key that was blocked: how it fares decides whether others may.
    """

    key_id: int
    reservation: Reservation
    rate_limits: RateLimits
    room_is_scarce: bool = False
    is_probe: bool = False


class Change(Struct, frozen=True):
    """Something more that an open record asks for: another Poe key's slot, a larger reservation, or both.

    `key_id` is what it has now; without `candidates` it keeps its key. `limits` are the token's, the user's and the
    team's as they are now, if they are known.
    """

    admission: Admission
    key_id: int
    wanted: Reservation
    candidates: tuple[Candidate, ...] = ()
    bot: str = ""
    limits: tuple[Limits, Limits, Limits] | None = None
    # Empty: as it is.
    accounting: str = ""
    # The team's, as it is now. Empty: as it was when it was admitted.
    time_zone: str = ""


class Settlement(Struct, frozen=True):
    """How a request ended: `outcome` is done, failed, disconnected or lost. Times in milliseconds.

    `key_id` is the key whose slot it holds. A lost record keeps the tokens and points that were reserved for it.
    """

    id: uuid.UUID
    token_id: int
    user_id: int
    team_id: int
    key_id: int
    outcome: str
    error_code: str = ""
    finish_reason: str = ""
    completion_tokens: int = 0
    images: int = 0
    points: int = 0
    bot: str = ""
    first_byte_ms: int | None = None
    total_ms: int | None = None
    # Whether the token, the user and the team had a limit on tokens per minute when it was admitted.
    counts_tokens: tuple[bool, bool, bool] = (True, True, True)


# A settlement, or how to make it: counting a long text is the ledger's thread's work, not the event loop's.
Settling = Settlement | Callable[[], Settlement]
