"""An answer that must be JSON: found among words, held against a schema that a stranger wrote."""

from __future__ import annotations

from typing import Any

import pytest

from relay import parameters, shaping
from relay.errors import BadRequest, UnfitAnswer
from relay.events import (
    ChatRequest,
    Event,
    Finish,
    Message,
    Reasoning,
    ResponseFormat,
    Text,
    TextPart,
    ToolCall,
)
from relay.shaping import json_answers
from relay.shaping.json_answers import JsonOnly, fitting

STOP = Finish("stop")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OBJECT, TYPED = ResponseFormat(), ResponseFormat(SCHEMA, "thing", True)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"a": 1}', '{"a": 1}'),
        (' \n{"a": 1}\n', '{"a": 1}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}```', '{"a": 1}'),
        ('Here it is:\n\n```json\n{"a": 1}\n```\nAnything else?', '{"a": 1}'),
        ('Sure! {"a": 1} Bye.', '{"a": 1}'),
        ('{"a": "```json\\n{}\\n```"}', '{"a": "```json\\n{}\\n```"}'),
    ],
)
def test_it_finds_the_json_in_what_a_bot_says(said: str, found: str) -> None:
    assert fitting(said, OBJECT) == found


@pytest.mark.parametrize("said", ["```\n" + " " * 100_000, "```" * 30_000, "```json\n" * 15_000])
def test_what_somebody_made_up_comes_to_an_end_soon(said: str) -> None:
    """A pattern took minutes for this; it is a matter of milliseconds."""
    with pytest.raises(UnfitAnswer):
        fitting(said, OBJECT)


@pytest.mark.parametrize("said", ["", "No.", "[1]", '"a"', "{'a': 1}", '{"a": NaN}', '{"a": 1', '{"a": 1}}'])
def test_what_is_no_json_object_is_unfit(said: str) -> None:
    with pytest.raises(UnfitAnswer) as caught:
        fitting(said, OBJECT)

    assert caught.value.code == "json_answer_invalid" and caught.value.said == said


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("{}", "at $: 'a' is a required property"),
        ('{"a": "x"}', "at $.a: 'x' is not of type 'integer'"),
        ("I cannot.", "it is not valid JSON"),
    ],
)
def test_a_bot_is_told_what_does_not_fit(said: str, problem: str) -> None:
    with pytest.raises(UnfitAnswer) as caught:
        fitting(said, TYPED)

    assert caught.value.again == json_answers.AGAIN.format(problem=problem)
    assert problem not in caught.value.message


def test_a_schema_need_not_ask_for_an_object() -> None:
    assert fitting("[1, 2]", ResponseFormat({"type": "array", "items": {"type": "integer"}})) == "[1, 2]"


def test_a_schema_may_refer_to_itself() -> None:
    tree = {"$ref": "#/$defs/tree", "$defs": {"tree": {"items": {"$ref": "#/$defs/tree"}, "type": "array"}}}

    assert fitting("[[], [[]]]", ResponseFormat(tree)) == "[[], [[]]]"
    with pytest.raises(UnfitAnswer):
        fitting("[[], [5]]", ResponseFormat(tree))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "https://h.example/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"pattern": "(a+)+$"},
        {"patternProperties": {"(a+)+$": {}}, "additionalProperties": False},
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
                for i in range(40)
            }
            | {"d40": {}},
        },
    ],
)
def test_a_hostile_schema_fetches_nothing_and_comes_to_an_end(schema: dict[str, Any]) -> None:
    json_answers.check(schema)

    for said in ('"' + "a" * 40 + '!"', '{"' + "a" * 40 + '!": 1}'):
        assert fitting(said, ResponseFormat(schema)) == said


@pytest.mark.parametrize(
    "schema", [{"type": "thing"}, {"properties": []}, {"required": "a"}, {"x": "y" * 120_000}]
)
@pytest.mark.asyncio
async def test_what_is_no_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        await shaping.check(ChatRequest("m", (), response_format=ResponseFormat(schema)))

    assert caught.value.param == "response_format" and len(caught.value.message) < 500


def held(*events: Event, finish: Finish = STOP) -> list[Event]:
    stage = JsonOnly(TYPED)
    return [*stage.feed(list(events)), *stage.end(finish)]


def test_the_text_is_held_until_it_is_whole() -> None:
    said = held(Reasoning("hm"), Text('```json\n{"a"'), Text(": 1}\n```"))

    assert said == [Reasoning("hm"), Text('{"a": 1}'), Finish("stop")]


def test_what_was_cut_short_or_stands_beside_a_call_is_handed_on() -> None:
    call = ToolCall(0, "c", "f", "{}")

    assert held(Text('{"a'), finish=Finish("length")) == [Text('{"a'), Finish("length")]
    assert held(Text('{"a'), finish=Finish("stop", "x")) == [Text('{"a'), Finish("stop", "x")]
    assert held(Text("Hm."), call, finish=Finish("tool_calls")) == [call, Text("Hm."), Finish("tool_calls")]
    assert held(call, finish=Finish("tool_calls")) == [call, Finish("tool_calls")]


# How a bot is asked for it.

USER = Message("user", (TextPart("Hi"),))


def declared(name: str, **schema: Any) -> tuple[parameters.Parameter, ...]:
    return parameters.declared([{"name": name, "schema": schema}])


@pytest.mark.parametrize(
    ("format", "bot", "sent"),
    [
        (OBJECT, declared("response_format", type="object"), {"response_format": {"type": "json_object"}}),
        (
            OBJECT,
            declared("response_format", enum=["text", "json_object"]),
            {"response_format": "json_object"},
        ),
        (TYPED, declared("json_schema", type="object"), {"json_schema": SCHEMA}),
        (
            TYPED,
            declared("response_format"),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True},
                }
            },
        ),
    ],
)
def test_a_bot_that_has_a_parameter_for_it_is_sent_that(
    format: ResponseFormat, bot: tuple[parameters.Parameter, ...], sent: dict[str, Any]
) -> None:
    chat = shaping.asked(ChatRequest("m", (USER,), response_format=format), bot)

    assert (chat.parameters, chat.messages) == (sent, (USER,))


@pytest.mark.parametrize("bot", [(), declared("aspect"), declared("response_format", enum=["text", "xml"])])
def test_another_is_told_in_words(bot: tuple[parameters.Parameter, ...]) -> None:
    told = [
        shaping.asked(ChatRequest("m", (USER,), response_format=format), bot).messages[0]
        for format in (OBJECT, TYPED)
    ]

    assert [message.role for message in told] == ["system", "system"]
    assert told[0].text == json_answers.OBJECT
    assert told[1].text.endswith('{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}')
