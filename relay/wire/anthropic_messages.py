"""Anthropic's Messages: events -> named server-sent events or one message, RelayError -> error object.

What is asked with them is in `anthropic_request.py`.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from relay.chance import chance
from relay.errors import RelayError
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
from relay.wire.anthropic_request import Asked, parse, parse_count
from relay.wire.openai_chat import attachment_markdown

__all__ = ["NAME", "PING", "Asked", "Encoder", "collect", "error", "model", "models", "parse", "parse_count"]

NAME = "anthropic-messages"

# Errors.

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error(exc: RelayError, request_id: str = "") -> dict[str, Any]:
    told = {"type": error_type(exc), "message": _message(exc), "details": {"error_code": exc.code}}
    return {"type": "error", "error": told, "request_id": request_id or None}


def error_type(exc: RelayError) -> str:
    """Anthropic's own types; what is peculiar to us is in the code."""
    return _TYPES.get(exc.status, "api_error" if exc.status >= 500 else "invalid_request_error")


def _message(exc: RelayError) -> str:
    """Claude Code knows by these words, and by nothing else, that it has to make the conversation shorter."""
    if exc.code == "context_length_exceeded":
        return f"prompt is too long: {exc.message}"
    return exc.message


# Models.

# A list without `limit` has so many.
PAGE = 20
MOST_PAGE = 1000


def model(name: str, created: int) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "capabilities": None,
        "max_input_tokens": None,
        "max_tokens": None,
    }


def models(
    found: list[dict[str, Any]], limit: int, after_id: str | None, before_id: str | None
) -> dict[str, Any]:
    """One page of these: those after or before a model; an id that is none of them is passed over."""
    ids = [each["id"] for each in found]
    start, end = 0, len(found)
    if after_id in ids:
        start = ids.index(after_id) + 1
    if before_id in ids:
        end = ids.index(before_id)
    rest = found[start:end]
    page = rest[-limit:] if before_id in ids else rest[:limit]
    return {
        "data": page,
        "has_more": len(rest) > len(page),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


# Answers.

_escape = msgspec.json.Encoder().encode
_ODD_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")


def new_id() -> str:
    return f"msg_{chance().hex()}"


def usage(counted: Usage) -> dict[str, Any]:
    return {**_first_usage(counted.prompt_tokens), **_last_usage(counted)}


def _first_usage(prompt_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt_tokens,
        "output_tokens": 0,
        "output_tokens_details": None,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": None,
    }


def _last_usage(counted: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counted.prompt_tokens,
        "output_tokens": counted.completion_tokens,
        "output_tokens_details": {"thinking_tokens": counted.reasoning_tokens},
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "server_tool_use": None,
    }


def _stopped(finish: Finish, has_calls: bool) -> dict[str, Any]:
    """Why it stopped. A client looks for calls only if it was told so, whatever the bot says."""
    reasons = {"length": "max_tokens", "content_filter": "refusal"}
    if finish.stop:
        reason = "stop_sequence"
    else:
        reason = reasons.get(finish.reason, "tool_use" if has_calls else "end_turn")
    details = {"type": "refusal", "category": None, "explanation": None} if reason == "refusal" else None
    return {
        "stop_reason": reason,
        "stop_sequence": finish.stop or None,
        "stop_details": details,
        "container": None,
    }


@dataclass(slots=True)
class _Call:
    """A tool call: the number of its block, and what it has said of its arguments."""

    block: int
    said: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> Any:
        """None: not yet whole, or no JSON."""
        try:
            return msgspec.json.decode("".join(self.said) or "{}")
        except ValueError:
            return None

    @property
    def input(self) -> dict[str, Any]:
        """What cannot be read is told as Anthropic's documentation proposes."""
        found = self.arguments
        return found if isinstance(found, dict) else {"INVALID_JSON": "".join(self.said)}


def _text_block(text: str = "") -> dict[str, Any]:
    # The published schema wants the field, and the AI SDK refuses null in it.
    return {"type": "text", "text": text, "citations": []}


def _thinking_block(text: str = "") -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": ""}


def _tool_block(call: ToolCall) -> dict[str, Any]:
    id_ = _ODD_IN_ID.sub("_", call.id) or f"toolu_{secrets.token_hex(12)}"
    name = call.name or "tool"
    return {"type": "tool_use", "id": id_, "name": name, "input": {}, "caller": {"type": "direct"}}


def collect(
    events: list[Event], *, model: str, counted: Usage, shows_thinking: bool = False
) -> dict[str, Any]:
    """The whole answer as one message."""
    blocks: list[dict[str, Any]] = []
    calls: dict[int, _Call] = {}
    finish = Finish("stop")
    for event in events:
        match event:
            case Text(text):
                _append(blocks, _text_block(text), "text")
            case Reasoning(text):
                if shows_thinking:
                    _append(blocks, _thinking_block(text), "thinking")
            case Attachment(inline_ref=None):
                gap = "\n\n" if blocks and blocks[-1]["type"] == "text" else ""
                _append(blocks, _text_block(gap + attachment_markdown(event)), "text")
            case ToolCall(index=index):
                if index not in calls:
                    calls[index] = _Call(len(blocks))
                    blocks.append(_tool_block(event))
                calls[index].said.append(event.arguments)
            case Finish():
                finish = event
            case Attachment() | Replace():
                pass
    for call in calls.values():
        blocks[call.block]["input"] = call.input
    return {
        "id": new_id(),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        **_stopped(finish, bool(calls)),
        "usage": usage(counted),
    }


def _append(blocks: list[dict[str, Any]], block: dict[str, Any], kind: str) -> None:
    """To the block before it, if that is of the same kind."""
    if blocks and blocks[-1]["type"] == kind:
        blocks[-1][kind] += block[kind]
    else:
        blocks.append(block)


def _event(name: str, body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _escape({"type": name, **body}))


PING = _event("ping", {})


class Encoder:
    """Events -> named server-sent events. The JSON around a text is rendered once a block; at most the text is escaped per event.

    Pieces of several tool calls may come between each other: a call's block stays open until its arguments are whole.
    """

    def __init__(
        self, *, model: str, prompt_tokens: int, request_id: str = "", shows_thinking: bool = False
    ) -> None:
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._request_id = request_id
        self._shows_thinking = shows_thinking
        self._blocks = 0
        # Of the block that is open, if it is no tool call's.
        self._kind = ""
        self._open_calls: dict[int, _Call] = {}
        self._calls: dict[int, _Call] = {}
        self._finish = Finish("stop")
        self._before = self._between = b""

    def start(self) -> bytes:
        message: dict[str, Any] = {
            "id": new_id(),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": _first_usage(self._prompt_tokens),
        }
        return _event("message_start", {"message": message}) + PING

    def encode_all(self, events: list[Event]) -> bytes:
        """What arrived together, each text in a delta of its own."""
        said = b"".join(map(self.encode, events))
        if not said and any(isinstance(event, Reasoning) for event in events):
            # It thinks, unseen: no proxy is to take that for silence.
            return PING
        return said

    def encode(self, event: Event) -> bytes:
        match event:
            case Words():
                return self._say("text", event.json)
            case Text(text):
                return self._say("text", [_escape(text)])
            case Reasoning(text):
                return self._say("thinking", [_escape(text)]) if self._shows_thinking else b""
            case ToolCall():
                return self._call(event)
            case Attachment(inline_ref=None):
                gap = "\n\n" if self._kind == "text" else ""
                return self._say("text", [_escape(gap + attachment_markdown(event))])
            case Finish():
                self._finish = event
                return b""
            case Attachment() | Replace():
                return b""

    def end(self, counted: Usage) -> bytes:
        delta = _stopped(self._finish, bool(self._calls))
        told = _event("message_delta", {"delta": delta, "usage": _last_usage(counted)})
        return self._close() + self._close_calls() + told + _event("message_stop", {})

    def fail(self, exc: RelayError) -> bytes:
        """Nothing is closed: half a tool call is not to be taken for a whole one."""
        return _event("error", error(exc, self._request_id))

    def _say(self, kind: str, texts: list[bytes]) -> bytes:
        """`texts`: as JSON strings."""
        head = b""
        if self._kind != kind:
            block = _text_block() if kind == "text" else _thinking_block()
            head = self._close() + self._close_calls(only_whole=True) + self._open(block)
            self._kind = kind
            self._before = (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
                b'"delta":{"type":"%b_delta","%b":' % (self._blocks - 1, kind.encode(), kind.encode())
            )
            self._between = _AFTER + self._before
        return head + self._before + self._between.join(texts) + _AFTER

    def _call(self, event: ToolCall) -> bytes:
        head = b""
        call = self._calls.get(event.index)
        if call is None:
            head = self._close() + self._close_calls(only_whole=True) + self._open(_tool_block(event))
            call = self._calls[event.index] = self._open_calls[event.index] = _Call(self._blocks - 1)
        if not event.arguments or event.index not in self._open_calls:
            return head
        call.said.append(event.arguments)
        return head + self._delta(call.block, {"type": "input_json_delta", "partial_json": event.arguments})

    def _open(self, block: dict[str, Any]) -> bytes:
        self._blocks += 1
        return _event("content_block_start", {"index": self._blocks - 1, "content_block": block})

    def _close(self) -> bytes:
        """The block that is open, if it is no tool call's."""
        kind, self._kind = self._kind, ""
        if not kind:
            return b""
        signed = {"type": "signature_delta", "signature": ""}
        signature = self._delta(self._blocks - 1, signed) if kind == "thinking" else b""
        return signature + _stop(self._blocks - 1)

    def _close_calls(self, *, only_whole: bool = False) -> bytes:
        closed = b""
        for index, call in list(self._open_calls.items()):
            if not only_whole or (call.said and call.arguments is not None):
                del self._open_calls[index]
                closed += _stop(call.block)
        return closed

    def _delta(self, block: int, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": block, "delta": delta})


_AFTER = b"}}\n\n"


def _stop(block: int) -> bytes:
    return _event("content_block_stop", {"index": block})
