"""Chat completions end to end: OpenAI's own SDK, our handler, the demo Poe server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from relay.models import UsageRecord
from tests.cast import Cast, poe_key
from tests.conftest import Api, DemoPoe, Served, in_database, wait_for

pytestmark = pytest.mark.asyncio


async def settled(count: int = 1) -> list[UsageRecord]:
    def look() -> list[UsageRecord]:
        wait_for(lambda: UsageRecord.objects.exclude(outcome="open").count() >= count)
        return list(UsageRecord.objects.order_by("started_at"))

    return await in_database(look)


async def test_it_answers_the_official_sdk(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await api.openai(cast.bob.plain).chat.completions.create(
        model="demo-echo", messages=[{"role": "user", "content": "Good morning"}]
    )

    assert answer.choices[0].message.content == "Good morning"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens == 2
    record = (await settled())[0]
    assert (record.outcome, record.user_name, record.team_name) == ("done", "bob", "Physics")
    assert (record.model, record.bot, record.completion_tokens) == ("demo-echo", "Demo-Echo", 2)
    assert record.prompt_tokens == answer.usage.prompt_tokens and record.tokens_estimated
    assert record.total_ms is not None and record.first_byte_ms is not None


async def test_it_streams_to_the_official_sdk(api: Api, cast: Cast, demo: DemoPoe) -> None:
    stream = await api.openai(cast.bob.plain).chat.completions.create(
        model="DEMO-echo",
        messages=[{"role": "user", "content": "Good morning"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[0].choices[0].delta.role == "assistant"
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Good morning"
    )
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_without_include_usage_has_no_usage_field(api: Api, cast: Cast, demo: DemoPoe) -> None:
    response = await api.chat(cast.bob.plain, "demo-echo", stream=True)

    assert "usage" not in response.text
    assert response.text.endswith("data: [DONE]\n\n")


async def test_it_is_cut_at_max_tokens(api: Api, cast: Cast, demo: DemoPoe) -> None:
    text = "one two three four five six seven"
    for stream in (False, True):
        response = await api.chat(cast.bob.plain, "demo-echo", text, max_tokens=3, stream=stream)
        assert '"finish_reason":"length"' in response.text
        assert "three" in response.text and "four" not in response.text

    records = await settled(2)
    assert [(r.finish_reason, r.completion_tokens, r.outcome) for r in records] == [("length", 3, "done")] * 2


async def test_a_thinker_gives_reasoning_and_an_answer(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = (await api.chat(cast.bob.plain, "demo-thinker")).json()["choices"][0]["message"]

    assert answer["reasoning_content"].startswith("Thinking...\n")
    assert "elapsed" not in answer["reasoning_content"] + answer["content"]
    assert not answer["content"].startswith(("*", ">", "\n"))


async def test_the_same_answer_streamed_and_not(api: Api, cast: Cast, demo: DemoPoe) -> None:
    for model in ("demo-echo", "demo-thinker", "demo-replacer", "demo-painter"):
        whole = (await api.chat(cast.bob.plain, model)).json()["choices"][0]["message"]["content"]
        streamed = await api.openai(cast.bob.plain).chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hello there"}], stream=True
        )
        text = "".join([c.choices[0].delta.content or "" async for c in streamed])
        if model == "demo-painter":  # each picture has an address of its own
            assert text.split("](")[0] == whole.split("](")[0] and "](http" in text
        else:
            assert text == whole


async def test_tool_calls_reach_the_sdk(api: Api, cast: Cast, demo: DemoPoe) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    client = api.openai(cast.bob.plain)
    answer = await client.chat.completions.create(
        model="demo-tools",
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        tools=[tool],  # type: ignore[list-item]
    )

    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None and calls[0].type == "function" and calls[0].function.name == "get_weather"

    after = await client.chat.completions.create(
        model="demo-tools",
        messages=[
            {"role": "user", "content": "Weather in Paris?"},
            answer.choices[0].message.model_dump(exclude_none=True),  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny, 21 degrees"},
        ],
        tools=[tool],  # type: ignore[list-item]
    )
    assert "sunny, 21 degrees" in (after.choices[0].message.content or "")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_of_before_tools_calls_a_function(
    api: Api, cast: Cast, demo: DemoPoe, stream: bool
) -> None:
    weather = {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    question: Any = {"role": "user", "content": "Tell me of both: Rome or Paris"}
    asked: Any = {"model": "demo-tools", "functions": [weather], "function_call": {"name": "get_weather"}}
    client = api.openai(cast.bob.plain)

    if stream:
        chunks = [
            chunk.choices[0]
            async for chunk in await client.chat.completions.create(**asked, messages=[question], stream=True)
        ]
        calls = [choice.delta.function_call for choice in chunks if choice.delta.function_call]
        name, arguments = calls[0].name, "".join(call.arguments or "" for call in calls)
        reason = chunks[-1].finish_reason
    else:
        choice = (await client.chat.completions.create(**asked, messages=[question])).choices[0]
        assert choice.message.function_call is not None and choice.message.tool_calls is None
        name, arguments = choice.message.function_call.name, choice.message.function_call.arguments
        reason = choice.finish_reason
    assert (name, json.loads(arguments), reason) == ("get_weather", {"city": "Paris"}, "function_call")

    called: Any = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": name, "arguments": arguments},
    }
    said: Any = {"role": "function", "name": "get_weather", "content": "sunny, 21 degrees"}
    after = await client.chat.completions.create(
        **{**asked, "function_call": "auto"}, messages=[question, called, said]
    )
    assert "The tool get_weather says: sunny, 21 degrees" in (after.choices[0].message.content or "")


async def test_parameters_defaults_and_ignored_fields(api: Api, cast: Cast, demo: DemoPoe) -> None:
    response = await api.chat(
        cast.bob.plain, "demo-echo", seed=7, top_p=0.5, user="u", reasoning_effort="low"
    )

    assert response.status_code == 200
    assert response.headers["x-poe-relay-ignored"] == "seed, top_p"


async def test_n_other_than_one_is_refused(api: Api, cast: Cast, demo: DemoPoe) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await api.openai(cast.bob.plain).chat.completions.create(
            model="demo-echo", messages=[{"role": "user", "content": "x"}], n=2
        )
    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("word", "status", "code"),
    [
        ("status-401", 502, "upstream_unauthorized"),
        ("status-402", 502, "upstream_out_of_points"),
        ("status-404", 502, "upstream_unknown_bot"),
        ("status-429", 429, "upstream_rate_limited"),
        ("status-500", 502, "upstream_failed"),
        ("insufficient-fund", 502, "upstream_out_of_points"),
        ("too-long", 400, "context_length_exceeded"),
        ("reset", 502, "upstream_unreachable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_bot_is_a_true_status(
    api: Api, cast: Cast, demo: DemoPoe, word: str, status: int, code: str, stream: bool
) -> None:
    response = await api.chat(cast.bob.plain, "demo-faulty", word, stream=stream)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    if word == "status-429":
        assert response.headers["retry-after"] == "7"
    assert {(r.outcome, r.error_code, r.completion_tokens) for r in await settled(1)} == {("failed", code, 0)}


@pytest.mark.parametrize("word", ["reset-after-text", "bad-json", "bad-utf8", "truncated"])
async def test_a_stream_that_breaks_says_so(api: Api, cast: Cast, demo: DemoPoe, word: str) -> None:
    with pytest.raises(openai.APIError) as broken:
        stream = await api.openai(cast.bob.plain).chat.completions.create(
            model="demo-faulty", messages=[{"role": "user", "content": word}], stream=True
        )
        async for _chunk in stream:
            pass
    assert broken.value.code == "upstream_broken"
    assert (await settled())[0].outcome == "failed"


async def test_the_next_key_is_tried_while_nothing_was_sent(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await in_database(
        poe_key, "wrong-key-wrong-key-wrong-key-01", name="a wrong one", base_url=f"{demo.url}/bot/"
    )
    for turn in range(6):
        response = await api.chat(cast.bob.plain, "demo-echo", f"Conversation {turn}")
        assert response.json()["choices"][0]["message"]["content"] == f"Conversation {turn}"
    assert {record.key_name for record in await settled(6)} == {"demo"}


async def test_a_client_that_hangs_up_is_settled_and_cancels_the_bot(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = await asyncio.to_thread(serve)

    def hang_up() -> None:
        stream = served.openai(cast.bob.plain).chat.completions.create(
            model="demo-faulty", messages=[{"role": "user", "content": "endless"}], stream=True
        )
        for number, _chunk in enumerate(stream):
            if number == 5:
                stream.close()
                return

    await asyncio.to_thread(hang_up)
    record = (await settled())[0]
    assert record.outcome == "disconnected" and record.completion_tokens > 0


PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


async def test_an_image_in_a_message_reaches_the_bot(api: Api, cast: Cast, demo: DemoPoe) -> None:
    """Chatbox checks a model with a 1x1 PNG."""
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    answer = await api.openai(cast.bob.plain).chat.completions.create(
        model="demo-echo",
        messages=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
    )

    assert "What is this?" in (answer.choices[0].message.content or "")
    assert "image.png" in (answer.choices[0].message.content or "")


async def test_a_long_body_is_read_off_the_loop(api: Api, cast: Cast, demo: DemoPoe) -> None:
    text = "word " * 300_000

    response = await api.chat(cast.bob.plain, "demo-echo", text, max_tokens=5)

    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.json()["usage"]["prompt_tokens"] > 300_000
