"""What arrived together reads in each wire format as if it had come one by one, each text in an event of its own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from relay.api.answers import StreamEncoder
from relay.events import Attachment, Event, Finish, Reasoning, Text, Usage, Words, one_by_one
from relay.wire import (
    anthropic_messages,
    openai_chat,
    openai_completions,
    openai_responses,
    responses_answer,
)

WORDS = Words('"Hi" 你\n', [b'"\\"Hi\\" "', '"你"'.encode(), b'"\\n"'])
SPENT = Usage(prompt_tokens=7, completion_tokens=5)
PICTURE = Attachment("https://poe.example/cat.png", "cat.png", "image/png")
ENCODERS: dict[str, Callable[[], StreamEncoder]] = {
    "chat": lambda: openai_chat.Encoder(model="m", include_usage=True),
    "completions": lambda: openai_completions.Encoder(model="m", include_usage=True, echo=""),
    "messages": lambda: anthropic_messages.Encoder(model="m", prompt_tokens=7),
    "responses": lambda: responses_answer.Encoder(
        openai_responses.parse(json.dumps({"model": "m", "input": "Hi", "stream": True}).encode())
    ),
}


@pytest.fixture(autouse=True)
def same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1.0)
    monkeypatch.setattr("secrets.token_hex", lambda _size=16: "0" * 32)
    for module in (openai_chat, openai_completions, anthropic_messages):
        monkeypatch.setattr(module, "chance", lambda: bytes(16), raising=False)
    monkeypatch.setattr(openai_chat, "new_id", lambda: "chatcmpl-1")
    monkeypatch.setattr(anthropic_messages, "new_id", lambda: "msg_1")


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize(
    "batches",
    [
        [[WORDS], [Finish("stop")]],
        [[WORDS], [WORDS], [Text("!"), Finish("stop")]],
        [[Reasoning("hm")], [WORDS], [Finish("stop")]],
        [[WORDS, PICTURE], [WORDS, WORDS, Finish("stop")]],
    ],
)
def test_it_reads_as_if_it_had_come_one_by_one(
    encoder: Callable[[], StreamEncoder], batches: list[list[Event]]
) -> None:
    def sent(batches: list[list[Event]]) -> list[object]:
        one = encoder()
        raw = one.start() + b"".join(map(one.encode_all, batches)) + one.end(SPENT)
        return [_read(each) for each in raw.decode().split("\n\n")]

    assert sent(batches) == sent(list(map(one_by_one, batches)))


def _read(event: str) -> object:
    """A text may be escaped in more than one way."""
    name, _mark, data = event.partition("data: ")
    return name, json.loads(data) if data.startswith("{") else data


def test_each_is_an_event_of_its_own() -> None:
    assert one_by_one([PICTURE, WORDS, Finish("stop")]) == [
        PICTURE,
        Text('"Hi" '),
        Text("你"),
        Text("\n"),
        Finish("stop"),
    ]


def test_where_there_are_none_nothing_is_made() -> None:
    events: list[Event] = [Text("a"), Finish("stop")]

    assert one_by_one(events) is events
