"""The ledger's rules a second time, naive and slow, to hold the first against: a list of records and exact fractions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from relay.ledger.items import Admission, Candidate, Change, Reservation, Settlement
from relay.limits import Limits
from tests.ledger.making import DAY, MINUTE


@dataclass
class Bucket:
    """How much is in it, of what time drains at so many per minute."""

    level: Fraction = Fraction(0)
    at: int = 0

    def now(self, moment: int, per_minute: int) -> Fraction:
        return max(Fraction(0), self.level - Fraction(per_minute * (moment - self.at), MINUTE))

    def add(self, amount: int, moment: int, per_minute: int) -> None:
        self.level, self.at = max(Fraction(0), self.now(moment, per_minute) + amount), moment


@dataclass
class Record:
    admission: Admission
    key: int
    account: int
    day: int
    tokens: int
    points: int
    outcome: str = "open"

    @property
    def owners(self) -> tuple[str, str, str]:
        of = self.admission
        return (f"token:{of.token_id}", f"user:{of.user_id}", f"team:{of.team_id}")


@dataclass
class Expected:
    """What an item should be told: a key, or the limits that may be named and after how long they let it pass."""

    kind: str
    key: int = 0
    reservation: Reservation | None = None
    limits: frozenset[str] = frozenset()
    wait: Fraction = Fraction(0)


@dataclass
class Books:
    version: int
    now: int = 0
    records: dict[uuid.UUID, Record] = field(default_factory=dict)
    requests: dict[str, Bucket] = field(default_factory=dict)
    tokens: dict[str, Bucket] = field(default_factory=dict)

    # What there is.

    def open(self, whose: str) -> int:
        return sum(
            whose in (*each.owners, f"key:{each.key}")
            for each in self.records.values()
            if each.outcome == "open"
        )

    def points(self, whose: str, day: int) -> int:
        return sum(each.points for each in self.records.values() if whose in each.owners and each.day == day)

    def today(self) -> int:
        return self.now // DAY

    # What happens.

    def settle(self, item: Settlement) -> None:
        record = self.records.get(item.id)
        if record is None or record.outcome not in ("open", "lost"):
            return
        if item.outcome == "lost":
            record.outcome = "lost"
            return
        of = record.admission
        nothing = not (item.points or item.completion_tokens) and item.first_byte_ms is None
        used = 0 if nothing else of.reservations[0].prompt_tokens + item.completion_tokens
        for whose, limits in zip(record.owners, of.limits, strict=True):
            if limits.tokens_per_minute is not None:
                self._bucket(self.tokens, whose).add(used - record.tokens, self.now, limits.tokens_per_minute)
            if item.error_code == "not_started" and limits.requests_per_minute is not None:
                self._bucket(self.requests, whose).add(-1, self.now, limits.requests_per_minute)
        record.outcome, record.tokens, record.points = item.outcome, used, item.points

    def change(self, item: Change) -> Expected:
        record = self.records.get(item.admission.id)
        if record is None or record.outcome != "open":
            return Expected("GivenUp")
        wanted = item.wanted
        tokens = max(0, wanted.tokens - record.tokens)
        points = max(0, wanted.points - record.points)
        refused = self._refused(record.owners, item.admission.limits, tokens, points, is_new=False)
        if refused:
            return refused
        if item.candidates:
            claimed = self._claim(item.candidates, instead_of=record.key)
            if claimed is None:
                return Expected("AllKeysBusy")
            record.key, record.account = claimed.key_id, claimed.account_id
        for whose, limits in zip(record.owners, item.admission.limits, strict=True):
            if limits.tokens_per_minute is not None:
                self._bucket(self.tokens, whose).add(tokens, self.now, limits.tokens_per_minute)
        record.tokens += tokens
        record.points += points
        return Expected("Admitted", record.key, wanted)

    def admit(self, item: Admission, settled: Iterable[uuid.UUID]) -> Expected:
        if item.version != self.version:
            return Expected("Stale")
        if item.id in set(settled):
            return Expected("Unavailable")
        least = min(each.tokens for each in item.reservations)
        if any(its.tokens_per_minute is not None and least > its.tokens_per_minute for its in item.limits):
            return Expected("BeyondLimit")
        record = Record(item, 0, 0, self.today(), 0, 0)
        refused = None
        for wanted in item.reservations:
            refused = self._refused(record.owners, item.limits, wanted.tokens, wanted.points, is_new=True)
            if refused is None:
                return self._take(record, wanted)
        assert refused is not None
        return refused

    def _take(self, record: Record, wanted: Reservation) -> Expected:
        claimed = self._claim(record.admission.candidates)
        if claimed is None:
            return Expected("AllKeysBusy")
        for whose, limits in zip(record.owners, record.admission.limits, strict=True):
            if limits.requests_per_minute is not None:
                self._bucket(self.requests, whose).add(1, self.now, limits.requests_per_minute)
            if limits.tokens_per_minute is not None:
                self._bucket(self.tokens, whose).add(wanted.tokens, self.now, limits.tokens_per_minute)
        record.key, record.account = claimed.key_id, claimed.account_id
        record.tokens, record.points = wanted.tokens, wanted.points
        self.records[record.admission.id] = record
        return Expected("Admitted", record.key, wanted)

    def _claim(self, candidates: tuple[Candidate, ...], instead_of: int = 0) -> Candidate | None:
        for each in candidates:
            key, account = f"key:{each.key_id}", f"account:{each.account_id}"
            taken = self.open(key) - (each.key_id == instead_of)
            slots = each.key_limits.requests_in_flight
            pairs = ((key, each.key_limits), (account, each.account_limits))
            if slots is not None and taken >= slots:
                continue
            if any(self._wait(self.requests, whose, 1, its.requests_per_minute) for whose, its in pairs):
                continue
            for whose, its in pairs:
                if its.requests_per_minute is not None:
                    self._bucket(self.requests, whose).add(1, self.now, its.requests_per_minute)
            return each
        return None

    def _refused(
        self, owners: tuple[str, ...], limits: tuple[Limits, ...], tokens: int, points: int, *, is_new: bool
    ) -> Expected | None:
        waits: list[tuple[Fraction, str]] = []
        for whose, its in zip(owners, limits, strict=True):
            left_of_day = max(Fraction(1), Fraction((self.today() + 1) * DAY - self.now, 1_000_000))
            if is_new:
                waits.append(
                    (self._wait(self.requests, whose, 1, its.requests_per_minute), "requests_per_minute")
                )
                if its.requests_in_flight is not None and self.open(whose) >= its.requests_in_flight:
                    waits.append((Fraction(1), "requests_in_flight"))
            waits.append((self._wait(self.tokens, whose, tokens, its.tokens_per_minute), "tokens_per_minute"))
            used = self.points(whose, self.today())
            if its.points_per_day is not None and used + points > its.points_per_day:
                waits.append((left_of_day, "points_per_day"))
        longest = max(wait for wait, _limit in waits)
        if not longest:
            return None
        return Expected(
            "Refused", limits=frozenset(limit for wait, limit in waits if wait == longest), wait=longest
        )

    def _wait(self, of: dict[str, Bucket], whose: str, wanted: int, limit: int | None) -> Fraction:
        """In seconds, up to the next microsecond; 0: now."""
        if limit is None:
            return Fraction(0)
        over = self._bucket(of, whose).now(self.now, limit) + wanted - limit
        if over <= 0:
            return Fraction(0)
        return Fraction(-(-over * MINUTE // limit), 1_000_000)

    def _bucket(self, of: dict[str, Bucket], whose: str) -> Bucket:
        return of.setdefault(whose, Bucket(at=self.now))
