"""OpenAI's chat completions: events -> chunks or one object, RelayError -> error object."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from relay.chance import chance
from relay.errors import BudgetExceeded, RateLimited, RelayError
from relay.events import (
    Attachment,
    Event,
    Finish,
    Reasoning,
    Replace,
    Text,
    ToolCall,
    Usage,
    Words,
)
from relay.wire import openai_functions, sse

NAME = "openai-chat"

# Errors.


def error(exc: RelayError) -> dict[str, Any]:
    return {"error": {"message": exc.message, "type": error_type(exc), "param": exc.param, "code": exc.code}}


def error_type(exc: RelayError) -> str:
    """OpenAI's own types; what is peculiar to us is in the code."""
    if isinstance(exc, BudgetExceeded):
        return "insufficient_quota"
    if exc.status == 429:
        return "tokens" if isinstance(exc, RateLimited) and exc.limit == "tokens_per_minute" else "requests"
    return "invalid_request_error" if exc.status < 500 else "server_error"


# Answers.


def new_id() -> str:
    return f"chatcmpl-{chance().hex()}"


def model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "poe"}


def usage(counted: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": counted.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def attachment_markdown(attachment: Attachment) -> str:
    """A file that the bot's own text does not show."""
    mark = "!" if is_image(attachment) else ""
    name = attachment.name.replace("[", "(").replace("]", ")")
    return f"{mark}[{name}]({attachment.url})"


def image(attachment: Attachment, index: int) -> dict[str, Any]:
    """A picture as OpenRouter has it, but for its URL: there it holds the bytes.

    A stream has it only for who asks for it, as one must at OpenRouter (`modalities`). Open WebUI draws its own icon in
    place of a URL that is not its own, and LobeChat takes it for the bytes and never looks at the text of that chunk;
    both show the Markdown of the text.
    """
    return {"type": "image_url", "image_url": {"url": attachment.url}, "index": index}


def is_image(attachment: Attachment) -> bool:
    return attachment.content_type.startswith("image/")


def collect(
    events: list[Event], *, model: str, counted: Usage, calls_functions: bool = False
) -> dict[str, Any]:
    """The whole answer as one object."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    images: list[dict[str, Any]] = []
    reason = "stop"
    for event in events:
        match event:
            case Text(text):
                content.append(text)
            case Reasoning(text):
                reasoning.append(text)
            case Attachment(inline_ref=ref):
                if ref is None:
                    content.append(("\n\n" if content else "") + attachment_markdown(event))
                if is_image(event):
                    images.append(image(event, len(images)))
            case ToolCall(index, id_, name, arguments):
                call = calls.setdefault(
                    index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                )
                call["id"] = call["id"] or id_
                call["function"]["name"] += name
                call["function"]["arguments"] += arguments
            case Finish(said):
                reason = said
            case Replace():
                pass
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(content) or (None if calls else ""),
        "refusal": None,
    }
    if reasoning:
        message["reasoning_content"] = "".join(reasoning)
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    if images:
        message["images"] = images
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    if calls_functions:
        openai_functions.amend(choice)
    return {
        "id": new_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage(counted),
    }


_escape = msgspec.json.Encoder().encode


class Encoder:
    """Events -> server-sent chunks. The JSON around a text is rendered once; at most the text is escaped per event."""

    __slots__ = (
        "_between_texts",
        "_calls_functions",
        "_choice",
        "_close",
        "_head",
        "_images",
        "_include_usage",
        "_open",
        "_reasoning",
        "_said",
        "_shows_images",
        "_tail",
        "_text",
    )

    def __init__(
        self, *, model: str, include_usage: bool, calls_functions: bool = False, shows_images: bool = False
    ) -> None:
        self._include_usage = include_usage
        self._calls_functions = calls_functions
        self._shows_images = shows_images
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            _escape(new_id()),
            int(time.time()),
            _escape(model),
        )
        # With usage asked for, every chunk carries the field, and only the last one a value.
        tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._choice = self._head + b'"choices":[{"index":0,"delta":'
        self._open = b',"logprobs":null,"finish_reason":null}' + tail
        self._tail = b"}" + tail
        self._text = self._choice + b'{"content":'
        self._reasoning = self._choice + b'{"reasoning_content":'
        self._close = b"}" + self._open
        self._between_texts = self._close + self._text
        self._said = False
        self._images = 0

    def start(self) -> bytes:
        return self._choice + b'{"role":"assistant","content":"","refusal":null}' + self._open

    def encode_all(self, events: list[Event]) -> bytes:
        """What arrived together, each text in a chunk of its own."""
        return b"".join(map(self.encode, events))

    def encode(self, event: Event) -> bytes:
        match event:
            case Words():
                self._said = True
                return self._text + self._between_texts.join(event.json) + self._close
            case Text(text):
                self._said = True
                return self._text + _escape(text) + self._close
            case Reasoning(text):
                return self._reasoning + _escape(text) + self._close
            case ToolCall():
                called = openai_functions.delta(event) if self._calls_functions else _call_delta(event)
                return self._choice + _escape(called) + self._open
            case Attachment():
                return b"".join(self._choice + _escape(delta) + self._open for delta in self._file(event))
            case Finish(said):
                reason = openai_functions.reason(said) if self._calls_functions else said
                return self._choice + b'{},"logprobs":null,"finish_reason":' + _escape(reason) + self._tail
            case Replace():
                return b""

    def _file(self, file: Attachment) -> Iterator[dict[str, Any]]:
        """Apart: who takes the picture may overlook the text beside it."""
        if file.inline_ref is None:
            yield {"content": ("\n\n" if self._said else "") + attachment_markdown(file)}
            self._said = True
        if self._shows_images and is_image(file):
            yield {"images": [image(file, self._images)]}
            self._images += 1

    def end(self, counted: Usage) -> bytes:
        if not self._include_usage:
            return sse.DONE
        return self._head + b'"choices":[],"usage":' + _escape(usage(counted)) + b"}\n\n" + sse.DONE

    def fail(self, exc: RelayError) -> bytes:
        return sse.data(_escape(error(exc))) + sse.DONE


def _call_delta(call: ToolCall) -> dict[str, Any]:
    delta: dict[str, Any] = {"index": call.index, "function": {"arguments": call.arguments}}
    if call.id or call.name:
        delta = {"index": call.index, "id": call.id, "type": "function"}
        delta["function"] = {"name": call.name, "arguments": call.arguments}
    return {"tool_calls": [delta]}
