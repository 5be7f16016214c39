"""A Poe key that a user or a team brought along: its pages, who may not have them, and what requests make of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connections
from django.test import Client

from relay import balances, vault
from relay.errors import UpstreamUnauthorized
from relay.models import BotMapping, KeyHealth, Meter, PoeAccount, PoeKey, State, UsageRecord
from relay.pool import keeping
from relay.pool.health import Standing
from relay.portal import own_keys
from relay.upstreams.poe_account import Balance
from tests import cast as people
from tests.api.test_chat import settled
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database, wait_for

SECRET = "pb-own-secret-of-bob-4711"
MINE, TEAM = "/me/poe-key/", "/team/poe-key/"
ACTIONS = [f"{page}{action}" for page in (MINE, TEAM) for action in ("test/", "remove/")]


def signed_in(who: people.Person) -> Client:
    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(who.user)
    return client


@pytest.fixture
def bob(cast: Cast) -> Client:
    return signed_in(cast.bob)


def stored(client: Client, secret: str = SECRET, own_use: str = "first", page: str = MINE) -> Any:
    return client.post(page, {"secret": secret, "own_use": own_use}, follow=True)


# The page.


def test_a_key_is_stored_encrypted_and_never_shown(cast: Cast, bob: Client) -> None:
    response = stored(bob, own_use="only")

    key = PoeKey.objects.select_related("account").get()
    assert vault.unseal(key.secret) == SECRET
    assert key.account.user == cast.bob.user and key.account.team is None
    assert (key.account.counts_in_budgets, key.account.own_use) == (False, "only")
    assert key.account.low_balance is None, "administrators need not be told"
    for page in (response, bob.get(MINE)):
        assert page.status_code == 200
        assert "…4711" in page.content.decode() and SECRET not in page.content.decode()


def test_a_manager_stores_one_for_the_team(cast: Cast) -> None:
    stored(signed_in(cast.alice), page=TEAM)

    account = PoeAccount.objects.get()
    assert account.team == cast.physics and account.user is None and not account.counts_in_budgets


def test_a_member_sees_that_there_is_one_and_no_more(cast: Cast, bob: Client) -> None:
    assert "Your team has no Poe key" in bob.get(TEAM).content.decode()
    stored(signed_in(cast.alice), page=TEAM)

    page = bob.get(TEAM).content.decode()

    assert "Your team has a Poe key of its own" in page
    assert "4711" not in page and "<input" not in page.split("<main")[1]
    assert "Your team has no Poe key" in signed_in(cast.charlie).get(TEAM).content.decode()


@pytest.mark.parametrize("who", ["alice", "bob", "charlie", "root"])
def test_nobody_sees_the_key_of_another(cast: Cast, who: str) -> None:
    owner = cast.alice if who != "alice" else cast.bob
    stored(signed_in(owner))

    page = signed_in(getattr(cast, who)).get(MINE).content.decode()

    assert "4711" not in page and 'type="password"' in page


@pytest.mark.parametrize("page", [MINE, TEAM, *ACTIONS])
@pytest.mark.parametrize("who", ["nobody", "a disabled user"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_who_is_not_signed_in_is_sent_to_do_so(cast: Cast, page: str, who: str, method: str) -> None:
    client = Client(SERVER_NAME="127.0.0.1")
    if who != "nobody":
        client.force_login(cast.alice.user)
        cast.alice.user.is_active = False
        cast.alice.user.save()

    response = getattr(client, method)(page, {"secret": SECRET, "own_use": "first"})

    assert response.status_code == 302 and response["Location"].startswith("/?next=")
    assert not PoeAccount.objects.exists()


@pytest.mark.parametrize("page", [TEAM, *ACTIONS[2:]])
def test_a_member_changes_nothing_of_the_teams(cast: Cast, bob: Client, page: str) -> None:
    stored(signed_in(cast.alice), page=TEAM)

    response = bob.post(page, {"secret": "another-secret-0815", "own_use": "never"})

    assert response.status_code == 404
    key = PoeKey.objects.select_related("account").get()
    assert vault.unseal(key.secret) == SECRET and key.account.own_use == "first"


@pytest.mark.parametrize("who", ["charlie", "alice"])
@pytest.mark.parametrize("page", ACTIONS)
def test_what_is_not_theirs_is_not_there(cast: Cast, bob: Client, who: str, page: str) -> None:
    """Charlie becomes the manager of the other team: even then."""
    stored(bob)
    type(cast.charlie.user).objects.filter(pk=cast.charlie.user.pk).update(role="manager")

    assert signed_in(getattr(cast, who)).post(page).status_code == 404
    assert PoeKey.objects.count() == 1


@pytest.mark.parametrize("page", [MINE, *ACTIONS[:2]])
def test_a_form_of_another_site_is_refused(cast: Cast, bob: Client, page: str) -> None:
    stored(bob)
    victim = Client(SERVER_NAME="127.0.0.1", enforce_csrf_checks=True)
    victim.force_login(cast.bob.user)

    assert victim.post(page, {"secret": "another-secret-0815", "own_use": "never"}).status_code == 403
    key = PoeKey.objects.select_related("account").get()
    assert vault.unseal(key.secret) == SECRET and key.account.own_use == "first"


@pytest.mark.parametrize("page", ACTIONS)
def test_a_link_changes_nothing(cast: Cast, page: str) -> None:
    alice = signed_in(cast.alice)
    stored(alice)
    stored(alice, "another-secret-0815", page=TEAM)

    assert alice.get(page).status_code == 405
    assert PoeKey.objects.count() == 2


# What it takes.


@pytest.mark.parametrize("secret", ["", "  ", "two words", "schlüssel-von-bob", "a\tb", "x" * 501])
def test_it_refuses_what_is_no_key(bob: Client, secret: str) -> None:
    response = stored(bob, secret)

    assert response.status_code == 200 and 'class="errors"' in response.content.decode()
    assert not PoeAccount.objects.exists()


@pytest.mark.parametrize("own_use", ["", "always"])
def test_it_refuses_what_is_no_policy(bob: Client, own_use: str) -> None:
    assert 'class="errors"' in stored(bob, own_use=own_use).content.decode()
    assert not PoeAccount.objects.exists()


def test_a_key_that_somebody_has_stored_is_refused_and_nobody_is_named(cast: Cast, bob: Client) -> None:
    people.poe_key(SECRET, name="the big one", account_name="Company", team=cast.chemistry)

    page = stored(bob).content.decode()

    assert "in use here already" in page
    assert not any(word in page for word in ("Company", "the big one", "Chemistry", SECRET))
    assert not PoeAccount.objects.filter(user=cast.bob.user).exists()


def test_another_secret_takes_the_place_of_the_first(bob: Client) -> None:
    stored(bob)
    key = PoeKey.objects.get()
    keeping.change("key", key.pk, lambda was, now: Standing("retired", "Poe refused", now), datetime.now(UTC))
    assert "Poe refused" in bob.get(MINE).content.decode()

    stored(bob, "another-secret-0815", own_use="never")

    after = PoeKey.objects.select_related("account").get()
    assert after.pk == key.pk and vault.unseal(after.secret) == "another-secret-0815"
    assert after.account.own_use == "never"
    assert KeyHealth.objects.get().state == State.OK
    assert Meter.objects.get(pk=f"key:{key.pk}").blocked_until == 0


def test_the_same_secret_may_be_stored_again_by_its_owner(bob: Client) -> None:
    stored(bob)

    assert "in use here already" not in stored(bob).content.decode()
    assert PoeKey.objects.count() == 1


def test_the_policy_changes_without_the_secret(bob: Client) -> None:
    stored(bob)

    stored(bob, "", own_use="only")

    key = PoeKey.objects.select_related("account").get()
    assert key.account.own_use == "only" and vault.unseal(key.secret) == SECRET
    assert re.search('value="only"[^>]* checked', bob.get(MINE).content.decode())


def test_it_is_removed_with_its_account(bob: Client) -> None:
    stored(bob)

    page = bob.post(f"{MINE}remove/", follow=True).content.decode()

    assert "The key is removed." in page
    assert not PoeKey.objects.exists() and not PoeAccount.objects.exists()


def test_a_mapping_that_is_bound_to_it_outlives_it(bob: Client) -> None:
    stored(bob)
    bound = people.mapping("bobs", "GPT-4o", account=PoeAccount.objects.get())

    bob.post(f"{MINE}remove/")
    bound.refresh_from_db()
    assert not PoeKey.objects.exists() and bound.account is not None

    stored(bob)
    assert PoeKey.objects.get().account == bound.account


def test_names_that_are_taken_are_passed_over(cast: Cast, bob: Client) -> None:
    people.poe_key("something-else-1", name="bob's own", account_name="A")
    people.poe_key("something-else-2", name="B", account_name="bob's own 2")

    stored(bob)

    assert PoeKey.objects.get(account__user=cast.bob.user).name == "bob's own 3"


def test_what_an_administrator_set_up_for_somebody_is_not_theirs_to_change(cast: Cast, bob: Client) -> None:
    people.poe_key("something-else", name="for bob", user=cast.bob.user)
    people.poe_key("something-else-2", name="for physics", team=cast.physics)

    assert bob.post(f"{MINE}remove/").status_code == 404
    assert signed_in(cast.alice).post(f"{TEAM}remove/").status_code == 404
    assert PoeKey.objects.count() == 2


def test_two_at_once_make_one_account(cast: Cast) -> None:
    def store(secret: str) -> None:
        try:
            own_keys.store(cast.bob.user, secret, "first")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(store, [f"secret-number-{number}" for number in range(4)]))

    assert PoeAccount.objects.count() == 1 and PoeKey.objects.count() == 1


def test_the_same_secret_of_two_at_once_is_stored_for_one(cast: Cast) -> None:
    def store(who: people.Person) -> bool:
        try:
            own_keys.store(who.user, SECRET, "first")
            return True
        except own_keys.StoredAlready:
            return False
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as threads:
        worked = list(threads.map(store, [cast.alice, cast.bob, cast.charlie]))

    assert sorted(worked) == [False, False, True] and PoeKey.objects.count() == 1


# The test button.


def test_the_button_says_the_balance(bob: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[PoeAccount, PoeKey]] = []

    async def test(account: PoeAccount, key: PoeKey) -> Balance:
        asked.append((account, key))
        return Balance(12_345, None, None)

    monkeypatch.setattr(balances, "test", test)
    stored(bob)

    page = bob.post(f"{MINE}test/", follow=True).content.decode()

    assert "It works. The account has 12,345 points." in page
    assert asked == [(PoeAccount.objects.get(), PoeKey.objects.get())]


def test_the_button_says_why_not(bob: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(account: PoeAccount, key: PoeKey) -> Balance:
        raise UpstreamUnauthorized("Poe refused the key")

    monkeypatch.setattr(balances, "test", test)
    stored(bob)

    assert "It does not work: Poe refused the key." in bob.post(f"{MINE}test/", follow=True).content.decode()


def test_the_button_asks_poe(cast: Cast, bob: Client, demo_server: DemoPoe) -> None:
    stored(bob, demo_server.key)
    PoeAccount.objects.update(api_url=demo_server.url)

    page = bob.post(f"{MINE}test/", follow=True).content.decode()

    assert "It works." in page and demo_server.key not in page
    assert not UsageRecord.objects.exists()


def test_the_button_is_there_only_with_a_key(bob: Client) -> None:
    assert "Test it" not in bob.get(MINE).content.decode()
    assert bob.post(f"{MINE}test/").status_code == 404


# Requests.

PRICE = 100


@pytest.fixture
def priced(demo: DemoPoe) -> DemoPoe:
    """The shared key is the demo server's; every request with it costs 100 points."""
    BotMapping.objects.filter(model="demo-echo").update(points_per_request=PRICE)
    return demo


def brought(demo: DemoPoe, *, secret: str = "", name: str = "own", **account: Any) -> PoeKey:
    return people.poe_key(
        secret or demo.key,
        name=name,
        base_url=f"{demo.url}/bot/",
        upload_url=f"{demo.url}/poe_api/",
        counts_in_budgets=False,
        **account,
    )


async def spent(whose: str) -> int:
    def look() -> int:
        meter = Meter.objects.filter(pk=whose).first()
        return meter.day_points if meter else 0

    return await in_database(look)


async def told(count: int = 1) -> list[tuple[str, str, int, str]]:
    return [(each.key_name, each.accounting, each.points, each.outcome) for each in await settled(count)]


async def retired(key: PoeKey) -> None:
    def look() -> None:
        assert wait_for(lambda: KeyHealth.objects.filter(pk=key.pk, state=State.RETIRED).exists())

    await in_database(look)


@pytest.mark.asyncio
async def test_the_own_key_is_asked_first_and_charges_nobody(api: Api, cast: Cast, priced: DemoPoe) -> None:
    await in_database(brought, priced, user=cast.bob.user)

    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200

    assert await told() == [("own", "own", 0, "done")]
    assert [await spent(f"{whose}") for whose in _meters(cast)] == [0, 0, 0]


def _meters(cast: Cast) -> tuple[str, str, str]:
    return f"token:{cast.bob.token.pk}", f"user:{cast.bob.user.pk}", f"team:{cast.physics.pk}"


@pytest.mark.asyncio
async def test_a_budget_that_is_used_up_does_not_stop_it(api: Api, cast: Cast, priced: DemoPoe) -> None:
    users = type(cast.bob.user).objects.filter(pk=cast.bob.user.pk)
    await in_database(users.update, points_per_day=PRICE + 50)
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200
    refused = await api.chat(cast.bob.plain, "demo-echo")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")

    await in_database(brought, priced, user=cast.bob.user)

    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200
    assert [each[:3] for each in await told(2)] == [("demo", "estimated", PRICE), ("own", "own", 0)]
    assert await spent(f"user:{cast.bob.user.pk}") == PRICE


@pytest.mark.asyncio
async def test_a_budget_of_nothing_does_not_stop_it(api: Api, cast: Cast, priced: DemoPoe) -> None:
    await in_database(type(cast.physics).objects.filter(pk=cast.physics.pk).update, points_per_day=0)
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code in (400, 429)

    await in_database(brought, priced, user=cast.bob.user)

    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200


@pytest.mark.asyncio
async def test_an_overdrawn_budget_neither_stops_nor_cuts_it(api: Api, cast: Cast, priced: DemoPoe) -> None:
    def make() -> None:
        type(cast.bob.user).objects.filter(pk=cast.bob.user.pk).update(points_per_day=PRICE)
        brought(priced, user=cast.bob.user)

    await in_database(make)
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200
    await settled()
    await in_database(Meter.objects.filter(pk=f"user:{cast.bob.user.pk}").update, day_points=PRICE + 1)
    words = " ".join(["word"] * 6000)  # more than is reserved at first

    answer = await api.chat(cast.bob.plain, "demo-echo", words)

    choice = answer.json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", words)


@pytest.mark.asyncio
async def test_requests_a_minute_count_all_the_same(api: Api, cast: Cast, priced: DemoPoe) -> None:
    await in_database(type(cast.bob.user).objects.filter(pk=cast.bob.user.pk).update, requests_per_minute=1)
    await in_database(brought, priced, user=cast.bob.user)

    statuses = [(await api.chat(cast.bob.plain, "demo-echo")).status_code for _ in range(2)]

    assert statuses == [200, 429]


@pytest.mark.asyncio
async def test_what_the_shared_key_answers_instead_is_charged(api: Api, cast: Cast, priced: DemoPoe) -> None:
    own = await in_database(brought, priced, secret="pb-a-wrong-one", user=cast.bob.user)

    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200

    assert await told() == [("demo", "estimated", PRICE, "done")]
    assert [await spent(whose) for whose in _meters(cast)] == [PRICE] * 3
    await retired(own)


@pytest.mark.asyncio
async def test_a_used_up_budget_does_not_open_the_shared_keys(api: Api, cast: Cast, priced: DemoPoe) -> None:
    users = type(cast.bob.user).objects.filter(pk=cast.bob.user.pk)
    await in_database(users.update, points_per_day=PRICE - 1)
    await in_database(brought, priced, secret="pb-a-wrong-one", user=cast.bob.user)

    answer = await api.chat(cast.bob.plain, "demo-echo")

    assert answer.status_code == 502
    assert [each[2] for each in await told()] == [0]
    assert await spent(f"user:{cast.bob.user.pk}") == 0


@pytest.mark.asyncio
async def test_only_means_no_other_key_even_if_it_is_retired(api: Api, cast: Cast, priced: DemoPoe) -> None:
    own = await in_database(
        brought, priced, secret="pb-a-wrong-one", user=cast.bob.user, own_use="only", requests_per_minute=500
    )

    first = await api.chat(cast.bob.plain, "demo-echo")
    await retired(own)
    second = await api.chat(cast.bob.plain, "demo-echo")

    assert first.status_code == 502 and first.json()["error"]["code"] == "upstream_unauthorized"
    assert second.status_code == 503 and second.json()["error"]["code"] == "no_poe_key"
    assert [each[0] for each in await told()] == ["own"]
    assert (await api.chat(cast.alice.plain, "demo-echo")).status_code == 200, "it is bob's choice alone"


@pytest.mark.parametrize("what", ["key", "account", "secret"])
@pytest.mark.asyncio
async def test_only_means_no_other_key_even_if_it_cannot_be_used(
    api: Api, cast: Cast, priced: DemoPoe, what: str
) -> None:
    def make() -> None:
        key = brought(priced, user=cast.bob.user, own_use="only")
        if what == "secret":
            PoeKey.objects.filter(pk=key.pk).update(secret="v1.sealed-with-another-key")
        else:
            (PoeKey if what == "key" else PoeAccount).objects.filter(name="own").update(enabled=False)

    await in_database(make)

    answer = await api.chat(cast.bob.plain, "demo-echo")

    assert answer.status_code == 503
    assert "no Poe key but your own" in answer.json()["error"]["message"]
    assert not await in_database(UsageRecord.objects.exists)


@pytest.mark.asyncio
async def test_never_means_the_shared_keys(api: Api, cast: Cast, priced: DemoPoe) -> None:
    await in_database(brought, priced, user=cast.bob.user, own_use="never")

    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200

    assert await told() == [("demo", "estimated", PRICE, "done")]


@pytest.mark.parametrize("own_use", ["first", "only"])
@pytest.mark.asyncio
async def test_it_never_serves_anybody_else(api: Api, cast: Cast, priced: DemoPoe, own_use: str) -> None:
    def make() -> None:
        brought(priced, user=cast.bob.user, own_use=own_use)
        PoeKey.objects.filter(name="demo").update(enabled=False)

    await in_database(make)

    answers = [
        (await api.chat(who.plain, "demo-echo")).status_code
        for who in (cast.alice, cast.charlie, cast.root, cast.bob)
    ]

    assert answers == [503, 503, 503, 200]


@pytest.mark.asyncio
async def test_a_persons_own_comes_before_the_teams_before_the_shared(
    api: Api, cast: Cast, priced: DemoPoe
) -> None:
    def make() -> None:
        brought(priced, name="the team's", team=cast.physics)
        brought(priced, name="bob's", user=cast.bob.user)

    await in_database(make)

    for who in (cast.bob, cast.alice, cast.charlie):
        assert (await api.chat(who.plain, "demo-echo")).status_code == 200

    assert [each[:2] for each in await told(3)] == [
        ("bob's", "own"),
        ("the team's", "own"),
        ("demo", "estimated"),
    ]


@pytest.mark.parametrize(
    ("of_bob", "of_team", "used"),
    [
        ("first", "only", ["bob's", "the team's"]),
        ("only", "first", ["bob's"]),
        ("only", "only", ["bob's"]),
        ("never", "only", ["the team's"]),
        ("never", "first", ["the team's", "demo"]),
        ("first", "never", ["bob's", "demo"]),
    ],
)
@pytest.mark.asyncio
async def test_both_choices_hold(
    api: Api,
    cast: Cast,
    priced: DemoPoe,
    monkeypatch: pytest.MonkeyPatch,
    of_bob: str,
    of_team: str,
    used: list[str],
) -> None:
    """Which keys bob's request is asked with, in turn, if those before fail."""

    def make() -> None:
        brought(priced, secret="pb-wrong-1", name="bob's", user=cast.bob.user, own_use=of_bob)
        brought(priced, secret="pb-wrong-2", name="the team's", team=cast.physics, own_use=of_team)

    await in_database(make)
    asked: list[str] = []
    credential = api.relay.credential

    def watched(key: Any, account: Any) -> Any:
        asked.append(key.name)
        return credential(key, account)

    monkeypatch.setattr(api.relay, "credential", watched)
    answer = await api.chat(cast.bob.plain, "demo-echo")

    assert asked == used
    assert answer.status_code == (200 if "demo" in used else 502)


@pytest.mark.asyncio
async def test_what_the_page_stores_counts_on_the_next_request(api: Api, cast: Cast, priced: DemoPoe) -> None:
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200

    def act(do: Callable[[Client], Any]) -> None:
        do(signed_in(cast.bob))

    await in_database(act, lambda page: stored(page, "pb-a-wrong-one", own_use="only"))
    await in_database(PoeAccount.objects.filter(user=cast.bob.user).update, base_url=f"{priced.url}/bot/")
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 502

    await in_database(act, lambda page: page.post(f"{MINE}remove/"))
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200

    assert [each[0] for each in await told(3)] == ["demo", "bob's own", "demo"]


@pytest.mark.asyncio
async def test_both_kinds_at_once_are_charged_right(api: Api, cast: Cast, priced: DemoPoe) -> None:
    await in_database(lambda: brought(priced, user=cast.bob.user))

    people_ = [cast.bob, cast.alice] * 10
    answers = await asyncio.gather(*(api.chat(who.plain, "demo-echo") for who in people_))

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(each[1:3] for each in await told(20)) == [("estimated", PRICE)] * 10 + [("own", 0)] * 10
    assert await spent(f"team:{cast.physics.pk}") == 10 * PRICE
