"""Tool calls for bots that have none: explained in words, written by the bot as text, read strictly.

What is no call in every detail stays text. What a bot says after its calls is not passed on: it has not seen their results.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from relay.events import (
    Event,
    Finish,
    Message,
    Part,
    Reasoning,
    Text,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
)
from relay.shaping.calls import name_of

OPEN, CLOSE = "<tool_call>", "</tool_call>"
WORDS = (
    "You can call tools. To call one, write exactly this, outside of any code fence, and then stop:\n"
    f'{OPEN}\n{{"name": "the tool", "arguments": {{"the": "arguments"}}}}\n{CLOSE}\n'
    "Several such blocks call several tools. The results are given to you as <tool_result> blocks; never write one "
    "yourself. Call a tool only where it helps. The tools, each with the JSON schema of its arguments:\n{tools}"
)


def words(tools: Iterable[dict[str, Any]]) -> str:
    told = [tool.get("function") for tool in tools]
    return WORDS.replace("{tools}", "\n".join(msgspec.json.encode(each).decode() for each in told))


def written_out(message: Message) -> Message:
    """With its calls and results as the bot would write and read them."""
    if not any(isinstance(part, ToolCallPart | ToolResultPart) for part in message.parts):
        return message
    role = "user" if message.role == "tool" else message.role
    return replace(message, role=role, parts=tuple(map(_written, message.parts)))


def _written(part: Part) -> Part:
    match part:
        case ToolCallPart(name=name, arguments=arguments):
            called = msgspec.json.encode({"name": name}).decode()[:-1]
            return TextPart(f'\n{OPEN}\n{called},"arguments":{arguments or "{}"}}}\n{CLOSE}')
        case ToolResultPart(call_id=call_id, name=name, content=content):
            return TextPart(f'\n<tool_result name="{name}" id="{call_id}">\n{content}\n</tool_result>')
        case _:
            return part


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any]


class WrittenCalls:
    """Text streams on; a call is held until it is whole."""

    def __init__(self, tools: Iterable[dict[str, Any]]) -> None:
        self._names = frozenset(map(name_of, tools))
        self._held = ""
        self._calls = 0
        self.is_over = False

    def feed(self, events: list[Event]) -> list[Event]:
        said: list[Event] = []
        for event in events:
            if self.is_over:
                break
            if isinstance(event, Text):
                said += self._read(event.text)
            elif isinstance(event, Reasoning):
                said.append(event)
            else:
                said += [*self._release(len(self._held)), event]
        return said

    def end(self, finish: Finish) -> list[Event]:
        said = self._release(len(self._held))
        return [*said, Finish("tool_calls") if self._calls and finish.reason == "stop" else finish]

    def _read(self, text: str) -> list[Event]:
        self._held += text
        said: list[Event] = []
        while not self.is_over and (start := self._held.find(OPEN)) >= 0:
            end = self._held.find(CLOSE, start)
            if end < 0:
                return [*said, *self._release(len(self._held[:start].rstrip()))]
            call = self._call(self._held[start + len(OPEN) : end])
            if call is None:
                said += self._release(end + len(CLOSE))
                continue
            said += self._release(len(self._held[:start].rstrip()))
            self._held = self._held.partition(CLOSE)[2]
            if not self.is_over:
                said.append(call)
                self._calls += 1
        return [*said, *self._release(_settled(self._held))]

    def _call(self, written: str) -> ToolCall | None:
        try:
            call = msgspec.json.decode(written, type=_Call)
        except (ValueError, RecursionError):
            return None
        if call.name not in self._names:
            return None
        arguments = msgspec.json.encode(call.arguments).decode()
        return ToolCall(self._calls, f"call_{secrets.token_hex(12)}", call.name, arguments)

    def _release(self, size: int) -> list[Event]:
        """So much of what is held, as text; after a call there is none."""
        text, self._held = self._held[:size], self._held[size:]
        if self._calls:
            self.is_over = self.is_over or bool(text.strip())
            return []
        return [Text(text)] if text else []


def _settled(text: str) -> int:
    """How much of it cannot be the beginning of a call, nor the space before one."""
    start = text.rfind("<")
    if start >= 0 and OPEN.startswith(text[start:]):
        text = text[:start]
    return len(text.rstrip())
