"""OpenAI's videos: a form or JSON -> what a bot is to film; what came of it -> OpenAI's video object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

from relay.errors import BadRequest
from relay.events import Attachment, ChatRequest, Event, FilePart, Message, Text, TextPart
from relay.wire.body import convert, decode, model_name
from relay.wire.files import from_url, kept
from relay.wire.listing import listing

NAME = "openai-videos"
LONGEST_PROMPT = 32_000
REFERENCE = "input_reference"
# Some bots show it as a link of Markdown.
_LINK = re.compile(r"\]\((https?://[^\s()]{1,2000})\)")
_FILMS = (".mp4", ".webm", ".mov")


class Reference(Struct):
    image_url: str | None = None
    file_id: str | None = None


class VideoBody(Struct, kw_only=True):
    model: str
    prompt: str
    seconds: str | int | None = None
    size: str | None = None
    input_reference: Reference | None = None


class Asked(Struct, frozen=True):
    """What is kept of a request until its video is made: no more than a reference to the picture that it begins with."""

    model: str
    prompt: str
    parameters: dict[str, Any]
    file_id: str | None = None
    image_url: str | None = None

    @property
    def seconds(self) -> str:
        return str(self.parameters.get("seconds", "auto"))

    @property
    def size(self) -> str:
        return str(self.parameters.get("size", "auto"))

    @property
    def chat(self) -> ChatRequest:
        picture: tuple[FilePart, ...] = ()
        if self.file_id is not None:
            picture = (kept(self.file_id, f"{REFERENCE}.file_id"),)
        elif self.image_url is not None:
            picture = (from_url(self.image_url, "image", f"{REFERENCE}.image_url"),)
        said = Message("user", (TextPart(self.prompt), *picture))
        return ChatRequest(model=self.model, messages=(said,), parameters=self.parameters)


def parse(raw: bytes) -> tuple[Asked, FilePart | None]:
    """The request in this body and the picture that came in it, or BadRequest naming the parameter."""
    body = decode(raw)
    return _asked(body, convert(body, VideoBody))


def parse_form(fields: Mapping[str, str], files: list[FilePart]) -> tuple[Asked, FilePart | None]:
    """The same as a form has it: all of its fields are text, and the picture is a file of it."""
    if len(files) > 1:
        raise BadRequest(f"Send one `{REFERENCE}`.", param=REFERENCE)
    body: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket and outer == REFERENCE:
            reference = body.setdefault(outer, {})
            if not isinstance(reference, dict):
                raise BadRequest(f"`{REFERENCE}` is there twice.", param=REFERENCE)
            reference[inner.rstrip("]")] = value
        elif name in body:
            raise BadRequest(f"`{name[:100]}` is there twice.", param=name[:100])
        else:
            body[name] = value
    if files and REFERENCE in body:
        raise BadRequest(f"`{REFERENCE}` is there twice.", param=REFERENCE)
    if files and not files[0].content_type.startswith(("image/", "video/")):
        raise BadRequest(f"`{REFERENCE}` is neither a picture nor a video.", param=REFERENCE)
    asked, picture = _asked(body, convert(body, VideoBody))
    return asked, files[0] if files else picture


def _asked(body: dict[str, Any], asked: VideoBody) -> tuple[Asked, FilePart | None]:
    model = model_name(asked.model)
    if not asked.prompt.strip():
        raise BadRequest("`prompt` is empty.", param="prompt")
    if len(asked.prompt) > LONGEST_PROMPT:
        raise BadRequest(f"`prompt` is longer than {LONGEST_PROMPT:,} characters.", param="prompt")
    named = {"model", "prompt", REFERENCE}
    parameters = {name: value for name, value in body.items() if name not in named and value is not None}
    file_id = image_url = picture = None
    if (reference := asked.input_reference) is not None:
        if reference.file_id:
            file_id = reference.file_id
        elif reference.image_url and reference.image_url.startswith("data:"):
            picture = from_url(reference.image_url, "image", f"{REFERENCE}.image_url")
        elif reference.image_url:
            image_url = reference.image_url
        else:
            raise BadRequest(f"`{REFERENCE}` needs `image_url` or `file_id`.", param=REFERENCE)
    found = Asked(model, asked.prompt, parameters, file_id, image_url)
    _ = found.chat  # refuses an id or a URL that is none
    return found, picture


def film(events: list[Event]) -> Attachment | None:
    """The first video in an answer."""
    files = [each for each in events if isinstance(each, Attachment)]
    if found := next((each for each in files if each.content_type.startswith("video/")), None):
        return found
    text = "".join(each.text for each in events if isinstance(each, Text))
    url = next((url for url in _LINK.findall(text) if _is_film(url)), None)
    return Attachment(url, "video.mp4", "video/mp4") if url else None


def _is_film(url: str) -> bool:
    path = url.partition("?")[0]
    return "/base/video/" in path or path.lower().endswith(_FILMS)


# What is told.


class Job(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def asked(self) -> Asked: ...
    @property
    def state(self) -> str: ...
    @property
    def error_code(self) -> str: ...
    @property
    def error_message(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def completed_at(self) -> datetime | None: ...
    @property
    def expires_at(self) -> datetime: ...


def described(job: Job) -> dict[str, Any]:
    """No bot says how far it is: `progress` is 0 until all is there."""
    failed = job.state == "failed"
    return {
        "id": job.id,
        "object": "video",
        "model": job.asked.model,
        "status": job.state,
        "progress": 100 if job.state == "completed" else 0,
        "created_at": int(job.created_at.timestamp()),
        "completed_at": None if job.completed_at is None else int(job.completed_at.timestamp()),
        "expires_at": int(job.expires_at.timestamp()),
        "prompt": job.asked.prompt,
        "seconds": job.asked.seconds,
        "size": job.asked.size,
        "remixed_from_video_id": None,
        "error": {"code": job.error_code, "message": job.error_message} if failed else None,
    }


def page(jobs: Sequence[Job], limit: int) -> dict[str, Any]:
    """`jobs` has one more than `limit` if there are more."""
    return listing([described(each) for each in jobs[:limit]], has_more=len(jobs) > limit)


def deleted(id: str) -> dict[str, Any]:
    return {"id": id, "object": "video.deleted", "deleted": True}
