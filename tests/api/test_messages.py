"""Anthropic's Messages end to end: Anthropic's own SDK, our handler, the demo Poe server."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from relay.models import UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database, wait_for

pytestmark = pytest.mark.asyncio

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
USER: Any = {"role": "user", "content": "Good morning"}
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def said(message: Any, block: int = 0) -> str:
    text: str = message.content[block].text
    return text


async def settled() -> list[UsageRecord]:
    def look() -> list[UsageRecord]:
        wait_for(lambda: UsageRecord.objects.exclude(outcome="open").exists())
        return list(UsageRecord.objects.all())

    return await in_database(look)


async def test_it_answers_the_official_sdk(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await api.anthropic(cast.bob.plain).messages.create(
        model="demo-echo",
        max_tokens=100,
        messages=[USER],
    )

    assert [block.type for block in answer.content] == ["text"]
    assert said(answer) == "Good morning"
    assert (answer.stop_reason, answer.stop_sequence, answer.stop_details) == ("end_turn", None, None)
    assert answer.usage.output_tokens == 2 and answer.usage.input_tokens > 2
    record = (await settled())[0]
    assert (record.wire, record.outcome, record.user_name) == ("anthropic-messages", "done", "bob")
    assert record.prompt_tokens == answer.usage.input_tokens


@pytest.mark.parametrize("beta", [False, True])
async def test_it_streams_to_the_official_sdk(api: Api, cast: Cast, demo: DemoPoe, beta: bool) -> None:
    client = api.anthropic(cast.bob.plain)
    asked: Any = {"model": "demo-echo", "max_tokens": 100, "messages": [USER]}
    if beta:
        asked["betas"] = ["context-1m-2025-08-07", "made-up-2030-01-01"]
    kinds, texts = [], []
    async with (client.beta.messages if beta else client.messages).stream(**asked) as stream:
        async for event in stream:
            kinds.append(event.type)
            if event.type == "text":
                texts.append(event.text)
        message = await stream.get_final_message()

    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and len(texts) > 1
    assert "".join(texts) == said(message) == "Good morning"
    assert message.stop_reason == "end_turn" and message.usage.output_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_go_there_and_back(api: Api, cast: Cast, demo: DemoPoe, stream: bool) -> None:
    client = api.anthropic(cast.bob.plain).messages
    question: Any = {"role": "user", "content": "Weather in Paris, both?"}
    asked: Any = {"model": "demo-tools", "max_tokens": 500, "tools": [WEATHER]}
    if stream:
        async with client.stream(messages=[question], **asked) as events:
            answer = await events.get_final_message()
    else:
        answer = await client.create(messages=[question], **asked)

    assert answer.stop_reason == "tool_use"
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert [(call.name, list(call.input)) for call in calls] == [("get_weather", ["city"])] * 2

    content = [{"type": "text", "text": "21 degrees"}]
    results: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": content} for call in calls]
    history: Any = [question, {"role": "assistant", "content": answer.content}]
    after = await client.create(messages=[*history, {"role": "user", "content": results}], **asked)
    assert said(after).count("get_weather says: 21 degrees") == 2


async def test_thoughts_are_shown_to_who_asks_for_them(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.anthropic(cast.bob.plain).messages
    asked: Any = {"model": "demo-thinker", "max_tokens": 4000, "messages": [USER]}

    plain = await client.create(**asked)
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    thoughtful = await client.create(thinking=thinking, **asked)
    async with client.stream(thinking=thinking, **asked) as stream:
        streamed = await stream.get_final_message()

    assert [block.type for block in plain.content] == ["text"]
    assert [block.type for block in thoughtful.content] == ["thinking", "text"]
    assert "Somebody asks" in thoughtful.content[0].thinking
    assert [block.type for block in streamed.content] == ["thinking", "text"]
    assert said(streamed, 1) == said(plain)

    again = await client.create(
        messages=[USER, {"role": "assistant", "content": thoughtful.content}, USER],
        model="demo-echo",
        max_tokens=100,
    )
    assert said(again) == "Good morning"


async def test_pictures_and_documents_reach_the_bot(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await api.anthropic(cast.bob.plain).messages.create(
        model="demo-echo",
        max_tokens=200,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                    {
                        "type": "document",
                        "source": {"type": "text", "media_type": "text/plain", "data": "Ahoy"},
                    },
                    {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
                ],
            }
        ],
    )

    text = said(answer)
    assert text.startswith("Ahoy\n\nWhat is this?") and "image.png (image/png)" in text


async def test_a_picture_of_the_bot_is_markdown(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await api.anthropic(cast.bob.plain).messages.create(
        model="demo-painter",
        max_tokens=500,
        messages=[USER],
    )

    assert "![Good morning](http" in said(answer)


async def test_an_answer_that_is_too_long_ends_with_max_tokens(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await api.anthropic(cast.bob.plain).messages.create(
        model="demo-echo", max_tokens=2, messages=[{"role": "user", "content": "one two three four"}]
    )

    assert answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_sequence_ends_an_answer_and_is_named(
    api: Api, cast: Cast, demo: DemoPoe, stream: bool
) -> None:
    asked: Any = {
        "model": "demo-echo",
        "max_tokens": 100,
        "stop_sequences": ["never", "three"],
        "messages": [{"role": "user", "content": "one two three four"}],
    }
    client = api.anthropic(cast.bob.plain)

    if stream:
        async with client.messages.stream(**asked) as answering:
            answer = await answering.get_final_message()
    else:
        answer = await client.messages.create(**asked)

    assert (said(answer), answer.stop_reason, answer.stop_sequence) == ("one two ", "stop_sequence", "three")


async def test_tokens_are_counted_for_nothing(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.anthropic(cast.bob.plain).messages
    asked: Any = {
        "model": "demo-echo",
        "system": "Be kind.",
        "tools": [WEATHER],
        "messages": [USER],
    }

    counted = await client.count_tokens(**asked)

    assert not await in_database(UsageRecord.objects.exists)
    answer = await client.create(max_tokens=5, **asked)
    assert counted.input_tokens == answer.usage.input_tokens
    with pytest.raises(anthropic.NotFoundError):
        await client.count_tokens(**{**asked, "model": "gpt-9"})


async def test_what_no_bot_takes_is_told(api: Api, cast: Cast, demo: DemoPoe) -> None:
    tools: Any = [{"type": "web_search_20250305", "name": "web_search"}, {"type": "a\r\nb", "name": "x"}]
    answer = await api.anthropic(cast.bob.plain).messages.with_raw_response.create(
        model="demo-echo",
        max_tokens=50,
        messages=[USER],
        tools=tools,
        metadata={"user_id": "somebody"},
        extra_body={"repeat": 2, "top_k": 3},
    )

    assert answer.headers["x-poe-relay-ignored"] == "tools, top_k, web_search_20250305"
    assert said(await answer.parse()) == "Good morning\nGood morning"


async def test_limits_are_told_in_anthropics_headers(api: Api, cast: Cast, demo: DemoPoe) -> None:
    def limit() -> None:
        cast.bob.token.requests_per_minute = 1
        cast.bob.token.save()

    await in_database(limit)
    client = api.anthropic(cast.bob.plain).messages
    asked: Any = {"model": "demo-echo", "max_tokens": 5, "messages": [USER]}

    response = await client.with_raw_response.create(**asked)
    with pytest.raises(anthropic.RateLimitError) as refused:
        await client.create(**asked)

    assert response.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert response.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert "x-ratelimit-limit-requests" not in response.headers
    assert refused.value.type == "rate_limit_error"
    assert refused.value.response.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert int(refused.value.response.headers["retry-after"]) > 1


# Errors: Anthropic's own bodies and exceptions.


@pytest.mark.parametrize(
    ("word", "error", "kind", "code"),
    [
        ("status-401", anthropic.InternalServerError, "api_error", "upstream_unauthorized"),
        ("status-429", anthropic.RateLimitError, "rate_limit_error", "upstream_rate_limited"),
        ("status-500", anthropic.InternalServerError, "api_error", "upstream_failed"),
        ("too-long", anthropic.BadRequestError, "invalid_request_error", "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_bot_is_anthropics_own_exception(
    api: Api,
    cast: Cast,
    demo: DemoPoe,
    word: str,
    error: type[anthropic.APIStatusError],
    kind: str,
    code: str,
    stream: bool,
) -> None:
    with pytest.raises(error) as failed:
        await api.anthropic(cast.bob.plain).messages.create(
            model="demo-faulty", max_tokens=9, messages=[{"role": "user", "content": word}], stream=stream
        )

    assert (failed.value.type, failed.value.error_code) == (kind, code)
    body: Any = failed.value.body
    assert body["type"] == "error" and body["request_id"] == failed.value.request_id
    if word == "too-long":
        assert body["error"]["message"].startswith("prompt is too long")


async def test_a_stream_that_breaks_says_so(api: Api, cast: Cast, demo: DemoPoe) -> None:
    with pytest.raises(anthropic.APIStatusError) as broken:
        async with api.anthropic(cast.bob.plain).messages.stream(
            model="demo-faulty", max_tokens=99, messages=[{"role": "user", "content": "reset-after-text"}]
        ) as stream:
            async for _event in stream:
                pass

    body: Any = broken.value.body
    assert body["error"]["type"] == "api_error"
    assert body["error"]["details"]["error_code"] == "upstream_broken"
    assert body["request_id"] == broken.value.request_id


LEAST = {"model": "m", "max_tokens": 1, "messages": [USER]}
REFUSED: list[tuple[str, str, Any, int, str, str]] = [
    ("POST", "/v1/messages", b"{nonsense", 400, "invalid_request_error", "invalid_json"),
    ("POST", "/v1/messages?beta=true", b"", 400, "invalid_request_error", "invalid_json"),
    (
        "POST",
        "/v1/messages",
        {"model": "m", "messages": [USER]},
        400,
        "invalid_request_error",
        "missing_required_parameter",
    ),
    ("POST", "/messages", {**LEAST, "messages": []}, 400, "invalid_request_error", "invalid_value"),
    ("POST", "/v1/messages", LEAST, 404, "not_found_error", "model_not_found"),
    ("POST", "/v1/messages/count_tokens", b"[]", 400, "invalid_request_error", "invalid_json"),
    ("POST", "/messages/count_tokens", LEAST, 404, "not_found_error", "model_not_found"),
    ("GET", "/v1/messages", None, 405, "invalid_request_error", "method_not_allowed"),
    ("GET", "/v1/messages/batches", None, 404, "not_found_error", "unknown_route"),
    ("DELETE", "/v1/models", None, 405, "invalid_request_error", "method_not_allowed"),
    ("GET", "/v1/models/gpt-9", None, 404, "not_found_error", "model_not_found"),
    ("GET", "/v1/models?limit=0", None, 400, "invalid_request_error", "invalid_value"),
    ("GET", "/v1/models?limit=²", None, 400, "invalid_request_error", "invalid_value"),
]


@pytest.mark.parametrize(("method", "route", "body", "status", "kind", "code"), REFUSED)
async def test_refusals_are_anthropics_errors_and_cost_nothing(
    api: Api, cast: Cast, method: str, route: str, body: Any, status: int, kind: str, code: str
) -> None:
    response = await api.http.request(
        method,
        route,
        content=body if body is None or isinstance(body, bytes) else json.dumps(body),
        headers={"x-api-key": cast.bob.plain, "anthropic-version": "2023-06-01"},
    )

    told = response.json()
    assert response.status_code == status and response.headers["content-type"] == "application/json"
    assert set(told) == {"type", "error", "request_id"} and told["type"] == "error"
    assert (told["error"]["type"], told["error"]["details"]) == (kind, {"error_code": code})
    assert told["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    assert response.headers["access-control-allow-origin"] == "*"
    assert not await in_database(UsageRecord.objects.exists)


@pytest.mark.parametrize("route", ["/v1/messages", "/messages/count_tokens", "/v1/messages?beta=true"])
async def test_without_a_real_token_nothing_is_told(api: Api, cast: Cast, route: str) -> None:
    for headers in ({}, {"x-api-key": "sk-poe-nonsense"}, {"Authorization": "Bearer sk-ant-other"}):
        response = await api.http.post(route, headers=headers, content=b"{nonsense")
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"


async def test_a_model_of_another_team_is_unknown(api: Api, cast: Cast, demo: DemoPoe) -> None:
    def only_for_chemistry() -> None:
        people.mapping("secret", "Demo-Echo").teams.add(cast.chemistry)

    await in_database(only_for_chemistry)
    asked: Any = {"model": "secret", "max_tokens": 9, "messages": [USER]}

    assert said(await api.anthropic(cast.charlie.plain).messages.create(**asked)) == "Good morning"
    with pytest.raises(anthropic.NotFoundError):
        await api.anthropic(cast.bob.plain).messages.create(**asked)
    with pytest.raises(anthropic.NotFoundError):
        await api.anthropic(cast.bob.plain).messages.count_tokens(model="secret", messages=[USER])
    with pytest.raises(anthropic.NotFoundError):
        await api.anthropic(cast.bob.plain).models.retrieve("secret")


# Models.


async def test_models_in_anthropics_shape_and_pages(api: Api, cast: Cast) -> None:
    for name in ("a", "b", "c", "org/d"):
        await in_database(people.mapping, name, "Bot")
    client = api.anthropic(cast.bob.plain).models

    assert [model.id async for model in client.list(limit=3)] == ["a", "b", "c", "org/d"]
    page = await client.list(limit=2)
    assert (page.first_id, page.last_id, page.has_more) == ("a", "b", True)
    before = await client.list(limit=2, before_id="org/d")
    assert [model.id for model in before.data] == ["b", "c"] and before.has_more
    assert [model.id for model in (await client.list(after_id="c")).data] == ["org/d"]
    one = await client.retrieve("org/d")
    assert (one.id, one.display_name, one.type) == ("org/d", "org/d", "model")
    assert one.created_at.year >= 2024
