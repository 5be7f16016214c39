"""The vocabulary that every wire format and every upstream shares: pure values, no I/O, no Django.

A wire format turns a client's body into a `ChatRequest`; an upstream turns a bot's answer into events;
a wire format turns the events into bytes again. Nothing else crosses the borders, except `RelayError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


# What a client asks for. Each request makes a dozen, and some anew: as Structs they take a fifth of the time of frozen
# dataclasses.


class TextPart(Struct, frozen=True):
    text: str


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file in a message: a URL that the upstream fetches, the bytes themselves, or the id of one that is kept.

    One of them. Before a bot is asked, the bytes stand for the id.
    """

    name: str
    content_type: str
    url: str | None = None
    # Left out of the hash: of 50 MB that would take a while.
    data: bytes | None = field(default=None, hash=False, repr=False)
    file_id: str | None = None


class ToolCallPart(Struct, frozen=True):
    """A tool call that the assistant made earlier in the conversation; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class ToolResultPart(Struct, frozen=True):
    call_id: str
    name: str
    content: str


Part = TextPart | FilePart | ToolCallPart | ToolResultPart


class Message(Struct, frozen=True):
    role: Role
    parts: tuple[Part, ...]
    name: str = ""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class ToolChoice(Struct, frozen=True):
    """What is wanted of the tools. `name` is the tool that must be called where `mode` is "named"."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The answer is to be JSON: what `schema` allows, or any object where there is none."""

    schema: dict[str, Any] | None = field(default=None, hash=False)
    name: str = ""
    strict: bool = False


class ChatRequest(Struct, frozen=True):
    """One request for an answer, whatever dialect it came in.

    `parameters` are the bot's own parameters by name, as the client sent them; `rare` those of the wire format that
    only a bot is sent that declares them. `ignored` names what the client asked for and nobody can honour, all of `rare`
    at first; it is told in the header `x-poe-relay-ignored`.
    """

    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    logit_bias: dict[str, float] = {}
    # Each as OpenAI's chat completions write them, with all that the client wrote: {"type": "function", "function": {...}}.
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    # The client knows no tools: it is told of a call as OpenAI did before it had them.
    calls_functions: bool = False
    # Pictures are wanted beside the text as well.
    shows_images: bool = False
    response_format: ResponseFormat | None = None
    parameters: dict[str, Any] = {}
    rare: dict[str, Any] = {}
    ignored: tuple[str, ...] = ()

    @property
    def file_ids(self) -> list[str]:
        """Of the files that are kept, each once."""
        parts = [part for message in self.messages for part in message.parts if type(part) is FilePart]
        return list(dict.fromkeys(part.file_id for part in parts if part.file_id is not None))

    def with_files(self, kept: dict[str, FilePart]) -> ChatRequest:
        """The request with these in the places of their ids."""

        def shown(part: Part) -> Part:
            return kept[part.file_id] if isinstance(part, FilePart) and part.file_id is not None else part

        messages = (replace(each, parts=tuple(map(shown, each.parts))) for each in self.messages)
        return replace(self, messages=tuple(messages))


# What a bot says. Most of it is words, of which a read makes one event.


class Text(Struct, frozen=True, gc=False):
    text: str


class Words(Text, frozen=True, gc=False):
    """Texts that came together: `text` is all of it, `json` each of them as a JSON string, as it came.

    Whoever sends them on as JSON need not read and write each of them anew. Whoever changes a text, or tells one from the
    next, takes them `one_by_one`.
    """

    json: list[bytes]

    def each(self) -> list[Event]:
        return [Text(text) for text in msgspec.json.decode(b"[%b]" % b",".join(self.json), type=list[str])]


class Reasoning(Struct, frozen=True, gc=False):
    text: str


class Replace(Struct, frozen=True, gc=False):
    """Everything said so far is to be read as `text` instead."""

    text: str


class ToolCall(Struct, frozen=True, gc=False):
    """A piece of a tool call. The first piece of an `index` has `id` and `name`; `arguments` are appended."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Attachment(Struct, frozen=True, gc=False):
    """A file that the bot made. `inline_ref` is the name that its text uses for it: `![title][inline_ref]`."""

    url: str
    name: str
    content_type: str
    inline_ref: str | None = None


class Finish(Struct, frozen=True, gc=False):
    reason: FinishReason
    # The one of the client's stop sequences that ended it.
    stop: str = ""


Event = Text | Reasoning | Replace | ToolCall | Attachment | Finish


def one_by_one(events: list[Event]) -> list[Event]:
    """Each text as an event of its own."""
    for event in events:
        if isinstance(event, Words):
            return [
                each for event in events for each in (event.each() if isinstance(event, Words) else [event])
            ]
    return events


class Usage(Struct, frozen=True):
    """Tokens of one request, as counted by us: an estimate, since each bot has a tokenizer of its own."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens
