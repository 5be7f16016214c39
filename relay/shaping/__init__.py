"""What a client wants of an answer that Poe's protocol cannot ask for: told to the bot in words, and held it to.

`check` refuses what cannot be meant, `asked` words the request for the bot, a `Shape` makes its events fit. An answer that
does not fit is an `UnfitAnswer`; whether the bot is asked once more is the pipeline's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from msgspec.structs import replace

from relay.errors import BadRequest
from relay.events import ChatRequest, Event, Finish, Message, TextPart
from relay.parameters import Parameter
from relay.shaping import calls, json_answers, written_calls
from relay.shaping.calls import FirstCall, RequiredCall
from relay.shaping.json_answers import JsonOnly
from relay.shaping.stops import Stops
from relay.shaping.written_calls import WrittenCalls

__all__ = ["Shape", "asked", "check", "must_fit", "shape_of"]

LONGEST_STOP = 1000


class Stage(Protocol):
    """`is_over`: nothing that follows is wanted. `end` gives what was held back, and the Finish last."""

    @property
    def is_over(self) -> bool: ...

    def feed(self, events: list[Event]) -> list[Event]: ...

    def end(self, finish: Finish) -> list[Event]: ...


class Shape:
    """The stages that an answer goes through, in their order."""

    def __init__(self, stages: list[Stage]) -> None:
        self._stages = stages

    @property
    def is_over(self) -> bool:
        return any(stage.is_over for stage in self._stages)

    def feed(self, events: list[Event]) -> list[Event]:
        for stage in self._stages:
            events = stage.feed(events)
        return events

    def end(self, events: list[Event], finish: Finish) -> tuple[list[Event], Finish]:
        """The last of the answer and how it ends, or UnfitAnswer. May take a while."""
        for stage in self._stages:
            *events, last = [*stage.feed(events), *stage.end(finish)]
            assert isinstance(last, Finish)
            finish = last
        return events, finish


def must_fit(chat: ChatRequest) -> bool:
    """Whether an answer may turn out to be unfit."""
    return chat.response_format is not None or chat.tool_choice.mode in ("required", "named")


def shape_of(chat: ChatRequest, *, writes_calls: bool = False) -> Shape | None:
    """None, as almost always, where every answer fits. `writes_calls`: the bot has no tool calls of its own."""
    stages: list[Stage] = []
    tools = calls.callable_tools(chat) if writes_calls else ()
    if tools:
        stages.append(WrittenCalls(tools))
    if chat.tools and not chat.parallel_tool_calls:
        stages.append(FirstCall())
    if chat.stop:
        stages.append(Stops(chat.stop))
    if chat.tool_choice.mode in ("required", "named"):
        stages.append(RequiredCall())
    elif chat.response_format is not None:
        stages.append(JsonOnly(chat.response_format))
    return Shape(stages) if stages else None


async def check(chat: ChatRequest) -> None:
    """Raises BadRequest for what no answer could fit."""
    calls.check(chat)
    if any(len(stop) > LONGEST_STOP for stop in chat.stop):
        raise BadRequest(f"`stop` holds more than {LONGEST_STOP} characters.", param="stop")
    if chat.response_format is not None and chat.response_format.schema is not None:
        await asyncio.to_thread(json_answers.check, chat.response_format.schema)


def asked(chat: ChatRequest, declared: Iterable[Parameter], *, writes_calls: bool = False) -> ChatRequest:
    """As the bot is to be asked: with words for what it has no field for, below the client's own instructions."""
    if chat.tools:
        chat = replace(chat, tools=calls.callable_tools(chat))
    words = calls.words(chat)
    if writes_calls:
        chat = replace(chat, messages=tuple(map(written_calls.written_out, chat.messages)))
        if chat.tools:
            words.insert(0, written_calls.words(chat.tools))
        chat = replace(chat, tools=())
    if chat.response_format is not None and chat.tool_choice.mode not in ("required", "named"):
        native = json_answers.parameter(chat.response_format, declared)
        if native is None:
            words.append(json_answers.words(chat.response_format))
        else:
            chat = replace(chat, parameters={**chat.parameters, **native})
    return _told(chat, "\n\n".join(words)) if words else chat


def _told(chat: ChatRequest, words: str) -> ChatRequest:
    messages = chat.messages
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    told = Message("system", (TextPart(words),))
    return replace(chat, messages=(*messages[:first], told, *messages[first:]))
