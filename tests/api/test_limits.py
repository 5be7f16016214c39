"""Limits and budgets as a client meets them: whole requests against the demo Poe server."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import openai
import pytest

from relay.errors import GivenUp, Unavailable
from relay.ledger import Ledger
from relay.models import Meter, PoeKey, RefusalHour, UsageHour, UsageRecord
from relay.pool import Queue
from tests import cast as people
from tests.api.test_chat import settled
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio


async def limit(of: Any, **limits: int | None) -> None:
    await in_database(lambda: type(of).objects.filter(pk=of.pk).update(**limits))


async def meter(id_: str) -> Meter:
    return await in_database(lambda: Meter.objects.get(pk=id_))


async def price(model: str, **points: float) -> None:
    from relay.models import BotMapping

    await in_database(lambda: BotMapping.objects.filter(model=model).update(**points))


def error(response: httpx2.Response) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    return found


async def long_answer(demo: DemoPoe, pieces: int, words: int, **fields: Any) -> None:
    """The model `long`, which says so many pieces of so many words, each a token."""
    text = " ".join(["word"] * words)
    demo.script("long", *[("text", {"text": f"{text} "})] * pieces, ("done", {}))
    await in_database(people.mapping, "long", "long", **fields)


def refuse_changes(monkeypatch: pytest.MonkeyPatch, kind: type[Unavailable]) -> None:
    """As if the database were away, or the record given up, once a request is admitted."""

    async def refuse(*_args: object) -> None:
        raise kind("Not now.")

    monkeypatch.setattr(Ledger, "change", refuse)


async def count() -> int:
    return await in_database(UsageRecord.objects.count)


async def test_requests_per_minute(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await limit(cast.bob.user, requests_per_minute=2)

    first = await api.chat(cast.bob.plain, "demo-echo")
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] in ("30s", "29.999s")
    assert "x-ratelimit-limit-tokens" not in first.headers
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200
    refused = await api.chat(cast.bob.plain, "demo-echo")

    assert (refused.status_code, error(refused)["code"]) == (429, "rate_limit_exceeded")
    assert error(refused)["type"] == "requests"
    assert "the owner of this access token, 2 requests per minute" in error(refused)["message"]
    assert 28 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert await count() == 2
    # Alice has none of her own, and the team none: nobody else is touched.
    assert (await api.chat(cast.alice.plain, "demo-echo")).status_code == 200


async def test_the_tightest_of_the_three_wins(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await limit(cast.bob.token, requests_per_minute=100)
    await limit(cast.bob.user, requests_per_minute=50)
    await limit(cast.physics, requests_per_minute=1)

    first = await api.chat(cast.bob.plain, "demo-echo")
    refused = await api.chat(cast.bob.plain, "demo-echo")

    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert refused.status_code == 429 and "the team, 1 request per minute" in error(refused)["message"]
    assert (await api.chat(cast.alice.plain, "demo-echo")).status_code == 429
    assert (await api.chat(cast.charlie.plain, "demo-echo")).status_code == 200


async def test_an_edited_limit_counts_from_the_next_request(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await limit(cast.bob.token, requests_per_minute=1)
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 429

    await limit(cast.bob.token, requests_per_minute=3)
    assert [(await api.chat(cast.bob.plain, "demo-echo")).status_code for _ in range(3)] == [200, 200, 429]
    await limit(cast.bob.token, requests_per_minute=None)
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200


async def test_a_request_larger_than_its_whole_limit_is_a_400_with_both_numbers(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await limit(cast.bob.token, tokens_per_minute=1000)

    refused = await api.chat(cast.bob.plain, "demo-echo", "word " * 200, max_tokens=900)

    assert (refused.status_code, error(refused)["code"]) == (400, "tokens_per_minute_exceeded")
    assert "1,1" in error(refused)["message"] and "1,000 tokens per minute" in error(refused)["message"]
    assert await count() == 0


async def test_tokens_per_minute_is_corrected_when_the_answer_was_shorter(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await limit(cast.bob.token, tokens_per_minute=1000)
    for _ in range(3):
        response = await api.chat(cast.bob.plain, "demo-echo", "Hi", max_tokens=900)
        assert response.status_code == 200
        await settled()
        await asyncio.sleep(0.05)

    assert response.headers["x-ratelimit-limit-tokens"] == "1000"
    assert 900 < 1000 - int(response.headers["x-ratelimit-remaining-tokens"]) < 960


async def test_two_at_once_reserve_what_both_may_need(api: Api, cast: Cast, demo: DemoPoe) -> None:
    demo.script("slow", ("text", {"text": "a"}), ("text", {"text": "b"}), ("done", {}), delay=0.1)
    await in_database(people.mapping, "slow", "slow")
    await limit(cast.bob.token, tokens_per_minute=1000)

    both = await asyncio.gather(*[api.chat(cast.bob.plain, "slow", "Hi", max_tokens=600) for _ in range(2)])

    assert sorted(response.status_code for response in both) == [200, 429]
    (refused,) = [response for response in both if response.status_code == 429]
    assert error(refused)["type"] == "tokens" and "tokens per minute" in error(refused)["message"]


async def test_requests_in_flight(api: Api, cast: Cast, demo: DemoPoe) -> None:
    demo.script("slow", ("text", {"text": "a"}), ("text", {"text": "b"}), ("done", {}), delay=0.1)
    await in_database(people.mapping, "slow", "slow")
    await limit(cast.bob.user, requests_in_flight=2)

    answers = await asyncio.gather(*[api.chat(cast.bob.plain, "slow") for _ in range(5)])

    assert sorted(response.status_code for response in answers) == [200, 200, 429, 429, 429]
    assert {r.headers["retry-after"] for r in answers if r.status_code == 429} == {"1"}
    await settled(2)
    assert (await meter(f"user:{cast.bob.user.pk}")).in_flight == 0
    assert (await api.chat(cast.bob.plain, "slow")).status_code == 200


async def test_a_budget_is_refused_as_openai_does_and_the_sdk_does_not_try_again(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await price("demo-echo", points_per_request=10)
    await limit(cast.physics, points_per_day=25)
    client = api.openai(cast.bob.plain).with_options(max_retries=3)
    ask: Any = {"model": "demo-echo", "messages": [{"role": "user", "content": "Hi"}]}

    await client.chat.completions.create(**ask)
    await client.chat.completions.create(**ask)
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat.completions.create(**ask)

    assert (refused.value.code, refused.value.type) == ("insufficient_quota", "insufficient_quota")
    assert "the team, 25 points per day" in refused.value.message
    assert "5 are left and this request may need 10" in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 86400
    assert [record.points for record in await settled(2)] == [10, 10]
    assert (await meter(f"team:{cast.physics.pk}")).day_points == 20


async def test_what_is_unknown_costs_the_default_and_never_nothing(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await limit(cast.bob.token, points_per_month=150)

    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200
    refused = await api.chat(cast.bob.plain, "demo-echo")

    assert (refused.status_code, error(refused)["code"]) == (429, "insufficient_quota")
    assert [record.points for record in await settled()] == [100]


async def test_tokens_are_charged_by_the_thousand(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await price(
        "demo-echo",
        points_per_1000_input_tokens=100,
        points_per_1000_output_tokens=1000,
        points_per_request=3,
    )

    await api.chat(cast.bob.plain, "demo-echo", "word " * 100)

    (record,) = await settled()
    exact = 3 + record.prompt_tokens * 0.1 + record.completion_tokens * 1
    assert record.completion_tokens > 99 and exact <= record.points < exact + 1
    assert (await meter(f"token:{cast.bob.token.pk}")).month_points == record.points


async def test_images_are_charged(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await price("demo-painter", points_per_image=40)
    await limit(cast.bob.token, points_per_day=50)

    assert (await api.chat(cast.bob.plain, "demo-painter")).status_code == 200

    (record,) = await settled()
    assert (record.images, record.points) == (1, 40)
    assert (await api.chat(cast.bob.plain, "demo-painter")).status_code == 429


async def test_a_failure_before_the_first_byte_costs_nothing(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await limit(cast.bob.token, points_per_day=100, tokens_per_minute=5000)

    for _ in range(3):
        assert (
            await api.chat(cast.bob.plain, "demo-faulty", "status-500", max_tokens=4000)
        ).status_code == 502
        await asyncio.sleep(0.05)

    assert {(r.outcome, r.points, r.completion_tokens) for r in await settled(3)} == {("failed", 0, 0)}
    found = await meter(f"token:{cast.bob.token.pk}")
    assert (found.day_points, found.month_points, found.in_flight, found.tokens_level) == (0, 0, 0, 0)


async def test_a_failure_in_the_middle_is_charged_for_what_was_relayed(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await price("demo-faulty", points_per_1000_output_tokens=1000)

    await api.chat(cast.bob.plain, "demo-faulty", "reset-after-text", stream=True)

    (record,) = await settled()
    assert record.outcome == "failed" and record.points == record.completion_tokens > 0


async def test_an_answer_may_outgrow_its_reservation_while_there_are_points(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    """The default reservation does not fit, so a small one is made; the answer asks for more in steps."""
    await long_answer(demo, 20, 150, points_per_1000_output_tokens=1000)
    await limit(cast.bob.token, points_per_day=3500)

    whole = (await api.chat(cast.bob.plain, "long")).json()

    assert whole["choices"][0]["finish_reason"] == "stop"
    (record,) = await settled()
    assert record.points == record.completion_tokens == whole["usage"]["completion_tokens"] > 2900
    assert (await meter(f"token:{cast.bob.token.pk}")).day_points == record.points


async def test_an_answer_ends_where_the_points_do(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await long_answer(demo, 60, 50, points_per_1000_output_tokens=1000)
    await limit(cast.bob.token, points_per_day=2000)

    whole = (await api.chat(cast.bob.plain, "long")).json()

    assert whole["choices"][0]["finish_reason"] == "length"
    (record,) = await settled()
    # Steps of a quarter: at most one step of it is left.
    assert 1500 <= record.points <= 2000 and record.points == record.completion_tokens
    assert (await meter(f"token:{cast.bob.token.pk}")).day_points == record.points


async def test_an_answer_goes_on_while_the_database_is_away(
    api: Api, cast: Cast, demo: DemoPoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it used beyond its reservation is charged when it has ended."""
    await long_answer(demo, 10, 150, points_per_1000_output_tokens=1000, default_output_tokens=100)
    await limit(cast.bob.token, points_per_day=3500)

    refuse_changes(monkeypatch, Unavailable)
    whole = (await api.chat(cast.bob.plain, "long")).json()

    assert whole["choices"][0]["finish_reason"] == "stop"
    (record,) = await settled()
    assert record.points == record.completion_tokens > 1400
    assert (await meter(f"token:{cast.bob.token.pk}")).day_points == record.points


async def test_an_answer_does_not_go_on_for_ever_without_the_database(
    api: Api, cast: Cast, demo: DemoPoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    await long_answer(demo, 10, 900, points_per_1000_output_tokens=1000, default_output_tokens=100)
    await limit(cast.bob.token, points_per_day=3500)

    refuse_changes(monkeypatch, Unavailable)
    whole = (await api.chat(cast.bob.plain, "long")).json()

    assert whole["choices"][0]["finish_reason"] == "length"
    assert 100 < whole["usage"]["completion_tokens"] <= 100 + 4096


async def test_an_answer_whose_record_was_given_up_ends(
    api: Api, cast: Cast, demo: DemoPoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    await long_answer(demo, 10, 150, default_output_tokens=100)
    await limit(cast.bob.token, tokens_per_minute=5000)

    refuse_changes(monkeypatch, GivenUp)
    whole = (await api.chat(cast.bob.plain, "long")).json()

    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 100


async def test_images_beyond_the_reservation_do_not_hang_without_the_database(
    api: Api, cast: Cast, demo: DemoPoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = {"url": "http://127.0.0.1/p.png", "content_type": "image/png", "name": "p.png"}
    events = [("file", {**picture, "inline_ref": None}), ("text", {"text": "word " * 40})]
    demo.script("pictures", *events, *events, ("done", {}))
    await in_database(people.mapping, "pictures", "pictures", points_per_image=50)
    await limit(cast.bob.token, points_per_day=5000)

    refuse_changes(monkeypatch, Unavailable)
    whole = (await asyncio.wait_for(api.chat(cast.bob.plain, "pictures", max_tokens=20), 10)).json()

    assert whole["choices"][0]["finish_reason"] == "length"


async def test_a_failure_that_only_a_status_told_costs_nothing(api: Api, cast: Cast, demo: DemoPoe) -> None:
    response = await api.chat(cast.bob.plain, "demo-faulty", "reset-after-text")

    assert response.status_code == 502
    assert [(r.outcome, r.points) for r in await settled()] == [("failed", 0)]


async def test_a_guess_of_ours_refuses_nothing_that_would_fit(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await limit(cast.physics, tokens_per_minute=100)

    assert (await api.chat(cast.bob.plain, "demo-echo", "Hello there")).status_code == 200


async def test_a_request_dearer_than_the_whole_budget_is_told_so(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await limit(cast.bob.token, points_per_day=50)

    refused = await api.chat(cast.bob.plain, "demo-echo")

    assert (refused.status_code, error(refused)["code"]) == (429, "insufficient_quota")
    assert "100 points, more than the whole limit of this access token: 50 points per day" in refused.text


async def test_trying_again_helps_when_the_good_key_is_busy(api: Api, cast: Cast, demo: DemoPoe) -> None:
    wrong = await in_database(
        people.poe_key, "wrong-key-wrong-key-wrong-key-01", name="wrong", base_url=f"{demo.url}/bot/"
    )
    await in_database(lambda: PoeKey.objects.filter(pk=wrong.pk).update(priority=9))
    await in_database(lambda: PoeKey.objects.exclude(pk=wrong.pk).update(requests_in_flight=1))
    demo.script("slow", ("text", {"text": "a"}), ("text", {"text": "b"}), ("done", {}), delay=0.2)
    await in_database(people.mapping, "slow", "slow")

    answers = await asyncio.gather(*[api.chat(cast.bob.plain, "slow") for _ in range(3)])

    assert sorted(response.status_code for response in answers) == [200, 429, 429]
    assert {error(r)["code"] for r in answers if r.status_code == 429} == {"all_keys_busy"}


async def test_a_refused_request_never_reaches_the_bot(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await limit(cast.bob.token, requests_per_minute=1)
    await api.chat(cast.bob.plain, "demo-echo")
    await settled()
    before = demo_requests(demo)

    refused = [await api.chat(cast.bob.plain, "demo-echo") for _ in range(5)]

    assert {response.status_code for response in refused} == {429}
    assert demo_requests(demo) == before


def demo_requests(demo: DemoPoe) -> int:
    history = httpx2.get(
        f"{demo.url}/usage/points_history?limit=100", headers={"Authorization": f"Bearer {demo.key}"}
    ).json()
    return len(history["data"])


async def test_a_key_has_so_many_slots_and_no_more(api: Api, cast: Cast, demo: DemoPoe) -> None:
    demo.script("slow", ("text", {"text": "a"}), ("text", {"text": "b"}), ("done", {}), delay=0.1)
    await in_database(people.mapping, "slow", "slow")
    await in_database(lambda: PoeKey.objects.update(requests_in_flight=2))
    api.relay.queue = Queue(0)

    answers = await asyncio.gather(*[api.chat(cast.bob.plain, "slow") for _ in range(4)])

    assert sorted(response.status_code for response in answers) == [200, 200, 429, 429]
    assert {error(r)["code"] for r in answers if r.status_code == 429} == {"all_keys_busy"}
    await settled(2)
    assert (await in_database(lambda: list(Meter.objects.filter(in_flight__gt=0)))) == []


async def test_the_next_key_takes_over_the_slot(api: Api, cast: Cast, demo: DemoPoe) -> None:
    wrong = await in_database(
        people.poe_key, "wrong-key-wrong-key-wrong-key-01", name="wrong", base_url=f"{demo.url}/bot/"
    )
    await in_database(lambda: PoeKey.objects.filter(pk=wrong.pk).update(priority=9))

    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200

    (record,) = await settled()
    assert record.key_name == "demo"
    assert {m.in_flight for m in await in_database(lambda: list(Meter.objects.all()))} == {0}


async def test_a_fallback_is_charged_at_its_own_price(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await in_database(
        people.mapping, "weak", "Demo-Faulty", points_per_request=5, fallback_models=["demo-echo"]
    )
    await price("demo-echo", points_per_request=70)
    await limit(cast.bob.token, points_per_day=100)

    assert (await api.chat(cast.bob.plain, "weak", "status-500")).status_code == 200
    refused = await api.chat(cast.bob.plain, "weak", "status-500")

    # The second time the fallback does not fit any more: what the client learns is why the bot failed.
    assert refused.status_code == 502
    first, second = await settled(2)
    assert (first.bot, first.points) == ("Demo-Echo", 70)
    assert (second.outcome, second.points) == ("failed", 0)


async def test_a_disconnect_is_charged_for_what_was_relayed(api: Api, cast: Cast, demo: DemoPoe) -> None:
    words = [("text", {"text": "word "})] * 50
    demo.script("slow", *words, ("done", {}), delay=0.02)
    await in_database(people.mapping, "slow", "slow", points_per_1000_output_tokens=1000)

    async def hang_up_after(seconds: float) -> None:
        await asyncio.wait_for(api.chat(cast.bob.plain, "slow", stream=True), seconds)

    with pytest.raises(TimeoutError):
        await hang_up_after(0.3)

    (record,) = await settled()
    assert record.outcome == "disconnected" and 3 <= record.completion_tokens == record.points <= 16
    assert (await meter(f"token:{cast.bob.token.pk}")).in_flight == 0


FAILS = ("error", {"allow_retry": False, "text": "boom"})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("drop", ("replace_response", {"text": "Thinking... (1s elapsed)"})),
        ("buffer", ("text", {"text": "word " * 50})),
    ],
)
async def test_a_failure_before_the_client_was_told_anything_is_charged_nothing(
    api: Api, cast: Cast, demo: DemoPoe, policy: str, said: tuple[str, object], stream: bool
) -> None:
    demo.script("fails", said, FAILS)
    await in_database(
        people.mapping,
        "fails",
        "fails",
        points_per_request=70,
        points_per_1000_input_tokens=1000,
        replace_policy=policy,
    )
    await limit(cast.bob.token, points_per_day=1000, tokens_per_minute=10_000)

    await api.chat(cast.bob.plain, "fails", stream=stream)

    (record,) = await settled()
    assert (record.outcome, record.points, record.completion_tokens) == ("failed", 0, 0)
    assert record.first_byte_ms is None
    found = await meter(f"token:{cast.bob.token.pk}")
    assert (found.day_points, found.tokens_level, found.in_flight) == (0, 0, 0)


async def test_a_failure_after_a_word_is_charged(api: Api, cast: Cast, demo: DemoPoe) -> None:
    demo.script("fails", ("text", {"text": "word"}), FAILS)
    await in_database(people.mapping, "fails", "fails", points_per_request=70)

    await api.chat(cast.bob.plain, "fails", stream=True)

    (record,) = await settled()
    assert (record.outcome, record.points, record.completion_tokens) == ("failed", 70, 1)
    assert record.first_byte_ms is not None


@pytest.mark.parametrize("stream", [True, False])
async def test_who_hangs_up_before_a_word_was_said_pays_for_the_request(
    api: Api, cast: Cast, demo: DemoPoe, stream: bool
) -> None:
    noise = [("replace_response", {"text": f"Thinking... ({n}s elapsed)"}) for n in range(50)]
    demo.script("slow", *noise, ("done", {}), delay=0.02)
    await in_database(people.mapping, "slow", "slow", points_per_request=70, replace_policy="drop")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(api.chat(cast.bob.plain, "slow", stream=stream), 0.3)

    (record,) = await settled()
    assert (record.outcome, record.points, record.completion_tokens) == ("disconnected", 70, 0)


@pytest.mark.parametrize("policy", ["buffer", "reasoning"])
async def test_who_hangs_up_while_the_end_is_sent_pays_for_all_of_it(
    api: Api, cast: Cast, demo: DemoPoe, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Under `buffer` everything is said at the end, and a client that reads slowly has most of it before that is over."""
    demo.script("words", ("text", {"text": "word " * 200}), ("done", {}))
    await in_database(
        people.mapping,
        "words",
        "words",
        points_per_request=70,
        points_per_1000_output_tokens=1000,
        replace_policy=policy,
    )
    transport: Any = api.http._transport
    plain = transport.app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def slow(message: dict[str, Any]) -> None:
            await send(message)
            if b"word" in message.get("body", b""):
                await asyncio.sleep(60)

        await plain(scope, receive, slow)

    monkeypatch.setattr(transport, "app", app)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(api.chat(cast.bob.plain, "words", stream=True), 1.5)

    (record,) = await settled()
    assert (record.outcome, record.points, record.completion_tokens) == ("disconnected", 271, 201)


async def test_what_is_settled_and_refused_is_in_the_hours(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await limit(cast.bob.token, requests_per_minute=1)
    await api.chat(cast.bob.plain, "demo-echo")
    await api.chat(cast.bob.plain, "demo-echo")
    await settled()

    hours = await in_database(lambda: list(UsageHour.objects.all()))
    assert [(h.requests, h.failed, h.points, h.bot) for h in hours] == [(1, 0, 100, "Demo-Echo")]
    assert sum(getattr(hours[0], f"first_byte_{bound}") for bound in (250, 500, 1000)) == 1

    def refusals() -> list[tuple[str, int]]:
        from tests.conftest import wait_for

        wait_for(RefusalHour.objects.exists, 8)
        return list(RefusalHour.objects.values_list("limit", "refusals"))

    assert await in_database(refusals) == [("requests_per_minute", 1)]
