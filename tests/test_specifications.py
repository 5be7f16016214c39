"""The witness itself: what it takes for a published answer, and what it notes."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.specifications import OPENAI, Witness, differences, without_nullable

CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": None, "finish_reason": None}],
}


def seen(path: str, body: Any, *, status: int = 200, method: str = "POST") -> list[str]:
    """What a witness notes of this answer."""
    witness = Witness()
    events = isinstance(body, bytes)

    def answer(request: httpx2.Request) -> httpx2.Response:
        if events:
            parts = iter([body[:50], body[50:]])
            return httpx2.Response(status, content=parts, headers={"content-type": "text/event-stream"})
        return httpx2.Response(status, json=body)

    with httpx2.Client(
        transport=httpx2.MockTransport(answer), event_hooks={"response": [witness.overhear]}
    ) as client:
        assert client.request(method, f"http://relay.test{path}").content
    return witness.problems


def test_a_published_error_passes_and_another_does_not() -> None:
    error = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}

    assert seen("/v1/chat/completions", {"error": error}, status=400) == []
    assert seen("/v1/chat/completions", {"detail": "No."}, status=400) != []
    assert seen("/v1/messages", {"error": error}, status=400) != []


def test_every_event_of_a_stream_is_judged() -> None:
    good = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
    bad = b"data: " + json.dumps({**CHUNK, "object": "lump"}).encode() + b"\n\n"

    assert seen("/v1/chat/completions", b": still here\n\n" + good * 3 + b"data: [DONE]\n\n") == []
    assert len(seen("/v1/chat/completions", good + bad + good + bad)) == 2


def test_an_event_of_responses_is_known_by_its_type() -> None:
    delta = {
        "type": "response.output_text.delta",
        "sequence_number": 3,
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "x",
        "logprobs": [],
    }
    event = b"event: response.output_text.delta\ndata: %b\n\n"

    assert seen("/v1/responses", event % json.dumps(delta).encode()) == []
    assert seen("/v1/responses", event % json.dumps({**delta, "item_id": 1}).encode()) != []
    assert seen("/v1/responses", event % json.dumps({**delta, "type": "response.murmur"}).encode()) != []


def test_a_route_that_the_table_lacks_is_noted() -> None:
    assert seen("/v1/horoscopes", {"ok": True}) != []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/v1//v1/chat/completions"])
def test_the_route_is_found_by_every_address(path: str) -> None:
    assert any("CreateChatCompletionResponse" in problem for problem in seen(path, {"id": "c"}))


def test_nullable_becomes_json_schema() -> None:
    assert without_nullable({"type": "string", "nullable": True}) == {
        "anyOf": [{"type": "string"}, {"type": "null"}]
    }
    property_of_that_name = {"properties": {"nullable": {"type": "boolean"}}}
    assert without_nullable(property_of_that_name) == property_of_that_name


def test_null_is_taken_where_the_document_says_nullable() -> None:
    body: dict[str, Any] = {**CHUNK, "choices": []}

    assert differences({**body, "usage": None}, ((OPENAI, "CreateChatCompletionStreamResponse"),)) == []
    assert differences({**body, "model": None}, ((OPENAI, "CreateChatCompletionStreamResponse"),)) != []
