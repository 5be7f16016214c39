"""A Poe account's points history: read as far as needed, kept once, matched, and judged where nothing fits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from relay import charges, reconciliation
from relay.charges import Round
from relay.errors import RelayError, UpstreamFailed, UpstreamUnauthorized
from relay.ledger.items import Admission
from relay.ledger.verify import verify
from relay.models import AccountHealth, Meter, PoeAccount, PoeCharge, PoeKey, PoolEvent, Pruning, UsageRecord
from relay.upstreams.poe_account import AccountKey, Charge, ChargePage, PoeAccounts
from tests import cast as people
from tests.ledger import making, written

pytestmark = pytest.mark.django_db(transaction=True)
MINUTE = timedelta(minutes=1)


class Poe(PoeAccounts):
    """Tells the histories that a test wrote, instead of Poe: newest first, each to the keys of its account."""

    def __init__(self) -> None:
        super().__init__(1)
        self.told: dict[str, list[Charge]] = {}
        self.refuses: dict[str, RelayError] = {}
        self.pages = 0

    def charge(self, secret: str, at: datetime, points: int = 10, **fields: Any) -> Charge:
        history = self.told.setdefault(secret, [])
        values: dict[str, Any] = {
            "query_id": f"{secret} {len(history)}",
            "bot": "GPT-4o",
            "usage_type": "API",
            "api_key_name": "main",
            "input_tokens": 7,
            "output_tokens": 100,
        }
        said = Charge(at=at, points=points, **values | fields)
        history.append(said)
        history.sort(key=lambda each: each.at, reverse=True)
        return said

    def say_again(self, said: Charge, **fields: Any) -> None:
        for history in self.told.values():
            for index, each in enumerate(history):
                if each.query_id == said.query_id:
                    history[index] = Charge(**{name: getattr(each, name) for name in each.__slots__} | fields)

    async def charges(self, key: AccountKey, *, after: str | None = None, limit: int = 100) -> ChargePage:
        self.pages += 1
        if key.secret in self.refuses:
            raise self.refuses[key.secret]
        history = self.told.get(key.secret, [])
        ids = [each.query_id for each in history]
        start = 0 if after is None else ids.index(after) + 1
        return ChargePage(tuple(history[start : start + limit]), len(history) > start + limit)


class Site:
    """A Poe account with a key, what Poe tells of it, and the time."""

    def __init__(self) -> None:
        self.poe = Poe()
        self.now = datetime.now(UTC)
        self.key = people.poe_key("secret-a", name="a")

    def poll(self, account_id: int | None = None, *, force: bool = False) -> Round:
        chosen = self.key.account_id if account_id is None else account_id
        return async_to_sync(charges.poll)(chosen, self.poe, force=force, clock=lambda: self.now)

    def used(self, ago: timedelta, points: int = 10, key: PoeKey | None = None, **fields: Any) -> Admission:
        chosen = self.key if key is None else key
        candidate = making.candidate(chosen.pk, chosen.account_id)
        return written.used(points, self.now - ago, candidates=(candidate,), **fields)

    def charge(self, ago: timedelta, points: int = 10, **fields: Any) -> Charge:
        return self.poe.charge("secret-a", self.now - ago, points, **fields)

    def stored(self, said: Charge) -> PoeCharge:
        return PoeCharge.objects.get(query_id=said.query_id)


@pytest.fixture
def site(transactional_db: None) -> Iterator[Site]:
    found = Site()
    # It has been ours for long.
    PoeKey.objects.update(created_at=found.now - timedelta(days=100))
    yield found


def test_a_request_becomes_what_poe_charged(site: Site) -> None:
    asked = site.used(5 * MINUTE)
    said = site.charge(5 * MINUTE, 33)

    done = site.poll()

    record = UsageRecord.objects.get()
    assert (done.stored, done.matched, done.waiting, done.own, done.leaks) == (1, 1, 0, 0, 0)
    assert (record.id, record.points, record.accounting) == (asked.id, 33, "reconciled")
    assert Meter.objects.get(pk="team:1").day_points == 33
    assert site.stored(said).match == "matched"
    assert verify().differences == ()


def test_a_second_round_does_nothing_again(site: Site) -> None:
    site.used(5 * MINUTE)
    site.charge(5 * MINUTE, 33)
    site.poll()

    done = site.poll()

    assert done == Round()
    assert PoeCharge.objects.count() == 1


@pytest.mark.parametrize(
    ("ago", "force", "matched"),
    [(30, False, 0), (30, True, 1), (61, False, 1)],
    ids=["young", "forced", "old"],
)
def test_what_is_young_waits(site: Site, ago: int, force: bool, matched: int) -> None:
    site.used(timedelta(seconds=ago))
    site.charge(timedelta(seconds=ago))

    done = site.poll(force=force)

    assert (done.matched, done.waiting) == (matched, 1 - matched)


def test_an_open_record_waits(site: Site) -> None:
    candidate = making.candidate(site.key.pk, site.key.account_id)
    asked = written.admit(10, site.now - 20 * MINUTE, candidates=(candidate,))
    said = site.charge(20 * MINUTE, 33)

    assert site.poll().waiting == 1
    assert site.stored(said).match == "waiting"

    written.settle(making.settlement(asked, total_ms=20 * 60_000))
    assert site.poll().matched == 1


def test_a_charge_that_reads_0_is_read_again(site: Site) -> None:
    site.used(2 * MINUTE)
    said = site.charge(2 * MINUTE, 0)
    for number in range(250):  # more than the overlap of two rounds
        site.charge(timedelta(seconds=number * 0.1), bot="Other")
    site.poll()
    assert UsageRecord.objects.get().points == 10
    site.poe.say_again(said, points=42)

    done = site.poll()

    assert (done.matched, UsageRecord.objects.get().points) == (1, 42)
    assert verify().differences == ()


def test_a_charge_that_stays_0_costs_nothing(site: Site) -> None:
    site.used(16 * MINUTE)
    site.charge(16 * MINUTE, 0)

    assert site.poll().matched == 1
    assert UsageRecord.objects.get().points == 0


def test_what_changes_after_it_was_matched_is_corrected_again(site: Site) -> None:
    site.used(5 * MINUTE)
    said = site.charge(5 * MINUTE, 33)
    site.poll()
    site.poe.say_again(said, points=44)

    site.poll()

    assert UsageRecord.objects.get().points == 44
    assert (site.stored(said).points, site.stored(said).estimated_points) == (44, 10)
    assert verify().differences == ()


def test_a_lost_record_that_tells_its_end_later_keeps_what_poe_charged(site: Site) -> None:
    candidate = making.candidate(site.key.pk, site.key.account_id)
    asked = written.admit(10, site.now - 5 * MINUTE, candidates=(candidate,))
    written.settle(making.lost(asked))
    site.charge(4 * MINUTE, 33)
    assert site.poll().matched == 1
    written.settle(making.settlement(asked, points=8))

    site.poll()

    assert UsageRecord.objects.get().points == 33
    assert verify().differences == ()


# How far it reads.


def test_the_first_round_reads_everything_that_poe_tells(site: Site) -> None:
    for days in range(250):
        site.charge(timedelta(days=days / 10))
    site.charge(timedelta(days=31))

    done = site.poll()

    assert (done.stored, site.poe.pages) == (251, 3)


def test_a_round_goes_on_where_the_last_one_stopped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charges, "MOST_PAGES", 2)
    for number in range(450):
        site.charge(timedelta(hours=number))
    site.poll()
    assert PoeCharge.objects.count() == 200
    site.poe.charge("secret-a", site.now, query_id="new")

    for _round in range(4):
        site.now += MINUTE
        site.poll()

    assert PoeCharge.objects.count() == 451
    assert AccountHealth.objects.get().charges_until == site.now - 4 * MINUTE
    pages = site.poe.pages
    site.poll()
    assert site.poe.pages == pages + 1


def test_a_charge_that_turns_up_late_is_found(site: Site) -> None:
    for number in range(150):
        site.charge(timedelta(seconds=number / 2))
    site.poll()
    site.charge(timedelta(seconds=70), query_id="late")

    assert site.poll().stored == 1


def test_another_key_reads_it_if_the_first_may_not(site: Site) -> None:
    second = PoeKey(account=site.key.account, name="b")
    second.store("secret-b")
    second.save()
    site.poe.refuses["secret-a"] = UpstreamUnauthorized("no")
    site.poe.charge("secret-b", site.now - MINUTE)

    assert site.poll().stored == 1


def test_it_says_why_nothing_could_be_read(site: Site) -> None:
    site.poe.refuses["secret-a"] = UpstreamFailed("Poe is ill")

    with pytest.raises(UpstreamFailed):
        site.poll()
    done = async_to_sync(charges.reconcile)(accounts=site.poe)

    assert done.failures == {"a": "Poe is ill"}


# Two accounts that are one.


def test_a_history_that_is_known_shows_that_two_accounts_are_one(site: Site) -> None:
    other = people.poe_key("secret-b", name="b")
    site.poe.told["secret-b"] = site.poe.told["secret-a"] = []
    asked = site.used(5 * MINUTE, key=other)
    site.charge(5 * MINUTE, 33)

    done = async_to_sync(charges.reconcile)(accounts=site.poe)

    health = AccountHealth.objects.get(account=other.account)
    assert health.same_as == site.key.account
    assert (done.stored, done.matched) == (1, 1)
    assert UsageRecord.objects.get(pk=asked.id).points == 33
    assert PoolEvent.objects.filter(became="same_account").count() == 1
    assert async_to_sync(charges.reconcile)(accounts=site.poe) == Round()


def test_accounts_that_say_they_are_each_other_are_one(site: Site) -> None:
    others = [PoeAccount.objects.create(name=name) for name in ("x", "y", "z")]
    for one, other in ((others[0], others[1]), (others[1], others[0])):
        AccountHealth.objects.create(account=one, since=site.now, same_as=other)

    assert reconciliation.group_of(others[2].pk) == {others[2].pk}
    assert reconciliation.group_of(others[0].pk) >= {others[0].pk}


# What has no partner.


def named(site: Site, name: str = "main") -> None:
    PoeKey.objects.filter(pk=site.key.pk).update(poe_name=name)


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, "leak"),
        ({"usage_type": "api"}, "leak"),
        ({"usage_type": "Chat", "api_key_name": ""}, "own"),
        ({"usage_type": "Chat"}, "own"),
        ({"api_key_name": "another"}, "own"),
        ({"api_key_name": ""}, "own"),
    ],
)
def test_whose_a_charge_without_a_request_is(site: Site, fields: dict[str, Any], verdict: str) -> None:
    named(site)
    said = site.charge(16 * MINUTE, **fields)

    done = site.poll()

    assert site.stored(said).match == verdict
    assert (done.own, done.leaks) == ((1, 0) if verdict == "own" else (0, 1))


def test_it_is_judged_after_a_quarter_of_an_hour(site: Site) -> None:
    named(site)
    said = site.charge(14 * MINUTE)

    assert site.poll().waiting == 1
    site.now += 2 * MINUTE
    assert site.poll().leaks == 1
    assert site.stored(said).match == "leak"


def test_a_chat_of_the_owner_is_no_request_of_ours(site: Site) -> None:
    site.used(5 * MINUTE)
    site.charge(5 * MINUTE, 900, usage_type="Chat")

    assert site.poll().matched == 0
    assert UsageRecord.objects.get().points == 10


def test_charges_from_before_the_key_was_ours_are_no_leak(site: Site) -> None:
    named(site)
    PoeKey.objects.update(created_at=site.now - timedelta(days=2))
    said = site.charge(timedelta(days=3))

    site.poll()

    assert site.stored(said).match == "own"


def test_charges_of_records_that_were_pruned_are_no_leak(site: Site) -> None:
    named(site)
    Pruning.objects.create(pk=1, pruned_before=site.now - timedelta(days=2))
    said = site.charge(timedelta(days=3))

    site.poll()

    assert site.stored(said).match == "own"
    assert not PoolEvent.objects.exists()


def test_administrators_are_told_of_leaks_once_an_hour(site: Site) -> None:
    named(site)
    for _half_an_hour in range(4):
        site.charge(16 * MINUTE, 40)
        site.charge(17 * MINUTE, 2)
        site.poll()
        site.now += 29 * MINUTE

    told = list(PoolEvent.objects.order_by("at"))
    assert [(each.became, each.is_news, each.key_id) for each in told] == [("leak", True, site.key.pk)] * 2
    assert told[0].reason == "2 charges of 42 points as 'main' that no request of ours explains"


def test_the_name_of_a_key_is_learned(site: Site) -> None:
    for minutes in range(20, 26):
        site.used(minutes * MINUTE)
        site.charge(minutes * MINUTE)
    strange = site.charge(40 * MINUTE)
    another = site.charge(41 * MINUTE, api_key_name="my own script")

    site.poll()

    assert reconciliation.names_at_poe([site.key.account_id], {site.key.pk: site.key}) == {
        site.key.pk: "main"
    }
    assert site.stored(strange).match == "leak"
    assert site.stored(another).match == "own"


def test_once_its_name_is_known_a_key_gets_no_charge_of_another_name(site: Site) -> None:
    named(site)
    site.used(5 * MINUTE)
    site.charge(5 * MINUTE, 900, api_key_name="my own script")

    assert site.poll().matched == 0


# Figures.


def matched(site: Site, bot: str, estimated: int | None, points: int, **fields: Any) -> None:
    PoeCharge.objects.create(
        query_id=f"{PoeCharge.objects.count()}",
        account=site.key.account,
        at=site.now - fields.pop("ago", MINUTE),
        read_at=site.now,
        bot=bot,
        points=points,
        estimated_points=estimated,
        **{"match": "matched"} | fields,
    )


def test_figures_by_bot(site: Site) -> None:
    matched(site, "A", 100, 110)
    matched(site, "A", 100, 120, is_ambiguous=True)
    matched(site, "B", 0, 5)
    matched(site, "B", None, 1000)  # on an own key
    matched(site, "C", 7, 7, ago=timedelta(days=3))
    matched(site, "A", None, 50, match="leak")
    matched(site, "A", None, 60, match="own")
    matched(site, "A", None, 70, match="waiting")

    found = charges.figures(2)

    assert [(b.bot, b.matched, b.ambiguous, b.estimated, b.charged, b.drift) for b in found.bots] == [
        ("A", 2, 1, 200, 230, 15.0),
        ("B", 1, 0, 0, 5, None),
    ]
    assert (found.matched, found.ambiguous, found.unmatched) == (4, 1, 3)
    assert (found.waiting, found.leaks, found.leaked_points, found.own, found.own_points) == (1, 1, 50, 1, 60)
    assert (found.estimated, found.charged, found.drift) == (200, 235, 17.5)


def test_figures_of_nothing(site: Site) -> None:
    found = charges.figures(30)

    assert (found.bots, found.drift, found.unmatched) == ((), None, 0)


def test_figures_of_many_charges_are_quick(site: Site) -> None:
    PoeCharge.objects.bulk_create(
        PoeCharge(
            query_id=str(number),
            account=site.key.account,
            at=site.now - timedelta(seconds=number),
            read_at=site.now,
            bot=f"bot {number % 8}",
            points=number % 50,
            estimated_points=20,
            match="matched",
        )
        for number in range(20_000)
    )
    began = time.monotonic()

    found = charges.figures(30)

    assert found.matched == 20_000
    assert time.monotonic() - began < 1
