"""What a client wants of an answer that Poe cannot be asked for, end to end: stops, calls, JSON, Poe's own limits."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from django.conf import settings

from proxy_site.config import Config
from relay.models import BotMapping, UsageRecord
from tests import cast as people
from tests.api.test_chat import settled
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
JSON_SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]


@pytest.fixture
def config() -> Config:
    base: Config = settings.CONFIG
    poe = base.poe.model_copy(update={"total_seconds": 0.8})
    return base.model_copy(
        update={"poe": poe, "relay": base.relay.model_copy(update={"keep_alive_seconds": 0.1})}
    )


def said(*texts: str) -> list[tuple[str, object]]:
    return [*(("text", {"text": text}) for text in texts), ("done", {})]


async def script(demo: DemoPoe, bot: str, *events: tuple[str, object], **fields: Any) -> None:
    demo.script(bot, *events, **fields)
    await in_database(people.mapping, bot, bot, points_per_request=10_000)


async def choice(api: Api, cast: Cast, model: str, **body: Any) -> dict[str, Any]:
    response = await api.chat(cast.bob.plain, model, **body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["choices"][0]
    return found


async def streamed(api: Api, cast: Cast, model: str, **body: Any) -> tuple[str, str]:
    """The text and the finish reason."""
    response = await api.chat(cast.bob.plain, model, stream=True, **body)
    payloads = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: {")]
    choices = [json.loads(payload)["choices"][0] for payload in payloads]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, choices[-1]["finish_reason"]


async def test_an_answer_ends_at_a_stop_sequence(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await script(demo, "talker", *said("one tw", "o three", " four"))

    whole = await choice(api, cast, "talker", stop=["two", "four"])

    assert (whole["message"]["content"], whole["finish_reason"]) == ("one ", "stop")
    assert await streamed(api, cast, "talker", stop="o t") == ("one tw", "stop")
    assert [(record.outcome, record.finish_reason) for record in await settled(2)] == [("done", "stop")] * 2


async def test_json_comes_without_its_fence(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await script(demo, "fenced", *said('Here:\n```json\n{"a"', ": 1}\n```"))

    whole = await choice(api, cast, "fenced", response_format=JSON_SCHEMA)

    assert whole["message"]["content"] == '{"a": 1}'
    assert await streamed(api, cast, "fenced", response_format={"type": "json_object"}) == (
        '{"a": 1}',
        "stop",
    )
    assert len(await settled(2)) == 2


async def test_the_official_sdk_parses_it(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await script(demo, "typed", *said('{"a": 5}'))

    answer = await api.openai(cast.bob.plain).chat.completions.create(
        model="typed",
        messages=[{"role": "user", "content": "A number, please."}],
        response_format=JSON_SCHEMA,
    )

    assert json.loads(answer.choices[0].message.content or "") == {"a": 5}


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_no_such_json_is_asked_for_once_more(
    api: Api, cast: Cast, demo: DemoPoe, stream: bool
) -> None:
    await script(demo, "learner", *said('{"a": "x"}'), later=[said('{"a": 1}')])

    response = await api.chat(
        cast.bob.plain,
        "learner",
        response_format=JSON_SCHEMA,
        stream=stream,
        stream_options={"include_usage": True},
    )

    assert '{\\"a\\": 1}' in response.text and '\\"x\\"' not in response.text
    records = await settled(2)
    assert [(record.outcome, record.points) for record in records] == [("done", 10_000)] * 2
    assert records[1].prompt_tokens > records[0].prompt_tokens
    usage = {
        "prompt_tokens": sum(record.prompt_tokens for record in records),
        "completion_tokens": sum(record.completion_tokens or 0 for record in records),
    }
    for name, tokens in usage.items():
        assert f'"{name}":{tokens}' in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bot_that_gives_no_json_is_an_error_and_both_answers_are_paid_for(
    api: Api, cast: Cast, demo: DemoPoe, stream: bool
) -> None:
    await script(demo, "stubborn", *said("No."))

    response = await api.chat(cast.bob.plain, "stubborn", response_format=JSON_SCHEMA, stream=stream)

    assert response.status_code == (200 if stream else 502)
    assert response.headers.get("x-should-retry") == (None if stream else "false")
    assert '"code":"json_answer_invalid"' in response.text and "No." not in response.text
    records = await settled(2)
    assert [(record.outcome, record.error_code) for record in records] == [
        ("done", ""),
        ("failed", "json_answer_invalid"),
    ]
    assert [record.points for record in records] == [10_000, 10_000]


async def test_who_may_not_ask_again_is_told_why_the_answer_does_not_fit(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await script(demo, "limited", *said("No."), later=[said('{"a": 1}')])
    cast.bob.token.requests_per_minute = 1
    await in_database(cast.bob.token.save)

    response = await api.chat(cast.bob.plain, "limited", response_format=JSON_SCHEMA)

    assert response.status_code == 502 and response.json()["error"]["code"] == "json_answer_invalid"
    assert len(await settled()) == 1


async def test_no_second_answer_where_the_first_was_cut_short(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await script(demo, "long", *said('{"a": 1, "b": [1, 2, 3, 4, 5, 6]}'))

    whole = await choice(api, cast, "long", response_format=JSON_SCHEMA, max_tokens=4)

    assert whole["finish_reason"] == "length" and whole["message"]["content"].startswith('{"a"')
    assert len(await settled()) == 1


async def test_a_client_hears_that_we_are_there_while_json_is_held(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await script(demo, "slow", *said('{"a"', ":", "1", "}"), delay=0.06)

    response = await api.chat(cast.bob.plain, "slow", response_format=JSON_SCHEMA, stream=True)

    assert ": keep-alive" in response.text and '{\\"a\\":1}' in response.text


async def test_a_schema_that_is_none_costs_nothing(api: Api, cast: Cast, demo: DemoPoe) -> None:
    odd = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "thing"}}}

    response = await api.chat(cast.bob.plain, "demo-echo", response_format=odd)

    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
    assert not await in_database(UsageRecord.objects.exists)


async def test_the_named_tool_is_called(api: Api, cast: Cast, demo: DemoPoe) -> None:
    named = {"type": "function", "function": {"name": "g"}}

    for mode, names in (("required", ["f", "g"]), (named, ["g", "g"]), ("auto", ["f", "g"])):
        whole = await choice(api, cast, "demo-tools", text="both", tools=TOOLS, tool_choice=mode)
        calls = whole["message"]["tool_calls"]
        assert [call["function"]["name"] for call in calls] == names
        assert whole["finish_reason"] == "tool_calls"


async def test_one_call_at_a_time(api: Api, cast: Cast, demo: DemoPoe) -> None:
    whole = await choice(api, cast, "demo-tools", text="both", tools=TOOLS, parallel_tool_calls=False)

    (call,) = whole["message"]["tool_calls"]
    assert (call["function"], whole["finish_reason"]) == ({"name": "f", "arguments": "{}"}, "tool_calls")
    assert [(record.outcome, record.finish_reason) for record in await settled()] == [("done", "tool_calls")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_must_come_and_does_not_is_an_error(
    api: Api, cast: Cast, demo: DemoPoe, stream: bool
) -> None:
    response = await api.chat(cast.bob.plain, "demo-echo", tools=TOOLS, tool_choice="required", stream=stream)

    assert '"code":"tool_call_missing"' in response.text and "Hello" not in response.text
    assert [record.error_code for record in await settled(2)] == ["", "tool_call_missing"]


async def test_no_tool_is_known_where_none_may_be_called(api: Api, cast: Cast, demo: DemoPoe) -> None:
    whole = await choice(api, cast, "demo-tools", tools=TOOLS, tool_choice="none")

    assert whole["message"]["content"].startswith("I was given no tools.")


async def test_a_call_of_no_tool_is_refused(api: Api, cast: Cast, demo: DemoPoe) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await api.openai(cast.bob.plain).chat.completions.create(
            model="demo-tools", messages=[{"role": "user", "content": "Hi"}], tool_choice="required"
        )

    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bot_without_tools_may_write_its_calls(
    api: Api, cast: Cast, demo: DemoPoe, stream: bool
) -> None:
    await script(
        demo,
        "writer",
        *said("Let me see.\n<tool_", 'call>{"name": "f", "argum', 'ents": {}}</tool_call>\nDone'),
    )

    before = (await api.chat(cast.bob.plain, "writer", tools=TOOLS, stream=stream)).text
    await in_database(BotMapping.objects.filter(model="writer").update, writes_calls=True)
    after = (await api.chat(cast.bob.plain, "writer", tools=TOOLS, stream=stream)).text

    assert "tool_calls" not in before and "Done" in before
    assert '"finish_reason":"tool_calls"' in after and '"name":"f"' in after
    assert "Let me see." in after and "Done" not in after and "<tool" not in after


async def test_what_a_written_call_brought_is_told_to_the_bot(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await in_database(people.mapping, "writer", "Demo-Echo", writes_calls=True)
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}

    response = await api.openai(cast.bob.plain).chat.completions.create(
        model="writer",
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
    )

    content = response.choices[0].message.content or ""
    assert content.strip() == '<tool_result name="f" id="c1">\n42\n</tool_result>'


# Poe's own limits and words.


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_takes_as_long_as_it_may_ends_with_length(
    api: Api, cast: Cast, demo: DemoPoe, stream: bool
) -> None:
    await script(demo, "endless", *said(*["word "] * 40), delay=0.05)

    response = await api.chat(cast.bob.plain, "endless", stream=stream)

    assert response.status_code == 200 and '"finish_reason":"length"' in response.text
    assert "error" not in response.text
    assert [(record.outcome, record.finish_reason) for record in await settled()] == [("done", "length")]


@pytest.mark.parametrize("end", [[("done", {})], [("error", {"text": "Response too large"})]])
async def test_an_answer_of_as_many_characters_as_poe_lets_a_bot_say_ends_with_length(
    api: Api, cast: Cast, demo: DemoPoe, end: list[tuple[str, object]]
) -> None:
    await script(demo, "wordy", ("text", {"text": "word " * 20_000}), *end)

    whole = await choice(api, cast, "wordy")

    assert whole["finish_reason"] == "length" and len(whole["message"]["content"]) == 100_000


async def test_an_answer_that_is_moderated_away_ends_with_content_filter(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    error = ("error", {"text": "This was flagged by our moderation.", "allow_retry": False})
    await script(demo, "moderated", ("text", {"text": "Well, "}), error)
    await script(demo, "refused", error)

    whole = await choice(api, cast, "moderated")

    assert (whole["message"]["content"], whole["finish_reason"]) == ("Well, ", "content_filter")
    refused = await api.chat(cast.bob.plain, "refused")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")


async def test_a_context_that_is_too_long_is_said_as_openai_says_it(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await script(demo, "small", ("error", {"text": "This exceeds the maximum context of the model."}))

    response = await api.chat(cast.bob.plain, "small")

    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
