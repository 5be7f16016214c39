"""A bot's events as one of OpenAI's responses: its items, and the server-sent events that build them up."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from relay.errors import BadRequest, RateLimited, RelayError, UpstreamRateLimited
from relay.events import (
    Attachment,
    Event,
    Finish,
    FinishReason,
    Reasoning,
    Replace,
    Text,
    ToolCall,
    Usage,
    one_by_one,
)
from relay.wire.openai_chat import attachment_markdown
from relay.wire.openai_responses import Asked
from relay.wire.responses_items import item_id

Status = Literal["in_progress", "completed", "incomplete", "failed"]
# Why an answer is incomplete.
REASONS: dict[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}

_escape = msgspec.json.Encoder().encode


def collect(events: list[Event], encoder: Encoder, counted: Usage) -> dict[str, Any]:
    """The whole answer as one object: what a stream of it would have ended with."""
    encoder.encode_all(events)
    encoder.end(counted)
    return encoder.response


def usage(counted: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counted.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": counted.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning_tokens},
        "total_tokens": counted.total_tokens,
    }


def error_code(exc: RelayError) -> str:
    """One of the few that OpenAI's responses have, or what clients look for by name."""
    if exc.code in ("context_length_exceeded", "insufficient_quota"):
        return exc.code
    if isinstance(exc, RateLimited | UpstreamRateLimited):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(exc, BadRequest) else "server_error"


@dataclass(slots=True)
class _Open:
    """An item that is being said: its place in the output, and the pieces of its text."""

    index: int
    item: dict[str, Any]
    pieces: list[str] = field(default_factory=list)

    @property
    def where(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": self.index}


class Encoder:
    """Events -> server-sent events. Of a delta only the text and the number are rendered each time."""

    def __init__(self, asked: Asked) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        # As it was last told; when all is said, the whole response.
        self.response: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            "store": asked.store,
            **asked.told,
        }
        self._grouped = asked.grouped
        self._output: list[dict[str, Any]] = []
        self._sequence = 0
        self._message: _Open | None = None
        self._thought: _Open | None = None
        self._calls: dict[int, _Open] = {}
        self._reason: FinishReason = "stop"
        self._delta_head = b""

    def start(self) -> bytes:
        return self._event("response.created", response=self.response) + self._event(
            "response.in_progress", response=self.response
        )

    def encode_all(self, events: list[Event]) -> bytes:
        """What arrived together, each text in an event of its own."""
        events = one_by_one(events)
        texts = [event.text for event in events if isinstance(event, Text)]
        if self._message is not None and len(texts) == len(events):
            return b"".join(map(self._delta, texts))
        return b"".join(map(self.encode, events))

    def encode(self, event: Event) -> bytes:
        match event:
            case Text(text):
                return self._begin_message() + self._delta(text)
            case Reasoning(text):
                return self._think(text)
            case ToolCall():
                return self._call(event)
            case Attachment(inline_ref=None):
                opened = self._begin_message()
                gap = "\n\n" if self._message is not None and self._message.pieces else ""
                return opened + self._delta(gap + attachment_markdown(event))
            case Finish(reason):
                self._reason = reason
                return b""
            case Attachment() | Replace():
                return b""

    def end(self, counted: Usage) -> bytes:
        reason = REASONS.get(self._reason)
        status: Status = "completed" if reason is None else "incomplete"
        closed = self._close_all(status)
        self.response = {
            **self.response,
            "status": status,
            "completed_at": int(time.time()) if reason is None else None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "output": self._output,
            "usage": usage(counted),
        }
        return closed + self._event(f"response.{status}", response=self.response)

    def fail(self, exc: RelayError) -> bytes:
        closed = self._close_all("incomplete")
        self.response = {
            **self.response,
            "status": "failed",
            "error": {"code": error_code(exc), "message": exc.message},
            "output": self._output,
        }
        return closed + self._event("response.failed", response=self.response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _escape(body))

    def _open(self, kind: str, **fields: Any) -> tuple[_Open, bytes]:
        index = len(self._output)
        opened = _Open(index, {"id": item_id(self.id, kind, "o", index), "type": kind, **fields})
        self._output.append(opened.item)
        return opened, self._event("response.output_item.added", output_index=index, item=opened.item)

    def _done(self, closed: _Open) -> bytes:
        return self._event("response.output_item.done", output_index=closed.index, item=closed.item)

    def _close_all(self, status: Status) -> bytes:
        return self._close_thought() + self._close_message(status) + self._close_calls(status)

    # A message.

    def _begin_message(self) -> bytes:
        if self._message is not None:
            return b""
        before = self._close_thought() + self._close_calls("completed")
        self._message, added = self._open("message", status="in_progress", role="assistant", content=[])
        where = {**self._message.where, "content_index": 0}
        self._delta_head = (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",%b,"logprobs":[],"delta":'
            % _escape(where)[1:-1]
        )
        part = _text_part("")
        return before + added + self._event("response.content_part.added", **where, part=part)

    def _delta(self, text: str) -> bytes:
        assert self._message is not None
        self._message.pieces.append(text)
        number = self._sequence
        self._sequence = number + 1
        return b'%b%b,"sequence_number":%d}\n\n' % (self._delta_head, _escape(text), number)

    def _close_message(self, status: Status) -> bytes:
        if self._message is None:
            return b""
        closed, self._message = self._message, None
        text = "".join(closed.pieces)
        part = _text_part(text)
        closed.item.update(status=status, content=[part])
        where = {**closed.where, "content_index": 0}
        return (
            self._event("response.output_text.done", **where, text=text, logprobs=[])
            + self._event("response.content_part.done", **where, part=part)
            + self._done(closed)
        )

    # Thoughts: the one part of a reasoning item's summary.

    def _think(self, text: str) -> bytes:
        before = b""
        if self._thought is None:
            before = self._close_message("completed") + self._close_calls("completed")
            self._thought, added = self._open("reasoning", summary=[])
            before += added + self._event(
                "response.reasoning_summary_part.added",
                **self._thought.where,
                summary_index=0,
                part=_summary_part(""),
            )
        self._thought.pieces.append(text)
        return before + self._event(
            "response.reasoning_summary_text.delta", **self._thought.where, summary_index=0, delta=text
        )

    def _close_thought(self) -> bytes:
        if self._thought is None:
            return b""
        closed, self._thought = self._thought, None
        text = "".join(closed.pieces)
        part = _summary_part(text)
        closed.item["summary"] = [part]
        return (
            self._event("response.reasoning_summary_text.done", **closed.where, summary_index=0, text=text)
            + self._event("response.reasoning_summary_part.done", **closed.where, summary_index=0, part=part)
            + self._done(closed)
        )

    # Tool calls: several may be open at once.

    def _call(self, piece: ToolCall) -> bytes:
        before = b""
        call = self._calls.get(piece.index)
        if call is None:
            before = self._close_thought() + self._close_message("completed")
            group, name = self._grouped.get(piece.name, ("", piece.name))
            call, added = self._open(
                "function_call",
                status="in_progress",
                call_id=piece.id or f"call_{secrets.token_hex(16)}",
                name=name,
                arguments="",
                **({"namespace": group} if group else {}),
            )
            self._calls[piece.index] = call
            before += added
        if not piece.arguments:
            return before
        call.pieces.append(piece.arguments)
        return before + self._event(
            "response.function_call_arguments.delta", **call.where, delta=piece.arguments
        )

    def _close_calls(self, status: Status) -> bytes:
        calls, self._calls = self._calls, {}
        return b"".join(self._close_call(call, status) for call in calls.values())

    def _close_call(self, call: _Open, status: Status) -> bytes:
        # Clients read them as JSON; a function without parameters may be called with nothing at all.
        arguments = "".join(call.pieces) or "{}"
        call.item.update(status=status, arguments=arguments)
        done = self._event("response.function_call_arguments.done", **call.where, arguments=arguments)
        return done + self._done(call)


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary_part(text: str) -> dict[str, str]:
    return {"type": "summary_text", "text": text}
