"""What the panel shows of Poe keys and accounts, what its buttons do, and who gets none of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import product
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.core.management import call_command
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from relay import standings
from relay.models import (
    AccountHealth,
    BalanceReading,
    KeyHealth,
    Meter,
    PoeAccount,
    PoeCharge,
    PoeKey,
    PoolEvent,
)
from relay.panel import attention, chart, dashboard
from relay.pool import keeping
from relay.pool.health import Standing, Whose
from tests import cast as people
from tests.cast import Cast
from tests.conftest import DemoPoe

KEYS = reverse("admin:relay_poekey_changelist")
ACCOUNTS = reverse("admin:relay_poeaccount_changelist")
EVENTS = reverse("admin:relay_poolevent_changelist")
CHARGES = reverse("admin:relay_poecharge_changelist")
NOW = datetime(2026, 5, 13, 12, tzinfo=UTC)
STATES = ("ok", "failing", "cooling", "resting", "retired")


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


def fares(whose: Whose, id_: int, state: str, reason: str = "a reason", **times: Any) -> None:
    """Since ten minutes ago, and for an hour from now."""
    now = timezone.now()
    until = times.get("until", None if state == "retired" else now + timedelta(hours=1))
    standing = Standing(state, reason, now - timedelta(minutes=10), until, 1)
    keeping.change(whose, id_, lambda was, at: standing, now)


def of_account(account: PoeAccount, **fields: Any) -> None:
    made = {"since": timezone.now(), **fields}
    AccountHealth.objects.update_or_create(pk=account.pk, defaults=fields, create_defaults=made)


def event(account: PoeAccount, **fields: Any) -> PoolEvent:
    return PoolEvent.objects.create(**{"at": timezone.now(), "became": "ok", **fields}, account=account)


def charge(account: PoeAccount, number: int, **fields: Any) -> PoeCharge:
    values = {"at": timezone.now() - timedelta(minutes=number), "bot": "GPT-4o", "points": 100 + number}
    return PoeCharge.objects.create(
        query_id=f"q{number}", account=account, read_at=timezone.now(), **{**values, **fields}
    )


def text(response: Any) -> str:
    """What a page says, without its tags."""
    assert response.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def said(response: Any) -> list[str]:
    return [str(message) for message in get_messages(response.wsgi_request)]


# States.


def test_a_key_is_in_the_worse_of_its_own_state_and_its_accounts_and_the_filter_agrees(cast: Cast) -> None:
    for own, its in product((None, *STATES), (None, *STATES)):
        key = people.poe_key(name=f"{own} {its}")
        if own is not None:
            KeyHealth.objects.create(key=key, state=own, since=NOW)
        if its is not None:
            AccountHealth.objects.create(account=key.account, state=its, since=NOW)
    PoeKey.objects.filter(name="retired ok").update(enabled=False)
    PoeAccount.objects.filter(name="ok resting").update(enabled=False)

    rows = list(PoeKey.objects.select_related("health", "account__health"))
    shown = {key.name: standings.of_key(key).state for key in rows}

    assert shown["retired ok"] == shown["ok resting"] == "disabled"
    assert shown["None None"] == shown["ok None"] == "ok"
    assert shown["failing resting"] == "resting" and shown["retired cooling"] == "retired"
    for state in (*STATES, "disabled"):
        found = {key.name for key in standings.keys_in(state, PoeKey.objects.all())}
        assert found == {name for name, its in shown.items() if its == state}, state
        accounts = {row.name for row in standings.accounts_in(state, PoeAccount.objects.all())}
        rows_of = PoeAccount.objects.select_related("health")
        assert accounts == {row.name for row in rows_of if standings.of_account(row).state == state}, state


def test_the_list_of_keys_says_state_reason_times_and_balance(root: Client) -> None:
    fine, broken = people.poe_key(name="fine"), people.poe_key(name="broken")
    fares("account", broken.account_id, "cooling", "Poe says: too many requests.")
    of_account(fine.account, balance=1_234_567, balance_at=timezone.now() - timedelta(minutes=4))
    of_account(broken.account, balance_error="the server answered 503")

    page = text(root.get(KEYS))

    assert "cooling down Its account: Poe says: too many requests." in page
    assert re.search(
        r"since \d{4}-\d\d-\d\d \d\d:\d\d \(10.minutes\)\s?, next try .{16} \(in 59.minutes\)", page
    )
    assert re.search(r"1,234,567 read 4.minutes ago", page)
    assert "Cannot be read: the server answered 503" in page
    assert "Last events" in page


@pytest.mark.parametrize(
    ("standing", "told"),
    [
        (("retired", None), "until an administrator acts"),
        (("failing", timedelta(seconds=-5)), "the next request tries it"),
        (("failing", timedelta(seconds=40)), r"next try .{16} \(in (39|40) seconds\)"),
    ],
)
def test_the_next_try_is_said(root: Client, standing: tuple[str, timedelta | None], told: str) -> None:
    key = people.poe_key()
    state, until = standing
    fares("key", key.pk, state, until=None if until is None else timezone.now() + until)

    assert re.search(told, text(root.get(KEYS)))


@pytest.mark.parametrize("page", [KEYS, ACCOUNTS])
def test_a_longer_list_asks_the_database_no_more(root: Client, page: str) -> None:
    def queries(number: int) -> int:
        for each in range(number):
            key = people.poe_key(name=f"{number}-{each}")
            fares("key", key.pk, "retired")
            fares("account", key.account_id, "resting")
            of_account(key.account, balance=each, balance_at=timezone.now())
        with CaptureQueriesContext(
            connection,
        ) as asked:
            assert root.get(page).status_code == 200
        return len(asked)

    root.get(page)

    assert queries(2) == queries(15)


def test_the_lists_are_filtered_by_state(root: Client) -> None:
    for name, state in (("fine", "ok"), ("tired", "resting"), ("gone", "retired")):
        key = people.poe_key(name=name)
        fares(
            "account" if state == "resting" else "key",
            key.pk if state != "resting" else key.account_id,
            state,
        )

    def listed(page: str) -> list[str]:
        return [row.name for row in root.get(page).context["cl"].result_list]

    assert listed(f"{KEYS}?state=resting") == ["tired"]
    assert listed(f"{KEYS}?state=retired") == ["gone"]
    assert listed(f"{ACCOUNTS}?state=resting") == ["tired"]
    assert sorted(listed(f"{ACCOUNTS}?state=ok")) == ["fine", "gone"]


# The test button.


def test_the_test_button_says_what_is_left_costs_nothing_and_revives(root: Client, demo: DemoPoe) -> None:
    key = PoeKey.objects.get(name="demo")
    fares("key", key.pk, "retired", "Poe refuses it")

    response = root.post(reverse("admin:relay_poekey_test", args=[key.pk]))

    assert response.status_code == 302 and response["Location"] == change(key)
    [told] = said(response)
    left = re.fullmatch(r"demo works: ([\d,]+) points are left\.", told)
    assert left is not None
    assert KeyHealth.objects.get(pk=key.pk).state == "ok"
    assert Meter.objects.get(pk=f"key:{key.pk}").blocked_until == 0
    again = root.post(reverse("admin:relay_poekey_test", args=[key.pk]))
    assert said(again)[-1] == told


def test_a_failed_test_says_why_and_changes_no_state(root: Client, demo: DemoPoe) -> None:
    key = PoeKey.objects.get(name="demo")
    key.store("not-the-right-secret")
    key.save()
    fares("key", key.pk, "cooling")

    response = root.post(reverse("admin:relay_poekey_test", args=[key.pk]))

    [told] = said(response)
    assert told.startswith("demo does not work: ") and "not-the-right-secret" not in told
    assert KeyHealth.objects.get(pk=key.pk).state == "cooling"


# Back into service.


def change(row: PoeKey | PoeAccount) -> str:
    return reverse(f"admin:relay_{row._meta.model_name}_change", args=[row.pk])


def test_a_key_is_put_back_into_service_after_a_question(root: Client) -> None:
    key = people.poe_key(name="first")
    fares("key", key.pk, "retired", "Poe refuses it")
    fares("account", key.account_id, "resting", "no points")
    address = reverse("admin:relay_poekey_revive", args=[key.pk])
    assert address in root.get(change(key)).content.decode()

    question = text(root.get(address))

    assert "Poe refuses it" in question and "no points" in question
    assert KeyHealth.objects.get(pk=key.pk).state == "retired"

    response = root.post(address)

    assert response.status_code == 302 and said(response) == ["first is asked again."]
    assert (
        KeyHealth.objects.get(pk=key.pk).state == AccountHealth.objects.get(pk=key.account_id).state == "ok"
    )
    meters = Meter.objects.filter(pk__in=(f"key:{key.pk}", f"account:{key.account_id}"))
    assert list(meters.values_list("blocked_until", flat=True)) == [0, 0]
    reasons = PoolEvent.objects.filter(became="ok").values_list("reason", flat=True)
    assert set(reasons) == {"put back into service by root"}


def test_an_account_is_put_back_into_service_after_a_question(root: Client) -> None:
    account = people.poe_key(name="first").account
    fares("account", account.pk, "resting", "no points")
    address = reverse("admin:relay_poeaccount_revive", args=[account.pk])
    assert address in root.get(change(account)).content.decode()

    assert "no points" in text(root.get(address))
    assert AccountHealth.objects.get(pk=account.pk).state == "resting"

    root.post(address)

    assert AccountHealth.objects.get(pk=account.pk).state == "ok"


def form_of(key: PoeKey, **changed: Any) -> dict[str, Any]:
    form = {
        "name": key.name,
        "account": key.account_id,
        "priority": "0",
        "weight": "100",
        "requests_in_flight": "50",
        "new_secret": "",
        **changed,
    }
    return form if key.enabled or "enabled" in changed else {**form, "enabled": ""}


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"enabled": "on", "new_secret": "a-new-poe-key-0123456789"}, "ok"),
        ({"enabled": "on", "weight": "7"}, "retired"),
        ({"enabled": "on"}, "retired"),
    ],
)
def test_only_a_new_secret_revives_a_key(root: Client, changed: dict[str, Any], state: str) -> None:
    key = people.poe_key()
    PoeKey.objects.filter(pk=key.pk).update(enabled=False)
    fares("key", key.pk, "retired")

    response = root.post(change(key), form_of(key, **changed))

    assert response.status_code == 302
    assert PoeKey.objects.get(pk=key.pk).enabled
    assert KeyHealth.objects.get(pk=key.pk).state == state


def test_replacing_a_secret_on_the_command_line_revives_the_key(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = people.poe_key(name="first")
    fares("key", key.pk, "retired")
    monkeypatch.setattr("sys.stdin", StringIO("a-new-poe-key-0123456789\n"))

    call_command("addpoekey", "first", "--replace", stdout=StringIO())

    assert KeyHealth.objects.get(pk=key.pk).state == "ok"


# An account's page.


def test_an_accounts_page_shows_its_balance_line_grant_keys_events_and_charges(root: Client) -> None:
    key = people.poe_key(name="first", low_balance=5_000)
    account = key.account
    now = timezone.now()
    for day in range(40):
        BalanceReading.objects.create(account=account, at=now - timedelta(days=day), points=900_000 - day)
    of_account(
        account,
        balance=4_321,
        balance_at=now,
        is_low=True,
        grant_at=datetime(2027, 1, 2, tzinfo=UTC),
        grant_points=1_000_000,
    )
    fares("key", key.pk, "retired", "Poe refuses it")
    for number in range(30):
        event(account, reason=f"event {number:02}.", at=now - timedelta(minutes=number))
    charge(account, 1, match="matched", bot="Near")
    charge(account, 2, match="leak", bot="Near")
    charge(account, 3000, match="leak", bot="Far")

    response = root.get(change(account))

    page, html = text(response), response.content.decode()
    assert "4,321 · low" in page and "Low below 5,000 points." in page
    assert "1,000,000 points are granted at 2027-01-02" in page
    assert "first retired Poe refuses it" in page
    line = re.search(r'<polyline[^>]*points="([^"]+)"', html)
    assert line is not None and line[1].startswith("0.0,")
    assert "between 899,971 and 900,000 points" in page, "of the last 30 days only"
    # The newest is of the key.
    assert "event 18." in page and "event 19." not in page
    assert "possible leak: 1 (102 points)" in page and "matched: 1 (101 points)" in page
    assert "Near" in page and "Far" not in page
    assert "<script" not in html[html.index('id="standing"') : html.index("</figure>")]


def test_the_pages_of_new_ones_show_nothing_of_that(root: Client) -> None:
    for name in ("poekey", "poeaccount"):
        page = root.get(reverse(f"admin:relay_{name}_add")).content.decode()
        assert 'id="standing"' not in page and "Last events" not in page


def test_the_account_of_one_person_never_counts_in_budgets(root: Client, cast: Cast) -> None:
    form = {
        "name": "bob's own",
        "user": cast.bob.user.pk,
        "enabled": "on",
        "requests_per_minute": "500",
        "own_use": "only",
    }
    add = reverse("admin:relay_poeaccount_add")

    refused = root.post(add, {**form, "counts_in_budgets": "on"})

    assert "The account of one person never counts in budgets" in text(refused)
    assert not PoeAccount.objects.exists()

    root.post(add, form)

    account = PoeAccount.objects.get()
    assert (account.user, account.counts_in_budgets, account.own_use) == (cast.bob.user, False, "only")


# Two that are one.


@pytest.fixture
def twins(cast: Cast) -> tuple[PoeAccount, PoeAccount]:
    older, younger = people.poe_key(name="older").account, people.poe_key(name="younger").account
    of_account(younger, same_as=older)
    return older, younger


def test_accounts_that_are_one_are_shown_and_merged(
    root: Client, twins: tuple[PoeAccount, PoeAccount]
) -> None:
    older, younger = twins
    address = reverse("admin:relay_poeaccount_merge", args=[younger.pk])
    for page in (KEYS, ACCOUNTS, change(younger)):
        html = root.get(page)
        assert "The same account at Poe as older." in text(html) and address in html.content.decode()

    assert "they are one account at Poe" in text(root.get(address))
    assert PoeAccount.objects.count() == 2

    response = root.post(address)

    assert said(response) == ["younger is now part of older."] and response["Location"] == change(older)
    assert {key.account for key in PoeKey.objects.all()} == {older}
    assert not PoeAccount.objects.filter(pk=younger.pk).exists()


def test_a_merge_that_cannot_be_says_why(
    root: Client, cast: Cast, twins: tuple[PoeAccount, PoeAccount]
) -> None:
    older, younger = twins
    PoeAccount.objects.filter(pk=younger.pk).update(team=cast.chemistry)

    refused = root.post(reverse("admin:relay_poeaccount_merge", args=[younger.pk]))
    other = root.post(reverse("admin:relay_poeaccount_merge", args=[older.pk]))

    assert len(said(refused)) == 1 and len(said(other)) == 2
    assert PoeAccount.objects.count() == 2


# What needs somebody.


def trouble_of_each_kind(cast: Cast) -> PoeAccount:
    """Five keys and accounts; beside them what is nobody's business."""
    retired = people.poe_key(name="retired")
    fares("key", retired.pk, "retired", "Poe refuses it")
    fares("account", people.poe_key(name="resting").account_id, "resting", "no points")
    of_account(people.poe_key(name="low").account, is_low=True, balance=12)
    of_account(people.poe_key(name="twin").account, same_as=retired.account)
    leaking = people.poe_key(name="leaking").account
    event(leaking, became="leak")
    event(leaking, became="leak")
    fares("key", people.poe_key(name="cooling").pk, "cooling")
    fares("key", people.poe_key(name="off", enabled=False).pk, "retired")
    fares("key", people.poe_key(name="own", user=cast.bob.user, counts_in_budgets=False).pk, "retired")
    event(people.poe_key(name="leaked").account, became="leak", at=timezone.now() - timedelta(days=2))
    return leaking


def badge(page: str) -> str | None:
    """What the sidebar's entry of Poe keys carries."""
    link = re.search(rf'<a href="{KEYS}" class="flex.*?</a>', page, re.DOTALL)
    assert link is not None
    number = re.search(r"<span class=\"font-semibold h-\[18px\].*?>\s*(\d+)\s*</span>", link[0], re.DOTALL)
    return number[1] if number else None


def test_the_sidebar_counts_what_needs_somebody_on_every_page(root: Client, cast: Cast) -> None:
    assert badge(root.get(reverse("admin:index")).content.decode()) is None

    trouble_of_each_kind(cast)

    assert badge(root.get(reverse("admin:index")).content.decode()) == "5"
    assert badge(root.get(EVENTS).content.decode()) == "5"
    with CaptureQueriesContext(connection) as asked:
        assert standings.trouble() == 5
    assert len(asked) == 1


def test_the_first_page_says_what_needs_somebody_with_a_link_to_each(root: Client, cast: Cast) -> None:
    assert "This needs you" not in text(root.get(reverse("admin:index")))
    leaking = trouble_of_each_kind(cast)

    response = root.get(reverse("admin:index"))

    page = text(response)
    for sentence in (
        "The Poe key retired is retired. Poe refuses it",
        "The Poe account resting is out of points. no points",
        "The Poe account low has few points left: 12.",
        "The Poe account twin is the same at Poe as retired: merge them.",
        "Poe charged the account leaking for requests that nobody made here",
    ):
        assert sentence in page
    items = response.context["attention"]
    assert len(items) == 5 and str(leaking.pk) in [item.link for item in items if "charge" in item.link][0]
    assert {root.get(item.link).status_code for item in items} == {200}


def test_whoever_may_see_no_keys_is_told_of_none(cast: Cast) -> None:
    trouble_of_each_kind(cast)
    request: Any = RequestFactory().get("/")
    request.user = people.person("helper", cast.physics, is_staff=True).user

    assert attention.badge(request) == 0
    assert dashboard.context(request, {}) == {}


# Events and charges.


def test_events_are_listed_newest_first_by_account_key_and_state_without_counting(root: Client) -> None:
    one, other = people.poe_key(name="one"), people.poe_key(name="other")
    now = timezone.now()
    for number, (key, became) in enumerate(product((one, other), ("cooling", "ok"))):
        event(
            key.account, key=key, became=became, reason=f"event {number}", at=now - timedelta(minutes=number)
        )
    event(one.account, became="leak", reason="event 4", at=now - timedelta(minutes=9))

    def listed(query: str = "") -> list[str]:
        return [row.reason[-1] for row in root.get(f"{EVENTS}?{query}").context["cl"].result_list]

    assert listed() == ["0", "1", "2", "3", "4"]
    assert listed(f"account={one.account_id}") == ["0", "1", "4"]
    assert listed(f"key={other.pk}") == ["2", "3"]
    assert listed("became=leak") == ["4"]
    assert listed("account=nonsense") == []
    with CaptureQueriesContext(connection) as asked:
        root.get(EVENTS)
    assert not [
        query["sql"]
        for query in asked
        if "COUNT" in query["sql"] and "poolevent" in query["sql"].split("WHERE")[0]
    ]


def test_charges_are_listed_by_match_account_bot_and_doubt(root: Client) -> None:
    one, other = people.poe_key(name="one").account, people.poe_key(name="other").account
    people.mapping("gpt-4o", "GPT-4o")
    charge(one, 1, match="matched", is_ambiguous=True, estimated_points=90)
    charge(one, 2, match="leak", bot="gpt-4O", api_key_name="main", usage_type="API")
    charge(other, 3, match="own", bot="Other", input_tokens=5)

    def listed(query: str = "") -> list[str]:
        return [row.query_id for row in root.get(f"{CHARGES}?{query}").context["cl"].result_list]

    assert listed() == ["q1", "q2", "q3"]
    assert listed("match__exact=leak") == ["q2"]
    assert listed(f"account={other.pk}") == ["q3"]
    assert listed("bot=GPT-4o") == ["q1", "q2"]
    assert listed("is_ambiguous__exact=1") == ["q1"]
    page = text(root.get(CHARGES))
    assert "matched, ambiguous" in page and "API · main" in page and "5 + 0" in page


def test_long_lists_have_pages(root: Client) -> None:
    account = people.poe_key().account
    for number in range(40):
        event(account, reason=f"event {number:02}.", at=timezone.now() - timedelta(minutes=number))

    first, second = text(root.get(EVENTS)), text(root.get(f"{EVENTS}?p=2"))

    assert "event 00." in first and "event 39." not in first
    assert "event 39." in second and "event 00." not in second


# Reconciliation.


def test_figures_are_shown_for_one_seven_and_thirty_days(root: Client) -> None:
    account = people.poe_key().account
    day = 24 * 60
    charge(account, 1, match="matched", estimated_points=50, is_ambiguous=True)
    charge(account, 3 * day, match="matched", estimated_points=100, points=1_000)
    charge(account, 3 * day + 1, match="leak", points=7_777)
    charge(account, 20 * day, match="own", points=8_888)
    charge(account, 40 * day, match="own", points=9_999)

    def seen(days: str) -> str:
        return text(root.get(f"{reverse('relay-reconciliation')}?days={days}"))

    one, week, month = seen("1"), seen("7"), seen("30")

    assert "GPT-4o 1 1 50 101 +102.0 %" in one and "7,777" not in one
    assert "GPT-4o 2 1 150 1,101 +634.0 %" in week and "possible leak 1 (7,777 points)" in week
    assert "8,888" not in week and "owner&#x27;s own use 1 (8,888 points)" in month and "9,999" not in month
    assert seen("nonsense") == seen("365") == week
    links = re.findall(
        rf'href="({CHARGES}[^"]+)"', root.get(reverse("relay-reconciliation")).content.decode()
    )
    assert len(links) == 5 and {root.get(link).status_code for link in links} == {200}


def test_reconcile_now_reads_the_history(root: Client, cast: Cast, demo: DemoPoe) -> None:
    lame = people.poe_key(name="lame", api_url="http://127.0.0.1:9").account
    address = reverse("relay-reconciliation")

    response = root.post(f"{address}?days=30")

    told = said(response)
    assert response["Location"] == f"{address}?days=30"
    assert re.fullmatch(r"New charges: \d+\. Matched: 0\. Waiting: \d+\.", told[0])
    assert len(told) == 2 and told[1].startswith(f"The history of {lame.name} cannot be read: ")


# Who gets none of it.


def every_page() -> Iterator[tuple[str, str]]:
    """Method and address."""
    key = people.poe_key(name="first")
    fares("key", key.pk, "retired")
    of_account(key.account, same_as=people.poe_key(name="second").account)
    for page in (KEYS, ACCOUNTS, EVENTS, CHARGES, change(key), change(key.account)):
        yield "get", page
    yield "get", reverse("relay-explain")
    yield "get", f"{reverse('relay-explain')}?model=gpt-4o"
    yield "get", reverse("relay-reconciliation")
    for method in ("get", "post"):
        yield method, reverse("admin:relay_poekey_revive", args=[key.pk])
        yield method, reverse("admin:relay_poeaccount_revive", args=[key.account_id])
        yield method, reverse("admin:relay_poeaccount_merge", args=[key.account_id])
    yield "post", reverse("admin:relay_poekey_test", args=[key.pk])
    yield "post", reverse("relay-reconciliation")


@pytest.mark.parametrize("who", ["nobody", "alice", "bob", "helper"])
def test_only_an_administrator_gets_a_page(cast: Cast, client: Client, who: str) -> None:
    """A helper may enter the panel and was given no rights in it."""
    helper = people.person("helper", cast.physics, is_staff=True)
    if who != "nobody":
        client.force_login(helper.user if who == "helper" else getattr(cast, who).user)

    for method, page in every_page():
        response = getattr(client, method)(page)
        if who == "helper":
            assert response.status_code == 403, page
        else:
            assert response.status_code == 302 and response["Location"].startswith("/admin/login/"), page
    assert KeyHealth.objects.get(key__name="first").state == "retired"
    assert PoeAccount.objects.count() == 2


def test_nothing_is_changed_by_a_link_or_by_another_site(cast: Cast) -> None:
    client = Client(SERVER_NAME="127.0.0.1", enforce_csrf_checks=True)
    client.force_login(cast.root.user)
    for method, page in [*every_page()]:
        response = getattr(client, method)(page)
        if method == "post":
            assert response.status_code == 403, page
    assert client.get(reverse("admin:relay_poekey_test", args=[PoeKey.objects.first().pk])).status_code == 405  # type: ignore[union-attr]
    assert KeyHealth.objects.get(key__name="first").state == "retired"
    assert PoeAccount.objects.count() == 2


# The line.


def line_of(*readings: tuple[float, int]) -> chart.Line | None:
    """Hours before now, and points."""
    return chart.line([(NOW - timedelta(hours=hours), points) for hours, points in readings], NOW)


def test_a_line_holds_each_reading_until_the_next() -> None:
    line = line_of((10, 100), (5, 0))

    assert line is not None and (line.least, line.most) == (0, 100)
    assert line.points == "0.0,0.0 0.0,0.0 360.0,0.0 360.0,120.0 720.0,120.0"


@pytest.mark.parametrize("readings", [(), ((0, 5),)])
def test_too_few_readings_make_no_line(readings: tuple[tuple[float, int], ...]) -> None:
    assert line_of(*readings) is None


def test_a_balance_below_zero_and_one_that_never_changes_are_drawn() -> None:
    below, flat = line_of((10, 50), (5, -50)), line_of((10, 0), (5, 0))

    assert below is not None and below.points.endswith("720.0,120.0")
    assert flat is not None and flat.points.startswith("0.0,120.0")


def test_many_readings_are_thinned_and_the_first_and_last_stay() -> None:
    line = line_of(*((720 - hours / 12, 10_000 - hours) for hours in range(8_600)))

    assert line is not None
    places = line.points.split(" ")
    assert len(places) < 4 * chart.MOST_POINTS
    assert places[0] == "0.0,0.0" and places[-1].startswith("720.0,")
    assert (line.least, line.most) == (10_000 - 8_599, 10_000)
