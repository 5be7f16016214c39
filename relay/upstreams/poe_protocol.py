"""Poe's bot protocol as values: ChatRequest -> the body of a query, an SSE event -> Events. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import msgspec

from relay.events import (
    Attachment,
    ChatRequest,
    Event,
    FilePart,
    Finish,
    FinishReason,
    Message,
    Part,
    Reasoning,
    Replace,
    Text,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Words,
)

from .poe_errors import unreadable

_VERSION = "1.2"
_ROLES = {"assistant": "bot"}
_FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})

T = TypeVar("T")


# What we ask.


class Uploaded(msgspec.Struct, frozen=True):
    """Poe's answer to an upload."""

    attachment_url: str
    mime_type: str


def query(chat: ChatRequest, uploads: Mapping[FilePart, Uploaded]) -> bytes:
    """The body of a query: fastapi-poe's QueryRequest, with the client's own tool schemas."""
    body: dict[str, Any] = {
        "version": _VERSION,
        "type": "query",
        "query": _messages(chat, uploads),
        "user_id": "",
        "conversation_id": "",
        "message_id": "",
        "temperature": chat.temperature,
        "skip_system_prompt": False,
        "logit_bias": chat.logit_bias,
        "stop_sequences": chat.stop,
    }
    parts = [part for message in chat.messages for part in message.parts]
    if chat.tools:
        body["tools"] = [_tool(tool) for tool in chat.tools]
    if calls := [_tool_call(part) for part in parts if isinstance(part, ToolCallPart)]:
        body["tool_calls"] = calls
    if results := list(_tool_results(parts)):
        body["tool_results"] = results
    return msgspec.json.encode(body)


def _messages(chat: ChatRequest, uploads: Mapping[FilePart, Uploaded]) -> list[dict[str, Any]]:
    messages = [_message(message, uploads) for message in chat.messages if not _is_only_tools(message)]
    if chat.parameters:
        asked = [message for message in messages if message["role"] == "user"] or messages
        if asked:
            asked[-1]["parameters"] = chat.parameters
    return messages


def _is_only_tools(message: Message) -> bool:
    return bool(message.parts) and all(
        isinstance(part, ToolCallPart | ToolResultPart) for part in message.parts
    )


def _message(message: Message, uploads: Mapping[FilePart, Uploaded]) -> dict[str, Any]:
    return {
        "role": _ROLES.get(message.role, message.role),
        "content": message.text,
        "content_type": "text/markdown",
        "parameters": {},
        "attachments": [_attachment(part, uploads) for part in message.parts if isinstance(part, FilePart)],
    }


def _attachment(part: FilePart, uploads: Mapping[FilePart, Uploaded]) -> dict[str, Any]:
    if part.url is not None:
        return {"url": part.url, "content_type": part.content_type, "name": part.name}
    uploaded = uploads[part]
    return {"url": uploaded.attachment_url, "content_type": uploaded.mime_type, "name": part.name}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """The client's tool as it is, but with what Poe's types require and OpenAI's do not."""
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    parameters = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    description = function.get("description") or ""
    return {**tool, "function": {**function, "description": description, "parameters": parameters}}


def _tool_call(part: ToolCallPart) -> dict[str, Any]:
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}


def _tool_results(parts: list[Part]) -> Iterator[dict[str, Any]]:
    """OpenAI's tool messages often lack the tool's name, which Poe requires: the call it answers has it."""
    names = {part.id: part.name for part in parts if isinstance(part, ToolCallPart)}
    for part in parts:
        if isinstance(part, ToolResultPart):
            name = part.name or names.get(part.call_id, "")
            yield {"role": "tool", "name": name, "tool_call_id": part.call_id, "content": part.content}


# What a bot says.


class _Said(msgspec.Struct, gc=False):
    text: str
    index: Any = None


class _File(msgspec.Struct):
    url: str
    content_type: str
    name: str
    inline_ref: Any = None
    index: Any = None


_said = msgspec.json.Decoder(_Said)
_one = msgspec.json.Decoder(str)
_several = msgspec.json.Decoder(list[str])
_file = msgspec.json.Decoder(_File)
_delta = msgspec.json.Decoder(dict[str, Any])


def read(name: str, data: bytes, into: list[Event]) -> None:
    """Appends what one SSE event means; an event that is not part of the answer means nothing.

    Raises UpstreamBroken if an event of the answer cannot be read.
    """
    reader = _READERS.get(name)
    if reader is not None:
        reader(data, into)


def words(chunk: bytes) -> tuple[Words, int] | None:
    """Reads at once the whole events of text that this begins with, as nearly all are: what they say, and how long they are.

    None: all of it is to be read event by event.
    """
    for head, event, signs in _TEXT_EVENTS:
        if not chunk.startswith(head):
            continue
        said = event.findall(chunk)
        length = sum(map(len, said)) + len(said) * signs
        if length != len(chunk):  # there is something else, at its end or between them
            said = event.findall(chunk[:length])
            if not said or sum(map(len, said)) + len(said) * signs != length:
                return None
        try:
            if len(said) == 1:  # as a word comes that is waited for
                text = _one.decode(said[0])
            else:
                text = "".join(_several.decode(b"[%b]" % b",".join(said)))
        except ValueError:
            return None
        return Words(text, [each for each in said if each != b'""'] if b'""' in said else said), length
    return None


def _text_event(newline: bytes, space: bytes) -> tuple[bytes, re.Pattern[bytes], int]:
    """How it begins, the event with its JSON string, and the length of all around that."""
    before, after = b"event: text" + newline + b'data: {"text":' + space, b"}" + newline * 2
    string = rb'("(?:[^"\\\r\n]++|\\.)*+")'
    return before + b'"', re.compile(re.escape(before) + string + re.escape(after)), len(before + after)


_TEXT_EVENTS = [_text_event(newline, space) for newline in (b"\r\n", b"\n") for space in (b" ", b"")]


def _text(data: bytes, into: list[Event]) -> None:
    try:
        said = _said.decode(data)
    except (ValueError, RecursionError):
        said = decode(_said, data, "text")
    if said.text and (said.index is None or not _is_of_another_answer(said.index)):
        into.append(Text(said.text))


def _replace(data: bytes, into: list[Event]) -> None:
    said = decode(_said, data, "replace_response")
    if not _is_of_another_answer(said.index):
        into.append(Replace(said.text))


def _reasoning(data: bytes, into: list[Event]) -> None:
    """No part of the documented protocol, so one that has another shape is ignored."""
    try:
        said = _said.decode(data)
    except (ValueError, RecursionError):
        return
    if said.text and not _is_of_another_answer(said.index):
        into.append(Reasoning(said.text))


def _attached(data: bytes, into: list[Event]) -> None:
    file = decode(_file, data, "file")
    if _is_of_another_answer(file.index):
        return
    inline_ref = file.inline_ref if isinstance(file.inline_ref, str) else None
    into.append(Attachment(file.url, file.name, file.content_type, inline_ref))


def _json(data: bytes, into: list[Event]) -> None:
    """A chunk in OpenAI's shape; whatever is missing or odd in it is passed over."""
    chunk = decode(_delta, data, "json")
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return
    choice = choices[0]
    if _is_of_another_answer(chunk.get("index")) or _is_of_another_answer(choice.get("index")):
        return
    delta = choice.get("delta")
    if isinstance(delta, dict):
        into.extend(_delta_events(delta))
    reason = choice.get("finish_reason")
    if isinstance(reason, str) and reason in _FINISH_REASONS:
        into.append(Finish(cast(FinishReason, reason)))


def _delta_events(delta: dict[str, Any]) -> Iterator[Event]:
    if reasoning := _string(delta.get("reasoning_content")):
        yield Reasoning(reasoning)
    if content := _string(delta.get("content")):
        yield Text(content)
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        for position, call in enumerate(calls):
            if isinstance(call, dict):
                yield _tool_call_piece(position, call)


def _tool_call_piece(position: int, call: dict[str, Any]) -> ToolCall:
    index = call.get("index")
    function = call.get("function")
    if not isinstance(function, dict):
        function = {}
    return ToolCall(
        index=index if isinstance(index, int) else position,
        id=_string(call.get("id")),
        name=_string(function.get("name")),
        arguments=_arguments(function.get("arguments")),
    )


def _arguments(arguments: Any) -> str:
    """JSON text; some bots send the object itself."""
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return _string(arguments)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_of_another_answer(index: Any) -> bool:
    """A bot may send several answers side by side; ours is the first."""
    return isinstance(index, int) and index != 0


def decode(decoder: msgspec.json.Decoder[T], data: bytes, event: str) -> T:
    """Raises UpstreamBroken for what is not UTF-8, not JSON or has another shape."""
    try:
        return decoder.decode(data)
    except UnicodeDecodeError:
        raise unreadable(event) from None
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return decoder.decode(_mended(data))
    except (ValueError, RecursionError):
        raise unreadable(event) from None


def _mended(data: bytes) -> bytes:
    """Puts U+FFFD for half a surrogate pair, as a bot sends that cuts its text inside an emoji."""
    value = json.loads(data.decode())
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


_READERS: dict[str, Callable[[bytes, list[Event]], None]] = {
    "text": _text,
    "replace_response": _replace,
    "file": _attached,
    "json": _json,
    "reasoning": _reasoning,
    "reasoning_content": _reasoning,
}
