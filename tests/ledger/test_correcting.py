"""What Poe charged replaces what we reckoned: in the record, its own periods and its hour, and nowhere else."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relay.ledger.correcting import MOST, Correction, correct
from relay.ledger.items import Admission, Reservation
from relay.ledger.verify import verify
from relay.models import Meter, PoeAccount, PoeCharge, UsageHour, UsageRecord
from tests.ledger import making, written

pytestmark = pytest.mark.django_db(transaction=True)


def charge(points: int, **fields: Any) -> PoeCharge:
    account = PoeAccount.objects.get_or_create(name="poe")[0]
    now = datetime.now(UTC)
    values: dict[str, Any] = {"query_id": uuid.uuid4().hex, "at": now, "read_at": now, "bot": "GPT-4o"}
    return PoeCharge.objects.create(account=account, points=points, **values | fields)


def match(charged: PoeCharge, of: Admission, **fields: Any) -> int:
    return correct([Correction(charged.pk, of.id, **fields)]).records


def points_today(*ids: str) -> list[int]:
    found = {each.pk: each.day_points for each in Meter.objects.filter(pk__in=ids)}
    return [found[id_] for id_ in ids]


def test_a_record_takes_over_what_poe_charged() -> None:
    asked = written.used(points=10)
    charged = charge(7, input_tokens=11, output_tokens=222)

    done = match(charged, asked, is_ambiguous=True)

    record = UsageRecord.objects.get(pk=asked.id)
    assert done == 1
    assert (record.points, record.prompt_tokens, record.completion_tokens) == (7, 11, 222)
    assert (record.accounting, record.tokens_estimated) == ("reconciled", False)
    charged.refresh_from_db()
    assert (charged.match, charged.record_id) == ("matched", asked.id)
    assert (charged.estimated_points, charged.is_ambiguous) == (10, True)
    assert points_today("token:1", "user:1", "team:1") == [7, 7, 7]
    hour = UsageHour.objects.get()
    assert (hour.requests, hour.points, hour.prompt_tokens, hour.completion_tokens) == (1, 7, 11, 222)
    assert verify().differences == ()


def test_without_token_counts_ours_stay() -> None:
    asked = written.used(points=10)

    match(charge(200), asked)

    record = UsageRecord.objects.get(pk=asked.id)
    assert (record.points, record.prompt_tokens, record.completion_tokens) == (200, 7, 100)
    assert record.tokens_estimated


def test_a_charge_that_changed_corrects_by_the_difference() -> None:
    asked = written.used(points=10)
    charged = charge(0)
    match(charged, asked)
    PoeCharge.objects.filter(pk=charged.pk).update(points=25, output_tokens=5)

    done = match(charged, asked)

    charged.refresh_from_db()
    assert done == 1
    assert (charged.estimated_points, charged.match) == (10, "matched")
    assert points_today("token:1", "user:1", "team:1") == [25, 25, 25]
    assert verify().differences == ()


def test_only_the_periods_that_it_counts_in_are_corrected() -> None:
    yesterday = datetime.now(UTC) - timedelta(days=40)
    old = written.used(10, yesterday)
    written.used(3)

    match(charge(100), old)

    meter = Meter.objects.get(pk="team:1")
    assert (meter.day_points, meter.month_points) == (3, 3)
    assert UsageRecord.objects.get(pk=old.id).points == 100
    assert verify().differences == ()


def test_a_user_of_another_calendar_is_corrected_in_periods_of_their_own() -> None:
    first = written.used(points=100)
    second = written.used(points=1, team=2, time_zone="Pacific/Kiritimati")

    match(charge(50), first)
    match(charge(9), second)

    assert points_today("user:1", "token:1", "team:1", "team:2") == [59, 59, 50, 9]
    assert verify().differences == ()


def test_an_own_poe_key_costs_no_budget() -> None:
    asked = written.admit(points=0, accounting="own")
    written.settle(making.settlement(asked, points=0))
    charged = charge(40, input_tokens=5, output_tokens=6)

    match(charged, asked)

    record = UsageRecord.objects.get(pk=asked.id)
    charged.refresh_from_db()
    assert (record.points, record.accounting, record.tokens_estimated) == (0, "own", False)
    assert (charged.match, charged.estimated_points) == ("matched", None)
    assert points_today("team:1") == [0]
    assert verify().differences == ()


def open_record() -> Admission:
    return written.admit(points=10)


def pruned_record() -> Admission:
    asked = written.used(points=10)
    UsageRecord.objects.filter(pk=asked.id).delete()
    return asked


def taken_record() -> Admission:
    asked = written.used(points=10)
    assert match(charge(3), asked) == 1
    return asked


@pytest.mark.parametrize("make", [open_record, pruned_record, taken_record])
def test_it_leaves_alone_what_is_no_more_to_be_matched(make: Any) -> None:
    asked = make()
    before = points_today("team:1")
    charged = charge(99)

    assert match(charged, asked) == 0

    charged.refresh_from_db()
    assert (charged.match, charged.record_id) == ("waiting", None)
    assert points_today("team:1") == before


@pytest.mark.parametrize("verdict", ["own", "leak"])
def test_it_leaves_alone_what_was_judged_meanwhile(verdict: str) -> None:
    asked = written.used(points=10)

    assert match(charge(99, match=verdict), asked) == 0
    assert points_today("team:1") == [10]


def test_it_leaves_alone_a_charge_that_is_anothers_by_now() -> None:
    first, second = written.used(points=10), written.used(points=20)
    charged = charge(5)
    match(charged, first)

    assert match(charged, second) == 0
    assert points_today("team:1") == [25]


def test_meters_that_are_gone_are_not_made_again() -> None:
    asked = written.used(points=10)
    Meter.objects.filter(pk="token:1").delete()

    match(charge(4), asked)

    assert not Meter.objects.filter(pk="token:1").exists()
    assert points_today("user:1", "team:1") == [4, 4]


def test_fifty_records_take_less_than_fifty_milliseconds() -> None:
    made = [
        written.used(Reservation(7, 100, 0, 10).points, token=token, user=token, model=f"model {token}")
        for token in range(1, MOST + 1)
    ]
    corrections = [Correction(charge(index).pk, each.id) for index, each in enumerate(made)]

    corrected = correct(corrections)

    assert corrected.records == MOST
    # A tenth of this when nothing else runs on this core.
    assert corrected.seconds < 0.25
    assert sum(points_today("team:1")) == sum(range(MOST))
    assert verify().differences == ()
