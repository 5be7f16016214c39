"""Calls that a bot writes as text: explained to it, and read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay import shaping
from relay.events import (
    Attachment,
    ChatRequest,
    Event,
    Finish,
    Message,
    Reasoning,
    Text,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from relay.shaping import calls
from relay.shaping.written_calls import WrittenCalls

TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "f", "parameters": {"$defs": {"x": {}}}, "strict": True}},
    {"type": "function", "function": {"name": "g"}},
)
USER = Message("user", (TextPart("Hi"),))
F = '<tool_call>\n{"name": "f", "arguments": {"a": "</b> ü"}}\n</tool_call>'
G = '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
STOP = Finish("stop")


def read(*events: Event, finish: Finish = STOP) -> tuple[str, list[tuple[str, Any]], str]:
    """The text, the calls and how it ends. Each call has an id and an index of its own."""
    stage = WrittenCalls(TOOLS)
    said = [said for event in events if not stage.is_over for said in stage.feed([event])]
    rest: list[Event] = stage.end(finish)
    said, last = [*said, *rest[:-1]], rest[-1]
    found = [event for event in said if isinstance(event, ToolCall)]
    assert len({call.id for call in found}) == len(found)
    assert [call.index for call in found] == list(range(len(found)))
    assert isinstance(last, Finish)
    text = "".join(event.text for event in said if isinstance(event, Text))
    return text, [(call.name, json.loads(call.arguments)) for call in found], last.reason


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("written", "text", "called"),
    [
        (F, "", ["f"]),
        (f"\n\n{F}\n", "", ["f"]),
        (f"Let me look.\n\n{F}", "Let me look.", ["f"]),
        (f"{F}\n{G}", "", ["f", "g"]),
        (f"{F}\nIt is sunny. {G}", "", ["f"]),
        (f"{F}\n<tool_result>42</tool_result>", "", ["f"]),
        ("a < b, <tool, <tool_calls> and <tool_", "a < b, <tool, <tool_calls> and <tool_", []),
        ("no call at all \n", "no call at all \n", []),
    ],
)
def test_it_reads_calls_however_they_are_cut(written: str, text: str, called: list[str], size: int) -> None:
    pieces = [Text(written[at : at + size]) for at in range(0, len(written), size)]

    said, found, reason = read(*pieces)

    assert said == text and [name for name, _arguments in found] == called
    assert found == [] or found[0] == ("f", {"a": "</b> ü"})
    assert reason == ("tool_calls" if called else "stop")


@pytest.mark.parametrize(
    "written",
    [
        '<tool_call>{"name": "h", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {}, "id": "1"}</tool_call>',
        '<tool_call>{"name": "f"}</tool_call>',
        "<tool_call>f()</tool_call>",
        "<tool_call></tool_call>",
        '<tool_call>{"name": "f", "arguments": {}}',
    ],
)
def test_what_is_no_call_in_every_detail_stays_text(written: str) -> None:
    assert read(Text(f"So: {written}")) == (f"So: {written}", [], "stop")


def test_text_streams_on_while_no_call_has_begun() -> None:
    stage = WrittenCalls(TOOLS)

    assert stage.feed([Text("one "), Text("two")]) == [Text("one"), Text(" two")]
    assert stage.feed([Text("\n<tool_call>"), Reasoning("hm")]) == [Reasoning("hm")]


def test_a_file_does_not_wait() -> None:
    picture = Attachment("https://h.example/a.png", "a.png", "image/png")

    assert WrittenCalls(TOOLS).feed([Text("See <"), picture]) == [Text("See"), Text(" <"), picture]


def test_a_call_that_was_cut_short_is_none() -> None:
    assert read(Text(F[:-5]), finish=Finish("length")) == (F[:-5], [], "length")


# What the bot is told.


def asked(*messages: Message, **fields: Any) -> ChatRequest:
    return shaping.asked(ChatRequest("m", messages, tools=TOOLS, **fields), (), writes_calls=True)


def test_the_bot_is_told_its_tools_with_all_that_the_client_wrote() -> None:
    chat = asked(USER)

    assert chat.tools == () and chat.messages[-1] == USER
    assert '{"name":"f","parameters":{"$defs":{"x":{}}},"strict":true}' in chat.messages[0].text


def test_the_choice_holds_for_written_calls_too() -> None:
    assert asked(USER, tool_choice=ToolChoice("none")).messages == (USER,)
    named = asked(USER, tool_choice=ToolChoice("named", "g")).messages[0].text
    assert '"name":"f"' not in named and named.endswith(calls.ONE.format(name="g"))


def test_calls_and_results_are_written_as_the_bot_knows_them() -> None:
    call = Message("assistant", (TextPart("Hm."), ToolCallPart("c1", "f", '{"a":1}')))
    result = Message("tool", (ToolResultPart("c1", "f", "42"),))

    *_others, first, second = asked(USER, call, result).messages

    assert (first.role, first.text) == (
        "assistant",
        'Hm.\n<tool_call>\n{"name":"f","arguments":{"a":1}}\n</tool_call>',
    )
    assert (second.role, second.text) == ("user", '\n<tool_result name="f" id="c1">\n42\n</tool_result>')


def test_a_bot_that_has_tools_is_given_them_as_they_are() -> None:
    assert shaping.asked(ChatRequest("m", (USER,), tools=TOOLS), ()).tools == TOOLS
