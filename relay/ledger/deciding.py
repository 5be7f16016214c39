"""What becomes of a batch: pure, on a page of the database that is locked while it is read and written back.

Settlements come first (they free what others wait for), then changes of open records, then admissions.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple, Protocol

from msgspec import Struct
from msgspec.structs import replace

from relay.errors import (
    AllKeysBusy,
    GivenUp,
    NoKeyAvailable,
    RateLimited,
    RelayError,
    Unavailable,
)
from relay.ledger import meters as rules
from relay.ledger import periods
from relay.ledger.items import (
    NOT_STARTED,
    Admission,
    Admitted,
    Candidate,
    Change,
    Reservation,
    Settlement,
    Stale,
)
from relay.ledger.meters import Meter
from relay.ledger.refusing import beyond_limit, refusal_of, refusals_of
from relay.ledger.rollups import Hours
from relay.limits import UNLIMITED, Limits, RateLimits

# Hour, team, user, token, limit.
RefusalKey = tuple[datetime, int, int, int, str]
BUSY_WAIT = 1.0
# Points come back when somebody buys some or the account's cycle begins anew: not soon.
BLOCKED_WAIT = 300.0
# A key that is set aside for no longer is as good as a busy one.
SOON = 60.0
A_MINUTE = 60 * rules.SECOND
NOTHING = Reservation(0, 0, 0, 0)
NO_RATE_LIMITS = RateLimits()


class MissingMeters(Exception):
    """Meters that were not locked with the page: read it again with these."""

    def __init__(self, ids: set[str]) -> None:
        super().__init__(ids)
        self.ids = ids


class Meters(dict[str, Meter]):
    def __missing__(self, id_: str) -> Meter:
        raise MissingMeters({id_})


class Row(Struct):
    """What of a usage record the ledger reads again and may change."""

    id: uuid.UUID
    token_id: int
    user_id: int
    team_id: int
    model: str
    prompt_tokens: int
    started_at: datetime
    # What may change.
    outcome: str
    error_code: str
    finish_reason: str
    completion_tokens: int
    images: int
    points: int
    bot: str
    key_id: int
    key_name: str
    accounting: str
    day_ends: int
    month_ends: int
    own_day_ends: int
    own_month_ends: int
    first_byte_ms: int | None
    total_ms: int | None


class NewRow(Row):
    """A record as it is first written: with what nothing reads again."""

    request_id: str
    token_prefix: str
    user_name: str
    team_name: str
    wire: str
    streamed: bool
    process: str
    tokens_estimated: bool = True


@dataclass(slots=True)
class Page:
    """What a batch of `process` was decided on, and what becomes of it. `now` in microseconds, by the database's clock."""

    version: int
    now: int
    meters: Meters
    rows: dict[uuid.UUID, Row]
    process: str = ""
    touched: dict[str, Meter] = field(default_factory=dict)
    inserted: list[NewRow] = field(default_factory=list)
    updated: dict[uuid.UUID, Row] = field(default_factory=dict)
    hours: Hours = field(default_factory=Hours)
    # What is written along: a sign of life, tokens that were just used, refusals by hour, owners and limit.
    heartbeat: str = ""
    used_tokens: list[int] = field(default_factory=list)
    refusals: dict[RefusalKey, int] = field(default_factory=dict)

    def changed(self, found: Iterable[Meter]) -> None:
        for meter in found:
            self.touched[meter.id] = meter

    @property
    def is_unchanged(self) -> bool:
        return not (
            self.touched
            or self.inserted
            or self.updated
            or self.heartbeat
            or self.used_tokens
            or self.refusals
        )


Answer = Admitted | RelayError | Stale


@dataclass(slots=True)
class Batch:
    admissions: list[Admission] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    # Of the admissions first, then of the changes; as soon as it is decided.
    answers: list[Answer] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.admissions) + len(self.changes) + len(self.settlements)

    def is_wanting(self) -> bool:
        """Whether any answer is less than what was asked for first: a refusal, a smaller reservation, another key."""
        if any(isinstance(answer, RelayError) for answer in self.answers):
            return True
        return any(
            isinstance(answer, Admitted)
            and (
                answer.reservation is not admission.reservations[0]
                or answer.key_id != admission.candidates[0].key_id
            )
            for admission, answer in zip(self.admissions, self.answers, strict=False)
        )

    def meter_ids(self) -> set[str]:
        ids: set[str] = set()
        for admission in self.admissions:
            ids.update(owners(admission), *map(_carriers, admission.candidates))
        for change in self.changes:
            ids.update(owners(change.admission), *map(_carriers, change.candidates))
            ids.add(f"key:{change.key_id}")
        for settlement in self.settlements:
            ids.update(owners(settlement))
            ids.add(f"key:{settlement.key_id}")
        return ids

    def record_ids(self) -> list[uuid.UUID]:
        return [*(each.id for each in self.settlements), *(each.admission.id for each in self.changes)]


def owners(of: Admission | Settlement | Row) -> tuple[str, str, str]:
    return _owners(of.token_id, of.user_id, of.team_id)


@lru_cache(maxsize=4096)
def _owners(token_id: int, user_id: int, team_id: int) -> tuple[str, str, str]:
    return (f"token:{token_id}", f"user:{user_id}", f"team:{team_id}")


def _carriers(candidate: Candidate) -> tuple[str, str]:
    return (f"key:{candidate.key_id}", f"account:{candidate.account_id}")


def too_slow() -> Unavailable:
    """Whoever asked left before it was decided."""
    return Unavailable("The relay was too slow to admit this request.", retry_after=2)


def decide(page: Page, batch: Batch) -> None:
    """Change the page and fill in the batch's answers. Raises MissingMeters before anything is answered."""
    settled = {settlement.id for settlement in batch.settlements}
    for settlement in batch.settlements:
        settle(page, settlement)
    changed = [change_(page, change) for change in batch.changes]
    answers: list[Answer] = []
    for admission in batch.admissions:
        if admission.version != page.version:
            answers.append(Stale())
        elif admission.id in settled:
            answers.append(too_slow())
        else:
            answers.append(admit(page, admission))
    batch.answers = answers + changed


# Settling.


def settle(page: Page, settlement: Settlement) -> None:
    """Once: an open record, or one that was given up for lost and whose true end arrives after all."""
    row = page.rows.get(settlement.id)
    if row is None or not _may_settle(row.outcome, settlement.outcome):
        return
    was_open = row.outcome == "open"
    found = [page.meters[id_] for id_ in owners(row)]
    if not was_open:
        page.hours.add(row, -1)
    if settlement.outcome == "lost":
        row.outcome, row.error_code = "lost", settlement.error_code
    else:
        _correct(row, found, settlement, page.now)
    page.hours.add(row, +1)
    if was_open:
        found.append(page.meters[f"key:{row.key_id}"])
        for meter in found:
            if meter.in_flight > 0:
                meter.in_flight -= 1
    page.changed(found)
    page.updated[row.id] = row


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * rules.SECOND)


def _may_settle(is_: str, becomes: str) -> bool:
    return is_ == "open" or (is_ == "lost" and becomes != "lost")


def _correct(row: Row, found: list[Meter], settlement: Settlement, now: int) -> None:
    """What was reserved becomes what was used, in the record's own periods only."""
    if row.accounting == "reconciled":
        # It was lost, and Poe has told meanwhile what it took: that stays.
        settlement = replace(settlement, points=row.points, completion_tokens=row.completion_tokens)
    more_tokens = settlement.completion_tokens - row.completion_tokens
    if settlement.points == 0 and settlement.completion_tokens == 0 and settlement.first_byte_ms is None:
        more_tokens -= row.prompt_tokens  # nothing was answered, so nothing was used
    more_points = settlement.points - row.points
    if settlement.error_code == NOT_STARTED and now - _microseconds(row.started_at) < A_MINUTE:
        # Older ones have drained: nothing of them is there to be given back.
        for meter in found:
            meter.requests_level = max(0, meter.requests_level - rules.UNIT)
    if more_tokens:
        for meter, counts_tokens in zip(found, settlement.counts_tokens, strict=True):
            if counts_tokens:
                meter.tokens_level = max(0, meter.tokens_level + more_tokens * rules.UNIT)
    if more_points:
        for meter in found:
            add_points(meter, row, more_points)
    row.outcome, row.error_code = settlement.outcome, settlement.error_code
    row.finish_reason = settlement.finish_reason
    row.completion_tokens, row.images, row.points = (
        settlement.completion_tokens,
        settlement.images,
        settlement.points,
    )
    row.bot = settlement.bot or row.bot
    row.first_byte_ms, row.total_ms = settlement.first_byte_ms, settlement.total_ms


class HasPeriods(Protocol):
    """Of a meter, be it the ledger's own or a row of the table: what was used in the periods that run."""

    id: str
    day_ends: int
    day_points: int
    month_ends: int
    month_points: int


def add_points(meter: HasPeriods, row: Row, points: int) -> None:
    """In the record's own periods: those that began since are none of its business."""
    day_ends, month_ends = _ends(row, meter)
    if meter.day_ends == day_ends:
        meter.day_points += points
    if meter.month_ends == month_ends:
        meter.month_points += points


def _ends(row: Row, meter: HasPeriods) -> tuple[int, int]:
    if meter.id.startswith("team:"):
        return row.day_ends, row.month_ends
    return row.own_day_ends, row.own_month_ends


# Admitting.


def admit(page: Page, admission: Admission) -> Answer:
    found = [page.meters[id_] for id_ in owners(admission)]
    for meter, limits in zip(found, admission.limits, strict=True):
        rules.drain(meter, limits, page.now)
    token, user, team = found
    periods.turn(token, user, team, admission.time_zone, page.now)
    its_rules = rules.OWN_RULES if admission.accounting == "own" else rules.RULES
    refusal: RelayError | None = None
    for reservation in admission.reservations:
        is_ample = all(map(rules.is_ample, found, admission.limits, repeat(reservation)))
        # What leaves ample room is refused by none: almost always that is all that is to be asked.
        refusal = None if is_ample else refusal_of(found, admission.limits, reservation, its_rules)
        if refusal is None:
            return _take(page, admission, reservation, found, is_ample)
    assert refusal is not None
    # Beyond a whole limit is beyond what is left of it: it is refused above, and told otherwise.
    if (never := beyond_limit(admission)) is not None:
        return never
    if isinstance(refusal, RateLimited):
        refusal.rate_limits = standing(found, admission.limits)
    return refusal


def _take(
    page: Page, admission: Admission, reservation: Reservation, found: list[Meter], is_ample: bool
) -> Answer:
    claimed = _claim(page, admission.candidates)
    if isinstance(claimed, RelayError):
        if isinstance(claimed, RateLimited):
            claimed.rate_limits = standing(found, admission.limits)
        return claimed
    for meter, limits in zip(found, admission.limits, strict=True):
        rules.take(meter, limits, reservation)
        meter.in_flight += 1
    page.changed(found)
    admitted = Admitted(
        claimed.candidate.key_id,
        reservation,
        standing(found, admission.limits),
        room_is_scarce=not (is_ample and claimed.is_ample),
        is_probe=claimed.is_probe,
    )
    page.inserted.append(_row(page.process, admission, reservation, claimed.candidate, found))
    return admitted


class _Claimed(NamedTuple):
    """A key's slot; whether room on it was ample; whether it is tried after a block."""

    candidate: Candidate
    is_ample: bool
    is_probe: bool


def _claim(page: Page, candidates: tuple[Candidate, ...]) -> _Claimed | RelayError:
    """The first key with a slot free, taken."""
    wait = math.inf
    is_busy = False
    for candidate in candidates:
        key, account = page.meters[f"key:{candidate.key_id}"], page.meters[f"account:{candidate.account_id}"]
        is_probe = bool(key.blocked_until or account.blocked_until)
        if is_probe and (blocked := rules.blocked_for(key, account, page.now)):
            wait = min(wait, blocked)
            continue
        rules.drain(key, candidate.key_limits, page.now)
        rules.drain(account, candidate.account_limits, page.now)
        key_limits, account_limits = candidate.key_limits, candidate.account_limits
        is_ample = rules.is_ample(key, key_limits, NOTHING)
        if (is_ample or rules.fits(key, key_limits, NOTHING)) and rules.fits(
            account, account_limits, NOTHING
        ):
            rules.take(key, key_limits, NOTHING)
            rules.take(account, account_limits, NOTHING)
            key.in_flight += 1
            if is_probe:
                rules.try_out(key, page.now)
                rules.try_out(account, page.now)
            page.changed((key, account))
            return _Claimed(candidate, is_ample, is_probe)
        refusals = refusals_of(((key, key_limits), (account, account_limits)), NOTHING, rules.RULES)
        wait, is_busy = min(wait, max(each.wait_seconds for _whose, each in refusals)), True
    if not is_busy and wait > SOON:
        return NoKeyAvailable(
            "All Poe keys that may serve you are retired, out of points or set aside after failures. "
            "Ask your administrator.",
            retry_after=min(wait, BLOCKED_WAIT),
        )
    return AllKeysBusy("All Poe keys are busy. Try again shortly.", retry_after=max(BUSY_WAIT, wait))


def _row(
    process: str, admission: Admission, reservation: Reservation, candidate: Candidate, found: list[Meter]
) -> NewRow:
    _token, user, team = found
    return NewRow(
        id=admission.id,
        token_id=admission.token_id,
        user_id=admission.user_id,
        team_id=admission.team_id,
        model=admission.model,
        prompt_tokens=reservation.prompt_tokens,
        day_ends=team.day_ends,
        month_ends=team.month_ends,
        own_day_ends=user.day_ends,
        own_month_ends=user.month_ends,
        started_at=admission.started_at,
        outcome="open",
        error_code="",
        finish_reason="",
        completion_tokens=reservation.output_tokens,
        images=0,
        points=reservation.points,
        bot=admission.bot,
        key_id=candidate.key_id,
        key_name=candidate.key_name,
        accounting=admission.accounting,
        first_byte_ms=None,
        total_ms=None,
        request_id=admission.request_id,
        token_prefix=admission.token_prefix,
        user_name=admission.user_name,
        team_name=admission.team_name,
        wire=admission.wire,
        streamed=admission.streamed,
        process=process,
    )


# Changing an open record.


def change_(page: Page, change: Change) -> Answer:
    row = page.rows.get(change.admission.id)
    if row is None or row.outcome != "open":
        return GivenUp("The relay gave this request up while its database was away.", retry_after=2)
    found = token, user, team = [page.meters[id_] for id_ in owners(row)]
    limits, wanted = change.limits or change.admission.limits, change.wanted
    more = Reservation(
        0, max(0, wanted.output_tokens - row.completion_tokens), 0, max(0, wanted.points - row.points)
    )
    for meter, its in zip(found, limits, strict=True):
        rules.drain(meter, its, page.now)
    counting = _as_it_is_counted(change.admission, limits)
    refused: RelayError | None = None
    is_probe = False
    if more.tokens or more.points:
        periods.turn(token, user, team, change.time_zone or change.admission.time_zone, page.now)
        is_own = (change.accounting or row.accounting) == "own"
        its_rules = rules.OWN_EXTENSION_RULES if is_own else rules.EXTENSION_RULES
        refused = refusal_of([_as_of(row, meter) for meter in found], counting, more, its_rules)
    if refused is None and change.candidates:
        claimed = _change_key(page, row, change.candidates)
        if isinstance(claimed, RelayError):
            refused = claimed
        else:
            is_probe = claimed
    if refused is not None:
        return refused
    if more.points:
        _move_to_running_periods(row, token, user, team)
    for meter, its in zip(found, counting, strict=True):
        rules.add_tokens(meter, its, more.tokens)
        add_points(meter, row, more.points)
    row.completion_tokens += more.output_tokens
    row.points += more.points
    row.bot = change.bot or row.bot
    row.accounting = change.accounting or row.accounting
    page.changed(found)
    page.updated[row.id] = row
    return Admitted(row.key_id, wanted, NO_RATE_LIMITS, is_probe=is_probe)


def _as_it_is_counted(admission: Admission, limits: tuple[Limits, ...]) -> tuple[Limits, ...]:
    """A limit on tokens that was set since has not counted this request, and does not begin in the middle of it."""
    return tuple(
        its if counts or its.tokens_per_minute is None else its.without_tokens()
        for its, counts in zip(limits, admission.counts_tokens, strict=True)
    )


def _as_of(row: Row, meter: Meter) -> Meter:
    """The meter as an extension of this record meets it: in periods that began since, all of the record is new."""
    asked = copy(meter)
    day_ends, month_ends = _ends(row, meter)
    asked.day_points += row.points if meter.day_ends != day_ends else 0
    asked.month_points += row.points if meter.month_ends != month_ends else 0
    return asked


def _move_to_running_periods(row: Row, token: Meter, user: Meter, team: Meter) -> None:
    """An answer that needs more after midnight counts in the new day as a whole: the old one is closed."""
    for meter in (token, user, team):
        day_ends, month_ends = _ends(row, meter)
        meter.day_points += row.points if meter.day_ends != day_ends else 0
        meter.month_points += row.points if meter.month_ends != month_ends else 0
    row.own_day_ends, row.own_month_ends = user.day_ends, user.month_ends
    row.day_ends, row.month_ends = team.day_ends, team.month_ends


def _change_key(page: Page, row: Row, candidates: tuple[Candidate, ...]) -> bool | RelayError:
    """Whether the new key is tried after a block. The slot that it has may be the one that it gets: it is let go of first."""
    old = page.meters[f"key:{row.key_id}"]
    held = min(1, old.in_flight)
    old.in_flight -= held
    claimed = _claim(page, candidates)
    if isinstance(claimed, RelayError):
        old.in_flight += held
        return claimed
    page.changed([old])
    row.key_id, row.key_name = claimed.candidate.key_id, claimed.candidate.key_name
    return claimed.is_probe


def standing(found: list[Meter], limits: tuple[Limits, ...]) -> RateLimits:
    """How the limits per minute stand: of each kind the one with the least left."""
    requests = tokens = None
    for meter, its in zip(found, limits, strict=True):
        if its is not UNLIMITED:
            requests = rules.tighter(requests, meter.requests_level, its.requests_per_minute)
            tokens = rules.tighter(tokens, meter.tokens_level, its.tokens_per_minute)
    return RateLimits(rules.level(requests), rules.level(tokens)) if requests or tokens else NO_RATE_LIMITS
