"""What a bot is sent for what a client asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from relay import prompting
from relay.directory import Mapping
from relay.events import ChatRequest, FilePart, Message, TextPart, ToolCallPart, ToolResultPart

MAPPING = Mapping(
    id=1,
    model="gpt-4o",
    bot="GPT-4o",
    enabled=True,
    hidden=False,
    account_id=None,
    team_ids=frozenset(),
    parameters={},
    fallback_models=(),
    replace_policy="reasoning",
    simulate_roles="off",
    default_output_tokens=None,
    rates=None,
    created=0,
)
PICTURE = FilePart("a.png", "image/png", data=b"ABC")
SONG = FilePart("b.mp3", "audio/mpeg", url="https://h.example/b.mp3")
SYSTEM = Message("system", (TextPart("Be kind."),))
USER = Message("user", (TextPart("Hi"),))
THOUGHTFUL = Message("assistant", (TextPart("*Thinking...*\n> hm\n\nHello!"),))
ASSISTANT = Message("assistant", (TextPart("Hello!"),))


def asked(*messages: Message, roles: str = "off", **fields: object) -> ChatRequest:
    chat = structs.replace(ChatRequest(model="gpt-4o", messages=messages), **fields)
    return prompting.for_bot(chat, replace(MAPPING, simulate_roles=roles))


# History.


def test_an_assistants_thoughts_are_not_repeated_to_it() -> None:
    assert asked(USER, THOUGHTFUL, USER).messages == (USER, ASSISTANT, USER)


@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_what_others_wrote_is_left_alone(role: str) -> None:
    message = Message(role, THOUGHTFUL.parts)  # type: ignore[arg-type]

    assert asked(message).messages == (message,)


def test_the_rest_of_an_assistants_message_stays() -> None:
    call = ToolCallPart("c1", "f", '{"a": "*Thinking...*"}')
    message = Message("assistant", (*THOUGHTFUL.parts, PICTURE, call), name="Ann")

    assert asked(message).messages == (Message("assistant", (*ASSISTANT.parts, PICTURE, call), name="Ann"),)


def test_what_needs_no_change_is_handed_on_as_it_is() -> None:
    chat = asked(USER, ASSISTANT)

    assert chat.messages[0] is USER and chat.messages[1] is ASSISTANT


def test_the_request_itself_is_not_changed() -> None:
    chat = ChatRequest(model="gpt-4o", messages=(USER, THOUGHTFUL), parameters={"a": 1})
    mapping = replace(MAPPING, parameters={"b": 2}, simulate_roles="on")

    prompting.for_bot(chat, mapping)

    assert chat == ChatRequest(model="gpt-4o", messages=(USER, THOUGHTFUL), parameters={"a": 1})
    assert mapping.parameters == {"b": 2}


# Parameters.


@pytest.mark.parametrize(
    ("defaults", "parameters", "sent"),
    [
        ({}, {}, {}),
        ({"effort": "high"}, {}, {"effort": "high"}),
        ({"effort": "high"}, {"effort": "low"}, {"effort": "low"}),
        ({"effort": "high"}, {"aspect": "1:1"}, {"effort": "high", "aspect": "1:1"}),
        ({"web": True}, {"web": False}, {"web": False}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"c": 2}}),
    ],
)
def test_a_mappings_defaults_lie_under_what_the_client_says(
    defaults: dict[str, object], parameters: dict[str, object], sent: dict[str, object]
) -> None:
    chat = ChatRequest(model="gpt-4o", messages=(USER,), parameters=parameters)

    assert prompting.for_bot(chat, replace(MAPPING, parameters=defaults)).parameters == sent


def test_all_else_is_kept() -> None:
    fields = {"max_tokens": 5, "temperature": 0.5, "stop": ("a",), "logit_bias": {"1": 2.0}, "tools": ({},)}

    for roles in ("off", "on"):
        chat = asked(USER, ASSISTANT, roles=roles, **fields)
        assert {name: getattr(chat, name) for name in fields} == fields


# Simulated roles.


@pytest.mark.parametrize(
    ("roles", "messages", "simulated"),
    [
        ("off", (USER,), False),
        ("off", (SYSTEM, USER), False),
        ("auto", (USER,), False),
        ("auto", (SYSTEM, USER), True),
        ("auto", (USER, ASSISTANT, USER), True),
        ("on", (USER,), True),
        ("on", (SYSTEM, USER), True),
    ],
)
def test_roles_are_simulated(roles: str, messages: tuple[Message, ...], simulated: bool) -> None:
    sent = asked(*messages, roles=roles).messages

    assert ("||>User:" in sent[0].text) is simulated
    assert len(sent) == (1 if simulated else len(messages))


def test_a_simulated_conversation_names_everybody_and_ends_with_the_assistants_turn() -> None:
    (sent,) = asked(
        SYSTEM, USER, THOUGHTFUL, Message("user", (TextPart("One"), TextPart("Two"))), roles="on"
    ).messages

    assert sent.role == "user"
    assert sent.text == (
        "||>System:\nBe kind.\n\n||>User:\nHi\n\n||>Assistant:\nHello!\n\n"
        "||>User:\nOne\nTwo\n\n||>Assistant:\n"
    )


def test_a_simulated_conversation_keeps_every_file_in_order() -> None:
    first = Message("user", (TextPart("See"), PICTURE))
    (sent,) = asked(first, ASSISTANT, Message("user", (SONG, TextPart("and hear"))), roles="auto").messages

    assert [part for part in sent.parts if isinstance(part, FilePart)] == [PICTURE, SONG]
    assert "See\n[file a.png]" in sent.text and "[file b.mp3]\nand hear" in sent.text


def test_a_simulated_conversation_tells_what_tools_said() -> None:
    call = Message("assistant", (ToolCallPart("c1", "weather", '{"city": "Paris"}'),))
    result = Message("tool", (ToolResultPart("c1", "weather", "sunny"),))

    (sent,) = asked(USER, call, result, roles="on").messages

    assert '||>Assistant:\n[calls weather with {"city": "Paris"}]' in sent.text
    assert "||>Tool:\n[weather answers] sunny" in sent.text
    assert not [part for part in sent.parts if not isinstance(part, TextPart)]
