"""Anthropic's Messages as a hostile client sends them, and as its official SDK reads the answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from anthropic.types import Message as SDKMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay import errors
from relay.errors import BadRequest, RelayError
from relay.events import (
    Attachment,
    ChatRequest,
    Event,
    FilePart,
    Finish,
    Message,
    Reasoning,
    Replace,
    ResponseFormat,
    Text,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
)
from relay.wire import anthropic_messages
from relay.wire.anthropic_messages import Encoder
from tests.specifications import ANTHROPIC, differences

USER = {"role": "user", "content": "Hi"}
TOOL = {"name": "f", "input_schema": {"type": "object", "properties": {}, "$defs": {"a": {}}}}
OWN = {"type": "function", "function": {"name": "f", "parameters": TOOL["input_schema"]}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
PIXEL = base64.b64encode(b"\x89PNG").decode()
SPENT = Usage(prompt_tokens=7, completion_tokens=5, reasoning_tokens=2)
fuzzing = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def raw(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": [USER], **fields}).encode()


def parse(**fields: Any) -> ChatRequest:
    return anthropic_messages.parse(raw(**fields)).chat


def said(*blocks: Any, role: str = "user") -> tuple[Message, ...]:
    return parse(messages=[{"role": role, "content": list(blocks)}]).messages


# What a client asks for.


def test_it_reads_the_least_that_can_be_asked() -> None:
    assert parse() == ChatRequest(
        model="m", messages=(Message("user", (TextPart("Hi"),)),), max_tokens=9, include_usage=True
    )


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ({"model": " claude-opus-5[1m] "}, "model", "claude-opus-5"),
        ({"model": "o[x]"}, "model", "o[x]"),
        ({"stream": True}, "stream", True),
        ({"temperature": 1}, "temperature", 1.0),
        ({"stop_sequences": ["a", "", "b"]}, "stop", ("a", "b")),
        ({"top_k": 5, "top_p": 0.5}, "rare", {"top_k": 5, "top_p": 0.5}),
        ({"top_k": 5, "context_management": {"edits": []}}, "ignored", ("context_management", "top_k")),
        ({"metadata": {"user_id": "x"}, "cache_control": {"type": "ephemeral"}}, "ignored", ()),
        ({"made_up": 5, "top_k": None}, "parameters", {"made_up": 5}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "parameters", {"reasoning_effort": "low"}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 10_000}},
            "parameters",
            {"reasoning_effort": "medium"},
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 31_999}},
            "parameters",
            {"reasoning_effort": "high"},
        ),
        ({"thinking": {"type": "adaptive"}}, "parameters", {}),
        ({"thinking": {"type": "disabled", "budget_tokens": 1024}}, "parameters", {}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "xhigh"}},
            "parameters",
            {"reasoning_effort": "xhigh"},
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            "response_format",
            ResponseFormat({"type": "object"}, strict=True),
        ),
        ({"tools": [TOOL]}, "tools", (OWN,)),
        (
            {
                "tools": [
                    {**TOOL, "type": "custom", "description": "d", "strict": True, "defer_loading": True}
                ]
            },
            "tools",
            ({"type": "function", "function": {**OWN["function"], "description": "d", "strict": True}},),  # type: ignore[dict-item]
        ),
        ({"tools": [{"name": "f"}]}, "tools", ({"type": "function", "function": {"name": "f"}},)),
        ({"tools": [TOOL, SEARCH]}, "tools", (OWN,)),
        ({"tools": [TOOL, SEARCH]}, "ignored", ("web_search_20250305",)),
        ({"tools": [{"type": "x\r\ny: z", "name": "x"}]}, "ignored", ("tools",)),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, "tools", ()),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice", ToolChoice("required")),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}},
            "tool_choice",
            ToolChoice("named", "f"),
        ),
        ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice", ToolChoice()),
        (
            {"tools": [TOOL, SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}},
            "tool_choice",
            ToolChoice(),
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            "parallel_tool_calls",
            False,
        ),
    ],
)
def test_it_reads(fields: dict[str, Any], attribute: str, value: Any) -> None:
    assert getattr(parse(**fields), attribute) == value


@pytest.mark.parametrize(
    ("thinking", "shows"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "adaptive"}, True),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, False),
        ({"type": "something new"}, True),
    ],
)
def test_thoughts_are_for_who_asks(thinking: Any, shows: bool) -> None:
    assert anthropic_messages.parse(raw(thinking=thinking)).shows_thinking is shows


def test_tokens_are_counted_without_a_length() -> None:
    body = json.dumps({"model": "m", "messages": [USER]}).encode()

    assert anthropic_messages.parse_count(body).max_tokens is None


TEXT = {"type": "text", "text": "What is it?", "cache_control": {"type": "ephemeral"}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1, "é"]}}


def source(**fields: Any) -> dict[str, Any]:
    return {"source": fields}


@pytest.mark.parametrize(
    ("blocks", "parts"),
    [
        ([TEXT], [TextPart("What is it?")]),
        ([TEXT, {"type": "text", "text": ""}, TEXT], [TextPart("What is it?"), TextPart("\n\nWhat is it?")]),
        ([{"type": "text", "text": "a\n"}, {"type": "text", "text": "b"}], [TextPart("a\n"), TextPart("b")]),
        (
            [{"type": "image", **source(type="base64", media_type="image/png", data=PIXEL)}],
            [FilePart("image.png", "image/png", data=b"\x89PNG")],
        ),
        (
            [{"type": "image", **source(type="url", url="https://x.example/cat.jpg")}],
            [FilePart("cat.jpg", "image/jpeg", url="https://x.example/cat.jpg")],
        ),
        (
            [
                {
                    "type": "document",
                    "title": "Report",
                    **source(type="base64", media_type="application/pdf", data=PIXEL),
                }
            ],
            [FilePart("Report", "application/pdf", data=b"\x89PNG")],
        ),
        (
            [{"type": "document", "context": "Of 2026", **source(type="url", url="https://x.example/a.pdf")}],
            [TextPart("Of 2026"), FilePart("a.pdf", "application/pdf", url="https://x.example/a.pdf")],
        ),
        (
            [{"type": "document", "title": "T", **source(type="text", media_type="text/plain", data="Ahoy")}],
            [TextPart("T"), TextPart("\n\nAhoy")],
        ),
        ([{"type": "document", **source(type="content", content="Ahoy")}], [TextPart("Ahoy")]),
        ([{"type": "document", **source(type="content", content=[TEXT])}], [TextPart("What is it?")]),
        (
            [{"type": "search_result", "source": "https://x", "title": "T", "content": [TEXT]}],
            [TextPart("T\nhttps://x"), TextPart("\n\nWhat is it?")],
        ),
    ],
)
def test_blocks_become_parts(blocks: list[Any], parts: list[Any]) -> None:
    assert said(*blocks) == (Message("user", tuple(parts)),)


def test_a_conversation_with_tools_keeps_its_order() -> None:
    picture = {"type": "image", **source(type="base64", media_type="image/png", data=PIXEL)}
    found = parse(
        system=[{"type": "text", "text": "x-anthropic-billing-header: cc_version=2;"}, TEXT],
        messages=[
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                    TEXT,
                    USE,
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": [TEXT, picture, TEXT]},
                    {"type": "tool_result", "tool_use_id": "other", "content": "No", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "none"},
                    {"type": "text", "text": "Go on"},
                ],
            },
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "x"}]},
        ],
    ).messages

    assert found == (
        Message("system", (TextPart("What is it?"),)),
        Message("user", (TextPart("Hi"),)),
        Message("assistant", (TextPart("What is it?"), ToolCallPart("toolu_1", "f", '{"a":[1,"é"]}'))),
        Message("tool", (ToolResultPart("toolu_1", "f", "What is it?\nWhat is it?"),)),
        Message("tool", (ToolResultPart("other", "tool", "Error: No"),)),
        Message("tool", (ToolResultPart("none", "tool", ""),)),
        Message("user", (FilePart("image.png", "image/png", data=b"\x89PNG"), TextPart("Go on"))),
    )


@pytest.mark.parametrize(
    ("roles", "order"),
    [
        ("us", "su"),
        ("uauss", "uassu"),
        ("suau", "suau"),
        ("as", "as"),
        ("usu", "usu"),
        ("uas", "sua"),
    ],
)
def test_a_bot_is_asked_last_what_the_user_said_last(roles: str, order: str) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}

    found = parse(messages=[{"role": names[role], "content": "x"} for role in roles])

    assert "".join(message.role[0] for message in found.messages) == order


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_type"),
        ({"max_tokens": None}, "max_tokens", "invalid_type"),
        ({"model": " [1m]"}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [USER] * 2001}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "assistant", "content": []}]}, "messages", "invalid_value"),
        ({"temperature": 1.5}, "temperature", "invalid_value"),
        ({"system": 5}, "system", "invalid_type"),
        ({"tools": [{"description": "x"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "invalid_value"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}},
            "tool_choice.name",
            "invalid_value",
        ),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type", "invalid_type"),
        (
            {"output_config": {"format": {"type": "x", "schema": {}}}},
            "output_config.format.type",
            "invalid_type",
        ),
    ],
)
def test_it_refuses(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(**fields)

    assert (refused.value.param, refused.value.code) == (param, code)


@pytest.mark.parametrize(
    ("block", "param", "code"),
    [
        ({"type": "hologram"}, "messages[0].content[0].type", "unsupported_content"),
        ({"type": None}, "messages[0].content[0].type", "unsupported_content"),
        ({"type": []}, "messages[0].content[0].type", "unsupported_content"),
        ({"type": "text"}, "messages[0].content[0].text", "missing_required_parameter"),
        ({"type": "text", "text": 5}, "messages[0].content[0].text", "invalid_type"),
        ({"type": "image"}, "messages[0].content[0].source", "missing_required_parameter"),
        (
            {"type": "image", **source(type="base64", data=PIXEL)},
            "messages[0].content[0].source.media_type",
            "missing_required_parameter",
        ),
        (
            {"type": "image", **source(type="base64", media_type="image/png", data="?")},
            "messages[0].content[0].source.data",
            "invalid_data_url",
        ),
        (
            {"type": "image", **source(type="url", url="file:///etc/passwd")},
            "messages[0].content[0].source.url",
            "invalid_url",
        ),
        (
            {"type": "image", **source(type="file", file_id="f")},
            "messages[0].content[0].source.file_id",
            "invalid_file_id",
        ),
        (
            {"type": "image", **source(type="hologram")},
            "messages[0].content[0].source.type",
            "unsupported_content",
        ),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text"}]},
            "messages[0].content[0].content[0].text",
            "missing_required_parameter",
        ),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": []},
            "messages[0].content[0].input",
            "invalid_type",
        ),
    ],
)
def test_it_refuses_a_block(block: Any, param: str, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        said(block)

    assert (refused.value.param, refused.value.code) == (param, code)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(
    ["text", "image", "document", "search_result", "tool_use", "tool_result", "thinking", "x"]
)
BLOCKS = st.fixed_dictionaries(
    {"type": KINDS},
    optional=dict.fromkeys(
        ("text", "source", "content", "title", "id", "name", "input", "tool_use_id"), JSON
    ),
)


@fuzzing
@given(
    st.lists(BLOCKS | JSON, max_size=3) | JSON,
    st.dictionaries(
        st.sampled_from(
            [
                "system",
                "tools",
                "tool_choice",
                "thinking",
                "output_config",
                "stop_sequences",
                "temperature",
                "model",
            ]
        ),
        JSON,
    ),
)
def test_whatever_is_sent_is_read_or_refused(content: Any, fields: dict[str, Any]) -> None:
    try:
        asked = parse(messages=[{"role": "user", "content": content}], **fields)
    except BadRequest as exc:
        assert exc.message
    else:
        assert asked.messages


# How it is answered.


def streamed(*batches: list[Event], **fields: Any) -> bytes:
    encoder = Encoder(model="m", prompt_tokens=7, request_id="req_1", **{"shows_thinking": True, **fields})
    return encoder.start() + b"".join(map(encoder.encode_all, batches)) + encoder.end(SPENT)


def encoded(*batches: list[Event], **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    return events_of(streamed(*batches, **fields))


def events_of(stream: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Each event's name, and its body, which says the same name."""
    found = []
    for event in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert body["type"] == name.removeprefix("event: ")
        if body["type"] != "ping":
            assert not differences(body, ((ANTHROPIC, "MessageStreamEvent"),))
        found.append((body["type"], body))
    return found


def accumulated(stream: bytes) -> SDKMessage:
    """As the official SDK puts it together."""
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    transport = httpx2.MockTransport(lambda request: response)
    with Anthropic(api_key="x", http_client=httpx2.Client(transport=transport)) as client:
        asked: Any = {"model": "m", "max_tokens": 9, "messages": [USER]}
        with client.messages.stream(**asked) as found:
            return found.get_final_message()


def collected(events: list[Event], **fields: Any) -> dict[str, Any]:
    body = anthropic_messages.collect(events, model="m", counted=SPENT, **{"shows_thinking": True, **fields})
    assert not differences(json.loads(json.dumps(body)), ((ANTHROPIC, "Message"),))
    return body


def test_a_text_block_has_citations_that_are_not_null() -> None:
    """The published schema requires the field, and the AI SDK reads a list."""
    assert collected([Text("a"), Finish("stop")])["content"] == [
        {"type": "text", "text": "a", "citations": []}
    ]


def call(index: int, name: str, *pieces: str) -> list[Event]:
    return [ToolCall(index, f"call_{index}", name), *(ToolCall(index, arguments=piece) for piece in pieces)]


PICTURE = Attachment("https://x.example/a.png", "a.png", "image/png")
ANSWERS: list[tuple[list[Event], list[dict[str, Any]], str]] = [
    ([Finish("stop")], [], "end_turn"),
    ([Text("a"), Text("b"), Finish("length")], [{"type": "text", "text": "ab"}], "max_tokens"),
    ([Text("a"), Finish("content_filter")], [{"type": "text", "text": "a"}], "refusal"),
    ([Text("a"), Finish("stop", "END")], [{"type": "text", "text": "a"}], "stop_sequence"),
    (
        [Reasoning("h"), Reasoning("m"), Text("a"), Reasoning("x"), Finish("stop")],
        [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "a"},
            {"type": "thinking", "thinking": "x", "signature": ""},
        ],
        "end_turn",
    ),
    (
        [Text("a"), *call(0, "f", '{"x"', ":1}"), *call(1, "g"), Finish("stop")],
        [
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "call_0", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "call_1", "name": "g", "input": {}},
        ],
        "tool_use",
    ),
    (
        # Pieces of two calls between each other, and text before they are whole.
        [
            *call(0, "f", '{"x"'),
            *call(1, "g", '{"y"'),
            ToolCall(0, arguments=":1}"),
            Text("a"),
            ToolCall(1, arguments=":2}"),
            Finish("tool_calls"),
        ],
        [
            {"type": "tool_use", "id": "call_0", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "call_1", "name": "g", "input": {"y": 2}},
            {"type": "text", "text": "a"},
        ],
        "tool_use",
    ),
    ([Text("a"), Finish("tool_calls")], [{"type": "text", "text": "a"}], "end_turn"),
    (
        [Text("a"), PICTURE, Attachment("u", "n", "image/png", "ref"), Replace("x"), Finish("stop")],
        [{"type": "text", "text": "a\n\n![a.png](https://x.example/a.png)"}],
        "end_turn",
    ),
    ([PICTURE, Finish("stop")], [{"type": "text", "text": "![a.png](https://x.example/a.png)"}], "end_turn"),
]


@pytest.mark.parametrize(("events", "blocks", "reason"), ANSWERS)
def test_it_answers_as_a_whole_and_streamed(
    events: list[Event], blocks: list[dict[str, Any]], reason: str
) -> None:
    whole = SDKMessage.model_validate(collected(events))
    one_by_one = accumulated(streamed(*[[event] for event in events]))
    at_once = accumulated(streamed(events))

    for found in (whole, one_by_one, at_once):
        told = [block.model_dump(exclude_none=True, exclude={"caller"}) for block in found.content]
        assert [
            {name: block[name] for name in wanted} for block, wanted in zip(told, blocks, strict=True)
        ] == blocks
        assert found.stop_reason == reason
        assert found.stop_sequence == ("END" if reason == "stop_sequence" else None)
        assert (found.stop_details is not None) == (reason == "refusal")
        assert (found.usage.input_tokens, found.usage.output_tokens) == (7, 5)
        assert found.id.startswith("msg_")


def test_a_stream_is_made_of_these_events() -> None:
    found = encoded(
        [Reasoning("h")], [Text("a"), Text("b")], [Text("é")], call(0, "f", "{}"), [Finish("stop")]
    )

    assert [name for name, _body in found] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [body["index"] for _name, body in found if "index" in body] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert [body["delta"]["type"] for name, body in found if name == "content_block_delta"] == [
        "thinking_delta",
        "signature_delta",
        *["text_delta"] * 3,
        "input_json_delta",
    ]
    assert found[-2][1]["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


def test_a_call_is_closed_before_the_next_one_begins() -> None:
    found = encoded(call(0, "f", "{", "}"), call(1, "g", "{}"), [Finish("tool_calls")])

    assert [
        (body["index"], name.removeprefix("content_block_")) for name, body in found if "index" in body
    ] == [
        *[(0, "start"), (0, "delta"), (0, "delta"), (0, "stop")],
        *[(1, "start"), (1, "delta"), (1, "stop")],
    ]


def test_unseen_thoughts_are_pings() -> None:
    encoder = Encoder(model="m", prompt_tokens=7)

    assert encoder.encode_all([Reasoning("a"), Reasoning("b")]) == anthropic_messages.PING
    assert encoder.encode_all([Finish("stop")]) == b""
    assert collected([Reasoning("a"), Finish("stop")], shows_thinking=False)["content"] == []


def test_what_cannot_be_read_of_a_call_is_told() -> None:
    for said in ("{oops", "[1]", "5"):
        found = collected([*call(0, "f", said), Finish("length")])
        assert found["content"][0]["input"] == {"INVALID_JSON": said}


def test_a_call_has_an_id_and_a_name_that_anthropics_clients_take() -> None:
    events: list[Event] = [ToolCall(0, "a:b/ü", "f"), ToolCall(1), Finish("tool_calls")]

    first, second = collected(events)["content"]

    assert first["id"] == "a_b__" and second["id"].startswith("toolu_") and second["name"] == "tool"


@fuzzing
@given(
    st.lists(
        st.lists(
            st.one_of(
                st.builds(Text, st.text(max_size=5)),
                st.builds(Reasoning, st.text(max_size=5)),
                st.builds(
                    ToolCall, st.integers(0, 2), st.just("c"), st.just("f"), st.text('{}":1', max_size=4)
                ),
            ),
            min_size=1,
            max_size=4,
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_streamed_and_whole_say_the_same(batches: list[list[Event]], shows: bool) -> None:
    events = [event for batch in batches for event in batch]

    stream = encoded(*batches, shows_thinking=shows)
    whole = collected(events, shows_thinking=shows)

    def texts(kind: str) -> str:
        return "".join(body["delta"][kind] for _name, body in stream if kind in body.get("delta", {}))

    for kind in ("text", "thinking"):
        assert texts(kind) == "".join(block.get(kind, "") for block in whole["content"])
    started = [body["index"] for name, body in stream if name == "content_block_start"]
    stopped = [body["index"] for name, body in stream if name == "content_block_stop"]
    assert started == list(range(len(started))) == sorted(stopped)


# Errors.


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (errors.BadRequest("x"), "invalid_request_error"),
        (errors.HeadersTooLarge("x"), "invalid_request_error"),
        (errors.TooSlow("x"), "timeout_error"),
        (errors.Unauthenticated("x"), "authentication_error"),
        (errors.Forbidden("x"), "permission_error"),
        (errors.UnknownModel("x"), "not_found_error"),
        (errors.PayloadTooLarge("x"), "request_too_large"),
        (errors.RateLimited("x"), "rate_limit_error"),
        (errors.BudgetExceeded("x"), "rate_limit_error"),
        (errors.RelayError("x"), "api_error"),
        (errors.Unavailable("x"), "overloaded_error"),
        (errors.UpstreamBroken("x"), "api_error"),
        (errors.UpstreamTimeout("x"), "timeout_error"),
    ],
)
def test_errors_have_anthropics_types(exc: RelayError, kind: str) -> None:
    told = {"type": kind, "message": "x", "details": {"error_code": exc.code}}

    assert anthropic_messages.error(exc, "req_1") == {"type": "error", "error": told, "request_id": "req_1"}
    assert anthropic_messages.error(exc)["request_id"] is None


def test_a_stream_that_fails_says_so_and_closes_nothing() -> None:
    encoder = Encoder(model="m", prompt_tokens=7, request_id="req_1")
    encoder.encode_all(call(0, "f", '{"rm'))

    found = encoder.fail(errors.UpstreamBroken("It broke."))

    assert found.startswith(b"event: error\ndata: ") and found.endswith(b"\n\n")
    body = json.loads(found.split(b"data: ")[1])
    assert body["error"]["type"] == "api_error" and body["request_id"] == "req_1"
