"""What is left of Poe accounts' points: when it is read, what comes of it, tests of keys, and accounts that are one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import async_to_sync
from django.core.exceptions import ValidationError

from relay import balances, vault
from relay.aside import Aside
from relay.balances import Balances
from relay.errors import (
    RelayError,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnauthorized,
)
from relay.models import (
    AccountHealth,
    BalanceReading,
    BotMapping,
    DirectoryVersion,
    KeyHealth,
    Meter,
    PoeAccount,
    PoeCharge,
    PoeKey,
    PoolEvent,
    Upload,
)
from relay.pool import keeping
from relay.pool.health import Standing
from relay.upstreams.poe_account import AccountKey, Balance, PoeAccounts
from tests import cast as people
from tests.cast import Cast
from tests.conftest import DemoPoe, in_database

pytestmark = pytest.mark.django_db(transaction=True)
NOON = datetime(2026, 10, 22, 12, tzinfo=UTC)


class Told(PoeAccounts):
    """Says to each key what a test wants, instead of Poe."""

    def __init__(self) -> None:
        super().__init__(1)
        self.says: dict[str, int | RelayError] = {}
        self.asked: list[str] = []

    async def balance(self, key: AccountKey) -> Balance:
        self.asked.append(key.secret)
        said = self.says.get(key.secret, 1000)
        if isinstance(said, RelayError):
            raise said
        return Balance(said)


class Reading:
    """Balances with a clock that a test sets, and what they see and write."""

    def __init__(self) -> None:
        self.poe = Told()
        self.now = NOON
        self.aside = Aside("test")
        self.balances = self.fresh()

    def fresh(self) -> Balances:
        """As another process would begin."""
        return Balances(self.poe, self.aside, 300, clock=lambda: self.now, chance=lambda: 0.5)

    async def read(self, key: PoeKey, says: int | RelayError = 1000) -> bool:
        self.poe.says[vault.unseal(key.secret)] = says
        return await self.balances.read(key.account_id)

    async def pass_by(self, **time: float) -> None:
        self.now += timedelta(**time)


@pytest_asyncio.fixture
async def reading() -> AsyncIterator[Reading]:
    found = Reading()
    yield found
    await found.aside.close()


async def health(key: PoeKey) -> AccountHealth:
    return await in_database(AccountHealth.objects.get, pk=key.account_id)


async def make_key(name: str = "key", **account: Any) -> PoeKey:
    return await in_database(people.poe_key, f"secret-{name}", name=name, **account)


async def second_key(key: PoeKey, name: str = "second") -> PoeKey:
    def make() -> PoeKey:
        other = PoeKey(account_id=key.account_id, name=name, priority=-1)
        other.store(f"secret-{name}")
        other.save()
        return other

    return await in_database(make)


async def set_standing(
    key: PoeKey, state: str, since: datetime = NOON, until: datetime | None = None
) -> None:
    """Of the account, as the Keeper would."""
    standing = Standing(state, "as a test says", since, until, 1)
    await in_database(keeping.change, "account", key.account_id, lambda was, now: standing, since)


async def events(**which: Any) -> list[str]:
    found = await in_database(lambda: list(PoolEvent.objects.filter(**which).order_by("pk")))
    return [event.became for event in found]


# When they are read.


@pytest.mark.asyncio
async def test_an_account_is_due_at_once_and_then_every_poll_seconds(reading: Reading) -> None:
    key = await make_key()
    assert await reading.balances.due() == [key.account_id]

    await reading.read(key)
    assert await reading.balances.due() == []
    await reading.pass_by(seconds=299)
    assert await reading.balances.due() == []
    await reading.pass_by(seconds=1)
    assert await reading.balances.due() == [key.account_id]


@pytest.mark.asyncio
@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 270), (0.5, 300), (1.0, 330)])
async def test_not_all_are_due_together(reading: Reading, chance: float, seconds: int) -> None:
    key = await make_key()
    reading.balances = Balances(reading.poe, reading.aside, 300, clock=lambda: NOON, chance=lambda: chance)
    await reading.read(key)

    assert (await health(key)).due_at == NOON + timedelta(seconds=seconds)


@pytest.mark.asyncio
async def test_whoever_takes_over_goes_on_where_the_last_one_was(reading: Reading) -> None:
    key = await make_key()
    await reading.read(key)

    assert await reading.fresh().due() == []


@pytest.mark.asyncio
async def test_an_account_that_runs_out_is_due_at_once_and_once(reading: Reading) -> None:
    key, other = await make_key(), await make_key("other")
    await reading.read(key)
    await reading.pass_by(seconds=10)
    await set_standing(key, "resting", since=reading.now)

    # Before another one that has waited for longer.
    assert await reading.balances.due() == [key.account_id, other.account_id]
    await reading.read(key, 0)
    assert await reading.balances.due() == [other.account_id]
    assert await reading.fresh().due() == [other.account_id]


@pytest.mark.asyncio
async def test_a_balance_that_cannot_be_read_is_not_asked_for_again_and_again(reading: Reading) -> None:
    key = await make_key()
    await set_standing(key, "resting")
    assert await reading.balances.due() == [key.account_id]
    await reading.read(key, UpstreamFailed("Poe answered HTTP 500"))

    assert await reading.balances.due() == []
    await reading.pass_by(seconds=300)
    assert await reading.balances.due() == [key.account_id]


@pytest.mark.asyncio
async def test_nobody_asks_for_what_is_switched_off(reading: Reading) -> None:
    await make_key("off", enabled=False)
    without = await make_key("without")
    await in_database(PoeKey.objects.filter(pk=without.pk).update, enabled=False)

    assert await reading.balances.due() == []


# Which key is asked.


@pytest.mark.asyncio
async def test_the_next_key_is_asked_when_one_is_refused(reading: Reading) -> None:
    key = await make_key()
    await second_key(key)

    assert await reading.read(key, UpstreamUnauthorized("Poe refused the key"))
    assert reading.poe.asked == ["secret-key", "secret-second"]
    found = await health(key)
    assert (found.balance, found.balance_error, found.state) == (1000, "", "ok")
    assert await in_database(KeyHealth.objects.count) == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [UpstreamRateLimited("too many"), UpstreamTimeout("too late")])
async def test_the_next_key_is_not_asked_when_the_account_is_the_trouble(
    reading: Reading, failure: RelayError
) -> None:
    key = await make_key()
    await second_key(key)

    assert not await reading.read(key, failure)
    assert reading.poe.asked == ["secret-key"]
    assert (await health(key)).balance_error == failure.message


@pytest.mark.asyncio
async def test_retired_and_disabled_keys_are_not_asked(reading: Reading) -> None:
    key = await make_key()
    off = await second_key(key, "off")
    await in_database(PoeKey.objects.filter(pk=off.pk).update, enabled=False)
    retired = Standing("retired", "refused", NOON)
    await in_database(keeping.change, "key", key.pk, lambda was, now: retired, NOON)

    assert not await reading.balances.read(key.account_id)
    assert reading.poe.asked == []
    assert (await health(key)).balance_error == "every key of the account is retired"


@pytest.mark.asyncio
async def test_a_key_that_does_not_open_is_passed_over(reading: Reading) -> None:
    key = await make_key()
    await in_database(PoeKey.objects.filter(pk=key.pk).update, secret="v1.damaged")
    assert not await reading.balances.read(key.account_id)
    assert "secret" in (await health(key)).balance_error

    await second_key(key)
    assert await reading.balances.read(key.account_id)


# What is written down.


@pytest.mark.asyncio
async def test_a_failure_leaves_the_last_balance_and_says_why(reading: Reading) -> None:
    key = await make_key()
    await reading.read(key, 77)
    await reading.pass_by(minutes=5)
    await reading.read(key, UpstreamFailed("Poe answered HTTP 503"))

    found = await health(key)
    assert (found.balance, found.balance_at) == (77, NOON)
    assert found.balance_error == "Poe answered HTTP 503"
    await reading.read(key, 78)
    assert (await health(key)).balance_error == ""


@pytest.mark.asyncio
async def test_a_reading_is_kept_when_it_changed_or_an_hour_passed(reading: Reading) -> None:
    key = await make_key()
    for minutes, says in [(0, 9), (5, 9), (5, 8), (5, 8), (49, 8), (10, 8)]:
        await reading.pass_by(minutes=minutes)
        await reading.read(key, says)

    found = await in_database(lambda: list(BalanceReading.objects.order_by("at")))
    assert [(row.at - NOON, row.points) for row in found] == [
        (timedelta(0), 9),
        (timedelta(minutes=10), 8),
        (timedelta(minutes=74), 8),
    ]


@pytest.mark.asyncio
async def test_an_account_that_is_gone_is_no_failure(reading: Reading) -> None:
    key = await make_key()
    reading.poe.says["secret-key"] = 3
    await in_database(lambda: PoeAccount.objects.all().delete())

    assert not await reading.balances.read(key.account_id)
    assert await in_database(balances.store, key.account_id, Balance(3), NOON) is None
    assert await in_database(AccountHealth.objects.count) == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("threshold", "balances_read", "told", "is_low"),
    [
        (1000, [999], 1, True),
        (1000, [1000], 0, False),
        (1000, [999, 500, 998], 1, True),
        # 5 % above it, so that an account at the line is no news each time.
        (1000, [999, 1049, 999], 1, True),
        (1000, [999, 1050], 1, False),
        (1000, [999, 1050, 999], 2, True),
        (None, [-5], 0, False),
    ],
)
async def test_few_points_are_told_once(
    reading: Reading, threshold: int | None, balances_read: list[int], told: int, is_low: bool
) -> None:
    key = await make_key(low_balance=threshold)
    for points in balances_read:
        await reading.pass_by(minutes=5)
        await reading.read(key, points)

    assert await events(is_news=True, became="low_balance") == ["low_balance"] * told
    assert (await health(key)).is_low is is_low


# What becomes of an account that rests.


async def block(key: PoeKey) -> int:
    meter = await in_database(Meter.objects.get, pk=f"account:{key.account_id}")
    return meter.blocked_until


@pytest.mark.asyncio
async def test_points_wake_an_account(reading: Reading) -> None:
    key = await make_key()
    await set_standing(key, "resting", until=NOON + timedelta(hours=1))
    assert await block(key) > 0

    await reading.read(key, 12_345)

    found = await health(key)
    assert (found.state, found.reason, await block(key)) == ("ok", "the balance is 12,345 points", 0)


@pytest.mark.asyncio
async def test_without_points_it_rests_until_after_the_next_reading_and_nobody_is_told_again(
    reading: Reading,
) -> None:
    key = await make_key(low_balance=None)
    await set_standing(key, "resting", until=NOON + timedelta(seconds=1))
    before = await events()

    await reading.read(key, 0)

    found = await health(key)
    assert found.due_at is not None and found.until is not None and found.until > found.due_at
    assert (found.state, found.since) == ("resting", NOON)
    assert await block(key) == int(found.until.timestamp()) * 1_000_000
    assert await events() == before


@pytest.mark.asyncio
async def test_an_account_with_too_few_points_is_not_woken_again_and_again(reading: Reading) -> None:
    key = await make_key(low_balance=None)
    states = []
    for says in (50, 50, 30, 5000, 20, 0, 10):
        await reading.pass_by(seconds=300)
        await set_standing(key, "resting", since=reading.now, until=reading.now + timedelta(minutes=15))
        await reading.read(key, says)
        states.append((await health(key)).state)

    # 50 once; 5000 are more than it had before; after nothing anything is more.
    assert states == ["ok", "resting", "resting", "ok", "resting", "resting", "ok"]


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["cooling", "failing"])
async def test_points_are_no_cure_for_other_troubles(reading: Reading, state: str) -> None:
    key = await make_key()
    await set_standing(key, state, until=NOON + timedelta(hours=1))

    await reading.read(key, 12_345)
    assert (await health(key)).state == state


# The test of a key.


def make_sick(key: PoeKey, state: str) -> None:
    keeping.change("key", key.pk, lambda was, now: Standing(state, "sick", now, None, 1), NOON)


@pytest.mark.parametrize("state", ["retired", "failing", "cooling"])
def test_a_test_that_works_makes_a_key_well(demo_server: DemoPoe, state: str) -> None:
    key = people.poe_key(demo_server.key, api_url=demo_server.url)
    make_sick(key, state)

    found = async_to_sync(balances.test)(key.account, key)

    row = KeyHealth.objects.get(pk=key.pk)
    assert (row.state, row.reason) == ("ok", f"tested: {found.points:,} points")
    assert Meter.objects.get(pk=f"key:{key.pk}").blocked_until == 0
    assert AccountHealth.objects.get().balance == found.points > 0


def test_a_test_that_fails_is_noted_and_changes_nothing(demo_server: DemoPoe) -> None:
    key = people.poe_key("not the demo's key", api_url=demo_server.url)
    make_sick(key, "cooling")
    blocked = Meter.objects.get(pk=f"key:{key.pk}").blocked_until

    with pytest.raises(UpstreamUnauthorized, match="Poe refused the key"):
        async_to_sync(balances.test)(key.account, key)

    row = KeyHealth.objects.get(pk=key.pk)
    assert (row.state, row.reason, row.failures) == ("cooling", "sick", 1)
    assert Meter.objects.get(pk=f"key:{key.pk}").blocked_until == blocked
    note = PoolEvent.objects.latest("pk")
    assert (note.was, note.became, note.reason) == ("cooling", "cooling", "tested: Poe refused the key")
    assert not note.is_news


def test_a_test_wakes_an_account_that_has_points(demo_server: DemoPoe) -> None:
    key = people.poe_key(demo_server.key, api_url=demo_server.url)
    empty = Standing("resting", "no points", NOON, NOON, 1)
    keeping.change("account", key.account_id, lambda was, now: empty, NOON)

    async_to_sync(balances.test)(key.account, key)

    assert AccountHealth.objects.get().state == "ok"


# Two that are one.


def twins(**younger: Any) -> tuple[PoeAccount, PoeAccount]:
    older, other = people.poe_key(name="older").account, people.poe_key(name="younger", **younger).account
    balances.same_account(other.pk, older.pk)
    return older, other


def test_the_younger_of_two_is_noted_once() -> None:
    older, younger = twins()
    balances.same_account(older.pk, younger.pk)

    assert AccountHealth.objects.get(pk=younger.pk).same_as == older
    assert not AccountHealth.objects.filter(pk=older.pk, same_as__isnull=False).exists()
    (event,) = PoolEvent.objects.filter(became="same_account")
    assert (event.account, event.is_news) == (younger, True)


def test_one_that_is_gone_is_nobodys_twin() -> None:
    account = people.poe_key().account
    balances.same_account(account.pk, account.pk + 1)

    assert PoolEvent.objects.count() == 0


def charge(account: PoeAccount, number: int) -> PoeCharge:
    return PoeCharge.objects.create(
        query_id=str(number), account=account, at=NOON, bot="b", points=number, read_at=NOON
    )


def test_a_merged_account_leaves_all_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balances, "ROWS_AT_ONCE", 2)
    older, younger = twins()
    mapping = people.mapping("m", "b", account=younger)
    for number in range(7):
        charge(younger, number)
        BalanceReading.objects.create(account=younger, at=NOON + timedelta(minutes=number), points=number)
    for minute in (4, 5):
        BalanceReading.objects.create(account=older, at=NOON + timedelta(minutes=minute), points=minute)
    for account, digest in [(older, "both"), (younger, "both"), (younger, "one")]:
        Upload.objects.create(account=account, digest=digest, url="u", content_type="c", expires_at=NOON)
    version = DirectoryVersion.objects.get().n

    balances.merge(younger)

    assert list(PoeAccount.objects.all()) == [older]
    assert set(older.keys.values_list("name", flat=True)) == {"older", "younger"}
    assert BotMapping.objects.get(pk=mapping.pk).account == older
    assert older.charges.count() == 7
    assert list(older.readings.order_by("at").values_list("points", flat=True)) == [0, 1, 2, 3, 4, 5]
    assert set(older.uploads.values_list("digest", flat=True)) == {"both", "one"}
    assert DirectoryVersion.objects.get().n > version


@pytest.mark.parametrize(
    "of_younger",
    [
        lambda cast: {"team": cast.physics},
        lambda cast: {"user": cast.bob.user},
        lambda cast: {"api_url": "https://elsewhere.example"},
        lambda cast: {"counts_in_budgets": False},
    ],
)
def test_accounts_of_different_people_are_not_merged(
    cast: Cast, of_younger: Callable[[Cast], dict[str, Any]]
) -> None:
    _older, younger = twins(**of_younger(cast))

    with pytest.raises(ValidationError):
        balances.merge(younger)
    assert PoeAccount.objects.count() == 2 and younger.keys.count() == 1


def test_accounts_that_nobody_found_to_be_one_are_not_merged() -> None:
    people.poe_key(name="one")
    other = people.poe_key(name="other").account

    with pytest.raises(ValidationError):
        balances.merge(other)


@pytest.mark.asyncio
async def test_a_thread_of_its_own_goes_on_after_a_failure() -> None:
    aside = Aside("test")

    def fail() -> None:
        AccountHealth.objects.raw("SELECT * FROM nothing_such")[0]

    with pytest.raises(Exception, match="nothing_such"):
        await aside.run(fail)
    assert await aside.run(AccountHealth.objects.count) == 0
    await aside.let_go()
    assert await asyncio.gather(*(aside.run(PoeKey.objects.count) for _ in range(3))) == [0, 0, 0]
    await aside.close()
