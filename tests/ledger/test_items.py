"""What the ledger is told, as values."""

from __future__ import annotations

import time
import uuid

from relay.ledger.items import new_id, reserve
from relay.limits import Limits, RateCard
from tests.ledger.making import admission


def test_a_new_id_is_a_uuid_in_the_order_of_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(500)]
    after = time.time_ns() // 1_000_000

    assert len(set(ids)) == 500
    moments = [each.int >> 80 for each in ids]
    assert before <= moments[0] and moments == sorted(moments) and moments[-1] <= after
    assert {(each.version, each.variant) for each in ids} == {(7, uuid.RFC_4122)}


def test_ids_of_one_moment_share_nothing_else() -> None:
    """Two processes make them at once."""
    chances = [new_id().int & (1 << 62) - 1 for _ in range(500)]
    assert len(set(chances)) == 500
    assert all(any(each >> bit & 1 for each in chances) for bit in range(62))


def test_a_reservation_costs_what_its_answer_may_cost() -> None:
    found = reserve(RateCard(request=10_000, output=20_000, image=50_000), 100, 1500, 2)
    assert (found.tokens, found.points) == (1600, 1 + 3 + 10)


def test_an_admission_says_whose_tokens_are_counted() -> None:
    one = admission(of_user=Limits(tokens_per_minute=5), of_team=Limits(requests_per_minute=5))
    assert one.counts_tokens == (False, True, False)
