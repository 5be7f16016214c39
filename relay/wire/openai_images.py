"""OpenAI's images: a prompt, with pictures to start from or without -> ChatRequest; what a bot made -> the list of it."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Struct

from relay.errors import BadRequest
from relay.events import Attachment, ChatRequest, Event, FilePart, Message, Part, Text, TextPart
from relay.wire.body import convert, decode, model_name
from relay.wire.files import from_url, kept

NAME = "openai-images"
MOST = 10
# OpenAI's newest models answer with the bytes, whatever is asked.
BYTES_BY_DEFAULT = "gpt-image"


class GenerationBody(Struct, kw_only=True):
    model: str
    prompt: str
    n: int | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool | None = None
    partial_images: int | None = None
    user: str | None = None


class ImageReference(Struct):
    image_url: str | None = None
    file_id: str | None = None


class EditBody(GenerationBody, kw_only=True):
    images: list[ImageReference]
    mask: ImageReference | None = None


# Accepted in silence: it asks for nothing that the picture could lack.
SILENT = frozenset({"user", "moderation"})
_MARKDOWN = re.compile(r"!\[[^\[\]]{0,1000}\]\((https?://[^\s()]{1,2000})\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """`chat` is asked `n` times."""

    chat: ChatRequest
    n: int
    wants_bytes: bool


def parse(raw: bytes) -> Asked:
    """The request in this body, or BadRequest naming the parameter."""
    body = decode(raw)
    return _asked(body, convert(body, GenerationBody), ())


def parse_edit(raw: bytes) -> Asked:
    body = decode(raw)
    edit = convert(body, EditBody)
    if not edit.images:
        raise BadRequest("`images` is empty: send at least one.", param="images")
    files = [_picture(each, f"images[{i}]") for i, each in enumerate(edit.images)]
    if edit.mask is not None:
        files.append(_picture(edit.mask, "mask"))
    return _asked(body, edit, tuple(files))


def parse_form(fields: Mapping[str, str], files: tuple[FilePart, ...]) -> Asked:
    """The same as a form has it: all of its fields are text."""
    body: dict[str, Any] = dict(fields)
    if not files:
        raise BadRequest("`image` is missing: send the picture to start from.", param="image")
    try:
        edit = msgspec.convert(body, GenerationBody, strict=False)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"Invalid form: {str(exc)[:300]}.", code="invalid_type") from None
    return _asked(body, edit, files)


def _asked(body: dict[str, Any], asked: GenerationBody, files: tuple[FilePart, ...]) -> Asked:
    model = model_name(asked.model)
    if not asked.prompt.strip():
        raise BadRequest("`prompt` is empty.", param="prompt")
    n = 1 if asked.n is None else asked.n
    if not 1 <= n <= MOST:
        raise BadRequest(f"`n` must be from 1 to {MOST}.", param="n")
    if asked.stream or asked.partial_images:
        raise BadRequest(
            "No Poe bot shows a picture while it paints: ask without `stream` and `partial_images`.",
            code="unsupported_parameter",
            param="stream",
        )
    known = {*SILENT, *EditBody.__struct_fields__}
    parameters = {name: value for name, value in body.items() if name not in known and value is not None}
    # What OpenAI's clients always send and no bot means by these words.
    parameters = {name: value for name, value in parameters.items() if value != "auto"}
    parts: tuple[Part, ...] = (TextPart(asked.prompt), *files)
    chat = ChatRequest(model=model, messages=(Message("user", parts),), parameters=parameters)
    wants_bytes = asked.response_format == "b64_json" or (
        asked.response_format is None and model.lower().startswith(BYTES_BY_DEFAULT)
    )
    return Asked(chat, n, wants_bytes)


def _picture(reference: ImageReference, where: str) -> FilePart:
    if reference.file_id:
        return kept(reference.file_id, f"{where}.file_id")
    if not reference.image_url:
        raise BadRequest(
            f"`{where}.image_url` is missing: send the picture as a data or https URL, or a `file_id` of /v1/files.",
            code="missing_required_parameter",
            param=f"{where}.image_url",
        )
    return from_url(reference.image_url, "image", f"{where}.image_url")


def pictures(events: list[Event]) -> list[str]:
    """The URLs of the pictures in an answer: the files that the bot made, or else what its text shows."""
    files = [
        each.url for each in events if isinstance(each, Attachment) and each.content_type.startswith("image/")
    ]
    if files:
        return list(dict.fromkeys(files))
    text = "".join(each.text for each in events if isinstance(each, Text))
    return list(dict.fromkeys(_MARKDOWN.findall(text)))


def collect(found: list[str | bytes]) -> dict[str, Any]:
    """URLs or bytes, as they are to be told."""
    data = [
        {"url": each} if isinstance(each, str) else {"b64_json": base64.b64encode(each).decode()}
        for each in found
    ]
    return {"created": int(time.time()), "data": data}
