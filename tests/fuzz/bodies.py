"""Bodies that nobody means: what clients really send (examples.py), changed here and there, for every wire format.

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
from tests.fuzz.examples import CHAT, MESSAGES, RESPONSES


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
