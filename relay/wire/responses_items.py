"""The items of OpenAI's responses: what a client sends as `input`, and what an earlier response kept, as messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct

from relay.errors import BadRequest
from relay.events import FilePart, Message, Part, Role, TextPart, ToolCallPart, ToolResultPart
from relay.wire.body import convert
from relay.wire.files import BY_EXTENSION, from_url, kept


class Audio(Struct):
    data: str
    format: str


class Content(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None
    input_audio: Audio | None = None


class MessageItem(Struct, tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Content]


class CallItem(Struct, tag="function_call"):
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class OutputItem(Struct, tag="function_call_output"):
    call_id: str
    output: str | list[Content]


class ReasoningItem(Struct, tag="reasoning"):
    """Thoughts are not sent back to a bot: it would take them for its answer."""


class Reference(Struct, tag="item_reference"):
    id: str


class HostedItem(Struct, tag="hosted"):
    """What a tool of OpenAI's own was called with or said, in a conversation that began there. No bot can read it."""


Item = MessageItem | CallItem | OutputItem | ReasoningItem | Reference | HostedItem

UNDERSTOOD = frozenset({"message", "function_call", "function_call_output", "reasoning", "item_reference"})
HOSTED = frozenset(
    {
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "computer_call_output",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
ROLES: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
# Each kind of item has ids of its own kind.
PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_ID = re.compile(r"[a-z]+_([0-9a-f]{32})[io]\d{1,5}")


def item_id(response_id: str, kind: str, place: Literal["i", "o"], index: int) -> str:
    """An id that tells which response it belongs to: a client may name an item without naming the response."""
    return f"{PREFIXES.get(kind, 'item')}_{response_id.removeprefix('resp_')}{place}{index}"


def response_of(id: str) -> str:
    """The id of the response that an item with this id belongs to; empty if it is none of ours."""
    found = _ID.fullmatch(id)
    return f"resp_{found.group(1)}" if found else ""


class _Input(Struct):
    input: list[Item]


def read(items: list[dict[str, Any]]) -> list[Item]:
    """Validated, or BadRequest naming the item."""
    return convert({"input": [_tagged(item, f"input[{i}]") for i, item in enumerate(items)]}, _Input).input


def _tagged(item: dict[str, Any], where: str) -> dict[str, Any]:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if not isinstance(kind, str) or kind not in UNDERSTOOD | HOSTED:
        raise BadRequest(
            f"`{where}.type` is {str(kind)[:50]!r}: {', '.join(sorted(UNDERSTOOD))} are understood.",
            code="unsupported_value",
            param=f"{where}.type",
        )
    if kind in HOSTED:
        return {"type": "hosted"}
    return item if item.get("type") else {**item, "type": kind}


def references(items: Iterable[Item]) -> tuple[str, ...]:
    return tuple(item.id for item in items if isinstance(item, Reference))


def as_kept(item: dict[str, Any], id: str) -> dict[str, Any]:
    """A client's item as it is kept and shown: with an id, its kind, and its content as a list."""
    kind = item.get("type") or "message"
    kept = {"id": id, **item, "type": kind}
    if kind == "message" and isinstance(item.get("content"), str):
        text = "output_text" if item.get("role") == "assistant" else "input_text"
        kept["content"] = [{"type": text, "text": item["content"]}]
        if text == "output_text":
            kept["content"][0]["annotations"] = []
    if kind == "message":
        kept.setdefault("status", "completed")
    return kept


def flat_name(name: str, namespace: str | None) -> str:
    """A bot knows tools by one name; a client may group them under a second one."""
    return f"{namespace}__{name}" if namespace else name


class Conversation:
    """Messages made from items, one after the other. Items that hold no words for a bot leave no message."""

    def __init__(self, instructions: str | None, kept: Mapping[str, dict[str, Any]]) -> None:
        self._messages = [Message("system", (TextPart(instructions),))] if instructions else []
        self._kept = kept
        self._names: dict[str, str] = {}
        # Files that a tool gave: a tool's message holds none, so the user's next one has them.
        self._files: list[Part] = []

    def add(self, item: Item, where: str) -> None:
        if isinstance(item, Reference):
            item = self._referred(item, where)
        if not isinstance(item, OutputItem):
            self._add_files()
        match item:
            case MessageItem(role, content):
                self._messages.append(Message(ROLES[role], tuple(_parts(content, f"{where}.content"))))
            case CallItem():
                self._call(item)
            case OutputItem():
                self._result(item, where)

    def end(self) -> tuple[Message, ...]:
        self._add_files()
        return tuple(self._messages)

    def _referred(self, item: Reference, where: str) -> Item:
        kept = self._kept.get(item.id)
        if kept is None:
            raise BadRequest(
                f"Item with id {item.id[:100]!r} not found: it was not stored, it has expired, or it is another token's.",
                code="item_not_found",
                param=f"{where}.id",
            )
        return read([kept])[0]

    def _call(self, item: CallItem) -> None:
        """Beside the words that the assistant said before it, and its other calls."""
        name = flat_name(item.name, item.namespace)
        self._names[item.call_id] = name
        call = ToolCallPart(item.call_id, name, item.arguments)
        last = self._messages[-1] if self._messages else None
        if last is not None and last.role == "assistant":
            self._messages[-1] = Message("assistant", (*last.parts, call))
        else:
            self._messages.append(Message("assistant", (call,)))

    def _result(self, item: OutputItem, where: str) -> None:
        parts = _parts(item.output, f"{where}.output")
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        self._files += [part for part in parts if isinstance(part, FilePart)]
        result = ToolResultPart(item.call_id, self._names.get(item.call_id, "tool"), text)
        self._messages.append(Message("tool", (result,)))

    def _add_files(self) -> None:
        if self._files:
            self._messages.append(Message("user", tuple(self._files)))
            self._files = []


def _parts(content: str | list[Content], where: str) -> list[Part]:
    if isinstance(content, str):
        return [TextPart(content)]
    return [_part(part, f"{where}[{i}]") for i, part in enumerate(content)]


def _part(part: Content, where: str) -> Part:
    match part.type:
        case "input_text" | "output_text" | "text":
            return TextPart(part.text or "")
        case "refusal":
            return TextPart(part.refusal or "")
        case "input_image":
            return _image(part, where)
        case "input_file":
            return _file(part, where)
        case "input_audio" if part.input_audio is not None:
            audio = part.input_audio
            kind = BY_EXTENSION.get(audio.format.lower(), f"audio/{audio.format.lower()}")
            return from_url(f"data:{kind};base64,{audio.data}", "audio", f"{where}.input_audio.data")
        case _:
            raise BadRequest(
                f"`{where}.type` is {part.type[:50]!r}: input_text, output_text, refusal, input_image, input_file and "
                "input_audio are understood.",
                code="unsupported_content",
                param=f"{where}.type",
            )


def _image(part: Content, where: str) -> FilePart:
    if part.file_id is not None:
        return kept(part.file_id, f"{where}.file_id")
    if part.image_url is None:
        raise _missing(where, "image_url")
    return from_url(part.image_url, "image", f"{where}.image_url")


def _file(part: Content, where: str) -> FilePart:
    if part.file_id is not None:
        return kept(part.file_id, f"{where}.file_id")
    if part.file_url is not None:
        found = from_url(part.file_url, "file", f"{where}.file_url")
    elif part.file_data is not None:
        found = from_url(_data_url(part.file_data, part.filename), "file", f"{where}.file_data")
    else:
        raise _missing(where, "file_data")
    return FilePart(part.filename or found.name, found.content_type, found.url, found.data)


def _data_url(data: str, filename: str | None) -> str:
    """OpenAI takes bare base64 too: what it is, the file's name tells."""
    if data.startswith("data:"):
        return data
    kind = BY_EXTENSION.get((filename or "").rsplit(".", 1)[-1].lower(), "application/octet-stream")
    return f"data:{kind};base64,{data}"


def _missing(where: str, name: str) -> BadRequest:
    return BadRequest(
        f"Missing required parameter: `{where}.{name}`.",
        code="missing_required_parameter",
        param=f"{where}.{name}",
    )
