"""The rules of a meter: exact whole numbers, whatever the limit, the clock and the edits in between."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.ledger import meters
from relay.ledger.items import Reservation
from relay.ledger.meters import Meter, Refusal
from relay.limits import MOST_REQUESTS, MOST_TOKENS, UNLIMITED, Level, Limits
from tests.ledger.making import DAY, MINUTE, NOON, NOTHING, SECOND, a_minute, reservation

quick = settings(deadline=None, max_examples=60, derandomize=True)


def request_level(meter: Meter, limits: Limits) -> Level | None:
    return meters.level(meters.tighter(None, meter.requests_level, limits.requests_per_minute))


def token_level(meter: Meter, limits: Limits) -> Level | None:
    return meters.level(meters.tighter(None, meter.tokens_level, limits.tokens_per_minute))


def ask(meter: Meter, limits: Limits, now: int, tokens: int = 0) -> Refusal | None:
    """As an admission does: at most one of the two limits is set here."""
    meters.drain(meter, limits, now)
    wanted = Reservation(0, tokens, 0, 0)
    for rule in (meters.requests_per_minute, meters.tokens_per_minute):
        if refused := rule(meter, limits, wanted):
            return refused
    meters.take(meter, limits, wanted)
    return None


def take_all(meter: Meter, limits: Limits, now: int) -> int:
    taken = 0
    while ask(meter, limits, now) is None:
        taken += 1
    return taken


def later(wait_seconds: float) -> int:
    return round(wait_seconds * SECOND)


def requests_left(meter: Meter, limits: Limits) -> Level | None:
    return meters.level(meters.tighter(None, meter.requests_level, limits.requests_per_minute))


def tokens_left(meter: Meter, limits: Limits) -> Level | None:
    return meters.level(meters.tighter(None, meter.tokens_level, limits.tokens_per_minute))


# Exactly N + floor(N t / 60).


@quick
@given(limit=st.integers(2, 90), steps=st.lists(st.integers(1, 29 * SECOND), max_size=15))
@example(limit=7, steps=[1] * 10)
@example(limit=3, steps=[19_999_999, 1, 20_000_000])
def test_it_admits_exactly_the_limit_and_what_time_gives_back(limit: int, steps: list[int]) -> None:
    meter, limits = Meter("token:1"), a_minute(requests=limit)
    elapsed, admitted = 0, take_all(meter, limits, NOON)

    for step in steps:
        elapsed += step
        admitted += take_all(meter, limits, NOON + elapsed)
        assert admitted == limit + limit * elapsed // MINUTE


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 11, 59, 60, 61, 97, 500, 997])
def test_nothing_drifts_over_many_odd_steps(limit: int) -> None:
    meter, limits = Meter("token:1"), a_minute(requests=limit)
    admitted, step = take_all(meter, limits, NOON), 17_389
    # Never so long that the meter runs empty: then time would give nothing more, rightly.
    for i in range(1, 1500):
        admitted += take_all(meter, limits, NOON + i * step)
        assert admitted == limit + limit * i * step // MINUTE


@pytest.mark.parametrize("limit", [1, 59, 1_000, 333_333, MOST_TOKENS])
def test_tokens_are_given_back_to_the_token(limit: int) -> None:
    meter, limits = Meter("token:1"), a_minute(tokens=limit)
    elapsed, admitted = 0, 0
    for step in (0, 1, 999_999, 7_000_001, 20_000_000, 13):
        elapsed += step
        meters.drain(meter, limits, NOON + elapsed)
        level = token_level(meter, limits)
        assert level is not None
        if level.remaining:
            assert ask(meter, limits, NOON + elapsed, level.remaining) is None
        admitted += level.remaining
        assert ask(meter, limits, NOON + elapsed, 1) is not None
        assert admitted == limit + limit * elapsed // MINUTE


@quick
@given(
    limit=st.integers(1, 40),
    asks=st.lists(st.tuples(st.integers(0, 90 * SECOND), st.integers(1, 60)), min_size=1, max_size=12),
)
def test_no_window_holds_more_than_its_share(limit: int, asks: list[tuple[int, int]]) -> None:
    """Also after pauses in which nothing was asked: what is not used within a minute is gone."""
    meter, limits = Meter("token:1"), a_minute(requests=limit)
    admitted_at: list[int] = []
    now = NOON
    for pause, times in asks:
        now += pause
        admitted_at += [now for _ in range(times) if ask(meter, limits, now) is None]

    for i, begins in enumerate(admitted_at):
        for j in range(i, len(admitted_at)):
            assert j - i + 1 <= limit + limit * (admitted_at[j] - begins) // MINUTE


def test_a_minute_of_rest_gives_all_of_it_back_and_an_hour_no_more() -> None:
    meter, limits = Meter("token:1"), a_minute(requests=60)
    assert take_all(meter, limits, NOON) == 60
    assert take_all(meter, limits, NOON + MINUTE) == 60
    assert take_all(meter, limits, NOON + 60 * MINUTE) == 60


# When to come back.


@quick
@given(
    limit=st.integers(1, 10_000),
    used=st.integers(0, 10_000),
    tokens=st.integers(1, 10_000),
    pause=st.integers(0, 59 * SECOND),
)
@example(limit=7, used=7, tokens=3, pause=1)
@example(limit=1, used=1, tokens=1, pause=59_999_999)
def test_the_wait_is_enough_and_a_microsecond_less_is_not(
    limit: int, used: int, tokens: int, pause: int
) -> None:
    meter, limits = Meter("token:1"), a_minute(tokens=limit)
    tokens = min(tokens, limit)
    ask(meter, limits, NOON, min(used, limit))
    refused = ask(meter, limits, NOON + pause, tokens)
    if refused is None:
        return
    at = meter.at

    wait = later(refused.wait_seconds)

    assert wait > 0
    still = ask(meter, limits, at + wait - 1, tokens)
    assert still is not None and later(still.wait_seconds) == 1
    assert ask(meter, limits, at + wait, tokens) is None


@pytest.mark.parametrize("limit", [1, 3, 7, 60, 999_983, MOST_REQUESTS])
def test_the_wait_for_a_request_is_exact(limit: int) -> None:
    meter, limits = Meter("token:1", at=NOON), a_minute(requests=limit)
    meter.requests_level = limit * meters.UNIT

    refused = ask(meter, limits, NOON)

    assert refused is not None and refused.value == limit
    assert Fraction(later(refused.wait_seconds)) - 1 < Fraction(MINUTE, limit) <= later(refused.wait_seconds)
    assert ask(meter, limits, NOON + later(refused.wait_seconds) - 1) is not None
    assert ask(meter, limits, NOON + later(refused.wait_seconds)) is None


def test_a_refusal_says_how_much_is_left() -> None:
    meter, limits = Meter("token:1"), a_minute(tokens=100)
    assert ask(meter, limits, NOON, 70) is None

    assert ask(meter, limits, NOON, 31) == Refusal("tokens_per_minute", 100, 0.6, left=30)
    # A part of a token is none.
    assert ask(meter, limits, NOON + 300_000, 31) == Refusal("tokens_per_minute", 100, 0.3, left=30)


# Edits and clocks.


def test_a_raised_limit_counts_at_once() -> None:
    meter = Meter("token:1")
    assert take_all(meter, a_minute(requests=10), NOON) == 10
    assert take_all(meter, a_minute(requests=25), NOON) == 15


@pytest.mark.parametrize(("lowered_to", "left"), [(1, 0), (3, 0), (4, 0), (5, 1), (9, 5)])
def test_a_lowered_limit_counts_at_once(lowered_to: int, left: int) -> None:
    meter = Meter("token:1")
    for _ in range(4):
        assert ask(meter, a_minute(requests=10), NOON) is None

    assert take_all(meter, a_minute(requests=lowered_to), NOON) == left


def test_what_was_used_under_a_higher_limit_bars_nobody_for_hours() -> None:
    """Six a minute are six a minute a minute later, whatever was allowed before."""
    meter = Meter("token:1")
    assert take_all(meter, a_minute(requests=600), NOON) == 600

    refused = ask(meter, a_minute(requests=6), NOON)

    assert refused is not None and refused.wait_seconds <= 60
    assert take_all(meter, a_minute(requests=6), NOON + MINUTE) == 6


def test_a_limit_that_was_removed_and_set_again_begins_anew() -> None:
    meter = Meter("token:1")
    assert take_all(meter, a_minute(requests=5), NOON) == 5
    assert all(ask(meter, UNLIMITED, NOON + 1) is None for _ in range(50))
    assert take_all(meter, a_minute(requests=5), NOON + 2) == 5


@pytest.mark.parametrize("back", [1, SECOND, meters.CLOCK_STEP - 1, meters.CLOCK_STEP, MINUTE, DAY, NOON])
def test_a_clock_that_steps_back_gives_nothing_away_and_takes_nothing(back: int) -> None:
    meter, limits = Meter("token:1"), a_minute(requests=60)
    assert take_all(meter, limits, NOON) == 60

    assert take_all(meter, limits, NOON - back) == 0
    # What was missing is back a minute later by that clock, at the latest when it is where it was.
    assert take_all(meter, limits, NOON + MINUTE) == 60


def test_a_clock_that_was_set_back_does_not_bar_anybody_until_it_is_there_again() -> None:
    meter, limits = Meter("token:1"), a_minute(requests=60)
    assert take_all(meter, limits, NOON) == 60
    assert take_all(meter, limits, NOON - DAY) == 0
    assert take_all(meter, limits, NOON - DAY + SECOND) == 1
    assert take_all(meter, limits, NOON - DAY + MINUTE) == 59


def test_clocks_that_differ_a_little_admit_no_more_than_one() -> None:
    """Two processes, one four seconds ahead, in turns."""
    meter, limits = Meter("token:1"), a_minute(requests=60)
    admitted = 0
    for i in range(100):
        now = NOON + i * 100_000 + (4 * SECOND if i % 2 else 0)
        admitted += take_all(meter, limits, now)
    assert admitted == 60 + 60 * (99 * 100_000 + 4 * SECOND) // MINUTE


# Budgets and slots.


@pytest.mark.parametrize(
    ("used", "wanted", "limit", "refused"),
    [
        (0, 10, 10, False),
        (0, 11, 10, True),
        (9, 1, 10, False),
        (10, 1, 10, True),
        (10, 0, 10, False),  # what costs nothing needs nothing
        (15, 0, 10, True),  # corrected beyond: nothing until it turns
        (0, 1, 0, True),
        (-5, 15, 10, False),
    ],
)
@pytest.mark.parametrize("period", ["day", "month"])
def test_a_budget_holds_to_the_point(period: str, used: int, wanted: int, limit: int, refused: bool) -> None:
    ends = NOON // SECOND + 90
    meter = Meter("team:1", at=NOON, day_ends=ends, day_points=used, month_ends=ends, month_points=used)
    limits = Limits(**{f"points_per_{period}": limit})
    rule = {"day": meters.points_per_day, "month": meters.points_per_month}[period]

    found = rule(meter, limits, reservation(points=wanted))

    expected = Refusal(f"points_per_{period}", limit, 90.0, left=max(0, limit - used))
    assert found == (expected if refused else None)
    assert rule(meter, UNLIMITED, reservation(points=10**12)) is None


@pytest.mark.parametrize(
    ("in_flight", "limit", "refused"), [(0, 1, False), (1, 1, True), (2, 1, True), (0, 0, True)]
)
def test_slots(in_flight: int, limit: int, refused: bool) -> None:
    meter = Meter("key:1", in_flight=in_flight)
    found = meters.requests_in_flight(meter, Limits(requests_in_flight=limit), NOTHING)
    assert (found is not None) is refused
    assert meters.requests_in_flight(meter, UNLIMITED, NOTHING) is None


# How a limit stands.


def test_a_level_says_what_is_left_and_when_all_of_it_is_back() -> None:
    meter, limits = Meter("token:1"), Limits(requests_per_minute=60, tokens_per_minute=1000)
    for _ in range(15):
        assert ask(meter, limits, NOON, 20) is None

    requests, tokens = request_level(meter, limits), token_level(meter, limits)

    assert requests is not None and (requests.limit, requests.remaining, requests.reset_seconds) == (
        60,
        45,
        15.0,
    )
    assert tokens is not None and (tokens.limit, tokens.remaining, tokens.reset_seconds) == (1000, 700, 18.0)
    meters.drain(meter, limits, NOON + 1)
    half = request_level(meter, limits)
    assert half is not None and half.remaining == 45  # a part of a request is none
    assert request_level(meter, UNLIMITED) is token_level(meter, UNLIMITED) is None


def test_of_several_limits_the_one_with_the_least_left_is_told() -> None:
    stand = None
    for used, limit in ((10, 50), (3, None), (0, 30), (90, 120), (5, 40)):
        stand = meters.tighter(stand, used * meters.UNIT, limit)
    found = meters.level(stand)
    assert found is not None and (found.limit, found.remaining) == (30, 30)
    assert meters.level(None) is None


def holding(used: tuple[int, ...]) -> Meter:
    """Requests and tokens in halves, requests in flight, points of the day and the month."""
    unit = meters.UNIT // 2
    return Meter("team:1", NOON, used[0] * unit, used[1] * unit, used[2], 9**10, used[3], 9**10, used[4])


@quick
@given(
    st.tuples(*[st.none() | st.integers(0, 5)] * 5),
    st.tuples(*[st.integers(0, 5)] * 5),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_what_fits_is_what_no_rule_refuses(
    limits: tuple[int | None, ...], used: tuple[int, ...], tokens: int, points: int
) -> None:
    its, wanted = Limits(*limits), Reservation(0, tokens, 0, points)
    meter = holding(used)
    assert meters.fits(meter, its, wanted) is all(rule(meter, its, wanted) is None for rule in meters.RULES)


@quick
@given(
    st.tuples(*[st.none() | st.integers(0, 40)] * 5),
    st.tuples(*[st.integers(0, 20)] * 5),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_room_is_ample_if_half_of_the_slots_and_ten_times_as_much_are_left_behind(
    limits: tuple[int | None, ...], used: tuple[int, ...], tokens: int, points: int
) -> None:
    its, wanted = Limits(*limits), Reservation(tokens, tokens, 0, points)
    meter = holding(used)

    is_ample = meters.is_ample(meter, its, wanted)

    assert not is_ample or meters.fits(meter, its, wanted)
    meters.take(meter, its, wanted)
    meter.in_flight += 1
    has_slots = its.requests_in_flight is None or meter.in_flight * 2 <= its.requests_in_flight
    assert is_ample is (
        has_slots and meters.fits(meter, its, Reservation(10 * tokens, 10 * tokens, 0, 10 * points))
    )


def test_a_limit_that_was_lowered_leaves_nothing_rather_than_less() -> None:
    meter = Meter("token:1")
    take_all(meter, a_minute(requests=10), NOON)
    level = request_level(meter, a_minute(requests=4))
    assert level is not None and level.remaining == 0


@pytest.mark.parametrize("rule", [meters.requests_per_minute, meters.tokens_per_minute])
def test_a_limit_of_none_at_all_refuses_and_does_not_fail(rule: meters.Rule) -> None:
    """The forms ask for at least one; the column and the shell do not."""
    found = rule(Meter("token:1"), Limits(requests_per_minute=0, tokens_per_minute=0), reservation())
    assert found is not None and found.value == 0


def test_the_largest_level_fits_the_column() -> None:
    meter = Meter("token:1", at=NOON)
    limits = Limits.of(10**18, 10**18, None)
    meter.tokens_level, meter.requests_level = MOST_TOKENS * meters.UNIT, MOST_REQUESTS * meters.UNIT
    # An answer that was longer than its reservation comes on top.
    meters.add_tokens(meter, limits, 10**9)
    assert max(meter.tokens_level, meter.requests_level) < 2**63
