"""What `tool_choice` and `parallel_tool_calls` ask for is said to the bot and seen to."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from relay import shaping
from relay.errors import BadRequest, UnfitAnswer
from relay.events import ChatRequest, Event, Finish, Message, Text, TextPart, ToolCall, ToolChoice
from relay.shaping import calls
from relay.shaping.calls import FirstCall, RequiredCall


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


SYSTEM = Message("system", (TextPart("Be kind."),))
USER = Message("user", (TextPart("Hi"),))
CHAT = ChatRequest("m", (SYSTEM, USER), tools=(tool("f"), tool("g")))
STOP = Finish("stop")
ONE, OTHER = ToolCall(0, "c0", "f", "{}"), ToolCall(1, "c1", "g", "{}")


def asked(mode: Any, name: str = "", **fields: Any) -> tuple[list[str], list[str]]:
    """The names of the tools that the bot is given, and what is said to it below the client's own words."""
    chat = shaping.asked(replace(CHAT, tool_choice=ToolChoice(mode, name), **fields), ())
    assert (chat.messages[0], chat.messages[-1]) == (SYSTEM, USER)
    return [calls.name_of(tool) for tool in chat.tools], [message.text for message in chat.messages[1:-1]]


def test_a_bot_is_given_the_tools_that_it_may_call() -> None:
    assert asked("auto") == (["f", "g"], [])
    assert asked("none") == ([], [])
    assert asked("required") == (["f", "g"], [calls.ANY])
    assert asked("named", "g") == (["g"], [calls.ONE.format(name="g")])


def test_a_bot_is_told_that_one_call_is_enough() -> None:
    assert asked("auto", parallel_tool_calls=False) == (["f", "g"], [calls.NOT_PARALLEL])
    assert asked("required", parallel_tool_calls=False)[1] == [f"{calls.ANY}\n\n{calls.NOT_PARALLEL}"]
    assert asked("auto", parallel_tool_calls=False, tools=()) == ([], [])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "chat",
    [
        replace(CHAT, tool_choice=ToolChoice("named", "h")),
        replace(CHAT, tool_choice=ToolChoice("required"), tools=()),
        replace(CHAT, tool_choice=ToolChoice("named", "f"), tools=()),
    ],
)
async def test_a_call_that_no_tool_answers_is_refused(chat: ChatRequest) -> None:
    with pytest.raises(BadRequest) as caught:
        await shaping.check(chat)

    assert caught.value.param == "tool_choice"


@pytest.mark.asyncio
async def test_a_stop_sequence_has_an_end() -> None:
    with pytest.raises(BadRequest, match="1000 characters"):
        await shaping.check(replace(CHAT, stop=("x" * 1001,)))


def test_only_the_first_call_comes_through() -> None:
    stage = FirstCall()
    more = ToolCall(0, arguments="{}")

    said = stage.feed([Text("a"), ToolCall(0, "c", "f"), more])

    assert said == [Text("a"), ToolCall(0, "c", "f"), more] and not stage.is_over
    assert stage.feed([OTHER, Text("b"), more]) == [] and stage.is_over
    assert stage.end(Finish("tool_calls")) == [Finish("tool_calls")]


def required(*events: Event, finish: Finish = STOP) -> list[Event]:
    stage = RequiredCall()
    return [*stage.feed(list(events)), *stage.end(finish)]


def test_words_wait_for_the_call_that_must_come() -> None:
    stage = RequiredCall()

    assert stage.feed([Text("I will"), Text(" look")]) == []
    assert stage.feed([ONE, OTHER]) == [Text("I will"), Text(" look"), ONE, OTHER]
    assert stage.feed([Text("!")]) == [Text("!")]
    assert stage.end(Finish("tool_calls")) == [Finish("tool_calls")]


def test_an_answer_without_the_call_that_must_come_is_unfit() -> None:
    with pytest.raises(UnfitAnswer) as caught:
        required(Text("It is "), Text("fine."))

    exc = caught.value
    assert (exc.code, exc.said, exc.again) == ("tool_call_missing", "It is fine.", calls.AGAIN)
    assert "fine" not in exc.message


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_what_was_cut_short_is_handed_on(reason: Any) -> None:
    assert required(Text("It is"), finish=Finish(reason)) == [Text("It is"), Finish(reason)]


def test_where_nothing_is_asked_for_nothing_is_done() -> None:
    assert shaping.shape_of(CHAT) is None
    assert shaping.asked(CHAT, ()) == CHAT
