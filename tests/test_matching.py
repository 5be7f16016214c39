"""Which charge belongs to which record: one to one, by account, bot, key and time, as many as possible, as well as possible."""

from __future__ import annotations

import random
import time
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.matching import AFTER, BEFORE, Charge, Pair, Record, match

quick = settings(deadline=None, max_examples=150, derandomize=True)


def charge(id_: int = 1, at: float = 1000, **fields: Any) -> Charge:
    values: dict[str, Any] = {"account": 1, "bot": "GPT-4o", "points": 10}
    return Charge(id=id_, at=at, **values | fields)


def record(id_: int = 1, started: float = 1000, took: float = 2, **fields: Any) -> Record:
    values: dict[str, Any] = {"account": 1, "bot": "gpt-4o", "token_id": 1, "key_id": 1, "points": 10}
    return Record(id=uuid.UUID(int=id_), started=started, ended=started + took, **values | fields)


def numbers(pairs: list[Pair]) -> set[tuple[int, int]]:
    return {(pair.charge.id, pair.record.id.int) for pair in pairs}


@pytest.mark.parametrize(
    ("charged", "recorded", "fits"),
    [
        (charge(), record(), True),
        (charge(at=1000 - BEFORE), record(), True),
        (charge(at=1000 - BEFORE - 0.01), record(), False),
        (charge(at=1002 + AFTER), record(), True),
        (charge(at=1002 + AFTER + 0.01), record(), False),
        (charge(at=1300), record(took=600), True),
        (charge(bot="GPT-4O"), record(bot="gpt-4o"), True),
        (charge(bot="GPT-4o-mini"), record(), False),
        (charge(bot="Straße"), record(bot="STRASSE"), True),
        (charge(account=2), record(), False),
        (charge(key_name="a"), record(key_name="a"), True),
        (charge(key_name="a"), record(key_name="b"), False),
        (charge(key_name="A"), record(key_name="a"), False),
        (charge(key_name="a"), record(), True),
        (charge(), record(key_name="a"), True),
        (charge(points=10_000, input_tokens=1, output_tokens=9_999), record(), True),
    ],
)
def test_what_fits(charged: Charge, recorded: Record, fits: bool) -> None:
    assert bool(match([charged], [recorded])) is fits


@pytest.mark.parametrize(
    ("charges", "records", "pairs"),
    [
        ([], [record()], set()),
        ([charge()], [], set()),
        # Nearer in time, by either end.
        ([charge(1, 1000), charge(2, 1010)], [record(1, 1000), record(2, 1010)], {(1, 1), (2, 2)}),
        ([charge(1, 1012)], [record(1, 1000), record(2, 1010)], {(1, 2)}),
        ([charge(1, 1060)], [record(1, 1000, 60), record(2, 1050)], {(1, 1)}),
        # As long as what was said.
        (
            [
                charge(1, 1002, input_tokens=5, output_tokens=900),
                charge(2, 1002, input_tokens=5, output_tokens=30),
            ],
            [record(1, input_tokens=6, output_tokens=25), record(2, input_tokens=6, output_tokens=800)],
            {(1, 2), (2, 1)},
        ),
        # As dear, where nothing is said of tokens.
        (
            [charge(1, 1002, points=900), charge(2, 1002, points=20)],
            [record(1, points=30), record(2, points=600)],
            {(1, 2), (2, 1)},
        ),
        # The nearest is the only one for another charge: both have one.
        ([charge(1, 1020), charge(2, 990)], [record(1, 994), record(2, 1000)], {(1, 2), (2, 1)}),
        ([charge(1, 1001), charge(2, 1034)], [record(1, 1004, 0), record(2, 970, 2)], {(1, 2), (2, 1)}),
        # A key's name settles it against the time.
        (
            [charge(1, 1000, key_name="a"), charge(2, 1003, key_name="b")],
            [record(1, 1000, key_name="b"), record(2, 1003, key_name="a")],
            {(1, 2), (2, 1)},
        ),
        # What is left over stays so.
        ([charge(1, 1002), charge(2, 1009)], [record(1)], {(1, 1)}),
    ],
)
def test_who_gets_whom(charges: list[Charge], records: list[Record], pairs: set[tuple[int, int]]) -> None:
    assert numbers(match(charges, records)) == pairs
    assert numbers(match(charges[::-1], records[::-1])) == pairs


def test_an_open_record_keeps_what_may_be_its_own() -> None:
    [pair] = match([charge(at=1000.5)], [record(1, 990, 1), record(2, 1000.5, 60, is_open=True)])

    assert pair.record.is_open


def two(of_second: int, seconds: float) -> list[Record]:
    return [record(1, 1000), record(2, 1000 + seconds, token_id=of_second)]


@pytest.mark.parametrize(
    ("charges", "records", "ambiguous"),
    [
        # Another token's might as well be meant, whether it has a charge of its own or none.
        ([charge(1, 1002)], two(2, 0.5), [True]),
        ([charge(1, 1002), charge(2, 1002.3)], two(2, 0.3), [True, True]),
        # The same token's: whichever it is, the same person pays.
        ([charge(1, 1002)], two(1, 0.5), [False]),
        # Far enough apart.
        ([charge(1, 1002)], two(2, 5), [False]),
        ([charge(1, 1002), charge(2, 1005)], two(2, 3), [False, False]),
        # Told apart by what was said.
        (
            [charge(1, 1002, output_tokens=10), charge(2, 1002, output_tokens=500)],
            [record(1, output_tokens=10), record(2, output_tokens=500, token_id=2)],
            [False, False],
        ),
    ],
)
def test_what_is_ambiguous(charges: list[Charge], records: list[Record], ambiguous: list[bool]) -> None:
    pairs = sorted(match(charges, records), key=lambda pair: pair.charge.id)

    assert [pair.is_ambiguous for pair in pairs] == ambiguous


def test_where_poe_counts_otherwise_for_all_it_says_nothing_of_one() -> None:
    """Three times our tokens: the long answer is not taken for the longer one."""
    lengths = [10 * 2**number for number in range(9)]
    records = [record(n, output_tokens=length, input_tokens=9) for n, length in enumerate(lengths)]
    charges = [charge(n, 1002, output_tokens=3 * length, input_tokens=9) for n, length in enumerate(lengths)]

    assert numbers(match(charges, records)) == {(n, n) for n in range(9)}


def test_a_clock_that_is_late_costs_no_pairs() -> None:
    charges = [charge(number, 1020 + number / 10) for number in range(400)]
    records = [record(number, 1000 + number / 10, 0.1) for number in range(400)]

    assert len(match(charges, records)) == 400


CHARGES = st.builds(
    charge,
    st.just(0),
    st.integers(0, 60),
    bot=st.sampled_from(["a", "b"]),
    account=st.sampled_from([1, 1, 2]),
    key_name=st.sampled_from(["", "x", "y"]),
    points=st.integers(0, 5),
    output_tokens=st.none() | st.integers(0, 50),
)
RECORDS = st.builds(
    record,
    st.just(0),
    st.integers(0, 60),
    st.integers(0, 20),
    bot=st.sampled_from(["A", "B"]),
    account=st.sampled_from([1, 1, 2]),
    key_name=st.sampled_from(["", "x", "y"]),
    output_tokens=st.integers(0, 50),
    is_open=st.booleans(),
)


@quick
@given(st.lists(CHARGES, max_size=14), st.lists(RECORDS, max_size=14))
def test_each_has_one_at_most_and_as_many_as_possible_have_one(
    charges: list[Charge], records: list[Record]
) -> None:
    charges = [charge(n, c.at, **_rest(c, "id", "at")) for n, c in enumerate(charges)]
    records = [
        record(n, r.started, r.ended - r.started, **_rest(r, "id", "started", "ended"))
        for n, r in enumerate(records)
    ]

    pairs = match(charges, records)

    assert len({pair.charge.id for pair in pairs}) == len({pair.record.id for pair in pairs}) == len(pairs)
    assert all(_may_be(pair.charge, pair.record) for pair in pairs)
    assert len(pairs) == _most_pairs(charges, records)


def _rest(of: Charge | Record, *without: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__slots__ if name not in without}


def _may_be(c: Charge, r: Record) -> bool:
    return (
        c.account == r.account
        and c.bot.casefold() == r.bot.casefold()
        and r.started - BEFORE <= c.at <= r.ended + AFTER
        and (not c.key_name or not r.key_name or c.key_name == r.key_name)
    )


def _most_pairs(charges: list[Charge], records: list[Record]) -> int:
    """Kuhn's algorithm as it is in books."""
    charge_of: dict[int, int] = {}

    def find(c: int, seen: set[int]) -> bool:
        for r, recorded in enumerate(records):
            if r in seen or not _may_be(charges[c], recorded):
                continue
            seen.add(r)
            if r not in charge_of or find(charge_of[r], seen):
                charge_of[r] = c
                return True
        return False

    return sum(find(c, set()) for c in range(len(charges)))


def crowd(count: int, seconds: float, bots: int, chance: random.Random) -> tuple[list[Charge], list[Record]]:
    charges, records = [], []
    for number in range(count):
        started, took = chance.uniform(0, seconds), chance.uniform(0.05, 3)
        said, asked = chance.randrange(5, 800), chance.randrange(5, 500)
        bot = f"bot {chance.randrange(bots)}"
        late = chance.uniform(-0.02, 0.2)
        records.append(
            record(
                number,
                started,
                took,
                bot=bot,
                token_id=chance.randrange(5),
                input_tokens=round(asked * chance.uniform(0.9, 1.3)),
                output_tokens=round(said * chance.uniform(0.9, 1.3)),
            )
        )
        charges.append(charge(number, started + took + late, bot=bot, input_tokens=asked, output_tokens=said))
    return charges, records


def test_it_finds_the_right_ones_in_a_crowd() -> None:
    """As many as Poe allows an account: 500 a minute."""
    charges, records = crowd(2500, 300, 8, random.Random(3))

    pairs = match(charges, records)

    assert len(pairs) == 2500
    right = [pair.charge.id == pair.record.id.int for pair in pairs]
    assert sum(right) >= 0.95 * len(right)
    wrong = [pair for pair, is_right in zip(pairs, right, strict=True) if not is_right]
    others = [pair for pair in wrong if pair.record.token_id != records[pair.charge.id].token_id]
    assert sum(pair.is_ambiguous for pair in others) >= 0.7 * len(others)


def test_ten_thousand_of_one_bot_take_a_few_seconds() -> None:
    charges, records = crowd(10_000, 1200, 1, random.Random(1))
    began = time.process_time()

    pairs = match(charges, records)

    assert len(pairs) == 10_000
    assert time.process_time() - began < 10
