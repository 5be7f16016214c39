"""What would become of a request is told as it is: by the rules that requests are held to, and without leaving a trace."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from accounts.models import AccessToken, Team
from proxy_site.config import Config
from relay.explaining import NOT_ASKED, Explanation, explain, lines
from relay.models import BotMapping, KeyHealth, Meter, PoeAccount, PoeKey, UsageRecord
from relay.panel import explaining as page
from relay.pool import keeping
from relay.pool.health import Standing, Whose
from tests import cast as people
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database, wait_for

PAGE = reverse("relay-explain")


def told(
    model: str = "gpt-4o", token: AccessToken | None = None, config: Config | None = None
) -> Explanation:
    return explain(config or settings.CONFIG, model, token)


def last_line(found: Explanation) -> str:
    return list(lines(found))[-1]


def fares(whose: Whose, id_: int, state: str, until: timedelta | None = None) -> None:
    now = datetime.now(UTC)
    standing = Standing(state, "a reason", now, now + until if until is not None else None, 1)
    keeping.change(whose, id_, lambda was, at: standing, now)


# What would be asked.


def test_a_model_without_a_mapping_is_refused_as_a_request_is(cast: Cast) -> None:
    assert last_line(told()).startswith("answer: 404 model_not_found: The model 'gpt-4o' does not exist")


def test_a_mapping_without_a_key_says_where_to_store_one(cast: Cast) -> None:
    people.mapping("gpt-4o", "GPT-4o")

    assert "/admin/relay/poekey/add/" in last_line(told())


def test_it_would_be_asked(cast: Cast) -> None:
    people.poe_key(name="main")
    people.mapping("gpt-4o", "GPT-4o", parameters={"effort": "high"}, fallback_models=["gpt-5", "nothing"])
    people.mapping("gpt-5", "GPT-5")

    found = told(token=cast.bob.token)

    assert list(lines(found)) == [
        f"token: {cast.bob.token.prefix}… of bob, team Physics",
        "mapping 'gpt-4o': fits",
        "bot: GPT-4o",
        "default parameters: {'effort': 'high'}",
        "fallback model 'gpt-5': bot GPT-5",
        "fallback model 'nothing': The model 'nothing' does not exist or you may not use it. "
        "`GET /v1/models` lists yours.",
        "Poe key 1: main of main, priority 0, weight 100, shared, ok, 0 of 10000 in flight, "
        "1,000,000 of 1,000,000 requests left this minute",
        "asked first: main",
        "answer: would be asked",
    ]


def test_defaults_that_the_bot_does_not_take_are_said_not_to_be_sent(cast: Cast) -> None:
    people.poe_key()
    people.mapping(
        "gpt-4o",
        "GPT-4o",
        parameters={"effort": "extreme", "web": True},
        declared_parameters=[{"name": "effort", "schema": {"type": "string", "enum": ["low", "high"]}}],
        synced={"bot": "gpt-4o"},
    )

    found = told()

    assert found.mapping is not None and found.mapping.parameters == {"web": True}
    assert "not sent, since the bot does not take them: {'effort': 'extreme'}" in list(lines(found))


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        ("gpt-4o", "mapping 'gpt-4o': fits"),
        ("GPT-4O", "mapping 'gpt-4o': fits"),
        ("gpt-4-turbo", "mapping 'gpt-4*': fits"),
        ("off", "mapping 'off': disabled"),
        ("chemists", "mapping 'chemists' -> 'Claude': not for team 'Physics'"),
        ("claude", "mapping 'claude': the token allows only gpt-*, off, chemists"),
    ],
)
def test_each_mapping_of_the_name_is_judged(cast: Cast, model: str, verdict: str) -> None:
    people.poe_key()
    people.mapping("gpt-4o", "GPT-4o")
    people.mapping("gpt-4*", "GPT-4")
    people.mapping("off", "GPT-4o", enabled=False)
    people.mapping("chemists", "Claude").teams.add(cast.chemistry)
    people.mapping("claude", "Claude")
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(allowed_models=["gpt-*", "off", "chemists"])

    found = told(model, cast.bob.token)

    assert verdict in list(lines(found))
    assert (last_line(found) == "answer: would be asked") == verdict.endswith("fits")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (
            {"enabled": False, "disabled_reason": "lost"},
            "403 token_disabled: This access token is disabled: lost",
        ),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "403 token_expired"),
    ],
)
def test_a_token_that_may_not_be_used_ends_it(cast: Cast, changed: dict[str, Any], code: str) -> None:
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(**changed)

    said = list(lines(told(token=cast.bob.token)))

    assert len(said) == 2 and said[0].startswith("token: ") and said[1].startswith(f"answer: {code}")


# Keys.


def test_keys_are_in_their_order_with_whose_they_are(cast: Cast) -> None:
    people.poe_key(name="shared")
    people.poe_key(name="team", team=cast.physics)
    people.poe_key(name="own", user=cast.bob.user, counts_in_budgets=False)
    people.mapping("gpt-4o", "GPT-4o")

    found = told(token=cast.bob.token)

    assert [(key.name, key.tier) for key in found.keys] == [
        ("own", "own"),
        ("team", "team"),
        ("shared", "shared"),
    ]
    assert found.key == "own"


def test_a_key_that_is_not_asked_has_its_reason(cast: Cast) -> None:
    people.poe_key(name="asked")
    PoeKey.objects.filter(pk=people.poe_key(name="disabled").pk).update(enabled=False)
    PoeKey.objects.filter(pk=people.poe_key(name="secret").pk).update(secret="nonsense")
    people.poe_key(name="other_team", team=cast.chemistry)
    people.poe_key(name="other_user", user=cast.alice.user, counts_in_budgets=False)
    people.poe_key(name="never", user=cast.bob.user, counts_in_budgets=False, own_use="never")
    people.poe_key(name="demo", is_demo=True)
    people.mapping("gpt-4o", "GPT-4o")

    found = told(token=cast.bob.token)

    assert {key.name: key.why for key in found.passed_over} == {
        name: name for name in ("disabled", "secret", "other_team", "other_user", "never", "demo")
    }

    people.poe_key(name="own", user=cast.bob.user, counts_in_budgets=False, own_use="only")
    others = {key.name: key.why for key in told(token=cast.bob.token).passed_over}
    assert others["asked"] == "own_key_only"

    PoeAccount.objects.filter(name="own").update(own_use="first")
    BotMapping.objects.update(account=PoeAccount.objects.get(name="demo"))
    bound = told(token=cast.bob.token)
    assert {key.name for key in bound.keys} == {"demo"}
    assert {key.why for key in bound.passed_over if key.name in ("asked", "own")} == {"bound"}


def test_every_reason_and_verdict_has_words_on_the_page() -> None:
    assert page.NOT_ASKED.keys() == NOT_ASKED.keys()
    assert {"fits", "disabled", "other_team", "not_allowed"} == page.VERDICTS.keys()


def test_a_key_that_is_out_is_passed_over_and_says_until_when(cast: Cast) -> None:
    first, second = people.poe_key(name="first"), people.poe_key(name="second")
    PoeKey.objects.filter(pk=first.pk).update(priority=5)
    people.mapping("gpt-4o", "GPT-4o")
    fares("account", first.account_id, "cooling", timedelta(minutes=5))

    found = told()

    assert found.key == "second" and not found.is_probe
    assert found.keys[0].standing.state == "cooling"
    assert any("its account is cooling (until " in line and "first" in line for line in lines(found))

    fares("key", second.pk, "retired")
    assert last_line(told()).startswith("answer: 503 no_poe_key")
    fares("account", first.account_id, "cooling", timedelta(seconds=40))
    assert last_line(told()).startswith("answer: 429 all_keys_busy")

    fares("account", first.account_id, "resting")
    refused = told()
    assert last_line(refused).startswith(
        "answer: 503 no_poe_key: All Poe keys that may serve you are retired"
    )
    assert "until somebody acts" in " ".join(lines(refused))


def test_a_key_after_its_pause_is_tried_by_one_request_at_a_time(cast: Cast) -> None:
    key = people.poe_key(name="first")
    people.mapping("gpt-4o", "GPT-4o")
    fares("key", key.pk, "failing", timedelta(seconds=-5))

    found = told()

    assert (found.key, found.is_probe) == ("first", True)
    assert "the next request tries it" in " ".join(lines(found))
    assert "asked first: first, as a try after its pause" in list(lines(found))

    Meter.objects.filter(pk=f"key:{key.pk}").update(blocked_until=-(int(time.time()) + 50) * 1_000_000)
    busy = told()
    assert "being tried right now" in " ".join(lines(busy)) and busy.key == ""


@pytest.mark.parametrize(("seconds", "end"), [(10, " (after up to 10 seconds in line)"), (0, "")])
def test_a_full_key_says_how_long_a_request_would_stand_in_line(cast: Cast, seconds: int, end: str) -> None:
    key = people.poe_key(name="first")
    people.mapping("gpt-4o", "GPT-4o")
    PoeKey.objects.filter(pk=key.pk).update(requests_in_flight=3)
    Meter.objects.create(id=f"key:{key.pk}", in_flight=3)
    its = settings.CONFIG
    config = its.model_copy(update={"pool": its.pool.model_copy(update={"queue_seconds": seconds})})

    found = told(config=config)

    assert (found.keys[0].in_flight, found.keys[0].slots) == (3, 3)
    assert last_line(found) == f"answer: 429 all_keys_busy: All Poe keys are busy. Try again shortly.{end}"


# Limits.


def test_limits_are_told_with_what_is_used_and_left_now(cast: Cast) -> None:
    people.poe_key()
    people.mapping("gpt-4o", "GPT-4o", points_per_request=10)
    bob = cast.bob
    AccessToken.objects.filter(pk=bob.token.pk).update(requests_per_minute=6, requests_in_flight=4)
    Team.objects.filter(pk=cast.physics.pk).update(points_per_day=1000, points_per_month=9000)
    now = int(time.time())
    unit = 60_000_000
    Meter.objects.create(id=f"token:{bob.token.pk}", at=now * 1_000_000, requests_level=3 * unit, in_flight=1)
    # Its day has ended.
    Meter.objects.create(
        id=f"team:{cast.physics.pk}",
        day_ends=now - 5,
        day_points=990,
        month_ends=now + 5000,
        month_points=8000,
    )

    found = told(token=bob.token)

    assert [(each.whose, each.limit, each.value, each.used, each.left) for each in found.limits] == [
        ("token", "requests_per_minute", 6, 3, 3),
        ("token", "requests_in_flight", 4, 1, 3),
        ("team", "points_per_day", 1000, 0, 1000),
        ("team", "points_per_month", 9000, 8000, 1000),
    ]
    resets = found.limits[-1].resets
    assert resets is not None and resets.timestamp() == now + 5000
    assert last_line(found) == "answer: would be asked"


@pytest.mark.asyncio
async def test_it_says_what_a_request_is_told_and_asks_the_key_that_a_request_asks(
    cast: Cast, demo: DemoPoe, api: Api
) -> None:
    priced = BotMapping.objects.filter(model="demo-echo")
    await in_database(lambda: priced.update(points_per_request=100))
    token = cast.bob.token

    before = await in_database(told, "demo-echo", token)
    answer = await api.chat(cast.bob.plain, "demo-echo")
    assert answer.status_code == 200
    settled = UsageRecord.objects.exclude(outcome="open")
    record: Any = await in_database(wait_for, settled.first)
    assert before.key == record.key_name == "demo" and before.refusal is None

    await in_database(lambda: Team.objects.filter(pk=cast.physics.pk).update(points_per_day=150))
    after = await in_database(told, "demo-echo", token)
    refused = await api.chat(cast.bob.plain, "demo-echo")

    assert after.refusal is not None and refused.status_code == after.refusal.status == 429
    assert refused.json()["error"]["code"] == after.refusal.code
    [limit] = after.limits
    assert (limit.used, limit.left) == (100, 50)
    words = refused.json()["error"]["message"].split(". Come back")[0]
    assert words == after.refusal.message.split(". Come back")[0]


def test_it_leaves_no_trace(cast: Cast) -> None:
    key = people.poe_key()
    people.mapping("gpt-4o", "GPT-4o")
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(requests_per_minute=5, points_per_day=500)
    fares("key", key.pk, "failing", timedelta(seconds=-5))
    before = list(Meter.objects.order_by("pk").values()), list(KeyHealth.objects.values())

    for _again in range(7):
        assert told(token=cast.bob.token).refusal is None

    assert before == (list(Meter.objects.order_by("pk").values()), list(KeyHealth.objects.values()))
    assert not UsageRecord.objects.exists()


# The command.


def run(*words: str) -> str:
    out = StringIO()
    call_command("explainmodel", *words, stdout=out)
    return out.getvalue()


def test_the_command_says_the_same(cast: Cast) -> None:
    people.poe_key()
    people.mapping("gpt-4o", "GPT-4o")

    alone, named = run("gpt-4o"), run("gpt-4o", "--token-prefix", f"{cast.bob.token.prefix}…")

    assert alone.startswith("token: none named, taken as one without limits\n")
    assert named.startswith(f"token: {cast.bob.token.prefix}… of bob, team Physics\n")
    assert alone.endswith("answer: would be asked\n") and named.endswith("answer: would be asked\n")


@pytest.mark.parametrize("prefix", ["sk-poe-", "nobody's"])
def test_the_command_wants_one_token(cast: Cast, prefix: str) -> None:
    with pytest.raises(CommandError, match=rf"^[04] access tokens begin with {prefix}"):
        run("gpt-4o", "--token-prefix", prefix)


def test_a_prefix_in_other_letters_is_another(cast: Cast) -> None:
    prefix = cast.bob.token.prefix

    with pytest.raises(CommandError, match=r"^0 access tokens"):
        run("gpt-4o", "--token-prefix", prefix.swapcase())


# The page.


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


def test_the_page_explains_for_a_token(root: Client, cast: Cast) -> None:
    people.poe_key(name="main")
    people.poe_key(name="theirs", team=cast.chemistry)
    people.mapping("gpt-4o", "GPT-4o")
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(points_per_day=7_500)

    html = root.get(f"{PAGE}?model=gpt-4o&token={cast.bob.token.pk}").content.decode()
    words = " ".join(html.split())

    assert "The bot GPT-4o is asked with the Poe key main." in words
    assert "another team&#x27;s" in words
    assert "7,500 points per day" in words and "0 used, 7,500 left" in words
    assert f"{cast.bob.token.prefix}… is an access token of bob, team Physics." in words


def test_the_page_says_why_not(root: Client) -> None:
    people.mapping("gpt-4o", "GPT-4o", enabled=False)

    html = root.get(f"{PAGE}?model=gpt-4o&token=").content.decode()

    assert "model_not_found" in html and "disabled" in html


@pytest.mark.parametrize("query", ["?model=", "?model=x&token=999999", "?model=x&token=nonsense", ""])
def test_an_unfinished_question_gets_no_answer(root: Client, query: str) -> None:
    response = root.get(PAGE + query)

    assert response.status_code == 200 and "told" not in response.context


def test_tokens_are_looked_up_while_typing(root: Client, cast: Cast) -> None:
    html = root.get(PAGE).content.decode()
    assert "bob&#x27;s phone" not in html, "there may be very many"

    asked = {"app_label": "accounts", "model_name": "tokenactivity", "field_name": "token", "term": "bob"}
    found = root.get(reverse("admin:autocomplete"), asked).json()["results"]

    assert [each["id"] for each in found] == [str(cast.bob.token.pk)]
