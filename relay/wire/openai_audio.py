"""OpenAI's audio: a text to be spoken, or a recording to be written down -> ChatRequest; what a bot said -> what is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from relay.errors import BadRequest
from relay.events import Attachment, ChatRequest, Event, FilePart, Message, Text, TextPart
from relay.wire.body import convert, decode, model_name

NAME = "openai-audio"
LONGEST_INPUT = 100_000
TEXT_FORMATS = ("json", "text", "verbose_json")
WRITE_DOWN = "Write down word for word what is said in this recording. Answer with nothing but these words."
TRANSLATE = "Write down in English what is said in this recording. Answer with nothing but these words."


class SpeechBody(Struct, kw_only=True):
    model: str
    input: str
    stream_format: str | None = None


class TranscriptionForm(Struct, kw_only=True):
    model: str
    prompt: str | None = None
    response_format: str = "json"
    language: str | None = None
    temperature: float | None = None
    stream: bool = False


TAKEN = frozenset(TranscriptionForm.__struct_fields__)
# OpenAI's own parameters that hardly a Poe bot can be told, as in its chat completions.
RARE = frozenset(
    {
        "chunking_strategy",
        "include",
        "keywords",
        "known_speaker_names",
        "known_speaker_references",
        "languages",
        "timestamp_granularities",
    }
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """`form` is the response format."""

    chat: ChatRequest
    form: str
    language: str


def parse_speech(raw: bytes) -> ChatRequest:
    """The request in this body, or BadRequest naming the parameter."""
    body = decode(raw)
    speech = convert(body, SpeechBody)
    model = model_name(speech.model)
    if not speech.input.strip():
        raise BadRequest("`input` is empty: send the text to be spoken.", param="input")
    if len(speech.input) > LONGEST_INPUT:
        raise BadRequest(f"`input` is longer than {LONGEST_INPUT:,} characters.", param="input")
    if speech.stream_format == "sse":
        raise BadRequest(
            "No Poe bot is heard while it records: ask without `stream_format`.",
            code="unsupported_parameter",
            param="stream_format",
        )
    parameters = {name: value for name, value in body.items() if name not in SpeechBody.__struct_fields__}
    said = Message("user", (TextPart(speech.input),))
    return ChatRequest(model=model, messages=(said,), parameters=_without_nothing(parameters))


def parse_transcription(fields: Mapping[str, str], files: list[FilePart], *, translates: bool) -> Recorded:
    """What a form asks for, or BadRequest."""
    try:
        form = msgspec.convert(dict(fields), TranscriptionForm, strict=False)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"Invalid form: {str(exc)[:300]}.", code="invalid_type") from None
    if len(files) != 1:
        raise BadRequest("Send the recording as `file`.", code="missing_required_parameter", param="file")
    if form.response_format not in TEXT_FORMATS:
        raise BadRequest(
            f"`response_format` must be one of {', '.join(TEXT_FORMATS)}: no Poe bot tells when a word was said.",
            code="unsupported_value",
            param="response_format",
        )
    if form.stream:
        raise BadRequest(
            "Ask without `stream`, or use /v1/chat/completions with `input_audio`.",
            code="unsupported_parameter",
            param="stream",
        )
    words = [TRANSLATE if translates else WRITE_DOWN]
    if form.language:
        words.append(f"It is in the language {form.language[:50]}.")
    if form.prompt:
        words.append(f"What helps to understand it: {form.prompt}")
    # A list is written `name[]` in a form.
    extra = {name.removesuffix("[]"): value for name, value in fields.items() if name not in TAKEN}
    chat = ChatRequest(
        model=model_name(form.model),
        messages=(Message("user", (TextPart("\n".join(words)), *files)),),
        temperature=form.temperature,
        parameters={name: value for name, value in extra.items() if name not in RARE},
        rare={name: value for name, value in extra.items() if name in RARE},
        ignored=tuple(sorted(RARE & extra.keys())),
    )
    return Recorded(chat, form.response_format, form.language or "")


def _without_nothing(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def recording(events: list[Event]) -> Attachment | None:
    """The first sound file that the bot made."""
    return next(
        (each for each in events if isinstance(each, Attachment) and each.content_type.startswith("audio/")),
        None,
    )


def text_of(events: list[Event]) -> str:
    return "".join(each.text for each in events if isinstance(each, Text)).strip()


def collect(text: str, asked: Recorded, *, translates: bool) -> dict[str, Any]:
    if asked.form != "verbose_json":
        return {"text": text}
    # How long the recording is and when what was said no bot tells.
    return {
        "task": "translate" if translates else "transcribe",
        "language": "english" if translates else asked.language,
        "duration": 0.0,
        "text": text,
        "segments": [],
    }
