"""Which charge of Poe's points history belongs to which usage record. Pure: knows neither Poe nor the database.

Poe's number of a question is not told to whoever asks, so they are found by account, bot, key and time; of several that
fit, the one that fits best by time, tokens and points. Each belongs to one at most, and as many as possible to one.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from math import log
from statistics import median

# Our clock may be ahead of Poe's by so much.
BEFORE = 5.0
# Poe may date a charge when the answer has ended, by a clock that is ahead of ours, and we hang up before Poe is done.
AFTER = 30.0
# Of those around, so many before and after are compared in full, each by when they began and when they ended.
NEAREST = 16
# A count that is wrong e-fold is as bad a sign as so many seconds. Answers differ more than what was asked.
OUTPUT_WEIGHT, INPUT_WEIGHT, POINTS_WEIGHT = 5.0, 3.0, 5.0
# Small counts say little: 2 tokens are hardly more than 1.
SMALL = 8
# Poe counts otherwise than we do, and a rate may be wrong: with so many on both sides it shows by how much.
FEWEST_TO_COMPARE = 8
# If more than this share of the pairs that there could be is missed, Poe's clock is not ours: it goes by order.
MOST_MISSED = 0.1
# What an open record used is not known yet.
OPEN_COST = 1.0
# The other way round would have been this much worse at most: it may as well be so.
AMBIGUOUS_SECONDS, AMBIGUOUS_SHARE = 1.0, 0.2


@dataclass(frozen=True, slots=True)
class Charge:
    """What Poe took. `account` is the same number for all that are one account at Poe; times in seconds since 1970."""

    id: int
    account: int
    bot: str
    at: float
    points: int
    key_name: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A usage record that no charge belongs to yet. `key_name` is what Poe calls its key, if that is known.

    An open one may keep its charge from another, until it is known how it ended. `points`: None where they say nothing.
    """

    id: uuid.UUID
    account: int
    bot: str
    started: float
    ended: float
    token_id: int
    key_id: int
    points: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    key_name: str = ""
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """Ambiguous: the record of another access token would have fitted almost as well."""

    charge: Charge
    record: Record
    is_ambiguous: bool


def match(charges: Iterable[Charge], records: Iterable[Record]) -> list[Pair]:
    """Pairs with open records included: those wait."""
    found: dict[tuple[int, str], tuple[list[Charge], list[Record]]] = defaultdict(lambda: ([], []))
    for charge in charges:
        found[charge.account, charge.bot.casefold()][0].append(charge)
    for record in records:
        bucket = found.get((record.account, record.bot.casefold()))
        if bucket is not None:
            bucket[1].append(record)
    return [pair for some, others in found.values() if others for pair in _Bucket(some, others).match()]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Logarithms, so that comparing is subtracting."""

    input: float | None
    output: float | None
    points: float | None


def _log(count: int | None) -> float | None:
    return None if count is None else log(max(0, count) + SMALL)


def _in_their_measure(ours: list[_Sizes], theirs: list[_Sizes]) -> list[_Sizes]:
    """As Poe would count, by the medians of both."""
    input_more = _more([each.input for each in ours], [each.input for each in theirs])
    output_more = _more([each.output for each in ours], [each.output for each in theirs])
    points_more = _more([each.points for each in ours], [each.points for each in theirs])
    return [
        _Sizes(_plus(s.input, input_more), _plus(s.output, output_more), _plus(s.points, points_more))
        for s in ours
    ]


def _more(ours: list[float | None], theirs: list[float | None]) -> float:
    some, others = ([each for each in side if each is not None] for side in (ours, theirs))
    if min(len(some), len(others)) < FEWEST_TO_COMPARE:
        return 0.0
    return median(others) - median(some)


def _plus(size: float | None, more: float) -> float | None:
    return None if size is None else size + more


class _Bucket:
    """Charges and records of one account and bot, by their numbers in the order of time."""

    def __init__(self, charges: list[Charge], records: list[Record]) -> None:
        self.charges = sorted(charges, key=lambda each: each.at)
        self.records = sorted(records, key=lambda each: each.started)
        self._starts = [each.started for each in self.records]
        self._by_end = sorted(range(len(self.records)), key=lambda r: self.records[r].ended)
        self._ends = [self.records[r].ended for r in self._by_end]
        self._longest = max(each.ended - each.started for each in self.records)
        self._of_charge = [
            _Sizes(_log(c.input_tokens), _log(c.output_tokens), _log(c.points)) for c in self.charges
        ]
        ours = [_Sizes(_log(r.input_tokens), _log(r.output_tokens), _log(r.points)) for r in self.records]
        self._of_record = _in_their_measure(ours, self._of_charge)
        self.record_of: dict[int, int] = {}
        self.charge_of: dict[int, int] = {}
        # The next record, in this order, that a search may still reach.
        self._next = list(range(len(self.records) + 1))

    def match(self) -> list[Pair]:
        near = [sorted(self._costs(c)) for c in range(len(self.charges))]
        self._pair_by_cost(near)
        in_order = self._in_order()
        if len(self.record_of) < (1 - MOST_MISSED) * len(in_order):
            self.record_of = in_order
            self.charge_of = {r: c for c, r in in_order.items()}
        for c in range(len(self.charges)):
            if c not in self.record_of:
                self._augment(c)
        return [
            Pair(self.charges[c], self.records[r], self._is_ambiguous(c, r, near[c]))
            for c, r in sorted(self.record_of.items())
        ]

    def _pair(self, c: int, r: int) -> None:
        self.record_of[c], self.charge_of[r] = r, c

    def _pair_by_cost(self, near: list[list[tuple[float, int]]]) -> None:
        for _cost, c, r in sorted((cost, c, r) for c, some in enumerate(near) for cost, r in some):
            if c not in self.record_of and r not in self.charge_of:
                self._pair(c, r)

    def _in_order(self) -> dict[int, int]:
        """Each charge has the record whose time is over first: but for the names of keys, these are as many as can be."""
        paired: dict[int, int] = {}
        running: list[tuple[float, int]] = []
        begun = 0
        for c, charge in enumerate(self.charges):
            while begun < len(self.records) and self._starts[begun] - BEFORE <= charge.at:
                heappush(running, (self.records[begun].ended, begun))
                begun += 1
            passed: list[tuple[float, int]] = []
            while running:
                first = heappop(running)
                if self._fits(c, first[1]):
                    paired[c] = first[1]
                    break
                if first[0] + AFTER >= charge.at:  # another key's
                    passed.append(first)
            for each in passed:
                heappush(running, each)
        return paired

    # Fitting.

    def _fits(self, c: int, r: int) -> bool:
        charge, record = self.charges[c], self.records[r]
        if not record.started - BEFORE <= charge.at <= record.ended + AFTER:
            return False
        return not (charge.key_name and record.key_name) or charge.key_name == record.key_name

    def _costs(self, c: int) -> Iterator[tuple[float, int]]:
        """Of the records around."""
        at = self.charges[c].at
        here, there = bisect_left(self._starts, at), bisect_left(self._ends, at)
        near = set(range(max(0, here - NEAREST), min(len(self.records), here + NEAREST)))
        near.update(self._by_end[max(0, there - NEAREST) : there + NEAREST])
        return ((self._cost(c, r), r) for r in near if self._fits(c, r))

    def _cost(self, c: int, r: int) -> float:
        """Seconds, and other differences as if they were."""
        at, record = self.charges[c].at, self.records[r]
        # It is not known whether Poe dates a charge by the question or by the end of the answer.
        cost = min(abs(at - record.started), abs(at - record.ended))
        if record.is_open:
            return cost + OPEN_COST
        its, ours = self._of_charge[c], self._of_record[r]
        if its.output is not None and ours.output is not None:
            cost += OUTPUT_WEIGHT * abs(its.output - ours.output)
            if its.input is not None and ours.input is not None:
                cost += INPUT_WEIGHT * abs(its.input - ours.input)
        elif its.points is not None and ours.points is not None:
            cost += POINTS_WEIGHT * abs(its.points - ours.points)
        return cost

    # As many as possible.

    def _augment(self, start: int) -> None:
        """Find a record for this charge, if those that are in the way can have others."""
        asked_by: dict[int, int] = {}
        before = self._next.copy()
        waiting = deque([start])
        while waiting:
            c = waiting.popleft()
            for r in self._reachable(c):
                asked_by[r] = c
                self._next[r] = r + 1
                if r not in self.charge_of:
                    self._next = before
                    return self._move_along(r, asked_by)
                waiting.append(self.charge_of[r])
        # What was reached here leads nowhere, for no other charge either: it stays out of reach.

    def _move_along(self, r: int, asked_by: dict[int, int]) -> None:
        while True:
            c = asked_by[r]
            had = self.record_of.get(c)
            self._pair(c, r)
            if had is None:
                return
            r = had

    def _reachable(self, c: int) -> Iterator[int]:
        """All that fit, whether near or not."""
        at = self.charges[c].at
        r = self._alive(bisect_left(self._starts, at - AFTER - self._longest))
        end = bisect_right(self._starts, at + BEFORE)
        while r < end:
            if self._fits(c, r):
                yield r
            r = self._alive(r + 1)

    def _alive(self, r: int) -> int:
        found = r
        while self._next[found] != found:
            found = self._next[found]
        while self._next[r] != found:
            self._next[r], r = found, self._next[r]
        return found

    # Doubt.

    def _is_ambiguous(self, c: int, r: int, near: list[tuple[float, int]]) -> bool:
        """Whether the record of another token could have it, and its own charge this record's, at hardly more cost."""
        cost = self._cost(c, r)
        most = max(AMBIGUOUS_SECONDS, AMBIGUOUS_SHARE * cost)
        for other_cost, other in near:
            if other == r or self.records[other].token_id == self.records[r].token_id:
                continue
            more = other_cost - cost
            rival = self.charge_of.get(other)
            if rival is not None:
                if not self._fits(rival, r):
                    continue
                more += self._cost(rival, r) - self._cost(rival, other)
            if more <= most:
                return True
        return False
