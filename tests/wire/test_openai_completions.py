"""OpenAI's legacy completions: what is read, what is refused, and what its official SDK makes of the answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.errors import BadRequest, UpstreamBroken
from relay.events import Attachment, Event, Finish, Reasoning, Text, Usage
from relay.wire import openai_completions
from relay.wire.openai_completions import Encoder

SPENT = Usage(prompt_tokens=7, completion_tokens=5)
PICTURE = Attachment("https://poe.example/cat.png", "cat.png", "image/png")


def parse(**fields: Any) -> openai_completions.CompletionRequest:
    return openai_completions.parse(json.dumps({"model": "m", "prompt": "Once", **fields}).encode())


def chunks(encoder: Encoder, *events: Event) -> list[dict[str, Any]]:
    sent = encoder.start() + encoder.encode_all(list(events)) + encoder.end(SPENT)
    lines = [line for line in sent.decode().split("\n\n") if line.startswith("data: {")]
    assert sent.endswith(b"data: [DONE]\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
def test_a_prompt_is_one_message(prompt: object) -> None:
    asked = parse(
        prompt=prompt, max_tokens=9, stop=["."], temperature=0.5, top_p=0.9, aspect="3:2", best_of=1
    )

    assert [(message.role, message.text) for message in asked.chat.messages] == [("user", "Once")]
    assert (asked.chat.max_tokens, asked.chat.stop, asked.chat.temperature) == (9, (".",), 0.5)
    assert asked.chat.parameters == {"aspect": "3:2"}
    assert asked.chat.rare == {"top_p": 0.9} and asked.chat.ignored == ("top_p",)
    assert asked.echo == ""


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "unsupported_value"),
        ({"prompt": ["a", "b"]}, "prompt", "unsupported_value"),
        ({"prompt": [1, 2]}, "prompt", "unsupported_value"),
        ({"prompt": [[1, 2]]}, "prompt", "unsupported_value"),
        ({"prompt": None}, "prompt", "invalid_type"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"best_of": 3}, "best_of", "unsupported_value"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"logprobs": 5}, "logprobs", "unsupported_parameter"),
        ({"suffix": "the end"}, "suffix", "unsupported_parameter"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"stop": list("abcde")}, "stop", "invalid_value"),
        ({"model": " "}, "model", "invalid_value"),
    ],
)
def test_it_refuses_what_no_bot_can_do(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(**fields)

    assert (refused.value.param, refused.value.code) == (param, code)


def test_it_accepts_what_asks_for_nothing() -> None:
    asked = parse(n=1, best_of=None, logprobs=None, suffix="", user="bob", echo=False)

    assert asked.chat.ignored == () and asked.chat.parameters == {}


@pytest.mark.parametrize(
    ("events", "echo", "text", "reason"),
    [
        ([Text("upon "), Text("a time"), Finish("stop")], "", "upon a time", "stop"),
        ([Text(" upon"), Finish("length")], "Once", "Once upon", "length"),
        ([Reasoning("Hm."), Text("Yes"), Finish("content_filter")], "", "Yes", "content_filter"),
        ([Text("See"), PICTURE, Finish("tool_calls")], "", f"See\n\n![cat.png]({PICTURE.url})", "stop"),
        ([PICTURE, Finish("stop")], "", f"![cat.png]({PICTURE.url})", "stop"),
        ([Finish("stop")], "Once", "Once", "stop"),
    ],
)
def test_an_answer_is_the_same_streamed_and_whole(
    events: list[Event], echo: str, text: str, reason: str
) -> None:
    whole = openai_completions.collect(events, model="m", counted=SPENT, echo=echo)
    streamed = chunks(Encoder(model="m", include_usage=True, echo=echo), *events)

    choice = whole["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, reason)
    assert "".join(each["choices"][0]["text"] for each in streamed[:-1]) == text
    assert streamed[-2]["choices"][0]["finish_reason"] == reason
    assert streamed[-1]["choices"] == [] and streamed[-1]["usage"] == whole["usage"]


def test_no_chunk_tells_usage_that_nobody_asked_for() -> None:
    sent = chunks(Encoder(model="m", include_usage=False, echo=""), Text("a"), Finish("stop"))

    assert all("usage" not in each for each in sent)


def test_a_client_hears_of_a_bot_that_thinks() -> None:
    assert Encoder(model="m", include_usage=False, echo="").encode_all([Reasoning("Hm.")]).startswith(b":")


def test_a_stream_that_breaks_off_says_so() -> None:
    sent = Encoder(model="m", include_usage=False, echo="").fail(UpstreamBroken("it broke"))

    assert b'"error":' in sent and sent.endswith(b"data: [DONE]\n\n")
