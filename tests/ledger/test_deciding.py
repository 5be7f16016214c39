"""What becomes of a batch, without a database: rules, reservations, keys, corrections; and a second opinion on all of it."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from relay.errors import (
    AllKeysBusy,
    BeyondLimit,
    BudgetExceeded,
    NoKeyAvailable,
    RateLimited,
    RelayError,
    Unavailable,
)
from relay.ledger import Admission, Admitted, Candidate, Change, Reservation, Settlement, Stale
from relay.ledger.deciding import Answer, Batch, MissingMeters, Page, decide
from relay.ledger.meters import UNIT, drain
from relay.ledger.rollups import contribution, key_of
from relay.limits import UNLIMITED, Limits
from tests.ledger.books import Books, Expected, Record
from tests.ledger.making import (
    DAY,
    MINUTE,
    NOON,
    SECOND,
    VERSION,
    a_minute,
    admission,
    candidate,
    change,
    lost,
    not_started,
    reservation,
    settlement,
)
from tests.ledger.memory import MemoryStore

OWNERS = ("token:1", "user:1", "team:1")


class Desk(MemoryStore):
    """Decides batch after batch, and writes down what became of them."""

    missed: int = 0
    page: Page

    def decide(
        self,
        *admissions: Admission,
        changes: Iterable[Change] = (),
        settled: Iterable[Settlement] = (),
    ) -> list[Answer]:
        batch = Batch([*admissions], [*changes], [*settled])
        ids = batch.meter_ids()
        while True:
            self.page = self.begin(ids, batch.record_ids())
            try:
                decide(self.page, batch)
            except MissingMeters as exc:
                self.missed += 1
                ids |= exc.ids
            else:
                break
        self.commit(self.page)
        return batch.answers

    def admit(self, one: Admission) -> Admitted:
        (answer,) = self.decide(one)
        assert isinstance(answer, Admitted), answer
        return answer

    def refuse(self, one: Admission) -> RelayError:
        (answer,) = self.decide(one)
        assert isinstance(answer, RelayError), answer
        assert self.page.is_unchanged
        return answer

    def change(self, one: Change) -> Answer:
        (answer,) = self.decide(changes=[one])
        return answer

    def settle(self, *which: Settlement) -> None:
        self.decide(settled=which)

    def points(self) -> set[tuple[int, int]]:
        return {(self.meters[id_].day_points, self.meters[id_].month_points) for id_ in OWNERS}

    def in_flight(self) -> dict[str, int]:
        return {meter.id: meter.in_flight for meter in self.meters.values() if meter.in_flight}

    def tokens(self) -> set[float]:
        return {self.meters[id_].tokens_level / UNIT for id_ in OWNERS}


@pytest.fixture
def desk() -> Desk:
    return Desk()


EVERYWHERE = ("of_token", "of_user", "of_team")


# Admitting.


def test_an_admission_takes_from_token_user_team_and_key(desk: Desk) -> None:
    limits = dict.fromkeys(EVERYWHERE, Limits(10, 1000, 3, 100, 1000))

    admitted = desk.admit(admission(reservation(points=7, output=20, prompt=30), **limits))

    assert desk.in_flight() == dict.fromkeys((*OWNERS, "key:1"), 1)
    assert desk.points() == {(7, 7)} and desk.tokens() == {50}
    assert {desk.meters[id_].requests_level for id_ in OWNERS} == {UNIT}
    (row,) = desk.rows.values()
    assert (row.outcome, row.points, row.prompt_tokens, row.completion_tokens) == ("open", 7, 30, 20)
    assert (row.day_ends, row.month_ends) == (
        desk.meters["team:1"].day_ends,
        desk.meters["team:1"].month_ends,
    )
    standing = admitted.rate_limits
    assert standing.requests is not None and (standing.requests.limit, standing.requests.remaining) == (10, 9)
    assert standing.tokens is not None and standing.tokens.remaining == 950


@pytest.mark.parametrize("whose", EVERYWHERE)
@pytest.mark.parametrize(
    ("limits", "name", "kind", "seconds"),
    [
        (Limits(requests_per_minute=1), "requests_per_minute", RateLimited, 60),
        (Limits(tokens_per_minute=15), "tokens_per_minute", RateLimited, 60),
        (Limits(tokens_per_minute=29), "tokens_per_minute", RateLimited, 1 / 29 * 60),
        (Limits(requests_in_flight=1), "requests_in_flight", RateLimited, 1),
        (Limits(points_per_day=19), "points_per_day", BudgetExceeded, 12 * 3600),
        (Limits(points_per_month=19), "points_per_month", BudgetExceeded, 18.5 * 86400),
    ],
)
def test_each_limit_is_held_on_each_of_the_three(
    whose: str, limits: Limits, name: str, kind: type[RelayError], seconds: float, desk: Desk
) -> None:
    one = admission(reservation(points=10, output=10, prompt=5), **{whose: limits})
    desk.admit(one)

    refused = desk.refuse(replace(one, id=uuid.uuid4()))

    assert type(refused) is kind
    assert isinstance(refused, RateLimited) and refused.limit == name
    assert refused.retry_after == pytest.approx(seconds, abs=2e-6)
    value = getattr(limits, name)
    words = name.replace("_", " ") if value != 1 else name.replace("requests_", "request ").replace("_", " ")
    assert f", {value:,} {words}, is reached" in refused.message
    assert {"of_token": "access token", "of_user": "owner", "of_team": "team"}[whose] in refused.message
    assert len(desk.rows) == 1


def test_the_limit_that_holds_longest_is_named(desk: Desk) -> None:
    one = admission(
        reservation(points=10),
        of_token=Limits(requests_per_minute=1, points_per_month=10),
        of_user=Limits(points_per_day=10, requests_in_flight=1),
        of_team=Limits(requests_per_minute=2),
    )
    desk.admit(one)
    refused = desk.refuse(replace(one, id=uuid.uuid4()))
    assert isinstance(refused, BudgetExceeded) and refused.limit == "points_per_month"


def test_after_the_wait_that_was_told_it_passes(desk: Desk) -> None:
    """Also where more than one limit stood in the way: that is why the longest is named."""
    one = admission(reservation(output=25), of_token=a_minute(requests=1), of_team=a_minute(tokens=40))
    desk.admit(one)
    refused = desk.refuse(replace(one, id=uuid.uuid4()))
    assert refused.retry_after is not None

    desk.now += round(refused.retry_after * SECOND) - 1
    desk.refuse(replace(one, id=uuid.uuid4()))
    desk.now += 1
    desk.admit(replace(one, id=uuid.uuid4()))


def test_a_refusal_uses_up_nothing(desk: Desk) -> None:
    open_ = admission(of_user=Limits(10, 1000, 1, 100, 100))
    desk.admit(open_)
    before = {id_: copy(meter) for id_, meter in desk.meters.items()}
    for _ in range(20):
        desk.now += 1
        desk.refuse(replace(open_, id=uuid.uuid4()))
    assert desk.meters == before and desk.sums == {}


def test_a_refused_one_in_a_batch_takes_nothing_from_the_others(desk: Desk) -> None:
    limits = Limits(requests_per_minute=3, points_per_day=30)
    large, small = (admission(reservation(points=points), of_team=limits) for points in (31, 10))
    answers = desk.decide(
        large, small, replace(large, id=uuid.uuid4()), *[replace(small, id=uuid.uuid4())] * 1
    )
    assert [type(each) for each in answers] == [BudgetExceeded, Admitted, BudgetExceeded, Admitted]
    assert desk.meters["team:1"].day_points == 20 and desk.meters["team:1"].requests_level == 2 * UNIT


@pytest.mark.parametrize(("batches", "each"), [(1, 40), (40, 1), (8, 5)])
def test_a_budget_is_spent_to_the_last_point_and_no_further(batches: int, each: int, desk: Desk) -> None:
    one = admission(reservation(points=7), of_team=Limits(points_per_day=150))
    answers = [
        answer
        for _ in range(batches)
        for answer in desk.decide(*[replace(one, id=uuid.uuid4()) for _ in range(each)])
    ]
    assert sum(isinstance(answer, Admitted) for answer in answers) == 150 // 7
    assert desk.points() == {(147, 147)}


@pytest.mark.parametrize(("tokens", "limit", "fits"), [(100, 100, True), (101, 100, False)])
@pytest.mark.parametrize("whose", EVERYWHERE)
def test_what_is_larger_than_a_whole_minute_is_the_clients_fault(
    whose: str, tokens: int, limit: int, fits: bool, desk: Desk
) -> None:
    one = admission(reservation(output=tokens - 60, prompt=60), **{whose: a_minute(tokens=limit)})
    if fits:
        desk.admit(one)
        return
    refused = desk.refuse(one)
    assert type(refused) is BeyondLimit and refused.code == "tokens_per_minute_exceeded"
    assert "101" in refused.message and "100" in refused.message and refused.retry_after is None


@pytest.mark.parametrize(
    ("limits", "output"),
    [
        (UNLIMITED, 4000),
        (Limits(tokens_per_minute=4000), 500),
        (Limits(tokens_per_minute=4005), 4000),
        (Limits(points_per_day=40), 4000),
        (Limits(points_per_day=39), 500),
        (Limits(points_per_month=5), 500),
    ],
)
def test_a_guess_that_is_too_much_becomes_enough_to_begin_with(
    limits: Limits, output: int, desk: Desk
) -> None:
    guess, less = reservation(points=40, output=4000), reservation(points=5, output=500)
    assert desk.admit(admission(guess, less, of_team=limits)).reservation.output_tokens == output
    (row,) = desk.rows.values()
    assert row.completion_tokens == output and desk.points() == {(row.points, row.points)}


def test_what_is_refused_at_its_smallest_is_told_about_that(desk: Desk) -> None:
    guess, less = reservation(points=40, output=4000), reservation(points=5, output=500)
    refused = desk.refuse(admission(guess, less, of_team=Limits(points_per_day=4)))
    assert "may need 5" in refused.message and "4 points per day" in refused.message


def test_an_old_version_is_stale_and_takes_nothing(desk: Desk) -> None:
    old, new = admission(version=VERSION - 1), admission()
    answers = desk.decide(old, new)
    assert [type(each) for each in answers] == [Stale, Admitted]
    assert desk.meters["team:1"].in_flight == 1


def test_who_left_before_it_was_decided_gets_nothing(desk: Desk) -> None:
    one = admission()
    (answer,) = desk.decide(one, settled=[not_started(one)])
    assert isinstance(answer, Unavailable) and desk.page.is_unchanged


def test_a_slot_that_is_given_back_serves_the_next_of_the_same_batch(desk: Desk) -> None:
    one = admission(of_user=Limits(requests_in_flight=1))
    desk.admit(one)
    (answer,) = desk.decide(replace(one, id=uuid.uuid4()), settled=[settlement(one)])
    assert isinstance(answer, Admitted) and desk.meters["user:1"].in_flight == 1


@pytest.mark.parametrize("whose", EVERYWHERE)
@pytest.mark.parametrize(
    ("limits", "is_scarce"),
    [
        (UNLIMITED, False),
        # One is taken, and ten more of the same fit or do not.
        (Limits(points_per_day=77), False),
        (Limits(points_per_day=76), True),
        (Limits(points_per_month=76), True),
        (Limits(tokens_per_minute=550), False),
        (Limits(tokens_per_minute=549), True),
        (Limits(requests_in_flight=2), False),
        (Limits(requests_in_flight=1), True),
    ],
    ids=str,
)
def test_an_admission_tells_whether_what_it_took_is_scarce(
    desk: Desk, whose: str, limits: Limits, is_scarce: bool
) -> None:
    one = admission(reservation(points=7, output=20, prompt=30), **{whose: limits})

    assert desk.admit(one).room_is_scarce is is_scarce


def test_the_slots_of_a_key_may_be_scarce(desk: Desk) -> None:
    one = admission(candidates=(candidate(1, key_limits=Limits(requests_in_flight=3)),))

    assert [desk.admit(replace(one, id=uuid.uuid4())).room_is_scarce for _ in range(2)] == [False, True]


def test_the_locks_cover_everything_that_is_touched(desk: Desk) -> None:
    one = admission(candidates=(candidate(1, 1), candidate(2, 1), candidate(3, 2)))
    assert Batch([one]).meter_ids() == {
        *OWNERS,
        *("key:1", "key:2", "key:3"),
        *("account:1", "account:2"),
    }
    with pytest.raises(MissingMeters) as missing:
        decide(desk.begin(["token:1", "user:1"], []), Batch([one]))
    assert missing.value.ids == {"team:1"}


# Poe keys.


def test_the_first_free_key_is_claimed(desk: Desk) -> None:
    one_slot = Limits(requests_in_flight=1)
    candidates = (candidate(1, key_limits=one_slot), candidate(2, key_limits=one_slot), candidate(3))
    one = admission(candidates=candidates)
    keys = [desk.admit(replace(one, id=uuid.uuid4())).key_id for _ in range(4)]
    assert keys == [1, 2, 3, 3]
    assert {row.key_name for row in desk.rows.values()} == {"key 1", "key 2", "key 3"}


def test_keys_of_one_account_share_its_requests_per_minute(desk: Desk) -> None:
    account = {"account_limits": a_minute(requests=2)}
    one = admission(candidates=(candidate(1, 1, **account), candidate(2, 1, **account), candidate(3, 2)))
    assert [desk.admit(replace(one, id=uuid.uuid4())).key_id for _ in range(4)] == [1, 1, 3, 3]


def test_a_key_has_requests_per_minute_of_its_own(desk: Desk) -> None:
    one = admission(candidates=(candidate(1, key_limits=a_minute(requests=1)), candidate(2)))
    assert [desk.admit(replace(one, id=uuid.uuid4())).key_id for _ in range(3)] == [1, 2, 2]


def test_when_all_are_busy_the_soonest_is_told_and_nothing_is_taken(desk: Desk) -> None:
    candidates = (
        candidate(1, key_limits=a_minute(requests=2)),
        candidate(2, key_limits=a_minute(requests=6)),
    )
    one = admission(candidates=candidates, of_team=Limits(requests_per_minute=100))
    for _ in range(8):
        desk.admit(replace(one, id=uuid.uuid4()))

    refused = desk.refuse(replace(one, id=uuid.uuid4()))

    assert isinstance(refused, AllKeysBusy) and refused.retry_after == 10
    assert refused.rate_limits is not None and refused.rate_limits.requests is not None
    assert refused.rate_limits.requests.remaining == 92


def test_a_busy_key_is_told_to_be_busy_for_a_second(desk: Desk) -> None:
    one = admission(candidates=(candidate(1, key_limits=Limits(requests_in_flight=1)),))
    desk.admit(one)
    assert desk.refuse(replace(one, id=uuid.uuid4())).retry_after == 1


def test_where_there_is_no_key_none_is_waited_for(desk: Desk) -> None:
    assert isinstance(desk.refuse(admission(candidates=())), NoKeyAvailable)


def test_another_key_takes_the_slot_along(desk: Desk) -> None:
    one = admission(candidates=(candidate(1), candidate(2)))
    desk.admit(one)

    answer = desk.change(change(one, candidates=(candidate(2),), bot="Other"))

    assert isinstance(answer, Admitted) and answer.key_id == 2
    assert desk.in_flight() == dict.fromkeys((*OWNERS, "key:2"), 1)
    assert (desk.rows[one.id].key_id, desk.rows[one.id].key_name, desk.rows[one.id].bot) == (
        2,
        "key 2",
        "Other",
    )
    desk.settle(settlement(one, key_id=2))
    assert desk.in_flight() == {}


def test_a_slot_that_was_given_back_already_is_not_given_back_twice(desk: Desk) -> None:
    """The sweep recomputes slots from open records; another process may have settled this one's meanwhile."""
    one = admission()
    desk.admit(one)
    for meter in desk.meters.values():
        meter.in_flight = 0

    desk.settle(settlement(one))

    assert {meter.in_flight for meter in desk.meters.values()} == {0}


def test_a_change_that_is_refused_keeps_what_it_has(desk: Desk) -> None:
    full = candidate(2, key_limits=Limits(requests_in_flight=0))
    one = admission(reservation(points=5), of_team=Limits(points_per_day=8))
    desk.admit(one)
    before = {id_: copy(meter) for id_, meter in desk.meters.items()}

    busy = desk.change(change(one, reservation(points=8, output=90), candidates=(full,)))
    poor = desk.change(change(one, reservation(points=9), candidates=(candidate(2),)))

    assert isinstance(busy, AllKeysBusy) and isinstance(poor, BudgetExceeded)
    for id_, meter in before.items():
        assert desk.meters[id_] == meter
    assert (desk.rows[one.id].key_id, desk.rows[one.id].points) == (1, 5)


def test_a_record_may_keep_the_last_slot_of_its_key(desk: Desk) -> None:
    """A fallback model on the only Poe key: it holds the slot itself that it asks for."""
    only = candidate(1, key_limits=Limits(requests_in_flight=1))
    one = admission(candidates=(only,))
    desk.admit(one)

    answer = desk.change(change(one, candidates=(only,), bot="Fallback"))

    assert isinstance(answer, Admitted) and answer.key_id == 1
    assert desk.meters["key:1"].in_flight == 1


def test_another_try_with_the_same_key_is_one_more_request_of_it(desk: Desk) -> None:
    only = candidate(1, key_limits=a_minute(requests=2))
    one = admission(candidates=(only,))
    desk.admit(one)
    assert isinstance(desk.change(change(one, candidates=(only,))), Admitted)
    assert isinstance(desk.change(change(one, candidates=(only,))), AllKeysBusy)
    assert desk.meters["key:1"].in_flight == 1


def test_the_slot_is_given_back_where_it_is_whatever_the_settlement_says(desk: Desk) -> None:
    """The answer to a change may not have reached whoever settles."""
    one = admission(candidates=(candidate(1), candidate(2)))
    desk.admit(one)
    desk.change(change(one, candidates=(candidate(2),)))
    desk.settle(settlement(one, key_id=1))
    assert desk.in_flight() == {} and desk.missed == 1


# Larger reservations.


def test_an_extension_takes_only_what_is_more(desk: Desk) -> None:
    limits = dict.fromkeys(EVERYWHERE, Limits(tokens_per_minute=1000, points_per_day=50, points_per_month=50))
    one = admission(reservation(points=10, output=100, prompt=20), **limits)
    desk.admit(one)

    answer = desk.change(change(one, reservation(points=18, output=300, prompt=20)))

    assert isinstance(answer, Admitted)
    assert desk.points() == {(18, 18)} and desk.tokens() == {320}
    assert (desk.rows[one.id].points, desk.rows[one.id].completion_tokens) == (18, 300)
    assert {desk.meters[id_].requests_level for id_ in OWNERS} == {0}


def test_an_extension_to_the_last_point_and_token_is_granted_and_one_more_is_not(desk: Desk) -> None:
    one = admission(reservation(points=10, output=80, prompt=20), of_user=Limits(None, 200, None, 50, None))
    desk.admit(one)
    assert isinstance(desk.change(change(one, reservation(points=51, output=100, prompt=20))), BudgetExceeded)
    refused = desk.change(change(one, reservation(points=10, output=181, prompt=20)))
    assert isinstance(refused, RateLimited) and refused.limit == "tokens_per_minute"
    assert isinstance(desk.change(change(one, reservation(points=50, output=180, prompt=20))), Admitted)
    assert desk.points() == {(50, 50)} and desk.meters["user:1"].tokens_level == 200 * UNIT


def test_less_is_not_given_back_before_the_end(desk: Desk) -> None:
    """A fallback that costs less: who knows which of them answers."""
    one = admission(reservation(points=10, output=100))
    desk.admit(one)
    assert isinstance(desk.change(change(one, reservation(points=1, output=10))), Admitted)
    assert desk.points() == {(10, 10)}


def test_a_running_request_may_grow_while_no_further_one_would_be_admitted(desk: Desk) -> None:
    limits = Limits(requests_per_minute=1, requests_in_flight=1, points_per_day=100)
    one = admission(reservation(points=10), of_token=limits)
    desk.admit(one)
    desk.refuse(replace(one, id=uuid.uuid4()))
    assert isinstance(desk.change(change(one, reservation(points=100))), Admitted)


@pytest.mark.parametrize("gone", ["never was", "done", "lost"])
def test_what_is_not_open_cannot_be_changed(gone: str, desk: Desk) -> None:
    one = admission()
    if gone != "never was":
        desk.admit(one)
        desk.settle(settlement(one) if gone == "done" else lost(one))
    assert isinstance(
        desk.change(change(one, reservation(points=9), candidates=(candidate(2),))), Unavailable
    )
    assert desk.in_flight() == {}


def test_an_extension_after_midnight_begins_the_new_day_if_nobody_else_has(desk: Desk) -> None:
    one = admission(reservation(points=10), of_team=Limits(points_per_day=30))
    desk.admit(one)
    desk.now += DAY
    assert isinstance(desk.change(change(one, reservation(points=31))), BudgetExceeded)
    assert isinstance(desk.change(change(one, reservation(points=30))), Admitted)
    assert desk.points() == {(30, 30)} and desk.rows[one.id].day_ends == desk.meters["team:1"].day_ends
    desk.refuse(admission(reservation(points=1), of_team=Limits(points_per_day=30)))


def test_an_extension_after_midnight_overspends_neither_day(desk: Desk) -> None:
    """Another request has begun the new day meanwhile."""
    limits = Limits(points_per_day=30)
    one, other = (admission(reservation(points=15), of_team=limits) for _ in range(2))
    desk.decide(one, other)
    day = desk.rows[one.id].day_ends
    desk.now += DAY
    desk.admit(admission(reservation(points=1), of_team=limits))

    answers = [desk.change(change(each, reservation(points=17))) for each in (one, other)]

    assert [type(each) for each in answers] == [Admitted, BudgetExceeded]
    points = Counter[int]()
    for row in desk.rows.values():
        points[row.day_ends] += row.points
    assert points == {day: 15, desk.meters["team:1"].day_ends: 18}
    assert desk.points() == {(18, 33)}
    desk.settle(settlement(one, points=2), settlement(other, points=1))
    assert desk.points() == {(3, 4)}


@pytest.mark.parametrize("whose", EVERYWHERE)
def test_who_grows_after_midnight_is_held_to_the_new_day_everywhere(whose: str, desk: Desk) -> None:
    """Somebody else of the team began it."""
    limits = {whose: Limits(points_per_day=30, points_per_month=90)}
    one, other = (admission(reservation(points=14), **limits) for _ in range(2))
    desk.decide(one, other)
    desk.now += DAY
    desk.admit(admission(reservation(points=1), user=2, token=2))

    answers = [desk.change(change(each, reservation(points=16))) for each in (one, other)]

    assert [type(each) for each in answers] == [Admitted, BudgetExceeded]
    assert (desk.meters["token:1"].day_points, desk.meters["user:1"].day_points) == (16, 16)
    assert (desk.meters["team:1"].day_points, desk.meters["team:1"].month_points) == (17, 31)
    desk.settle(settlement(one, points=2), settlement(other, points=1))
    assert (desk.meters["token:1"].day_points, desk.meters["token:1"].month_points) == (2, 3)
    assert (desk.meters["team:1"].day_points, desk.meters["team:1"].month_points) == (3, 4)


@pytest.mark.parametrize("before", [None, 600])
def test_a_change_does_not_give_back_what_a_limit_set_meanwhile_has_counted(
    before: int | None, desk: Desk
) -> None:
    """The directory knows the limits as they are now."""
    old = admission(of_team=Limits(requests_per_minute=before, points_per_day=100))
    desk.admit(old)
    limited = admission(of_team=Limits(requests_per_minute=5, points_per_day=100))
    for _ in range(4 if before else 5):
        desk.admit(replace(limited, id=uuid.uuid4()))

    desk.now += SECOND
    desk.change(change(old, reservation(points=2), limits=limited.limits))

    assert isinstance(desk.refuse(replace(limited, id=uuid.uuid4())), RateLimited)


def test_a_limit_on_tokens_that_was_set_meanwhile_does_not_begin_in_the_middle_of_a_request(
    desk: Desk,
) -> None:
    old = admission(reservation(points=2, output=100), of_user=Limits(points_per_day=100))
    desk.admit(old)
    limits = (UNLIMITED, Limits(points_per_day=100, tokens_per_minute=1000), UNLIMITED)

    answer = desk.change(change(old, reservation(points=9, output=5000), limits=limits))

    assert isinstance(answer, Admitted) and desk.meters["user:1"].tokens_level == 0
    desk.settle(settlement(old, points=3, completion_tokens=110))
    assert desk.meters["user:1"].tokens_level == 0 and desk.points() == {(3, 3)}


def test_a_day_that_an_answer_begins_is_one_of_the_time_zone_as_it_is_now(desk: Desk) -> None:
    one = admission(reservation(points=10), of_team=Limits(points_per_day=100))
    desk.admit(one)
    desk.now += DAY // 2 + SECOND  # midnight in UTC is over, and it is eight in Shanghai

    desk.change(change(one, reservation(points=11), time_zone="Asia/Shanghai"))

    ends = datetime.fromtimestamp(desk.meters["team:1"].day_ends, UTC)
    assert ends == datetime(2026, 5, 14, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("limits", "whose"),
    [
        ({"of_token": 1000, "of_team": 500}, "the team: 500 tokens per minute"),
        ({"of_token": 500, "of_user": 1000}, "this access token: 500 tokens per minute"),
        ({"of_user": 2005, "of_team": 2004}, "the team: 2,004 tokens per minute"),
    ],
)
def test_what_is_larger_than_a_whole_limit_is_told_the_tightest(
    limits: dict[str, int], whose: str, desk: Desk
) -> None:
    of = {name: Limits(tokens_per_minute=limit) for name, limit in limits.items()}
    refused = desk.refuse(admission(reservation(output=2000, prompt=5), **of))
    assert isinstance(refused, BeyondLimit)
    assert "may need 2,005 tokens" in refused.message and f"the whole limit of {whose}" in refused.message
    assert desk.page.is_unchanged


# Settling.


@pytest.mark.parametrize("outcome", ["done", "failed", "disconnected"])
def test_a_settlement_leaves_what_was_used(outcome: str, desk: Desk) -> None:
    limits = dict.fromkeys(EVERYWHERE, Limits(10, 1000, 3, 100, 1000))
    one = admission(reservation(points=10, output=200, prompt=20), **limits)
    desk.admit(one)

    desk.settle(
        settlement(one, outcome, points=4, completion_tokens=50, images=1, finish_reason="stop", bot="B")
    )

    row = desk.rows[one.id]
    assert (row.outcome, row.points, row.completion_tokens, row.images, row.bot) == (outcome, 4, 50, 1, "B")
    assert desk.points() == {(4, 4)} and desk.tokens() == {70} and desk.in_flight() == {}
    assert desk.sums == {key_of(row): [*contribution(row)]}


def test_what_never_began_gives_everything_back(desk: Desk) -> None:
    began = datetime.fromtimestamp(desk.now / SECOND, UTC)
    limits = Limits(5, 1000, 3, 100, 1000)
    one = admission(reservation(points=10, output=200, prompt=20), of_user=limits, started_at=began)
    desk.admit(one)
    assert desk.meters["user:1"].requests_level == UNIT
    desk.settle(not_started(one))
    assert desk.points() == {(0, 0)} and desk.tokens() == {0} and desk.in_flight() == {}
    assert desk.meters["user:1"].requests_level == 0
    # Of one that began more than a minute ago nothing is left to be given back.
    desk.admit(
        old := replace(one, id=uuid.uuid4(), started_at=datetime.fromtimestamp(desk.now / SECOND - 61, UTC))
    )
    desk.settle(not_started(old))
    assert desk.meters["user:1"].requests_level == UNIT
    desk.now += MINUTE
    # A request that failed upstream was asked.
    desk.admit(two := replace(one, id=uuid.uuid4()))
    desk.settle(settlement(two, "failed", points=0, completion_tokens=0, first_byte_ms=None))
    assert desk.meters["user:1"].requests_level == UNIT


def test_twice_is_once(desk: Desk) -> None:
    one = admission(reservation(points=10))
    desk.admit(one)
    desk.settle(settlement(one, points=3), settlement(one, "failed", points=0))
    desk.settle(settlement(one, points=9))
    assert desk.page.is_unchanged
    assert desk.rows[one.id].outcome == "done" and desk.points() == {(3, 3)} and desk.in_flight() == {}
    assert [sums[0] for sums in desk.sums.values()] == [1]


def test_what_nobody_knows_is_not_settled(desk: Desk) -> None:
    desk.settle(settlement(admission()))
    assert desk.page.is_unchanged


@pytest.mark.parametrize("together", [True, False])
def test_a_lost_record_keeps_its_estimate_until_its_end_is_known(together: bool, desk: Desk) -> None:
    one = admission(reservation(points=10, output=200, prompt=20), of_user=Limits(tokens_per_minute=1000))
    desk.admit(one)
    items = [lost(one), settlement(one, points=4, completion_tokens=50, bot="Other")]
    if together:
        desk.settle(*items)
    else:
        desk.settle(items[0])
        assert desk.points() == {(10, 10)} and desk.in_flight() == {}
        assert desk.meters["user:1"].tokens_level == 220 * UNIT
        (sums,) = desk.sums.values()
        assert tuple(sums) == contribution(desk.rows[one.id])
        desk.settle(items[1])
    assert desk.points() == {(4, 4)} and desk.in_flight() == {}
    assert desk.meters["user:1"].tokens_level == 70 * UNIT
    row = desk.rows[one.id]
    assert {key: [*sums] for key, sums in desk.sums.items() if any(sums)} == {
        key_of(row): [*contribution(row)]
    }


def test_lost_and_then_never_begun_is_nothing(desk: Desk) -> None:
    one = admission(reservation(points=10))
    desk.admit(one)
    desk.settle(lost(one))
    desk.settle(not_started(one))
    assert desk.outcome(one) == ("failed", "not_started") and desk.points() == {(0, 0)}
    desk.settle(settlement(one), lost(one))
    assert desk.page.is_unchanged


@pytest.mark.parametrize("first", ["done", "failed", "disconnected", "lost"])
def test_what_has_ended_is_not_lost(first: str, desk: Desk) -> None:
    one = admission(reservation(points=10))
    desk.admit(one)
    desk.settle(settlement(one, first, points=4) if first != "lost" else lost(one))
    desk.settle(lost(one))
    assert desk.page.is_unchanged and desk.rows[one.id].outcome == first


def test_a_settlement_changes_only_the_periods_of_its_record(desk: Desk) -> None:
    one = admission(reservation(points=10))
    desk.admit(one)
    desk.now += DAY
    desk.admit(admission(reservation(points=5)))
    assert desk.points() == {(5, 15)}

    desk.settle(settlement(one, points=1))
    assert desk.points() == {(5, 6)}

    second = admission(reservation(points=2))
    desk.admit(second)
    desk.now += 31 * DAY
    desk.admit(admission(reservation(points=3)))
    desk.settle(settlement(second, points=0))
    assert desk.points() == {(3, 3)}


def test_a_correction_beyond_the_budget_is_kept_and_blocks(desk: Desk) -> None:
    one = admission(reservation(points=10), of_team=Limits(points_per_day=12))
    desk.admit(one)
    desk.settle(settlement(one, points=20))
    assert desk.points() == {(20, 20)}
    desk.refuse(admission(reservation(points=0), of_team=Limits(points_per_day=12)))


def test_who_moved_over_a_midnight_there_and_back_is_not_given_more_than_the_limit(desk: Desk) -> None:
    """It is midnight in Tokyo at 15:00 UTC: what was used before is forgotten there, and not here."""
    limits = Limits(points_per_day=100)
    here, there = ({"of_user": limits, **team} for team in ({}, {"team": 2, "time_zone": "Asia/Tokyo"}))
    running = admission(reservation(points=90), **here)
    desk.admit(running)
    desk.admit(admission(reservation(points=1), **there))
    desk.now += 4 * 60 * MINUTE
    desk.admit(admission(reservation(points=1), **there))
    desk.admit(admission(reservation(points=1), **here))

    desk.settle(settlement(running, points=10))

    assert desk.meters["user:1"].day_points >= 0
    assert isinstance(desk.refuse(admission(reservation(points=101), **here)), BudgetExceeded)


def test_who_moved_away_and_back_is_not_given_more_than_the_limit(desk: Desk) -> None:
    """To a team of another calendar and back on the same day, with a request running all the while."""
    limits = Limits(points_per_day=100)
    here = admission(reservation(points=90), of_user=limits)
    desk.admit(here)
    desk.admit(admission(reservation(points=1), team=2, time_zone="Asia/Tokyo", of_user=limits))
    desk.admit(admission(reservation(points=1), of_user=limits))

    desk.settle(settlement(here, points=10))

    assert desk.meters["user:1"].day_points >= 0
    assert isinstance(desk.refuse(admission(reservation(points=101), of_user=limits)), BudgetExceeded)


def test_tokens_that_no_limit_counted_are_not_given_back_to_one(desk: Desk) -> None:
    """The limit was set while the request ran."""
    before = admission(reservation(output=1000, prompt=0))
    desk.admit(before)
    limits = a_minute(tokens=1000)
    desk.admit(admission(reservation(output=1000, prompt=0), of_team=limits))

    desk.settle(settlement(before, completion_tokens=1, counts_tokens=before.counts_tokens))

    assert before.counts_tokens == (False, False, False)
    assert isinstance(desk.refuse(admission(reservation(output=100, prompt=0), of_team=limits)), RateLimited)


# A second opinion.


@dataclass
class World:
    """Random people, limits and keys; everything of it in one calendar."""

    chance: random.Random

    def __post_init__(self) -> None:
        self.limits = {f"{kind}:{n}": self._limits() for kind in ("token", "user", "team") for n in (1, 2, 3)}
        accounts = [Limits(requests_per_minute=self._maybe(3, 20)) for _ in range(2)]
        self.candidates = tuple(
            candidate(
                key,
                account,
                key_limits=Limits(
                    requests_per_minute=self._maybe(2, 9), requests_in_flight=self._maybe(1, 4)
                ),
                account_limits=accounts[account],
            )
            for key, account in ((1, 0), (2, 1), (3, 0))
        )

    def _maybe(self, low: int, high: int) -> int | None:
        return self.chance.randint(low, high) if self.chance.random() < 0.5 else None

    def _limits(self) -> Limits:
        return Limits(
            requests_per_minute=self._maybe(1, 12),
            tokens_per_minute=self._maybe(30, 400),
            requests_in_flight=self._maybe(1, 6),
            points_per_day=self._maybe(10, 150),
        )

    def keys(self) -> tuple[Candidate, ...]:
        return tuple(self.chance.sample(self.candidates, self.chance.randint(1, 3)))

    def reservation(self, prompt: int) -> Reservation:
        return Reservation(prompt, self.chance.randint(0, 60), 0, self.chance.randint(0, 12))

    def admission(self) -> Admission:
        token, team = self.chance.randint(1, 3), self.chance.randint(1, 2)
        user = 1 if token < 3 else 2
        prompt = self.chance.randint(0, 20)
        several = (self.reservation(prompt) for _ in range(self.chance.choice([1, 1, 2])))
        wanted = tuple(sorted(several, key=lambda each: -each.tokens))
        owners = (f"token:{token}", f"user:{user}", f"team:{team}")
        return admission(
            *wanted,
            token=token,
            user=user,
            team=team,
            limits=tuple(self.limits[id_] for id_ in owners),
            candidates=self.keys(),
            version=VERSION if self.chance.random() < 0.97 else VERSION - 1,
        )

    def changes(self, desk: Desk, books: Books) -> list[Change]:
        # After midnight a record sees what is left of its own day only: tested above.
        known = [each for each in books.records.values() if each.day == books.today()]
        several = self.chance.sample(known, min(len(known), self.chance.randint(0, 2)))
        return [self.change(desk, each) for each in several]

    def change(self, desk: Desk, record: Record) -> Change:
        row = desk.rows[record.admission.id]
        wanted = Reservation(
            row.prompt_tokens, self.chance.randint(0, 90), 0, row.points + self.chance.randint(-3, 6)
        )
        key = record.key if self.chance.random() < 0.8 else 1
        keys = self.keys() if self.chance.random() < 0.5 else ()
        return change(record.admission, wanted, key=key, candidates=keys)

    def settlement(self, desk: Desk, books: Books) -> Settlement | None:
        known = list(books.records.values())
        if not known:
            return settlement(admission())
        record = self.chance.choice(known[-12:])
        row, of = desk.rows[record.admission.id], record.admission
        key = record.key if self.chance.random() < 0.8 else 3
        match self.chance.random():
            case dice if dice < 0.2:
                return replace(lost(of), key_id=key)
            case dice if dice < 0.35:
                return replace(not_started(of), key_id=key)
        # Never more than was reserved: that is what an answer is cut at.
        used = self.chance.randint(0, row.completion_tokens) if row.outcome in ("open", "lost") else 0
        points = self.chance.randint(0, max(0, row.points)) if row.outcome in ("open", "lost") else 0
        return settlement(of, "done", completion_tokens=used, points=points, key_id=key)


def agree(answer: Answer, expected: Expected) -> None:
    if expected.kind == "Refused":
        assert isinstance(answer, RateLimited) and answer.limit in expected.limits, (answer, expected)
        assert answer.retry_after == pytest.approx(float(expected.wait), abs=2e-6)
        assert isinstance(answer, BudgetExceeded) is answer.limit.startswith("points")
        return
    assert type(answer).__name__ == expected.kind, (answer, expected)
    if isinstance(answer, Admitted):
        assert (answer.key_id, answer.reservation) == (expected.key, expected.reservation)


def check(desk: Desk, books: Books, world: World) -> None:
    for meter in desk.meters.values():
        if not meter.id.startswith("account:"):
            assert meter.in_flight == books.open(meter.id), meter
        if meter.day_ends:
            day = meter.day_ends * SECOND // DAY - 1
            assert meter.day_points == books.points(meter.id, day), meter
    for id_, its in world.limits.items():
        if its.tokens_per_minute is not None and id_ in desk.meters:
            found = copy(desk.meters[id_])
            drain(found, its, desk.now)
            level = books.tokens[id_].now(desk.now, its.tokens_per_minute) if id_ in books.tokens else 0
            assert found.tokens_level == level * UNIT
        if its.points_per_day is not None:
            assert books.points(id_, books.today()) <= its.points_per_day
        if its.requests_in_flight is not None:
            assert books.open(id_) <= its.requests_in_flight
    for each in world.candidates:
        slots = each.key_limits.requests_in_flight
        assert slots is None or books.open(f"key:{each.key_id}") <= slots
    totals: dict[Any, list[int]] = {}
    for row in desk.rows.values():
        if row.outcome != "open":
            old = totals.get(key_of(row), [0] * 99)
            totals[key_of(row)] = [a + b for a, b in zip(old, contribution(row), strict=False)]
    assert {key: sums for key, sums in desk.sums.items() if any(sums)} == totals


@pytest.mark.parametrize("seed", range(30))
def test_it_agrees_with_naive_books(seed: int) -> None:
    chance = random.Random(seed)
    world, desk, books = World(chance), Desk(), Books(VERSION)
    desk.now = NOON
    reached: set[str] = set()
    for _ in range(40):
        desk.now += chance.choice(
            [0, 0, 1, 999_999, SECOND, 7 * SECOND, 61 * SECOND, MINUTE * 60, 5 * MINUTE * 60]
        )
        books.now = desk.now
        several = range(chance.randint(0, 4))
        settled = [each for _ in several if (each := world.settlement(desk, books))]
        changes = world.changes(desk, books)
        admissions = [world.admission() for _ in range(chance.randint(0, 5))]
        if admissions and chance.random() < 0.1:
            settled.append(not_started(admissions[0]))

        answers = desk.decide(*admissions, changes=changes, settled=settled)

        for item in settled:
            books.settle(item)
        changed = [books.change(item) for item in changes]
        expected = [books.admit(item, [each.id for each in settled]) for item in admissions] + changed
        for answer, which in zip(answers, expected, strict=True):
            agree(answer, which)
            reached.add(which.kind)
        check(desk, books, world)
    assert {"Admitted", "Refused"} <= reached


def test_the_books_begin_their_days_at_midnight() -> None:
    """The naive books know UTC only; so does this world."""
    assert datetime.fromtimestamp(NOON / SECOND, UTC).hour == 12 and NOON // DAY * DAY + DAY // 2 == NOON
