"""Limits and rate cards as plain values: what a bot costs is never rounded in anybody's favour but by the last point."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.limits import MOST_REQUESTS, MOST_TOKENS, UNLIMITED, Limits, RateCard

quick = settings(deadline=None, max_examples=100, derandomize=True)
rate = st.none() | st.decimals(min_value=0, max_value=10**6, places=4)
number = st.integers(0, 3_000_000)


def test_limits_come_in_the_order_of_the_columns() -> None:
    assert Limits.of(1, 2, 3, 4, 5) == Limits(
        requests_per_minute=1,
        tokens_per_minute=2,
        requests_in_flight=3,
        points_per_day=4,
        points_per_month=5,
    )
    assert Limits.of(None, None, None) == Limits.of(None, None, None, None, None) == UNLIMITED


def test_limits_that_no_meter_could_hold_are_cut() -> None:
    huge = 2**62
    found = Limits.of(huge, huge, huge, huge, huge)
    assert (found.requests_per_minute, found.tokens_per_minute) == (MOST_REQUESTS, MOST_TOKENS)
    # These are compared only.
    assert (found.requests_in_flight, found.points_per_day, found.points_per_month) == (huge, huge, huge)


@pytest.mark.parametrize(
    ("limits", "depend"),
    [
        (UNLIMITED, False),
        (Limits(requests_per_minute=1), False),
        (Limits(requests_in_flight=1), False),
        (Limits(tokens_per_minute=1), True),
        (Limits(points_per_day=1), True),
        (Limits(points_per_month=0), True),
    ],
)
def test_which_limits_depend_on_how_long_the_answer_is(limits: Limits, depend: bool) -> None:
    assert limits.depend_on_the_answer is depend


def test_nothing_known_is_no_rate_card_and_zero_is_one() -> None:
    assert RateCard.of_points(None, None, None, None) is None
    assert RateCard.of_points(0, None, None, None) == RateCard()
    assert RateCard.of_points(None, None, None, Decimal("0.0000")) == RateCard()


@pytest.mark.parametrize(
    ("rates", "used", "points"),
    [
        ((15, None, None, None), (1000, 1000, 3), 15),
        ((None, 1, None, None), (999, 0, 0), 1),
        ((None, 1, None, None), (1000, 0, 0), 1),
        ((None, 1, None, None), (1001, 0, 0), 2),
        ((None, None, Decimal("0.0001"), None), (0, 1, 0), 1),
        ((None, None, Decimal("0.0001"), None), (0, 10_000_000, 0), 1),
        ((None, None, Decimal("0.0001"), None), (0, 10_000_001, 0), 2),
        ((Decimal("0.5"), None, None, Decimal("0.25")), (0, 0, 2), 1),
        ((Decimal("0.5"), None, None, Decimal("0.25")), (0, 0, 3), 2),
        ((0, 0, 0, 0), (10**6, 10**6, 9), 0),
        ((1, 2, 3, 4), (0, 0, 0), 1),
        ((None, 2, 3, 4), (0, 0, 0), 0),
    ],
)
def test_points_are_rounded_up_once(
    rates: tuple[Decimal | int | None, ...], used: tuple[int, int, int], points: int
) -> None:
    card = RateCard.of_points(*rates)
    assert card is not None and card.points(*used) == points


@quick
@given(rates=st.tuples(rate, rate, rate, rate), used=st.tuples(number, number, st.integers(0, 50)))
@example(rates=(Decimal("9999999999.9999"),) * 4, used=(3_000_000, 1_000_000, 50))
def test_points_are_the_true_cost_rounded_up(
    rates: tuple[Decimal | None, ...], used: tuple[int, int, int]
) -> None:
    request, by_input, by_output, image = (Fraction(each or 0) for each in rates)
    true = request + by_input * used[0] / 1000 + by_output * used[1] / 1000 + image * used[2]

    card = RateCard.of_points(*rates)

    if card is None:
        assert not any(rates)
        return
    points = card.points(*used)
    assert points - 1 < true <= points
    assert points < 2**63


@quick
@given(
    rates=st.tuples(rate, rate, rate, rate),
    used=st.tuples(number, number, st.integers(0, 50)),
    more=st.tuples(number, number, st.integers(0, 50)),
)
def test_a_reservation_covers_whatever_stays_within_it(
    rates: tuple[Decimal | None, ...], used: tuple[int, int, int], more: tuple[int, int, int]
) -> None:
    card = RateCard.of_points(*rates) or RateCard()
    reserved = tuple(a + b for a, b in zip(used, more, strict=True))
    assert card.points(*used) <= card.points(*reserved)
