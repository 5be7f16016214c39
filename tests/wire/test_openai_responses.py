"""OpenAI's responses as tables: bodies and what is understood, events and what is sent."""

from __future__ import annotations

import json
from typing import Any

import openai.types.responses as official
import pytest
from pydantic import TypeAdapter

from relay.errors import BadRequest, BudgetExceeded, RateLimited, RelayError, UpstreamBroken, UserError
from relay.events import (
    Attachment,
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
from relay.wire.openai_responses import Asked, continued, parse, without_store
from relay.wire.responses_answer import Encoder, collect
from relay.wire.responses_items import as_kept, item_id, response_of

COUNTED = Usage(prompt_tokens=7, completion_tokens=5, reasoning_tokens=2)
PIXEL = "data:image/png;base64,iVBORw0KGgo="
EVENTS: TypeAdapter[official.ResponseStreamEvent] = TypeAdapter(official.ResponseStreamEvent)
FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}


def asked(input: Any = "Hello", **body: Any) -> Asked:
    return parse(json.dumps({"model": "m", "input": input, **body}).encode())


def messages(input: Any, **body: Any) -> tuple[Message, ...]:
    return asked(input, **body).chat.messages


def user(text: str) -> Message:
    return Message("user", (TextPart(text),))


def call(id: str, name: str = "look", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}


def result(id: str, output: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": output}


# Input.


@pytest.mark.parametrize(
    ("input", "understood"),
    [
        ("Hello", [user("Hello")]),
        ([{"role": "user", "content": "Hello"}], [user("Hello")]),
        ([{"type": "message", "role": "developer", "content": "x"}], [Message("system", (TextPart("x"),))]),
        (
            [{"role": "assistant", "phase": "commentary", "content": [{"type": "output_text", "text": "a"}]}],
            [Message("assistant", (TextPart("a"),))],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [Message("assistant", (TextPart("No."),))],
        ),
        ([{"role": "user", "content": "a"}, {"type": "web_search_call", "id": "ws_1"}], [user("a")]),
        (
            [
                {"role": "user", "content": "a"},
                {"type": "reasoning", "summary": [], "encrypted_content": "x"},
            ],
            [user("a")],
        ),
        (
            [{"role": "assistant", "content": "Let me see."}, call("c1"), call("c2", "find")],
            [
                Message(
                    "assistant",
                    (
                        TextPart("Let me see."),
                        ToolCallPart("c1", "look", "{}"),
                        ToolCallPart("c2", "find", "{}"),
                    ),
                )
            ],
        ),
        (
            [call("c1"), result("c1", "sunny")],
            [
                Message("assistant", (ToolCallPart("c1", "look", "{}"),)),
                Message("tool", (ToolResultPart("c1", "look", "sunny"),)),
            ],
        ),
        ([result("c9", "sunny")], [Message("tool", (ToolResultPart("c9", "tool", "sunny"),))]),
        (
            [{**call("c1", "go"), "namespace": "mcp__node"}],
            [Message("assistant", (ToolCallPart("c1", "mcp__node__go", "{}"),))],
        ),
    ],
)
def test_items_become_messages(input: Any, understood: list[Message]) -> None:
    assert list(messages(input)) == understood


def test_files_come_in_every_way_that_openai_has() -> None:
    content = [
        {"type": "input_text", "text": "Compare"},
        {"type": "input_image", "detail": "auto", "image_url": PIXEL},
        {"type": "input_image", "image_url": "https://example.org/cat.jpg"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        {"type": "input_file", "filename": "b.pdf", "file_data": "JVBERi0="},
        {"type": "input_file", "file_url": "https://example.org/c.pdf"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ]
    parts = messages([{"role": "user", "content": content}])[0].parts

    assert [(p.name, p.content_type, p.url, p.data) for p in parts if isinstance(p, FilePart)] == [
        ("image.png", "image/png", None, b"\x89PNG\r\n\x1a\n"),
        ("cat.jpg", "image/jpeg", "https://example.org/cat.jpg", None),
        ("a.pdf", "application/pdf", None, b"%PDF-"),
        ("b.pdf", "application/pdf", None, b"%PDF-"),
        ("c.pdf", "application/pdf", "https://example.org/c.pdf", None),
        ("audio.wav", "audio/wav", None, b"RIFF"),
    ]


def test_a_picture_that_a_tool_gave_follows_all_results() -> None:
    shown = [{"type": "input_text", "text": "Here."}, {"type": "input_image", "image_url": PIXEL}]
    said = messages(
        [call("c1"), call("c2"), result("c1", shown), result("c2", "b"), {"role": "user", "content": "?"}]
    )

    assert [message.role for message in said] == ["assistant", "tool", "tool", "user", "user"]
    assert said[1].parts == (ToolResultPart("c1", "look", "Here."),)
    assert isinstance(said[3].parts[0], FilePart) and said[4] == user("?")


def test_what_went_before_comes_between_instructions_and_input() -> None:
    now = continued(
        asked([result("c1", "sunny")], instructions="Be brief.", previous_response_id="resp_1"),
        [{"role": "user", "content": "Weather?"}, {"id": "fc_1", "status": "completed", **call("c1")}],
        {},
    )

    assert now.chat.messages == (
        Message("system", (TextPart("Be brief."),)),
        user("Weather?"),
        Message("assistant", (ToolCallPart("c1", "look", "{}"),)),
        Message("tool", (ToolResultPart("c1", "look", "sunny"),)),
    )


def test_a_named_item_stands_for_what_is_kept() -> None:
    kept = {"id": "msg_1", "type": "message", "role": "assistant", "content": "Hi."}
    named = asked(
        [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}, {"role": "user", "content": "?"}]
    )
    now = continued(named, [], {"msg_1": kept})

    assert named.references == ("msg_1", "msg_1")
    assert [message.text for message in now.chat.messages] == ["Hi.", "Hi.", "?"]
    assert now.written[:2] == (kept, kept)
    with pytest.raises(BadRequest, match=r"'msg_1' not found") as refused:
        continued(named, [], {})
    assert refused.value.param == "input[0].id"


# Parameters.


def test_parameters_go_where_the_bot_is_told_them() -> None:
    chat = asked(
        stream=True,
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "low"},
        parallel_tool_calls=False,
        include=["reasoning.encrypted_content"],
        truncation="auto",
        aspect="16:9",
        extra_body={"style": "oil"},
        client_metadata={"x": "y"},
        user="u",
        metadata={"a": "b"},
    ).chat

    assert (chat.stream, chat.max_tokens, chat.temperature) == (True, 9, 0.5)
    assert chat.parameters == {"reasoning_effort": "low", "aspect": "16:9", "style": "oil"}
    assert chat.rare == {"top_p": 0.9, "verbosity": "low"}
    assert chat.ignored == ("top_p", "truncation", "verbosity")
    assert not chat.parallel_tool_calls


@pytest.mark.parametrize(
    ("format", "understood", "told"),
    [
        ({"type": "text"}, None, {"type": "text"}),
        ({"type": "json_object"}, ResponseFormat(), {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            ResponseFormat({"type": "object"}, "n", True),
            {
                "type": "json_schema",
                "name": "n",
                "schema": {"type": "object"},
                "strict": True,
                "description": None,
            },
        ),
    ],
)
def test_text_formats(format: Any, understood: ResponseFormat | None, told: Any) -> None:
    request = asked(text={"format": format})

    assert request.chat.response_format == understood
    assert request.told["text"] == {"format": told, "verbosity": "medium"}


def test_functions_keep_all_that_the_client_wrote() -> None:
    chat = asked(tools=[FUNCTION]).chat

    assert chat.tools == (
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}},
    )
    assert chat.ignored == ()


def test_tools_that_openai_runs_are_left_out_and_told() -> None:
    """Codex and LobeChat declare them whatever the model is."""
    request = asked(
        tools=[{"type": "web_search", "external_web_access": False}, {"type": "local_shell"}, FUNCTION]
    )

    assert [tool["function"]["name"] for tool in request.chat.tools] == ["look"]
    assert request.chat.ignored == ("tools.local_shell", "tools.web_search")
    assert [tool["type"] for tool in request.told["tools"]] == ["function"]


def test_a_group_of_functions_is_taken_apart_and_put_together_again() -> None:
    group = {
        "type": "namespace",
        "name": "mcp__node",
        "description": "Node",
        "tools": [{**FUNCTION, "name": "js"}],
    }
    request = asked(tools=[group])

    assert [tool["function"]["name"] for tool in request.chat.tools] == ["mcp__node__js"]
    output = whole([ToolCall(0, "c1", "mcp__node__js", "{}")], request)["output"]
    assert (output[0]["name"], output[0]["namespace"]) == ("js", "mcp__node")


@pytest.mark.parametrize(
    ("choice", "understood", "offered"),
    [
        (None, ToolChoice(), ["look", "find"]),
        ("auto", ToolChoice("auto"), ["look", "find"]),
        ("required", ToolChoice("required"), ["look", "find"]),
        ("none", ToolChoice("none"), []),
        ({"type": "function", "name": "find"}, ToolChoice("named", "find"), ["look", "find"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "find"}]},
            ToolChoice("required"),
            ["find"],
        ),
    ],
)
def test_tool_choice(choice: Any, understood: ToolChoice, offered: list[str]) -> None:
    chat = asked(tools=[FUNCTION, {**FUNCTION, "name": "find"}], tool_choice=choice).chat

    assert chat.tool_choice == understood
    assert [tool["function"]["name"] for tool in chat.tools] == offered


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": None}, "model", "invalid_type"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": [{"type": "reasoning"}]}, "input", "invalid_value"),
        ({"input": [{"type": "hologram"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"type": ["message"]}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"type": "custom_tool_call"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "invalid_type"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        (
            {"input": [{"role": "user", "content": [{"type": "x"}]}]},
            "input[0].content[0].type",
            "unsupported_content",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
            "missing_required_parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "file:///x"}]}]},
            "input[0].content[0].image_url",
            "invalid_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0].content[0].file_data",
            "missing_required_parameter",
        ),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
        ({"include": ["message.output_text.logprobs"]}, "top_logprobs", "unsupported_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            "missing_required_parameter",
        ),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_type"),
        ({"tools": [{"type": "custom", "name": "apply_patch"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [{"name": "look"}]}, "tools[0].type", "missing_required_parameter"),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "x"}]}]},
            "tools[0].tools[0].type",
            "unsupported_value",
        ),
        ({"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "name": "gone"}}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "invalid_value"),
    ],
)
def test_bad_bodies_name_the_parameter(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(**{"input": "x", **body})
    assert (refused.value.param, refused.value.code) == (param, code)


def test_a_conversation_has_a_bound() -> None:
    with pytest.raises(BadRequest, match="at most 2000"):
        continued(asked(), [{"role": "user", "content": "x"}] * 2000, {})


def test_what_is_not_kept_is_told() -> None:
    request = without_store(asked())

    assert not request.store and request.chat.ignored == ("store",)
    assert asked().store and not asked(store=False).store


def test_an_item_id_tells_its_response() -> None:
    response = f"resp_{'0a' * 16}"

    assert response_of(item_id(response, "message", "o", 3)) == response
    assert response_of(item_id(response, "function_call_output", "i", 0)) == response
    assert response_of("msg_somebody_elses") == ""


def test_what_is_kept_has_ids_and_lists() -> None:
    assert as_kept({"role": "user", "content": "x"}, "msg_1") == {
        "id": "msg_1",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_text", "text": "x"}],
    }
    assert as_kept(call("c1"), "fc_1") == {"id": "fc_1", **call("c1")}
    assert as_kept({"id": "mine", **call("c1")}, "fc_1")["id"] == "mine"


# Answers.


def whole(events: list[Event], request: Asked | None = None) -> dict[str, Any]:
    response = collect(events, Encoder(request or asked()), COUNTED)
    official.Response.model_validate(response)
    return response


def streamed(*batches: list[Event]) -> list[dict[str, Any]]:
    """The events of a stream, each as the official SDK takes it."""
    encoder = Encoder(asked())
    raw = encoder.start() + b"".join(encoder.encode_all(batch) for batch in batches) + encoder.end(COUNTED)
    return read(raw)


def read(raw: bytes) -> list[dict[str, Any]]:
    found = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        assert EVENTS.validate_python(body).type == body["type"]
        found.append(body)
    assert [body["sequence_number"] for body in found] == list(range(len(found)))
    return found


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_is_built_up_in_openais_order() -> None:
    events = streamed([Text("Good")], [Text(" mor"), Text("ning")], [Finish("stop")])

    assert names(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["delta"] for event in events if "delta" in event] == ["Good", " mor", "ning"]
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    item = events[-1]["response"]["output"][0]
    assert item == events[-2]["item"] and item["status"] == "completed"
    assert item["content"] == [
        {"type": "output_text", "text": "Good morning", "annotations": [], "logprobs": []}
    ]
    assert {event["item_id"] for event in events if "item_id" in event} == {item["id"]}


def test_thoughts_come_first_and_are_an_item_of_their_own() -> None:
    events = streamed([Reasoning("Hm"), Reasoning("m.")], [Text("Yes")], [Finish("stop")])

    assert names(events)[2:9] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    thought, said = events[-1]["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Hmm."}]
    assert said["content"][0]["text"] == "Yes"
    assert events[-3]["output_index"] == 1


def test_parallel_calls_are_built_up_side_by_side() -> None:
    events = streamed(
        [Text("Let me see."), ToolCall(0, "c1", "look", ""), ToolCall(1, "c2", "find", '{"a"')],
        [ToolCall(0, arguments='{"b":'), ToolCall(1, arguments=":1}"), ToolCall(0, arguments="2}")],
        [Finish("tool_calls")],
    )
    calls = [item for item in events[-1]["response"]["output"] if item["type"] == "function_call"]

    assert [(c["call_id"], c["name"], c["arguments"]) for c in calls] == [
        ("c1", "look", '{"b":2}'),
        ("c2", "find", '{"a":1}'),
    ]
    assert names(events).index("output_text.done") < names(events).index("function_call_arguments.delta")
    done = [event["arguments"] for event in events if event["type"].endswith("arguments.done")]
    assert done == ['{"b":2}', '{"a":1}']
    assert events[-1]["response"]["status"] == "completed"


def test_a_call_without_arguments_is_still_json() -> None:
    assert whole([ToolCall(0, "c1", "look"), Finish("tool_calls")])["output"][0]["arguments"] == "{}"


def test_a_call_that_a_bot_gave_no_id_gets_one() -> None:
    assert whole([ToolCall(0, "", "look")])["output"][0]["call_id"].startswith("call_")


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([Attachment("https://x/a.png", "a.png", "image/png")], "![a.png](https://x/a.png)"),
        (
            [Text("See:"), Attachment("https://x/a.pdf", "a.pdf", "application/pdf")],
            "See:\n\n[a.pdf](https://x/a.pdf)",
        ),
        ([Text("See"), Attachment("https://x/a.png", "a", "image/png", "ref"), Replace("x")], "See"),
    ],
)
def test_files_are_shown_as_markdown(events: list[Event], text: str) -> None:
    assert whole(events)["output"][0]["content"][0]["text"] == text
    said = streamed(events)
    assert "".join(e["delta"] for e in said if e["type"] == "response.output_text.delta") == text


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_is_incomplete(reason: Any, told: str) -> None:
    last = streamed([Text("Good")], [Finish(reason)])[-1]

    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": told}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_an_empty_answer_has_no_items() -> None:
    assert whole([Finish("stop")])["output"] == []


def test_usage_has_its_details() -> None:
    assert whole([Text("x")])["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


def test_what_was_asked_is_told_again() -> None:
    request = asked(
        instructions="Be brief.",
        tools=[FUNCTION],
        tool_choice="required",
        temperature=0.2,
        metadata={"a": "b"},
    )
    response = whole([Text("x")], request)

    assert response["instructions"] == "Be brief." and response["metadata"] == {"a": "b"}
    assert response["tools"] == [{"description": None, **FUNCTION}]
    assert (response["tool_choice"], response["temperature"], response["top_p"]) == ("required", 0.2, 1.0)


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (UpstreamBroken("The bot's answer broke off."), "server_error"),
        (RateLimited("Too many."), "rate_limit_exceeded"),
        (BudgetExceeded("No points."), "insufficient_quota"),
        (UserError("Not allowed."), "invalid_prompt"),
        (UserError("Too long.", code="context_length_exceeded"), "context_length_exceeded"),
        (RelayError("A bug."), "server_error"),
    ],
)
def test_a_failure_closes_what_is_open_and_ends_the_stream(exc: RelayError, code: str) -> None:
    encoder = Encoder(asked())
    raw = encoder.start() + encoder.encode_all([Text("Good"), ToolCall(0, "c1", "look", "{")])
    ending = encoder.fail(exc)
    # OpenAI's type knows fewer codes than its API has.
    events = [json.loads(block.split("data: ")[1]) for block in (raw + ending).decode().split("\n\n")[:-1]]

    assert names(events)[-3:] == ["function_call_arguments.done", "output_item.done", "failed"]
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"] == {"code": code, "message": exc.message}
    assert events[-1]["response"]["output"][-1]["status"] == "incomplete"
