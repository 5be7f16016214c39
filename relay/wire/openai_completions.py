"""OpenAI's legacy completions: a prompt -> ChatRequest of one message, events -> text, RelayError -> error object."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from relay.chance import chance
from relay.errors import BadRequest, RelayError
from relay.events import (
    Attachment,
    ChatRequest,
    Event,
    Finish,
    FinishReason,
    Message,
    Reasoning,
    Replace,
    Text,
    TextPart,
    ToolCall,
    Usage,
    one_by_one,
)
from relay.wire import chat_request, openai_chat, sse
from relay.wire.body import convert, decode, model_name

NAME = "openai-completions"


class CompletionBody(Struct):
    model: str
    prompt: str | list[Any]
    stream: bool | None = None
    stream_options: chat_request.StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | bool | None = None


KNOWN = chat_request.SILENT | frozenset(CompletionBody.__struct_fields__)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """`echo` is said before the answer: the prompt, where the client wants it back."""

    chat: ChatRequest
    echo: str = ""


def parse(raw: bytes) -> CompletionRequest:
    """The request in this body, or BadRequest naming the parameter."""
    body = decode(raw)
    asked = convert(body, CompletionBody)
    model = model_name(asked.model)
    prompt = _prompt(asked.prompt)
    _refuse_what_no_bot_does(asked)
    extra = {name: value for name, value in body.items() if name not in KNOWN and value is not None}
    rare = {name: value for name, value in extra.items() if name in chat_request.RARE}
    chat = ChatRequest(
        model=model,
        messages=(Message("user", (TextPart(prompt),)),),
        stream=bool(asked.stream),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        max_tokens=_max_tokens(asked.max_tokens),
        temperature=chat_request.temperature_of(asked.temperature),
        stop=chat_request.stops_of(asked.stop),
        logit_bias=asked.logit_bias or {},
        parameters={name: value for name, value in extra.items() if name not in rare},
        rare=rare,
        ignored=tuple(sorted(rare)),
    )
    return CompletionRequest(chat, prompt if asked.echo else "")


def _prompt(said: str | list[Any]) -> str:
    """Of one request, one prompt in words: each would be an answer, and a bill, of its own."""
    if isinstance(said, list):
        if len(said) != 1 or not isinstance(said[0], str):
            raise BadRequest(
                "`prompt` must be a string, or a list of one: a Poe bot answers once, and reads no tokens.",
                code="unsupported_value",
                param="prompt",
            )
        said = said[0]
    if not said:
        raise BadRequest("`prompt` is empty.", param="prompt")
    return said


def _refuse_what_no_bot_does(asked: CompletionBody) -> None:
    for name in ("n", "best_of"):
        if getattr(asked, name) not in (None, 1):
            raise BadRequest(
                f"`{name}` must be 1: a Poe bot answers once.", code="unsupported_value", param=name
            )
    # Zero asks for the tokens that were chosen, so only false asks for nothing.
    if asked.logprobs is not None and asked.logprobs is not False:
        raise BadRequest(
            "`logprobs`: no Poe bot tells how probable its words are.",
            code="unsupported_parameter",
            param="logprobs",
        )
    if asked.suffix:
        raise BadRequest(
            "`suffix`: no Poe bot writes what belongs between two texts.",
            code="unsupported_parameter",
            param="suffix",
        )


def _max_tokens(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise BadRequest("`max_tokens` must be at least 1.", param="max_tokens")
    return value


error = openai_chat.error


# Answers: text alone. What a bot thinks has no place in them.


def _finish(reason: FinishReason) -> str:
    """Without the one reason that this format has no word for."""
    return "stop" if reason == "tool_calls" else reason


def _said(event: Event, *, is_first: bool) -> str:
    match event:
        case Text(text):
            return text
        case Attachment(inline_ref=None):
            return ("" if is_first else "\n\n") + openai_chat.attachment_markdown(event)
        case Attachment() | Reasoning() | Replace() | ToolCall() | Finish():
            return ""


def collect(events: list[Event], *, model: str, counted: Usage, echo: str) -> dict[str, Any]:
    """The whole answer as one object."""
    text, reason = echo, "stop"
    for event in events:
        text += _said(event, is_first=not text)
        if isinstance(event, Finish):
            reason = _finish(event.reason)
    return {
        **_head(model),
        "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": reason}],
        "usage": openai_chat.usage(counted),
    }


def _head(model: str) -> dict[str, Any]:
    return {
        "id": f"cmpl-{chance().hex()}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }


class Encoder:
    """Events -> server-sent chunks."""

    def __init__(self, *, model: str, include_usage: bool, echo: str) -> None:
        self._head = _head(model)
        self._include_usage = include_usage
        self._echo = echo
        self._has_spoken = bool(echo)

    def start(self) -> bytes:
        return self._chunk(self._echo) if self._echo else b""

    def encode_all(self, events: list[Event]) -> bytes:
        """What arrived together. While a bot only thinks, the client hears that it is still there."""
        return b"".join(map(self.encode, one_by_one(events))) or sse.KEEP_ALIVE

    def encode(self, event: Event) -> bytes:
        if isinstance(event, Finish):
            return self._chunk("", _finish(event.reason))
        text = _said(event, is_first=not self._has_spoken)
        if not text:
            return b""
        self._has_spoken = True
        return self._chunk(text)

    def end(self, counted: Usage) -> bytes:
        if not self._include_usage:
            return sse.DONE
        body = {**self._head, "choices": [], "usage": openai_chat.usage(counted)}
        return sse.data(msgspec.json.encode(body)) + sse.DONE

    def fail(self, exc: RelayError) -> bytes:
        return sse.data(msgspec.json.encode(error(exc))) + sse.DONE

    def _chunk(self, text: str, reason: str | None = None) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
        body: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._include_usage:
            body["usage"] = None
        return sse.data(msgspec.json.encode(body))
