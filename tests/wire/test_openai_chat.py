"""OpenAI's chat completions as a hostile client sends them, and as its official SDK reads the answers."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from openai.types.chat import ChatCompletion, ChatCompletionChunk

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
from relay.upstreams import poe_protocol
from relay.upstreams.poe_protocol import Uploaded
from relay.wire import chat_request, openai_chat

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
OTHER_TOOL = {"type": "function", "function": {"name": "g"}}
ABC = base64.b64encode(b"ABC").decode()
SPENT = Usage(prompt_tokens=7, completion_tokens=5, reasoning_tokens=2)
fuzzing = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def raw(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def parse(**fields: Any) -> ChatRequest:
    return chat_request.parse(raw(**fields))


def refused(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat_request.parse(body)
    return caught.value


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": fields}


# What a client asks for.


def test_it_reads_the_least_that_can_be_asked() -> None:
    assert parse() == ChatRequest(model="m", messages=(Message("user", (TextPart("Hi"),)),))


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ({"model": " GPT-4o\n"}, "model", "GPT-4o"),
        ({"model": 'a"b%s{}\n模型'}, "model", 'a"b%s{}\n模型'),
        ({"stream": True}, "stream", True),
        ({"stream": None}, "stream", False),
        ({"stream_options": {"include_usage": True}}, "include_usage", True),
        ({"stream_options": {"include_usage": True, "include_obfuscation": False}}, "include_usage", True),
        ({"stream_options": {}}, "include_usage", False),
        ({"stream_options": None}, "include_usage", False),
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_completion_tokens": 6}, "max_tokens", 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", 6),
        ({"max_tokens": 5, "max_completion_tokens": None}, "max_tokens", 5),
        ({"max_tokens": 10**30}, "max_tokens", 10**30),
        ({"temperature": 0}, "temperature", 0.0),
        ({"temperature": 2}, "temperature", 2.0),
        ({"temperature": None}, "temperature", None),
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": ["a", "", "b"]}, "stop", ("a", "b")),
        ({"stop": []}, "stop", ()),
        ({"stop": ""}, "stop", ()),
        ({"stop": ["a", "b", "c", "d"]}, "stop", ("a", "b", "c", "d")),
        ({"logprobs": False, "top_logprobs": 0}, "parameters", {}),
        ({"logit_bias": {"50256": -100, "1": 0.5}}, "logit_bias", {"50256": -100.0, "1": 0.5}),
        ({"logit_bias": None}, "logit_bias", {}),
        ({"n": 1}, "parameters", {}),
        ({"tools": [TOOL]}, "tools", (TOOL,)),
        ({"tools": []}, "tools", ()),
        ({"tools": [TOOL], "tool_choice": "none"}, "tools", ()),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools", (TOOL,)),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", ToolChoice("required")),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            ToolChoice("named", "f"),
        ),
        ({"tools": [TOOL, OTHER_TOOL], "tool_choice": allowed("required", "g")}, "tools", (OTHER_TOOL,)),
        (
            {"tools": [TOOL, OTHER_TOOL], "tool_choice": allowed("required", "g")},
            "tool_choice",
            ToolChoice("required"),
        ),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls", False),
        ({"tools": [TOOL], "parallel_tool_calls": None}, "parallel_tool_calls", True),
        ({"response_format": {"type": "json_object"}}, "response_format", ResponseFormat()),
        (
            {"response_format": json_schema(schema={"type": "object"}, name="n", strict=True)},
            "response_format",
            ResponseFormat({"type": "object"}, "n", True),
        ),
    ],
)
def test_it_forwards(fields: dict[str, Any], attribute: str, value: Any) -> None:
    found = getattr(parse(**fields), attribute)

    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("fields", "parameters", "ignored"),
    [
        ({"thinking_budget": 5, "aspect": "16:9"}, {"thinking_budget": 5, "aspect": "16:9"}, ()),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}, ()),
        ({"extra_body": {"aspect": "1:1"}}, {"aspect": "1:1"}, ()),
        ({"aspect": "16:9", "extra_body": {"aspect": "1:1"}}, {"aspect": "1:1"}, ()),
        ({"extra_body": None}, {}, ()),
        ({"aspect": None}, {}, ()),
        ({"off": False, "zero": 0, "empty": ""}, {"off": False, "zero": 0, "empty": ""}, ()),
        ({"user": "u", "store": True, "metadata": {"a": "b"}, "n": 1, "stream": False}, {}, ()),
        ({"top_p": 0.1, "seed": 7, "aspect": 1}, {"aspect": 1}, ("seed", "top_p")),
        ({"seed": None, "top_p": None}, {}, ()),
        ({"response_format": {"type": "json_object"}}, {}, ()),
        ({"frequency_penalty": 0, "presence_penalty": 1}, {}, ("frequency_penalty", "presence_penalty")),
        ({"response_format": {"type": "text"}}, {}, ()),
        ({"functions": [], "function_call": "auto"}, {}, ()),
        ({"modalities": ["image", "text"]}, {}, ()),
        ({"modalities": ["text", "audio"]}, {}, ("modalities",)),
        ({"tools": [TOOL], "tool_choice": "required"}, {}, ()),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            {},
            (),
        ),
        ({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True}, {}, ()),
        ({"tool_choice": None}, {}, ()),
    ],
)
def test_what_it_does_not_know_is_the_bots_and_what_nobody_can_honour_is_named(
    fields: dict[str, Any], parameters: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    chat = parse(**fields)

    assert (chat.parameters, chat.ignored) == (parameters, ignored)


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ({"role": "system", "content": "a"}, Message("system", (TextPart("a"),))),
        ({"role": "developer", "content": "a"}, Message("system", (TextPart("a"),))),
        ({"role": "user", "content": "a", "name": "Ann"}, Message("user", (TextPart("a"),), "Ann")),
        ({"role": "user", "content": ""}, Message("user", (TextPart(""),))),
        ({"role": "assistant", "content": None}, Message("assistant", ())),
        ({"role": "assistant"}, Message("assistant", ())),
        ({"role": "user", "content": []}, Message("user", ())),
        (
            user({"type": "text", "text": "a"}, {"type": "text", "text": "b"}),
            Message("user", (TextPart("a"), TextPart("b"))),
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            Message("assistant", (TextPart("No."),)),
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            Message("assistant", (ToolCallPart("c1", "f", "{}"),)),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            Message("tool", (ToolResultPart("c1", "tool", "42"),)),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "4"}], "name": "f"},
            Message("tool", (ToolResultPart("c1", "f", "4"),), "f"),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": None},
            Message("tool", (ToolResultPart("c1", "tool", ""),)),
        ),
        (
            {
                "role": "tool",
                "tool_call_id": "c1",
                "content": [{"type": "text", "text": "See"}, image(f"data:image/png;base64,{ABC}")],
            },
            Message(
                "tool",
                (ToolResultPart("c1", "tool", "See"), FilePart("image.png", "image/png", data=b"ABC")),
            ),
        ),
        (
            {"role": "function", "name": "f", "content": "42"},
            Message("tool", (ToolResultPart("f", "f", "42"),), "f"),
        ),
    ],
)
def test_it_reads_messages(message: dict[str, Any], read: Message) -> None:
    assert parse(messages=[message]).messages == (read,)


def test_a_tool_result_is_named_after_the_call_that_it_answers() -> None:
    calls = [{"id": f"c{i}", "function": {"name": f"f{i}", "arguments": "{}"}} for i in range(2)]
    chat = parse(
        messages=[
            USER,
            {"role": "assistant", "content": "Well", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c0", "content": "zero"},
        ]
    )

    assert chat.messages[1].parts[0] == TextPart("Well")
    assert chat.messages[2].parts == (ToolResultPart("c1", "f1", "one"),)
    assert chat.messages[3].parts == (ToolResultPart("c0", "f0", "zero"),)


FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "$defs": {}}}


@pytest.mark.parametrize(
    ("said", "choice", "given"),
    [
        ({}, ToolChoice(), True),
        ({"function_call": "auto"}, ToolChoice(), True),
        ({"function_call": None}, ToolChoice(), True),
        ({"function_call": {"name": "f"}}, ToolChoice("named", "f"), True),
        ({"function_call": "none"}, ToolChoice("none"), False),
    ],
)
def test_functions_are_tools_of_old(said: dict[str, Any], choice: ToolChoice, given: bool) -> None:
    chat = parse(functions=[FUNCTION], **said)

    assert chat.tools == (({"type": "function", "function": FUNCTION},) if given else ())
    assert (chat.tool_choice, chat.calls_functions, chat.parallel_tool_calls) == (choice, True, False)
    assert (chat.parameters, chat.rare, chat.ignored) == ({}, {}, ())


def test_what_a_function_says_belongs_to_its_last_call() -> None:
    chat = parse(
        functions=[FUNCTION],
        messages=[
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "one"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "[]"}},
            {"role": "function", "name": "f", "content": "two"},
        ],
    )

    assert [message.parts for message in chat.messages[1:]] == [
        (ToolCallPart("call_1", "f", "{}"),),
        (ToolResultPart("call_1", "f", "one"),),
        (ToolCallPart("call_3", "f", "[]"),),
        (ToolResultPart("call_3", "f", "two"),),
    ]


# Files.


@pytest.mark.parametrize(
    ("part", "file"),
    [
        (image(f"data:image/png;base64,{ABC}"), FilePart("image.png", "image/png", data=b"ABC")),
        (image(f"data:IMAGE/PNG;base64,{ABC}"), FilePart("image.png", "image/png", data=b"ABC")),
        (
            image(f"data:image/jpeg;charset=x;base64,{ABC}"),
            FilePart("image.jpg", "image/jpeg", data=b"ABC"),
        ),
        (image(f"data:;base64,{ABC}"), FilePart("image.txt", "text/plain", data=b"ABC")),
        (image(f"data:image/odd;base64,{ABC}"), FilePart("image.bin", "image/odd", data=b"ABC")),
        (
            {"type": "input_image", "image_url": f"data:image/png;base64,{ABC}"},
            FilePart("image.png", "image/png", data=b"ABC"),
        ),
        (
            image("https://h.example/a/b.JPG?x=/c.gif"),
            FilePart("b.JPG", "image/jpeg", url="https://h.example/a/b.JPG?x=/c.gif"),
        ),
        (
            image("https://h.example/a/"),
            FilePart("image", "image/png", url="https://h.example/a/"),
        ),
        (
            {
                "type": "file",
                "file": {"file_data": f"data:application/pdf;base64,{ABC}", "filename": "文.pdf"},
            },
            FilePart("文.pdf", "application/pdf", data=b"ABC"),
        ),
        (
            {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{ABC}"}},
            FilePart("file.pdf", "application/pdf", data=b"ABC"),
        ),
        (
            {"type": "file", "file": {"file_data": "https://h.example/x"}},
            FilePart("x", "application/octet-stream", url="https://h.example/x"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": ABC, "format": "mp3"}},
            FilePart("audio.mp3", "audio/mpeg", data=b"ABC"),
        ),
    ],
)
def test_it_reads_files(part: dict[str, Any], file: FilePart) -> None:
    assert parse(messages=[user(part)]).messages[0].parts == (file,)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:,",
        "data:image/png",
        "data:image/png,ABC",
        "data:image/png;base64",
        "data:image/png;base64,QUJ",
        "data:image/png;base64,QU JD",
        "data:image/png;base64,é",
        "data:image/png;base64,====",
        "data:image/png;base64,-_-_",
        "https://",
        "https:///etc/passwd",
        "https:// h.example",
        "https://h.example/a\r\nX-Other: 1",
        "https://h.example/a\tb",
        "//h.example/a.png",
        "ftp://h.example/a.png",
        "file:///etc/passwd",
        "javascript:alert(1)",
        " https://h.example/a.png",
        "https://h.example/" + "x" * 9000,
    ],
)
@pytest.mark.parametrize("kind", ["image", "file"])
def test_it_refuses_odd_addresses(kind: str, url: str) -> None:
    part = image(url) if kind == "image" else {"type": "file", "file": {"file_data": url}}
    where = {"image": "image_url.url", "file": "file.file_data"}[kind]

    exc = refused(raw(messages=[user({"type": "text", "text": "a"}, part)]))

    assert exc.param == f"messages[0].content[1].{where}"
    assert len(exc.message) < 200


# What it refuses, by the parameter that it names.


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": " \n"}, "model"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"model": ["m"]}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [USER] * 2001}, "messages"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [USER, "Hi"]}, "messages[1]"),
        ({"messages": [[USER]]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "User", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "missing required field `x`", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "a - at `$.model`", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": [user("Hi")]}, "messages[0].content[0]"),
        ({"messages": [user({"text": "x"})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "text", "text": 5})]}, "messages[0].content[0].text"),
        ({"messages": [user({"type": "input_audio"})]}, "messages[0].content[0].input_audio"),
        (
            {"messages": [user({"type": "input_audio", "input_audio": {"format": "mp3"}})]},
            "messages[0].content[0].input_audio.data",
        ),
        (
            {"messages": [user({"type": "input_audio", "input_audio": {"data": "QQ", "format": "mp3"}})]},
            "messages[0].content[0].input_audio.data",
        ),
        (
            {"messages": [user({"type": "input_audio", "input_audio": {"data": "", "format": "midi"}})]},
            "messages[0].content[0].input_audio.format",
        ),
        ({"messages": [user({"type": "x" * 5000})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "image_url"})]}, "messages[0].content[0].image_url.url"),
        (
            {"messages": [user({"type": "image_url", "image_url": {}})]},
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [user({"type": "image_url", "image_url": 5})]}, "messages[0].content[0].image_url"),
        ({"messages": [user({"type": "file"})]}, "messages[0].content[0].file.file_data"),
        (
            {"messages": [user({"type": "file", "file": {"file_id": "f"}})]},
            "messages[0].content[0].file.file_id",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": 1e308}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"stop": 5}, "stop"),
        ({"stop": {}}, "stop"),
        ({"stop": ["a", None]}, "stop[1]"),
        ({"stop": [["a"]]}, "stop[0]"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": json_schema(name="n")}, "response_format.json_schema.schema"),
        ({"response_format": json_schema(schema=[])}, "response_format.json_schema.schema"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tool_choice": allowed("any", "f")}, "tool_choice"),
        ({"logit_bias": []}, "logit_bias"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": True}, "n"),
        ({"n": "1"}, "n"),
        ({"n": 10**400}, "n"),
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function"),
        ({"tools": [TOOL, {"type": "function", "function": {}}]}, "tools[1].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "{}"}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": ["auto"]}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": ""}}}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice"),
        ({"functions": {}}, "functions"),
        ({"functions": [{"description": "d"}]}, "functions[0].name"),
        ({"functions": [FUNCTION], "function_call": 5}, "function_call"),
        ({"functions": [FUNCTION], "function_call": "required"}, "function_call"),
        ({"functions": [FUNCTION], "function_call": {"name": "g"}}, "function_call"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"functions": [FUNCTION], "tools": [TOOL]}, "functions"),
        ({"function_call": "auto", "tools": [TOOL]}, "function_call"),
        ({"messages": [{"role": "assistant", "function_call": {}}]}, "messages[0].function_call.name"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"extra_body": []}, "extra_body"),
        ({"extra_body": "x"}, "extra_body"),
    ],
)
def test_it_refuses_and_names(fields: dict[str, Any], param: str) -> None:
    exc = refused(raw(**fields))

    assert exc.param == param
    assert f"`{param}`" in exc.message
    assert len(exc.message) < 1000


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_it_names_what_is_missing(missing: str) -> None:
    body = {name: value for name, value in json.loads(raw()).items() if name != missing}

    exc = refused(json.dumps(body).encode())

    assert (exc.param, exc.code) == (missing, "missing_required_parameter")


def test_a_long_value_is_not_told_back() -> None:
    assert len(refused(raw(messages=[{"role": "x" * 100_000}])).message) < 1000
    assert len(refused(raw(**{"x" * 100_000: "\x00"})).message) < 1000


# Bodies that are no body.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n",
        b"null",
        b"5",
        b'"x"',
        b"[]",
        b'[{"model":"m"}]',
        b"{",
        b"{}}",
        b"{'model':'m'}",
        b'{"model":"m",}',
        b'{model:"m"}',
        b"model=m",
        b"\xef\xbb\xbf" + raw(),
        raw().decode().encode("utf-16"),
        raw() + raw(),
        raw()[:-1],
        raw(x="é").replace(b"\\u00e9", b"\xe9"),
        raw(x="?").replace(b"?", b"\xed\xa0\x80"),
        raw(x="?").replace(b"?", b"\xc0\x80"),
        raw(x="?").replace(b"?", b"\x00"),
        raw(x="?").replace(b"?", b"\n"),
        raw(**{"?": 1}).replace(b"?", b"\xff"),
    ],
)
def test_it_refuses_what_is_no_json_object(body: bytes) -> None:
    exc = refused(body)

    assert exc.code == "invalid_json"
    assert exc.param is None and exc.message.startswith("The body ")


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "1.", "0x1", "+1"]
)
@pytest.mark.parametrize("where", ['"temperature":%s', '"x":[%s]', '"extra_body":{"a":{"b":%s}}'])
def test_it_refuses_numbers_that_json_has_not(where: str, number: str) -> None:
    body = raw()[:-1] + b"," + (where % number).encode() + b"}"

    assert refused(body).code == "invalid_json"


UNSTORABLE = ["\x00", "a\x00b", "\ud800", "\udc00", "\udc00\ud800", "a\ud83d b", "\ud83d\ud83d\ude00"]


@pytest.mark.parametrize("text", UNSTORABLE)
@pytest.mark.parametrize(
    "where",
    [
        {"model": "?"},
        {"messages": [{"role": "user", "content": "?"}]},
        {"messages": [user({"type": "text", "text": "?"})]},
        {"messages": [{**USER, "name": "?"}]},
        {"messages": [{**USER, "unknown": "?"}]},
        {"stop": ["a", "?"]},
        {"x": "?"},
        {"x": {"y": [1, {"z": "?"}]}},
        {"?": 1},
        {"x": {"y": [{"?": None}]}},
        {"logit_bias": {"?": 1}},
        {"tools": [{**TOOL, "description": "?"}]},
    ],
    ids=str,
)
def test_it_refuses_what_no_database_takes(where: dict[str, Any], text: str) -> None:
    body = raw(**where).replace(b"?", json.dumps(text)[1:-1].encode())

    exc = refused(body)

    assert exc.code in ("invalid_string", "invalid_json")
    assert "NUL" in exc.message or "surrogate" in exc.message
    assert "``" not in exc.message
    json.dumps(openai_chat.error(exc), ensure_ascii=False).encode()


def test_it_takes_every_other_character() -> None:
    text = "😀\u2028\x7f\u0001\ufffe\U0010ffff\u202e"

    assert parse(messages=[{"role": "user", "content": text}]).messages[0].text == text
    assert parse(x="\\u0000").parameters == {"x": "\\u0000"}


def nested(opening: str, closing: str, depth: int) -> bytes:
    return raw()[:-1] + b',"x":' + (opening * depth + "1" + closing * depth).encode() + b"}"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_it_takes_64_levels_and_no_more(opening: str, closing: str) -> None:
    levels = 63 // len(opening.replace('"a":', ""))

    chat_request.parse(nested(opening, closing, levels))

    for depth in (levels + 1, 1000, 100_000):
        assert "deep" in refused(nested(opening, closing, depth)).message


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b'{"a":' * 200_000, b'{"model":[' + b"[" * 500_000])
def test_it_survives_a_body_that_only_opens(body: bytes) -> None:
    assert refused(body).code == "invalid_json"


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"model":"m","model":"n"}', "model"),
        (b'{"x":1,"x":1}', "x"),
        (b'{"x" :1,"x"\n:2}', "x"),
        (b'{"x":1,"\\u0078":2}', "x"),
        (b'{"x\\\\":1,"x\\\\":2}', "x\\"),
        (b'{"x\\"":1,"x\\"":2}', 'x"'),
        (b'{"a":"\\"q\\": 1","a":"\\\\"}', "a"),
        (b'{"a":[{"b":{"c":1,"d":2,"c":3}}]}', "c"),
        (b'{"":1,"":2}', ""),
    ],
)
def test_a_key_has_one_value(body: bytes, key: str) -> None:
    exc = refused(body)

    assert (exc.code, exc.param) == ("invalid_json", key)
    assert repr(key) in exc.message and "twice" in exc.message


plain = st.text(
    st.sampled_from('"\\:,{}[]') | st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
)
texts = st.recursive(plain, lambda inner: st.dictionaries(plain, inner, max_size=3), max_leaves=6)


@fuzzing
@given(body=st.dictionaries(plain, texts, max_size=4))
def test_quotes_and_backslashes_in_texts_are_no_keys(body: dict[str, Any]) -> None:
    assert chat_request.parse(raw(metadata=body)).model == "m"


def test_brackets_in_a_text_are_no_depth() -> None:
    assert parse(messages=[{"role": "user", "content": "[{" * 1000}]).messages[0].text == "[{" * 1000


# Anything at all.

words = st.one_of(
    st.text('aé😀`\n"{[', max_size=4), st.sampled_from(["c1", "f", "none", "missing field `x`"])
)
urls = st.sampled_from(
    [
        *(
            f"data:image/png;base64,{ABC}",
            f"data:;base64,{ABC}",
            "https://h.example/a.png",
            "https://h:99999/",
        ),
        *(
            f"data:a/b;base64,{ABC}",
            "https://[::1",
            "https://h.example/#",
            "data:,",
            "data:x;base64,*",
            "ftp://h",
        ),
    ]
)
odd_texts = st.one_of(
    words, urls, st.text(st.characters(codec=None, categories=["Cs", "Cc", "Ll"]), max_size=3)
)
odd_numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**400, 5e-324, 1e308, -0.0])
)
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), odd_numbers, odd_texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(odd_texts, inner, max_size=3)),
    max_leaves=6,
)


def rightish(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What belongs there, and now and then what does not."""
    return st.integers(0, 59).flatmap(lambda dice: junk if dice == 59 else strategy)


def thing(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    return rightish(
        st.fixed_dictionaries(
            {name: rightish(each) for name, each in required.items()},
            optional={name: rightish(each) for name, each in optional.items()},
        )
    )


parts = st.one_of(
    thing({"type": st.just("text"), "text": words}, {}),
    thing(
        {"type": st.just("image_url"), "image_url": st.one_of(urls, thing({"url": urls}, {"detail": words}))},
        {},
    ),
    thing(
        {"type": st.just("file"), "file": thing({"file_data": urls}, {"filename": words, "file_id": words})},
        {},
    ),
    thing({"type": words}, {"refusal": words}),
)
calls = thing({"function": thing({"name": words}, {"arguments": words})}, {"id": words, "type": words})
contents = st.one_of(words, st.none(), st.lists(parts, max_size=3))
messages = st.one_of(
    thing(
        {"role": st.sampled_from(["system", "developer", "user"]), "content": contents},
        {"name": words},
    ),
    thing({"role": st.just("assistant")}, {"content": contents, "tool_calls": st.lists(calls, max_size=2)}),
    thing(
        {"role": st.sampled_from(["tool", "function"]), "tool_call_id": words},
        {"content": contents, "name": words},
    ),
)
schemas = st.dictionaries(words, st.one_of(words, odd_numbers, st.none()), max_size=2)
functions = thing({"name": words}, {"description": words, "parameters": schemas, "strict": st.booleans()})
tools = thing({"type": st.just("function"), "function": functions}, {})
bodies = thing(
    {"model": words.map("m{}".format), "messages": st.lists(messages, min_size=1, max_size=3)},
    {
        "stream": st.booleans(),
        "stream_options": thing({}, {"include_usage": st.booleans()}),
        "max_tokens": st.integers(1),
        "max_completion_tokens": st.integers(1),
        "temperature": st.floats(0, 2),
        "stop": st.one_of(words, st.lists(words, max_size=3)),
        "logit_bias": st.dictionaries(words, st.one_of(st.integers(), st.floats(-100, 100)), max_size=3),
        "n": st.just(1),
        "tools": st.lists(tools, max_size=2),
        "tool_choice": st.sampled_from(["none", "auto", "required", {}, {"type": "function"}]),
        "top_p": st.floats(0, 1),
        "extra_body": st.dictionaries(words, words, max_size=3),
        "bot_parameter": st.one_of(words, st.integers(), schemas),
    },
)


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in [*value, *(value.values() if isinstance(value, dict) else ())]:
            yield from strings_of(inner)


def parsed_or_refused(body: bytes) -> ChatRequest | None:
    """Nothing but a ChatRequest or a BadRequest that can be told comes out."""
    try:
        return chat_request.parse(body)
    except BadRequest as exc:
        told = json.dumps(openai_chat.error(exc), ensure_ascii=False, allow_nan=False).encode()
        assert exc.message and len(told) < 4000
        return None


@fuzzing
@given(body=bodies)
@example(body={"model": "m", "messages": [USER], "tools": [{"function": {"name": "f", "parameters": [1]}}]})
def test_any_json_is_sent_to_a_bot_or_refused(body: Any) -> None:
    text = json.dumps(body)

    chat = parsed_or_refused(text.encode())

    if chat is None:
        return
    assert "NaN" not in text and "Infinity" not in text
    files = [part for message in chat.messages for part in message.parts if isinstance(part, FilePart)]
    assert all((file.url is None) != (file.data is None) for file in files)
    query = json.loads(poe_protocol.query(chat, {file: Uploaded("https://x", "a/b") for file in files}))
    for each in strings_of(query):
        assert "\x00" not in each
        each.encode()


@fuzzing
@given(body=st.binary(max_size=60))
def test_any_bytes_are_refused(body: bytes) -> None:
    assert parsed_or_refused(body) is None


VALID = raw(
    stream=True,
    stop=["é", "\n"],
    temperature=0.5,
    messages=[user({"type": "text", "text": "😀"}, image(f"data:image/png;base64,{ABC}"))],
)


@fuzzing
@given(at=st.integers(0, len(VALID) - 1), cut=st.integers(0, 4), put=st.binary(max_size=3))
def test_a_damaged_body_is_read_or_refused(at: int, cut: int, put: bytes) -> None:
    parsed_or_refused(VALID[:at] + put + VALID[at + cut :])


# Answers.


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    """As a client reads them; the stream must end with [DONE]."""
    assert stream.endswith(b"\n\n")
    events = stream.decode().removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    payloads = [event.removeprefix("data: ") for event in events]
    assert payloads.count("[DONE]") == 1 and payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


def stream_of(
    events: list[Event], *, model: str = "m", include_usage: bool = False, shows_images: bool = False
) -> bytes:
    encoder = openai_chat.Encoder(model=model, include_usage=include_usage, shows_images=shows_images)
    return encoder.start() + encoder.encode_all(events) + encoder.end(SPENT)


def put_together(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of the chunks, as `collect` would say it."""
    message: dict[str, Any] = {
        "content": "",
        "reasoning_content": "",
        "tool_calls": {},
        "finish_reason": None,
    }
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            message["finish_reason"] = choice["finish_reason"] or message["finish_reason"]
            for piece in delta.get("tool_calls", ()):
                call = message["tool_calls"].setdefault(
                    piece["index"], {"id": "", "name": "", "arguments": ""}
                )
                call["id"] = call["id"] or piece.get("id", "")
                call["name"] += piece["function"].get("name", "")
                call["arguments"] += piece["function"]["arguments"]
    message["tool_calls"] = [call for _index, call in sorted(message["tool_calls"].items())]
    return message


said = st.text(max_size=12)
attachments = st.builds(
    Attachment,
    st.just("https://h.example/a.png"),
    said,
    st.sampled_from(["image/png", "audio/mpeg"]),
    st.sampled_from([None, "ref1"]),
)
tool_calls = st.builds(
    ToolCall, st.integers(0, 2), st.sampled_from(["", "call_1"]), st.sampled_from(["", "f"]), said
)
answers = st.lists(
    st.one_of(
        st.builds(Text, said), st.builds(Reasoning, said), st.builds(Replace, said), attachments, tool_calls
    ),
    max_size=8,
)
reasons = st.sampled_from([Finish("stop"), Finish("length"), Finish("tool_calls"), Finish("content_filter")])
MODELS = ["m", 'a"b', "100%s %d %b", "a\nb", "模型😀", "\\", "data: [DONE]\n\n", "{}"]


@fuzzing
@given(events=answers, finish=reasons, model=st.sampled_from(MODELS), include_usage=st.booleans())
def test_the_same_is_streamed_and_collected(
    events: list[Event], finish: Finish, model: str, include_usage: bool
) -> None:
    events = [*events, finish]

    chunks = chunks_of(stream_of(events, model=model, include_usage=include_usage))
    whole = openai_chat.collect(events, model=model, counted=SPENT)

    streamed, message = put_together(chunks), whole["choices"][0]["message"]
    assert streamed["content"] == (message["content"] or "")
    assert streamed["reasoning_content"] == message.get("reasoning_content", "")
    assert streamed["finish_reason"] == whole["choices"][0]["finish_reason"] == finish.reason
    assert streamed["tool_calls"] == [
        {"id": call["id"], **call["function"]} for call in message.get("tool_calls", ())
    ]
    assert whole["model"] == model and all(chunk["model"] == model for chunk in chunks)


@fuzzing
@given(events=answers, finish=reasons, model=st.sampled_from(MODELS), include_usage=st.booleans())
def test_the_official_sdk_takes_every_chunk_and_the_whole(
    events: list[Event], finish: Finish, model: str, include_usage: bool
) -> None:
    events = [*events, finish]

    chunks = [
        ChatCompletionChunk.model_validate(chunk, strict=True)
        for chunk in chunks_of(stream_of(events, model=model, include_usage=include_usage))
    ]
    whole = ChatCompletion.model_validate(
        json.loads(json.dumps(openai_chat.collect(events, model=model, counted=SPENT))), strict=True
    )

    assert len({chunk.id for chunk in chunks} | {whole.id}) == 2
    assert whole.usage is not None and whole.usage.total_tokens == 12
    for id_, created in [(answer.id, answer.created) for answer in chunks] + [(whole.id, whole.created)]:
        assert id_.startswith("chatcmpl-") and abs(created - time.time()) < 5


@fuzzing
@given(events=answers, include_usage=st.booleans())
def test_role_first_usage_as_asked(events: list[Event], include_usage: bool) -> None:
    chunks = chunks_of(stream_of([*events, Finish("stop")], include_usage=include_usage))

    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert not any("role" in choice["delta"] for chunk in chunks[1:] for choice in chunk["choices"])
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert finishes[-1] == "stop" and set(finishes[:-1]) == {None}
    if not include_usage:
        assert not any("usage" in chunk for chunk in chunks)
        return
    *others, last = chunks
    assert last["choices"] == [] and last["usage"] == openai_chat.usage(SPENT)
    assert all(chunk["choices"] and "usage" in chunk and chunk["usage"] is None for chunk in others)


def test_usage_adds_up() -> None:
    usage = openai_chat.usage(SPENT)

    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 5, 12)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2


def test_ids_are_unique() -> None:
    assert len({openai_chat.new_id() for _ in range(1000)}) == 1000


def test_an_answer_of_tool_calls_alone_has_no_content() -> None:
    events: list[Event] = [
        ToolCall(1, "c1", "g", "[]"),
        ToolCall(0, "c0", "f", '{"a"'),
        ToolCall(0, arguments=":1}"),
        Finish("tool_calls"),
    ]

    message = openai_chat.collect(events, model="m", counted=SPENT)["choices"][0]["message"]

    assert message["content"] is None
    assert [(call["id"], call["type"], call["function"]) for call in message["tool_calls"]] == [
        ("c0", "function", {"name": "f", "arguments": '{"a":1}'}),
        ("c1", "function", {"name": "g", "arguments": "[]"}),
    ]


def test_an_empty_answer_has_empty_content() -> None:
    message = openai_chat.collect([Finish("stop")], model="m", counted=SPENT)["choices"][0]["message"]

    assert message == {"role": "assistant", "content": "", "refusal": None}


def test_a_later_piece_of_a_tool_call_names_nothing_again() -> None:
    pieces: list[Event] = [ToolCall(0, "c0", "f", ""), ToolCall(0, arguments="{}")]

    first, second = (chunk["choices"][0]["delta"] for chunk in chunks_of(stream_of(pieces))[1:])

    assert first["tool_calls"] == [
        {"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]
    assert second["tool_calls"] == [{"index": 0, "function": {"arguments": "{}"}}]


def test_a_client_of_functions_is_told_of_one() -> None:
    events: list[Event] = [
        ToolCall(0, "c0", "f", ""),
        ToolCall(0, arguments='{"a":'),
        ToolCall(0, arguments="1}"),
        Finish("tool_calls"),
    ]
    encoder = openai_chat.Encoder(model="m", include_usage=False, calls_functions=True)

    whole = openai_chat.collect(events, model="m", counted=SPENT, calls_functions=True)["choices"][0]
    streamed = [
        chunk["choices"][0]
        for chunk in chunks_of(encoder.start() + encoder.encode_all(events) + encoder.end(SPENT))
    ]

    assert whole["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "function_call": {"name": "f", "arguments": '{"a":1}'},
    }
    assert [choice["delta"] for choice in streamed[1:]] == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": '{"a":'}},
        {"function_call": {"arguments": "1}"}},
        {},
    ]
    assert whole["finish_reason"] == streamed[-1]["finish_reason"] == "function_call"


PICTURE = Attachment("https://h.example/a.png", "a[1].png", "image/png")


def test_pictures_are_told_beside_the_text_as_well() -> None:
    events: list[Event] = [
        PICTURE,
        replace(PICTURE, url="https://h.example/b.png", inline_ref="r"),
        replace(PICTURE, content_type="audio/mpeg"),
    ]

    whole = openai_chat.collect(events, model="m", counted=SPENT)["choices"][0]["message"]["images"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(stream_of(events, shows_images=True))]

    assert whole == [
        {"type": "image_url", "image_url": {"url": "https://h.example/a.png"}, "index": 0},
        {"type": "image_url", "image_url": {"url": "https://h.example/b.png"}, "index": 1},
    ]
    assert [image for delta in deltas for image in delta.get("images", ())] == whole
    assert not any("images" in delta and "content" in delta for delta in deltas)


@pytest.mark.parametrize(
    ("modalities", "shown"),
    [(None, False), (["text"], False), ("image", False), (["text", "image"], True), (["image"], True)],
)
def test_a_stream_shows_pictures_beside_the_text_to_who_asks_for_them(modalities: Any, shown: bool) -> None:
    chat = parse(stream=True, modalities=modalities)
    stream = stream_of([PICTURE], shows_images=chat.shows_images)

    assert (b'"images"' in stream) == chat.shows_images == shown
    assert b"![a(1).png](https://h.example/a.png)" in stream


@pytest.mark.parametrize(
    "events",
    [
        [Text("one")],
        [Text("one"), Text('"two"'), Text("三\n")],
        [Reasoning("hm"), Text("one"), Text("two")],
        [Text("one"), Finish("stop")],
        [Text("one"), Attachment("https://x/a.png", "a.png", "image/png"), Text("two")],
    ],
)
def test_what_arrived_together_reads_as_if_it_had_come_one_by_one(
    monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    monkeypatch.setattr(openai_chat, "new_id", lambda: "chatcmpl-1")
    monkeypatch.setattr("time.time", lambda: 1.0)
    one, other = (openai_chat.Encoder(model="m", include_usage=True) for _ in range(2))

    assert one.encode_all(events) == b"".join(map(other.encode, events))


def test_a_picture_after_a_word_that_came_alone_stands_by_itself() -> None:
    encoder = openai_chat.Encoder(model="m", include_usage=False)

    encoder.encode_all([Text("Look:")])
    shown = encoder.encode_all([Attachment("https://x/a.png", "a.png", "image/png")])

    assert rb"\n\n![a.png](https://x/a.png)" in shown


@pytest.mark.parametrize(
    ("events", "content"),
    [
        ([PICTURE], "![a(1).png](https://h.example/a.png)"),
        ([Text("Here:"), PICTURE], "Here:\n\n![a(1).png](https://h.example/a.png)"),
        ([Reasoning("Hm"), PICTURE], "![a(1).png](https://h.example/a.png)"),
        ([replace(PICTURE, content_type="audio/mpeg")], "[a(1).png](https://h.example/a.png)"),
        ([Text("Here:"), replace(PICTURE, inline_ref="r")], "Here:"),
    ],
)
def test_files_are_shown_once(events: list[Event], content: str) -> None:
    whole = openai_chat.collect(events, model="m", counted=SPENT)

    assert whole["choices"][0]["message"]["content"] == content
    assert put_together(chunks_of(stream_of(events)))["content"] == content


# Errors.


def kinds(root: type[RelayError]) -> list[type[RelayError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]


@pytest.mark.parametrize(
    ("exc", "type_", "code"),
    [
        (errors.RelayError("x"), "server_error", "internal_error"),
        (errors.BadRequest("x"), "invalid_request_error", "invalid_value"),
        (
            errors.UserError("x", code="context_length_exceeded"),
            "invalid_request_error",
            "context_length_exceeded",
        ),
        (errors.UnsupportedMedia("x"), "invalid_request_error", "unsupported_media_type"),
        (errors.Unauthenticated("x"), "invalid_request_error", "invalid_api_key"),
        (errors.Forbidden("x"), "invalid_request_error", "access_denied"),
        (errors.NotFound("x"), "invalid_request_error", "not_found"),
        (errors.UnknownModel("x"), "invalid_request_error", "model_not_found"),
        (errors.MethodNotAllowed("x"), "invalid_request_error", "method_not_allowed"),
        (errors.PayloadTooLarge("x"), "invalid_request_error", "request_too_large"),
        (errors.RateLimited("x"), "requests", "rate_limit_exceeded"),
        (errors.UpstreamRateLimited("x"), "requests", "upstream_rate_limited"),
        (errors.Unavailable("x"), "server_error", "service_unavailable"),
        (errors.NoKeyAvailable("x"), "server_error", "no_poe_key"),
        (errors.UpstreamError("x"), "server_error", "upstream_error"),
        (errors.UpstreamTimeout("x"), "server_error", "upstream_timeout"),
    ],
)
def test_an_error_has_a_type_and_a_code(exc: RelayError, type_: str, code: str) -> None:
    assert openai_chat.error(exc) == {"error": {"message": "x", "type": type_, "param": None, "code": code}}


@pytest.mark.parametrize("kind", kinds(RelayError))
def test_every_error_has_openais_shape(kind: type[RelayError]) -> None:
    told = openai_chat.error(kind('no "quotes"\n', param="messages[0]"))["error"]

    assert set(told) == {"message", "type", "param", "code"}
    assert (told["message"], told["param"], told["code"]) == ('no "quotes"\n', "messages[0]", kind.code)
    assert told["type"] in ("invalid_request_error", "server_error", "requests", "insufficient_quota")


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_that_fails_says_so_and_is_done(include_usage: bool) -> None:
    encoder = openai_chat.Encoder(model="m", include_usage=include_usage)
    exc = errors.UpstreamBroken('it "broke"\nhere')

    stream = encoder.start() + encoder.encode(Text("Hi")) + encoder.fail(exc)

    assert chunks_of(stream)[-1] == openai_chat.error(exc)


def test_a_model_is_told_as_openai_does() -> None:
    assert openai_chat.model("gpt-4o", 5) == {
        "id": "gpt-4o",
        "object": "model",
        "created": 5,
        "owned_by": "poe",
    }
