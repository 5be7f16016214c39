"""Bodies that nobody means: what clients really send, changed here and there, for every wire format.

`PARSES` is what the fuzz tests go over: a wire format is here as soon as it can parse.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from relay.wire import anthropic_messages, anthropic_request, openai_chat, openai_responses

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
MODEL = "demo-echo"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "$defs": {"City": {"type": "string", "enum": ["Paris", "Rome"]}},
    "additionalProperties": False,
}

CHAT: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello there"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 1,
        "max_tokens": 50,
        "stop": ["END"],
        "logit_bias": {"50256": -100},
        "seed": 7,
        "user": "u-1",
        "metadata": {"a": "b"},
        "store": False,
        "n": 1,
    },
    {
        "model": "demo-tools",
        "messages": [
            {"role": "user", "content": "Weather in Paris?", "name": "bob"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "The weather",
                    "parameters": SCHEMA,
                    "strict": True,
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": True,
    },
    {
        "model": MODEL,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    {
                        "type": "file",
                        "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
                    },
                    {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
                ],
            }
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
        },
        "reasoning_effort": "low",
        "max_completion_tokens": 100,
        "logprobs": False,
        "extra_body": {"delay": 0},
    },
)


RESPONSES: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "input": "Hello there",
        "instructions": "Be brief.",
        "stream": True,
        "store": True,
        "temperature": 0.5,
        "top_p": 1,
        "max_output_tokens": 50,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "include": ["reasoning.encrypted_content"],
        "truncation": "disabled",
        "metadata": {"a": "b"},
        "user": "u-1",
    },
    {
        "model": "demo-tools",
        "input": [
            {"type": "message", "role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
                    {"type": "input_file", "filename": "a.txt", "file_data": "aGVsbG8="},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c1",
                "output": [{"type": "input_text", "text": "sunny"}],
            },
        ],
        "tools": [
            {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": True},
            {"type": "web_search"},
            {"type": "namespace", "name": "mcp__x", "tools": [{"type": "function", "name": "go"}]},
        ],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "go"}],
        },
        "parallel_tool_calls": False,
        "store": False,
    },
)

MESSAGES: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "Hello there"}],
        "stream": True,
        "temperature": 0.5,
        "top_k": 5,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u-1"},
        "thinking": {"type": "enabled", "budget_tokens": 2048, "display": "summarized"},
    },
    {
        "model": "demo-tools",
        "max_tokens": 50,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                    },
                    {
                        "type": "document",
                        "title": "a.txt",
                        "source": {"type": "text", "media_type": "text/plain", "data": "hello"},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": [{"type": "text", "text": "sunny"}],
                        "is_error": False,
                    }
                ],
            },
        ],
        "tools": [{"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    },
)


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire format under test: its parse, where it is asked, and what clients send there."""

    parse: Callable[[bytes], object]
    path: str
    examples: tuple[dict[str, Any], ...]


PARSES: dict[str, Wire] = {
    openai_chat.NAME: Wire(openai_chat.parse, "/v1/chat/completions", CHAT),
    openai_responses.NAME: Wire(openai_responses.parse, "/v1/responses", RESPONSES),
    anthropic_messages.NAME: Wire(anthropic_request.parse, "/v1/messages", MESSAGES),
}

# What has broken parsers before, and what is not allowed.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    0.5,
    1e308,
    -0.0,
    "",
    " ",
    "x",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "\ufeff",
    "٣",
    "😀" * 3,
    "a" * 3_000,
    "user",
    "auto",
    "required",
    "none",
    "function",
    "text",
    "image_url",
    "tool_use",
    "thinking",
    "data:",
    "data:image/png;base64,",
    "data:image/png;base64,@@@",
    "data:text/plain,hello",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "{",
    '{"a": 1}',
    [],
    {},
    [[]],
    [None],
    [{}],
    {"": ""},
    {"type": None},
    {"type": "object"},
    {"$ref": "#/$defs/none"},
    {"$ref": "#"},
    ["a"] * 40,
)
KEYS = (
    "",
    "model",
    "messages",
    "stream",
    "content",
    "type",
    "role",
    "tools",
    "extra_body",
    "x" * 300,
    "\x00",
    "ü",
)


def bodies(examples: tuple[dict[str, Any], ...]) -> st.SearchStrategy[bytes]:
    """Bodies as they arrive: mostly JSON that is nearly right, some that is none."""
    return st.one_of(
        st.builds(spoiled, st.sampled_from(examples), st.randoms(use_true_random=False)),
        st.builds(spoiled, st.sampled_from(examples), st.randoms(use_true_random=False)),
        st.builds(garbled, st.sampled_from(examples), st.randoms(use_true_random=False)),
        st.binary(max_size=200),
    )


def spoiled(example: dict[str, Any], chance: random.Random) -> bytes:
    """Valid JSON, with up to five places changed."""
    body = copy.deepcopy(example)
    for _turn in range(chance.randint(0, 5)):
        _spoil(body, chance)
    return json.dumps(body).encode()


def garbled(example: dict[str, Any], chance: random.Random) -> bytes:
    """Bytes of a body, cut, doubled or overwritten."""
    raw = bytearray(json.dumps(example, ensure_ascii=chance.random() < 0.5).encode())
    for _turn in range(chance.randint(1, 4)):
        start = chance.randrange(len(raw) or 1)
        end = min(len(raw), start + chance.randint(0, 30))
        raw[start:end] = chance.choice(
            (
                b"",
                b"NaN",
                b"Infinity",
                b"1e999",
                b"\xff",
                b"\xed\xa0\x80",
                b"\\ud800",
                b'"',
                b"[" * 70,
                raw[:20],
            )
        )
    return bytes(raw)


def _spoil(body: Any, chance: random.Random) -> None:
    holder = chance.choice(_holders(body))
    if isinstance(holder, dict):
        key = chance.choice([*holder, chance.choice(KEYS)])
        if chance.random() < 0.15:
            holder.pop(key, None)
        else:
            holder[key] = _value(body, chance)
    elif holder and chance.random() < 0.7:
        holder[chance.randrange(len(holder))] = _value(body, chance)
    else:
        holder.append(_value(body, chance))


def _value(body: Any, chance: random.Random) -> Any:
    kind = chance.random()
    if kind < 0.1:
        # Something of the body itself, in a place where it does not belong.
        return copy.deepcopy(chance.choice(_holders(body)))
    if kind < 0.13:
        return _nested(chance.choice((30, 63, 64, 65, 200)))
    return copy.deepcopy(chance.choice(VALUES))


def _nested(depth: int) -> Any:
    found: Any = "deep"
    for _level in range(depth):
        found = [found]
    return found


def _holders(body: Any) -> list[Any]:
    found, left = [], [body]
    while left:
        holder = left.pop()
        found.append(holder)
        inner = holder.values() if isinstance(holder, dict) else holder
        left += [each for each in inner if isinstance(each, (dict, list))]
    return found
