"""A content block of Anthropic's Messages: what a bot is given for it. Each is validated by its type."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from relay.errors import BadRequest
from relay.events import FilePart, Part, TextPart, ToolCallPart, ToolResultPart
from relay.wire.body import invalid
from relay.wire.files import EXTENSIONS, from_base64, from_url, kept

T = TypeVar("T")
Block = dict[str, Any]


class Text(Struct):
    text: str


class Source(Struct):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    file_id: str = ""
    content: str | list[Block] = ""


class Image(Struct):
    source: Source


class Document(Struct):
    source: Source
    title: str | None = None
    context: str | None = None


class SearchResult(Struct):
    source: str
    title: str
    content: list[Block]


class ToolUse(Struct):
    id: str
    name: str
    input: dict[str, Any]


class ToolResult(Struct):
    tool_use_id: str
    content: str | list[Block] | None = None
    is_error: bool | None = None


def _shaped(block: Block, shape: type[T], where: str) -> T:
    try:
        return msgspec.convert(block, shape)
    except msgspec.ValidationError as exc:
        message = str(exc)
        if "at `$" not in message:
            message += " - at `$`"
        raise invalid(message.replace("at `$", f"at `$.{where}", 1)) from None


def parts_of(content: str | list[Block], names: dict[str, str], where: str) -> list[Part]:
    """`names` are those of the tool calls so far, by id: read by their results, which have none."""
    if isinstance(content, str):
        return [TextPart(content)]
    return [part for i, block in enumerate(content) for part in _read(block, names, f"{where}[{i}]")]


def _read(block: Block, names: dict[str, str], where: str) -> list[Part]:
    kind = block.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is not None:
        return reader(block, names, where)
    if isinstance(kind, str) and _SAYS_NOTHING.fullmatch(kind):
        return []
    raise BadRequest(
        f"`{where}.type` is {str(kind)[:50]!r}: {', '.join(_READERS)} are understood.",
        code="unsupported_content",
        param=f"{where}.type",
    )


# Thoughts are no part of the conversation for a bot, and what Anthropic's own servers did means nothing to it.
_SAYS_NOTHING = re.compile(
    r"(redacted_)?thinking|compaction|container_upload|fallback|tool_reference"
    r"|(server|mcp)_tool_use|(?!tool_result)\w+_tool_result"
)


def _text(block: Block, names: dict[str, str], where: str) -> list[Part]:
    return [TextPart(_shaped(block, Text, where).text)]


def _image(block: Block, names: dict[str, str], where: str) -> list[Part]:
    return [_file(_shaped(block, Image, where).source, "image", f"{where}.source")]


def _document(block: Block, names: dict[str, str], where: str) -> list[Part]:
    """A document of text is said to the bot; another one is given to it as a file."""
    document = _shaped(block, Document, where)
    source = document.source
    about = "\n".join(each for each in (document.title, document.context) if each)
    head = [TextPart(about)] if about else []
    match source.type:
        case "text":
            return [*head, TextPart(source.data)]
        case "content":
            return [*head, *parts_of(source.content, names, f"{where}.source.content")]
    file = _file(source, "document", f"{where}.source")
    if document.title and file.file_id is None:
        file = FilePart(document.title[:100], file.content_type, file.url, file.data)
    return [TextPart(document.context), file] if document.context else [file]


def _file(source: Source, stem: str, where: str) -> FilePart:
    match source.type:
        case "base64":
            if not source.media_type:
                raise BadRequest(
                    f"Missing required parameter: `{where}.media_type`.",
                    code="missing_required_parameter",
                    param=f"{where}.media_type",
                )
            kind = source.media_type.lower()
            name = f"{stem}.{EXTENSIONS.get(kind, 'bin')}"
            return FilePart(name, kind, data=from_base64(source.data, f"{where}.data"))
        case "url":
            return from_url(source.url, stem, f"{where}.url")
        case "file":
            return kept(source.file_id, f"{where}.file_id")
    raise BadRequest(
        f"`{where}.type` is {source.type[:50]!r}: base64, url and file are understood.",
        code="unsupported_content",
        param=f"{where}.type",
    )


def _search_result(block: Block, names: dict[str, str], where: str) -> list[Part]:
    found = _shaped(block, SearchResult, where)
    return [
        TextPart(f"{found.title}\n{found.source}"),
        *parts_of(found.content, names, f"{where}.content"),
    ]


def _tool_use(block: Block, names: dict[str, str], where: str) -> list[Part]:
    use = _shaped(block, ToolUse, where)
    names[use.id] = use.name
    return [ToolCallPart(use.id, use.name, msgspec.json.encode(use.input).decode())]


def _tool_result(block: Block, names: dict[str, str], where: str) -> list[Part]:
    """Its text is the result. Pictures in it go to the bot with what the user says: a result is text."""
    result = _shaped(block, ToolResult, where)
    parts = parts_of(result.content or "", names, f"{where}.content")
    text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
    if result.is_error:
        text = f"Error: {text}"
    name = names.get(result.tool_use_id, "tool")
    return [
        ToolResultPart(result.tool_use_id, name, text),
        *(part for part in parts if isinstance(part, FilePart)),
    ]


_READERS: dict[str, Callable[[Block, dict[str, str], str], list[Part]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}
