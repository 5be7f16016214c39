"""The responses API end to end: OpenAI's own SDK, our handler, the demo Poe server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from accounts.models import AccessToken
from proxy_site.config import Config
from relay.models import StoredResponse
from relay.stored_responses import forget_expired
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


async def post(api: Api, token: str, **body: Any) -> Any:
    return await api.http.post(
        "/v1/responses",
        json={"model": "demo-echo", "input": "Good morning", **body},
        headers={"Authorization": f"Bearer {token}"},
    )


async def test_it_answers_the_official_sdk(api: Api, cast: Cast, demo: DemoPoe) -> None:
    response = await api.openai(cast.bob.plain).responses.create(model="demo-echo", input="Good morning")

    assert response.output_text == "Good morning" and response.status == "completed"
    assert response.usage is not None and response.usage.output_tokens == 2
    assert response.usage.input_tokens_details.cached_tokens == 0


async def test_it_streams_to_the_official_sdk(api: Api, cast: Cast, demo: DemoPoe) -> None:
    async with api.openai(cast.bob.plain).responses.stream(model="demo-echo", input="Good morning") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta")
        == "Good morning"
    )
    assert final.output_text == "Good morning" and final.usage is not None


async def test_a_thinker_gives_a_reasoning_item(api: Api, cast: Cast, demo: DemoPoe) -> None:
    response = await api.openai(cast.bob.plain).responses.create(
        model="demo-thinker", input="Hello there", reasoning={"effort": "low", "summary": "auto"}
    )

    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].type == "reasoning"
    assert response.output[0].summary[0].text.startswith("Thinking...")


async def test_the_same_answer_streamed_and_not(api: Api, cast: Cast, demo: DemoPoe) -> None:
    for model in ("demo-echo", "demo-thinker", "demo-replacer"):
        whole = (await post(api, cast.bob.plain, model=model)).json()
        raw = (await post(api, cast.bob.plain, model=model, stream=True)).text
        last = json.loads(raw.split("data: ")[-1])["response"]

        assert [shape(item) for item in last["output"]] == [shape(item) for item in whole["output"]]
        assert last["usage"] == whole["usage"]


def shape(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "id": ""}


async def test_tool_calls_go_there_and_back(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.openai(cast.bob.plain)
    first = await client.responses.create(model="demo-tools", input="Weather in Paris?", tools=[TOOL])
    call = first.output[0]
    assert call.type == "function_call" and call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Paris"}

    after = await client.responses.create(
        model="demo-tools",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 21 degrees"}],
        tools=[TOOL],
    )

    assert "The tool get_weather says: sunny, 21 degrees" in after.output_text


async def test_a_conversation_goes_on_from_what_is_kept(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.openai(cast.bob.plain)
    first = await client.responses.create(model="demo-echo", input="one", instructions="Only for once.")
    second = await client.responses.create(model="demo-echo", input="two", previous_response_id=first.id)
    async with client.responses.stream(
        model="demo-echo", input="three", previous_response_id=second.id
    ) as stream:
        third = await stream.get_final_response()
    alone = await client.responses.create(model="demo-echo", input="three", store=False)

    assert third.usage is not None and alone.usage is not None and second.usage is not None
    assert third.usage.input_tokens > second.usage.input_tokens > alone.usage.input_tokens
    assert (await client.responses.retrieve(third.id)).output_text == "three"
    row = await in_database(StoredResponse.objects.get, pk=third.id)
    assert row.before == [first.id, second.id] and row.token_id == cast.bob.token.pk


async def test_a_client_may_name_items_instead_of_the_response(api: Api, cast: Cast, demo: DemoPoe) -> None:
    """The AI SDK does: what it was answered it sends as references."""
    client = api.openai(cast.bob.plain)
    first = await client.responses.create(model="demo-tools", input="Weather in Paris?", tools=[TOOL])
    call = first.output[0]
    assert call.type == "function_call" and call.id is not None
    input: Any = [
        {"role": "user", "content": "Weather in Paris?"},
        {"type": "item_reference", "id": call.id},
        {"type": "function_call_output", "call_id": call.call_id, "output": "rainy"},
    ]

    after = await client.responses.create(model="demo-tools", input=input, tools=[TOOL])
    assert "The tool get_weather says: rainy" in after.output_text
    with pytest.raises(openai.BadRequestError, match="not found"):
        await api.openai(cast.charlie.plain).responses.create(model="demo-tools", input=input, tools=[TOOL])


def said(items: Any) -> list[str]:
    return [item.content[0].text for item in items]


async def test_input_items_are_listed_in_pages(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.openai(cast.bob.plain)
    response = await client.responses.create(
        model="demo-echo", input=[{"role": "user", "content": word} for word in ("one", "two", "three")]
    )
    newest = await client.responses.input_items.list(response.id, limit=2)
    every = [item async for item in client.responses.input_items.list(response.id, limit=2, order="asc")]

    assert newest.has_more and said(newest.data) == ["three", "two"]
    assert said(every) == ["one", "two", "three"]
    for query in ("limit=0", "limit=101", "after=msg_other"):
        refused = await api.http.get(
            f"/v1/responses/{response.id}/input_items?{query}", headers=bearer(cast.bob.plain)
        )
        assert refused.status_code == 400


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_deleted_response_is_gone(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.openai(cast.bob.plain)
    first = await client.responses.create(model="demo-echo", input="one")
    second = await client.responses.create(model="demo-echo", input="two", previous_response_id=first.id)
    await client.responses.delete(first.id)

    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    for id in (first.id, second.id):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="demo-echo", input="three", previous_response_id=id)
        assert refused.value.code == "previous_response_not_found"


async def test_nothing_is_kept_where_the_client_says_so(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.openai(cast.bob.plain)
    response = await client.responses.create(model="demo-echo", input="one", store=False)

    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    assert await in_database(StoredResponse.objects.count) == 0


@pytest.mark.parametrize("who", ["charlie", "alice", "root"])
async def test_a_response_is_its_tokens_alone(api: Api, cast: Cast, demo: DemoPoe, who: str) -> None:
    """Not another team's, not the manager's, not the administrator's."""
    id = (await post(api, cast.bob.plain, input="secret")).json()["id"]
    token = getattr(cast, who).plain

    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        answer = await api.http.request(method, f"/v1/responses/{id}{path}", headers=bearer(token))
        assert answer.status_code == 404 and "secret" not in answer.text
        assert (await api.http.request(method, f"/v1/responses/{id}{path}")).status_code == 401
    refused = await post(api, token, previous_response_id=id)

    assert refused.json()["error"]["code"] == "previous_response_not_found"
    assert await in_database(StoredResponse.objects.count) == 1


async def test_another_token_of_the_same_person_does_not_see_it(api: Api, cast: Cast, demo: DemoPoe) -> None:
    response = await api.openai(cast.bob.plain).responses.create(model="demo-echo", input="secret")
    _token, plain = await in_database(AccessToken.objects.issue, cast.bob.user, "another phone")

    with pytest.raises(openai.NotFoundError):
        await api.openai(plain).responses.retrieve(response.id)


async def test_what_is_kept_cannot_be_read_in_the_database(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await post(api, cast.bob.plain, input="xylophone " * 50, instructions="marzipan")
    row = await in_database(StoredResponse.objects.get)

    assert b"xylophone" not in bytes(row.content) and b"marzipan" not in bytes(row.content)
    assert row.size == len(bytes(row.content))


async def test_a_row_that_was_given_to_another_token_does_not_open(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    id = (await post(api, cast.bob.plain)).json()["id"]
    await in_database(StoredResponse.objects.update, token=cast.charlie.token)

    with pytest.raises(openai.NotFoundError):
        await api.openai(cast.charlie.plain).responses.retrieve(id)


async def test_an_expired_response_is_not_found_and_removed(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.openai(cast.bob.plain)
    old = await client.responses.create(model="demo-echo", input="one")
    kept = await client.responses.create(model="demo-echo", input="two")
    past = datetime.now(UTC) - timedelta(seconds=1)
    await in_database(StoredResponse.objects.filter(pk=old.id).update, expires_at=past)

    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(old.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(old.id)
    await in_database(forget_expired)
    assert await in_database(lambda: [row.pk for row in StoredResponse.objects.all()]) == [kept.id]


async def test_what_a_conversation_is_built_on_lives_as_long_as_it(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    client = api.openai(cast.bob.plain)
    first = await client.responses.create(model="demo-echo", input="one")
    soon = datetime.now(UTC) + timedelta(minutes=1)
    await in_database(StoredResponse.objects.update, expires_at=soon)

    second = await client.responses.create(model="demo-echo", input="two", previous_response_id=first.id)

    rows = await in_database(lambda: {row.pk: row.expires_at for row in StoredResponse.objects.all()})
    assert rows[first.id] == rows[second.id] > soon


async def test_it_goes_with_its_token(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await post(api, cast.bob.plain)
    await in_database(cast.bob.token.delete)
    await in_database(forget_expired)

    assert await in_database(StoredResponse.objects.count) == 0


class TestWithLittleRoom:
    @pytest.fixture
    def config(self, config: Config) -> Config:
        room = config.responses.model_copy(update={"max_mb": 0.002, "token_mb": 0.0025})
        return config.model_copy(update={"responses": room})

    async def test_a_long_request_is_answered_and_not_kept(self, api: Api, cast: Cast, demo: DemoPoe) -> None:
        answer = await post(api, cast.bob.plain, input="word " * 500)

        assert answer.headers["x-poe-relay-ignored"] == "store"
        assert answer.json()["store"] is False
        assert await in_database(StoredResponse.objects.count) == 0

    async def test_the_oldest_answers_of_a_token_go_first(self, api: Api, cast: Cast, demo: DemoPoe) -> None:
        others = (await post(api, cast.charlie.plain)).json()["id"]
        ids = [(await post(api, cast.bob.plain, input=str(n))).json()["id"] for n in range(6)]

        left = await in_database(lambda: set(StoredResponse.objects.values_list("pk", flat=True)))
        assert others in left and ids[-1] in left and ids[0] not in left


class TestWhereNothingIsKept:
    @pytest.fixture
    def config(self, config: Config) -> Config:
        return config.model_copy(update={"responses": config.responses.model_copy(update={"keep_hours": 0})})

    async def test_it_answers_and_says_so(self, api: Api, cast: Cast, demo: DemoPoe) -> None:
        answer = await post(api, cast.bob.plain)

        assert answer.headers["x-poe-relay-ignored"] == "store"
        again = await post(api, cast.bob.plain, previous_response_id=answer.json()["id"])
        assert again.json()["error"]["code"] == "previous_response_not_found"


async def test_only_what_runs_in_the_background_is_cancelled(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.openai(cast.bob.plain)
    response = await client.responses.create(model="demo-echo", input="one")

    with pytest.raises(openai.BadRequestError, match="background"):
        await client.responses.cancel(response.id)
    with pytest.raises(openai.BadRequestError, match="streamed again"):
        await client.responses.retrieve(response.id, stream=True)


async def test_what_the_relay_has_not_is_no_route(api: Api, cast: Cast, demo: DemoPoe) -> None:
    for path in ("compact", "input_tokens"):
        answer = await api.http.post(f"/v1/responses/{path}", json={}, headers=bearer(cast.bob.plain))
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_route")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_bot_is_a_true_status(api: Api, cast: Cast, demo: DemoPoe, stream: bool) -> None:
    answer = await post(api, cast.bob.plain, model="demo-faulty", input="too-long", stream=stream)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_stream_that_breaks_ends_with_failed(api: Api, cast: Cast, demo: DemoPoe) -> None:
    client = api.openai(cast.bob.plain)
    stream = await client.responses.create(model="demo-faulty", input="reset-after-text", stream=True)
    events = [event async for event in stream]

    last = events[-1]
    assert last.type == "response.failed" and last.response.error is not None
    assert last.response.error.code == "server_error"
    assert await in_database(StoredResponse.objects.count) == 0


async def test_an_answer_that_is_cut_is_incomplete(api: Api, cast: Cast, demo: DemoPoe) -> None:
    response = await api.openai(cast.bob.plain).responses.create(
        model="demo-echo", input="one two three four five", max_output_tokens=3
    )

    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_an_image_and_a_file_reach_the_bot(api: Api, cast: Cast, demo: DemoPoe) -> None:
    pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    content: Any = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": pixel, "detail": "auto"},
        {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGVsbG8="},
    ]
    response = await api.openai(cast.bob.plain).responses.create(
        model="demo-echo", input=[{"role": "user", "content": content}]
    )

    assert "image.png (image/png)" in response.output_text and "a.txt" in response.output_text


async def test_codex_is_answered(api: Api, cast: Cast, demo: DemoPoe) -> None:
    """What Codex sends to a provider of its configuration: everything each time, nothing to keep, tools of all kinds."""
    answer = await post(
        api,
        cast.bob.plain,
        model="demo-tools",
        instructions="You are a coding agent.",
        input=[
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "<permissions>"}],
            },
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List files"}]},
        ],
        tools=[
            {**TOOL, "name": "exec_command"},
            {"type": "web_search", "external_web_access": False},
            {"type": "namespace", "name": "multi_agent", "description": "x", "tools": [TOOL]},
        ],
        tool_choice="auto",
        parallel_tool_calls=True,
        reasoning=None,
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="0199",
        client_metadata={"x-codex-installation-id": "1"},
    )

    assert answer.status_code == 200
    assert answer.headers["x-poe-relay-ignored"] == "tools.web_search"
    last = json.loads(answer.text.split("data: ")[-1])
    assert last["type"] == "response.completed"
    assert last["response"]["output"][0]["name"] == "exec_command"


async def test_a_format_is_parsed_by_the_sdk(api: Api, cast: Cast, demo: DemoPoe) -> None:
    class Person(BaseModel):
        name: str

    response = await api.openai(cast.bob.plain).responses.parse(
        model="demo-echo", input='{"name": "Ada"}', text_format=Person
    )

    assert response.output_parsed == Person(name="Ada")


async def test_bad_input_is_openais_error(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await post(api, cast.bob.plain, tools=[{"type": "custom", "name": "apply_patch"}])

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["param"] == "tools[0].type"


async def test_it_is_known_without_v1_too(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await api.http.post(
        "/responses", json={"model": "demo-echo", "input": "Hi"}, headers=bearer(cast.bob.plain)
    )
    assert answer.json()["output"][0]["content"][0]["text"] == "Hi"
