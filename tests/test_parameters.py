"""What a client asks of a bot by name, held against what the bot declares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay import catalogue, parameters, prompting
from relay.directory import Mapping
from relay.errors import BadRequest
from relay.events import ChatRequest, Message, TextPart
from relay.models import BotMapping, UsageRecord
from relay.parameters import Parameter, Refused
from tests import entries
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

EFFORT = {"name": "effort", "schema": {"type": "string", "enum": ["low", "Medium", "high"]}}
SEARCH = {"name": "web_search", "schema": {"type": "boolean"}, "default_value": False}
BUDGET = {"name": "thinking_budget", "schema": {"type": "integer", "minimum": 0, "maximum": 30768}}
SCALE = {"name": "scale", "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}}
LENGTH = {"name": "max_output_tokens", "schema": {"type": "integer", "minimum": 1, "maximum": 8192}}
ASPECT = {"name": "aspect_ratio", "schema": {"type": "string", "enum": ["1:1", "16:9", "9:16", "auto"]}}
STYLE = {"name": "style", "schema": {"type": "string", "minLength": 2, "maxLength": 5}}
HEAT = {"name": "temperature", "schema": {"type": "number", "minimum": 0, "maximum": 1}}
SHARES = {"name": "shares", "schema": {"enum": [1, 2.5, True, "1:1"]}}
TAGS = {"name": "tags", "schema": {"type": "array"}}
MAYBE = {"name": "seed", "schema": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}}
EITHER = {"name": "speed", "schema": {"type": ["number", "string"]}}
ODD = {"name": "odd", "schema": {"$ref": "#/definitions/odd"}}
ALL: list[dict[str, Any]] = [
    EFFORT,
    SEARCH,
    BUDGET,
    SCALE,
    LENGTH,
    ASPECT,
    STYLE,
    HEAT,
    SHARES,
    TAGS,
    MAYBE,
    EITHER,
    ODD,
]
USER = Message("user", (TextPart("Hi"),))


def mapping_with(*declared: dict[str, Any], **fields: Any) -> Mapping:
    return entries.mapping(declared=parameters.declared(list(declared)), **fields)


def asked(of: Mapping, is_fallback: bool = False, **fields: Any) -> ChatRequest:
    chat = ChatRequest("gpt-4o", (USER,), **fields)
    return parameters.for_bot(chat, of, is_fallback=is_fallback)


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ({"effort": "low"}, {"effort": "low"}),
        ({"effort": "MEDIUM "}, {"effort": "Medium"}),
        ({"Effort": "high"}, {"effort": "high"}),
        ({"web-search": True}, {"web_search": True}),
        ({"web_search": "true"}, {"web_search": True}),
        ({"web_search": " False"}, {"web_search": False}),
        ({"thinking_budget": 5}, {"thinking_budget": 5}),
        ({"thinking_budget": "5"}, {"thinking_budget": 5}),
        ({"thinking_budget": 5.0}, {"thinking_budget": 5}),
        ({"thinking_budget": "5e2"}, {"thinking_budget": 500}),
        ({"scale": "0.5"}, {"scale": 0.5}),
        ({"scale": 1}, {"scale": 1}),
        ({"style": "noir"}, {"style": "noir"}),
        ({"shares": 1}, {"shares": 1}),
        ({"shares": "2.5"}, {"shares": 2.5}),
        ({"shares": True}, {"shares": True}),
        ({"shares": "true"}, {"shares": True}),
        ({"tags": ["a"]}, {"tags": ["a"]}),
        ({"seed": "7"}, {"seed": 7}),
        ({"speed": "5"}, {"speed": "5"}),
        ({"speed": 5}, {"speed": 5}),
        ({"odd": {"anything": []}}, {"odd": {"anything": []}}),
        ({"effort": None}, {}),
        # OpenAI's own names.
        ({"reasoning_effort": "high"}, {"effort": "high"}),
        ({"reasoning_effort": "high", "effort": "low"}, {"effort": "low"}),
        ({"effort": "low", "reasoning_effort": "high"}, {"effort": "low"}),
        ({"reasoning_effort": "medium"}, {"effort": "Medium"}),
        ({"reasoning_effort": "max"}, {"effort": "high"}),
        ({"reasoning_effort": "none"}, {"effort": "low"}),
        ({"size": "1024x1792"}, {"aspect_ratio": "9:16"}),
        ({"size": "1000X1000"}, {"aspect_ratio": "1:1"}),
        ({"size": "1792 × 1024"}, {"aspect_ratio": "16:9"}),
        ({"size": "16:9"}, {"aspect_ratio": "16:9"}),
        ({"size": "auto"}, {"aspect_ratio": "auto"}),
    ],
)
def test_a_wish_becomes_what_the_bot_declares(sent: dict[str, Any], taken: dict[str, Any]) -> None:
    found = asked(mapping_with(*ALL), parameters=sent).parameters

    assert found == taken
    assert [type(value) for value in found.values()] == [type(value) for value in taken.values()]


@pytest.mark.parametrize(
    ("schema", "effort", "tokens"),
    [
        (BUDGET["schema"], "low", 4_096),
        (BUDGET["schema"], "Max", 30_768),
        (BUDGET["schema"], "none", 0),
        ({"type": "integer", "minimum": 1024}, "none", 1_024),
        ({"type": "integer", "minimum": 1024}, "max", 64_000),
    ],
)
def test_an_effort_is_told_in_tokens_to_a_bot_that_counts_them(
    schema: dict[str, Any], effort: str, tokens: int
) -> None:
    of = mapping_with({"name": "thinking_budget", "schema": schema})

    found = asked(of, parameters={"reasoning_effort": effort})

    assert found.parameters == {"thinking_budget": tokens} and found.ignored == ()


@pytest.mark.parametrize(
    ("sent", "param", "allowed"),
    [
        ({"effort": "extreme"}, "effort", "one of low, Medium, high"),
        ({"effort": 3}, "effort", "one of low, Medium, high"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort", "one of low, Medium, high"),
        ({"reasoning_effort": 3}, "reasoning_effort", "one of low, Medium, high"),
        ({"web_search": "yes"}, "web_search", "true or false"),
        ({"web_search": 1}, "web_search", "true or false"),
        ({"thinking_budget": -1}, "thinking_budget", "a whole number from 0 to 30768"),
        ({"thinking_budget": 40000}, "thinking_budget", "a whole number from 0 to 30768"),
        ({"thinking_budget": 0.5}, "thinking_budget", "a whole number from 0 to 30768"),
        ({"thinking_budget": True}, "thinking_budget", "a whole number from 0 to 30768"),
        ({"thinking_budget": "inf"}, "thinking_budget", "a whole number from 0 to 30768"),
        ({"thinking_budget": "9" * 5000}, "thinking_budget", "a whole number from 0 to 30768"),
        ({"thinking_budget": [1]}, "thinking_budget", "a whole number from 0 to 30768"),
        ({"scale": 0}, "scale", "a number above 0 and at most 1.5"),
        ({"style": "x"}, "style", "text of at least 2 and at most 5 characters"),
        ({"style": 5}, "style", "text of at least 2 and at most 5 characters"),
        ({"shares": False}, "shares", "one of 1, 2.5, true, 1:1"),
        ({"tags": "a"}, "tags", "a list"),
        ({"seed": 0}, "seed", "a whole number of at least 1"),
        ({"speed": []}, "speed", "a number or text"),
        ({"size": "huge"}, "size", "such as 1024x1024, or one of 1:1, 16:9, 9:16, auto"),
        ({"size": "0x5"}, "size", "such as 1024x1024, or one of 1:1, 16:9, 9:16, auto"),
    ],
)
def test_it_refuses_what_the_bot_does_not_take(sent: dict[str, Any], param: str, allowed: str) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(mapping_with(*ALL), parameters=sent)

    assert (refused.value.param, refused.value.code) == (param, "invalid_parameter")
    assert refused.value.message == f"`{param}` must be {allowed}."


@pytest.mark.parametrize(
    ("name", "declared", "fields", "sent"),
    [
        ("max_tokens", [LENGTH], {"max_tokens": 100}, {"max_output_tokens": 100}),
        ("max_tokens", [LENGTH], {"max_tokens": 100, "parameters": {"max_output_tokens": 7}}, {"max_output_tokens": 7}),
        ("max_tokens", [EFFORT], {"max_tokens": 100}, {}),
        ("temperature", [HEAT], {"temperature": 0.5}, {"temperature": 0.5}),
        ("size", [{"name": "size", "schema": {"enum": ["512x512"]}}, ASPECT], {"parameters": {"size": "512x512"}}, {"size": "512x512"}),
        ("size", [{"name": "aspect", "schema": {"type": "string"}}], {"parameters": {"size": "1024x1792"}}, {"aspect": "4:7"}),
        ("effort", [{"name": "thinking_level", "schema": {"enum": ["low"]}}], {"parameters": {"reasoning_effort": "low"}}, {"thinking_level": "low"}),
    ],
)  # fmt: skip
def test_fields_of_openai_reach_the_parameter_that_means_them(
    name: str, declared: list[dict[str, Any]], fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    found = asked(mapping_with(*declared), **fields)

    assert found.parameters == sent
    # The relay's own limit and Poe's own field stay.
    assert found.max_tokens == fields.get("max_tokens") and found.temperature == fields.get("temperature")


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"max_tokens": 9000}, "max_tokens"), ({"temperature": 1.5}, "temperature")],
)
def test_it_refuses_a_field_of_openai_that_is_out_of_the_bots_bounds(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(mapping_with(*ALL), **fields)

    assert refused.value.param == param


def test_what_the_bot_does_not_declare_is_left_out_and_named() -> None:
    sent = {"effort": "low", "made_up": 1, "size": "1x1", "a,b\r\nx: y": 2, "名": 3}

    found = asked(mapping_with(EFFORT), parameters=sent, ignored=("top_p",))

    assert found.parameters == {"effort": "low"}
    assert found.ignored == ("%E5%90%8D", "a%2Cb%0D%0Ax%3A%20y", "made_up", "size", "top_p")


def test_the_names_that_are_said_back_are_bounded() -> None:
    found = asked(mapping_with(EFFORT), parameters={f"{i}" * 300: 1 for i in range(1000, 1500)})

    assert len(", ".join(found.ignored)) < 2500


def test_without_a_schema_everything_is_passed_on_as_it_is() -> None:
    chat = ChatRequest("gpt-4o", (USER,), max_tokens=5, parameters={"size": "huge", "effort": ["?"]})

    assert parameters.for_bot(chat, entries.mapping()) is chat


def test_it_says_the_same_when_it_is_asked_twice() -> None:
    mapping = mapping_with(*ALL)
    once = asked(mapping, max_tokens=5, parameters={"reasoning_effort": "LOW", "size": "3x1", "what": 1})

    assert parameters.for_bot(once, mapping) == once


def test_a_fallback_is_not_sent_what_it_does_not_take() -> None:
    found = asked(
        mapping_with(*ALL),
        is_fallback=True,
        max_tokens=9000,
        parameters={"effort": "extreme", "web_search": "true", "size": "huge"},
    )

    assert found.parameters == {"web_search": True}


@pytest.mark.parametrize(
    ("entry", "kinds", "choices"),
    [
        ({"name": "a", "schema": {"anyOf": [{"enum": ["x"]}, {"const": "y"}]}}, {"string"}, ("x", "y")),
        ({"name": "a", "schema": {"oneOf": [{"type": "string", "enum": ["x"]}, {"type": "integer"}]}}, {"string", "integer"}, ()),
        ({"name": "a", "schema": {"anyOf": [{"type": "null"}]}}, set(), ()),
        ({"name": "a", "schema": {"anyOf": [{}, {"type": "string"}]}}, set(), ()),
        ({"name": "a", "schema": {"type": "colour"}}, set(), ()),
        ({"name": "a", "schema": {"enum": "low"}}, set(), ()),
        ({"name": "a", "schema": []}, set(), ()),
        ({"name": "a"}, set(), ()),
    ],
)  # fmt: skip
def test_a_schema_is_read_as_far_as_it_is_known(
    entry: dict[str, Any], kinds: set[str], choices: tuple[Any, ...]
) -> None:
    [found] = parameters.declared([entry])

    assert found.choices == choices
    assert found.choices or set(found.kinds) == kinds


@pytest.mark.parametrize("said", [None, {}, "x", [1, None, {}, {"name": 5}, {"name": ""}]])
def test_what_is_no_list_of_parameters_declares_nothing(said: Any) -> None:
    assert parameters.declared(said) == ()


def test_a_schema_that_holds_itself_ends() -> None:
    deep: dict[str, Any] = {"type": "string", "enum": ["x"]}
    for _ in range(50):
        deep = {"anyOf": [deep]}

    assert parameters.declared([{"name": "a", "schema": deep}])[0].name == "a"


def test_a_bound_of_openapi_3_0_is_understood() -> None:
    [found] = parameters.declared(
        [{"name": "a", "schema": {"type": "number", "minimum": 0, "exclusiveMinimum": True}}]
    )

    assert found.take(0.1) == 0.1
    with pytest.raises(Refused):
        found.take(0)


def test_many_choices_are_not_all_told() -> None:
    crowd = Parameter("a", choices=tuple(f"choice-{i}" for i in range(400)))

    assert crowd.allowed.endswith("choice-29, ...")


def test_defaults_that_the_bot_does_not_take_any_more_are_nobodys_error() -> None:
    stored = {"effort": "extreme", "web_search": "true", "undeclared": {"a": 1}}

    found = parameters.defaults(stored, parameters.declared(ALL))

    assert found == {"web_search": True, "undeclared": {"a": 1}}


def test_the_bot_is_sent_defaults_and_above_them_what_the_client_said() -> None:
    mapping = mapping_with(*ALL, parameters={"effort": "low", "style": "noir"})
    chat = ChatRequest("gpt-4o", (USER,), parameters={"reasoning_effort": "high", "made_up": 1})

    found = prompting.for_bot(chat, mapping)

    assert found.parameters == {"effort": "high", "style": "noir"} and found.ignored == ("made_up",)
    assert replace(mapping, declared=()).parameters == {"effort": "low", "style": "noir"}


@pytest.mark.asyncio
async def test_a_bad_parameter_is_refused_before_anything_is_written_and_a_good_one_arrives(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    def declare() -> None:
        mapping = BotMapping.objects.get(model="demo-echo")
        mapping.declared_parameters = [
            {"name": "repeat", "schema": {"type": "integer", "minimum": 1, "maximum": 5}},
            {"name": "effort", "schema": {"enum": ["low", "high"]}},
        ]
        mapping.synced = {"bot": "demo-echo"}
        mapping.save()

    await in_database(declare)

    refused = await api.chat(cast.bob.plain, "demo-echo", reasoning_effort="extreme")
    too_many = await api.chat(cast.bob.plain, "demo-echo", extra_body={"repeat": "6"})
    twice = await api.chat(cast.bob.plain, "demo-echo", "hey", repeat="2", reasoning_effort="low")

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_parameter")
    assert refused.json()["error"]["param"] == "reasoning_effort"
    assert "one of low, high" in refused.json()["error"]["message"]
    assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "repeat")
    assert twice.status_code == 200
    assert twice.json()["choices"][0]["message"]["content"].count("hey") == 2
    assert await in_database(UsageRecord.objects.count) == 1


@pytest.mark.asyncio
async def test_a_schema_that_an_administrator_just_changed_counts_at_once(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    def declare(most: int) -> None:
        BotMapping.objects.filter(model="demo-echo").update(
            declared_parameters=[{"name": "repeat", "schema": {"type": "integer", "maximum": most}}],
            synced={"bot": "demo-echo"},
        )

    await in_database(declare, 1)
    before = await api.chat(cast.bob.plain, "demo-echo", repeat=2)
    await in_database(declare, 2)
    after = await api.chat(cast.bob.plain, "demo-echo", repeat=2)

    assert (before.status_code, after.status_code) == (400, 200)


@pytest.mark.asyncio
async def test_a_mapping_with_another_bot_forgets_what_the_old_one_declared(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    def move() -> None:
        BotMapping.objects.filter(model="demo-thinker").update(
            bot="Demo-Echo",
            declared_parameters=[{"name": "repeat", "schema": {"type": "integer", "maximum": 1}}],
            synced={"bot": "demo-thinker"},
        )

    await in_database(move)

    assert (await api.chat(cast.bob.plain, "demo-thinker", repeat=2)).status_code == 200


def test_what_a_catalogue_declares_is_what_a_request_is_held_to() -> None:
    reading = catalogue.read([{"id": "x", "parameters": [EFFORT, {"name": "nul\0"}, "odd"]}], 33_333)

    [found] = parameters.declared(reading.bots[0].parameters)

    assert found.take("LOW") == "low"


def test_what_few_bots_take_is_sent_to_one_that_declares_it() -> None:
    asked = ChatRequest("m", (), rare={"top_p": "0.5", "seed": 7}, ignored=("seed", "top_p"))
    of_bot = parameters.declared([{"name": "top_p", "schema": {"type": "number"}}])

    found = parameters.for_bot(asked, entries.mapping(declared=of_bot))

    assert (found.parameters, found.ignored) == ({"top_p": 0.5}, ("seed",))
    assert parameters.for_bot(asked, entries.mapping()) is asked


@pytest.mark.asyncio
async def test_what_the_bot_does_not_declare_is_told_in_a_header(api: Api, cast: Cast, demo: DemoPoe) -> None:
    def declare() -> None:
        BotMapping.objects.filter(model="demo-echo").update(
            declared_parameters=[{"name": "repeat", "schema": {"type": "integer"}}],
            synced={"bot": "demo-echo"},
        )

    await in_database(declare)

    for stream in (False, True):
        response = await api.chat(
            cast.bob.plain, "demo-echo", made_up=1, extra_body={"名\n": 2}, top_p=0.5, stream=stream
        )
        assert response.status_code == 200
        assert response.headers["x-poe-relay-ignored"] == "%E5%90%8D%0A, made_up, top_p"
