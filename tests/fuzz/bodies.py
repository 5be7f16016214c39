"""Bodies that nobody means: what clients really send (examples.py), changed here and there, for every wire format.

`PARSES` is what the fuzz tests go over: a wire format is here as soon as it can parse.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from relay.events import FilePart
from relay.wire import (
    anthropic_messages,
    anthropic_request,
    chat_request,
    openai_audio,
    openai_chat,
    openai_completions,
    openai_files,
    openai_images,
    openai_responses,
    openai_videos,
)
from tests.fuzz import examples

BOUNDARY = "a-form"


@dataclass(frozen=True, slots=True)
class Wire:
    """A parse under test, where it is asked, and what clients send there.

    `files` are the names that a form's files go by; without any, JSON is sent.
    """

    parse: Callable[..., object]
    path: str
    examples: tuple[dict[str, Any], ...]
    files: tuple[str, ...] = ()

    def read(self, body: bytes) -> object:
        """What the parse makes of it, or BadRequest."""
        if not self.files:
            return self.parse(body)
        fields, files = form_of(body, self.files)
        return self.parse(fields, [*files.values()])

    def sent(self, body: bytes) -> tuple[bytes, str]:
        """As it goes over the line, and of which type it is."""
        if not self.files:
            return body, "application/json"
        return encoded(*form_of(body, self.files)), f"multipart/form-data; boundary={BOUNDARY}"


# Some formats have several routes.
PARSES: dict[str, Wire] = {
    openai_chat.NAME: Wire(chat_request.parse, "/v1/chat/completions", examples.CHAT),
    openai_responses.NAME: Wire(openai_responses.parse, "/v1/responses", examples.RESPONSES),
    anthropic_messages.NAME: Wire(anthropic_request.parse, "/v1/messages", examples.MESSAGES),
    f"{anthropic_messages.NAME}-count": Wire(
        anthropic_request.parse_count, "/v1/messages/count_tokens", examples.MESSAGES
    ),
    openai_completions.NAME: Wire(openai_completions.parse, "/v1/completions", examples.COMPLETIONS),
    openai_images.NAME: Wire(openai_images.parse, "/v1/images/generations", examples.IMAGES),
    f"{openai_images.NAME}-edits": Wire(openai_images.parse_edit, "/v1/images/edits", examples.EDITS),
    f"{openai_images.NAME}-edits-form": Wire(
        openai_images.parse_form, "/v1/images/edits", examples.EDIT_FORMS, files=("image", "image[]", "mask")
    ),
    f"{openai_audio.NAME}-speech": Wire(openai_audio.parse_speech, "/v1/audio/speech", examples.SPEECH),
    f"{openai_audio.NAME}-transcriptions": Wire(
        partial(openai_audio.parse_transcription, translates=False),
        "/v1/audio/transcriptions",
        examples.RECORDINGS,
        files=("file",),
    ),
    f"{openai_audio.NAME}-translations": Wire(
        partial(openai_audio.parse_transcription, translates=True),
        "/v1/audio/translations",
        examples.RECORDINGS,
        files=("file",),
    ),
    openai_videos.NAME: Wire(openai_videos.parse, "/v1/videos", examples.VIDEOS),
    f"{openai_videos.NAME}-form": Wire(
        openai_videos.parse_form, "/v1/videos", examples.VIDEO_FORMS, files=(openai_videos.REFERENCE,)
    ),
    openai_files.NAME: Wire(openai_files.parse_form, "/v1/files", examples.UPLOADS, files=("file",)),
}

# What has broken parsers before, and what is not allowed.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    0.5,
    1e308,
    -0.0,
    "",
    " ",
    "x",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "\ufeff",
    "٣",
    "😀" * 3,
    "a" * 3_000,
    "user",
    "auto",
    "required",
    "none",
    "function",
    "text",
    "image_url",
    "tool_use",
    "thinking",
    "data:",
    "data:image/png;base64,",
    "data:image/png;base64,@@@",
    "data:text/plain,hello",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "{",
    '{"a": 1}',
    [],
    {},
    [[]],
    [None],
    [{}],
    {"": ""},
    {"type": None},
    {"type": "object"},
    {"$ref": "#/$defs/none"},
    {"$ref": "#"},
    ["a"] * 40,
)
KEYS = (
    "",
    "model",
    "messages",
    "stream",
    "content",
    "type",
    "role",
    "tools",
    "extra_body",
    "x" * 300,
    "\x00",
    "ü",
)


def bodies(examples: tuple[dict[str, Any], ...]) -> st.SearchStrategy[bytes]:
    """Bodies as they arrive: mostly JSON that is nearly right, some that is none."""
    return st.one_of(
        st.builds(spoiled, st.sampled_from(examples), st.randoms(use_true_random=False)),
        st.builds(spoiled, st.sampled_from(examples), st.randoms(use_true_random=False)),
        st.builds(garbled, st.sampled_from(examples), st.randoms(use_true_random=False)),
        st.binary(max_size=200),
    )


def spoiled(example: dict[str, Any], chance: random.Random) -> bytes:
    """Valid JSON, with up to five places changed."""
    body = copy.deepcopy(example)
    for _turn in range(chance.randint(0, 5)):
        _spoil(body, chance)
    return json.dumps(body).encode()


def garbled(example: dict[str, Any], chance: random.Random) -> bytes:
    """Bytes of a body, cut, doubled or overwritten."""
    raw = bytearray(json.dumps(example, ensure_ascii=chance.random() < 0.5).encode())
    for _turn in range(chance.randint(1, 4)):
        start = chance.randrange(len(raw) or 1)
        end = min(len(raw), start + chance.randint(0, 30))
        raw[start:end] = chance.choice(
            (
                b"",
                b"NaN",
                b"Infinity",
                b"1e999",
                b"\xff",
                b"\xed\xa0\x80",
                b"\\ud800",
                b'"',
                b"[" * 70,
                raw[:20],
            )
        )
    return bytes(raw)


def _spoil(body: Any, chance: random.Random) -> None:
    holder = chance.choice(_holders(body))
    if isinstance(holder, dict):
        key = chance.choice([*holder, chance.choice(KEYS)])
        if chance.random() < 0.15:
            holder.pop(key, None)
        else:
            holder[key] = _value(body, chance)
    elif holder and chance.random() < 0.7:
        holder[chance.randrange(len(holder))] = _value(body, chance)
    else:
        holder.append(_value(body, chance))


def _value(body: Any, chance: random.Random) -> Any:
    kind = chance.random()
    if kind < 0.1:
        # Something of the body itself, in a place where it does not belong.
        return copy.deepcopy(chance.choice(_holders(body)))
    if kind < 0.13:
        return _nested(chance.choice((30, 63, 64, 65, 200)))
    return copy.deepcopy(chance.choice(VALUES))


def _nested(depth: int) -> Any:
    found: Any = "deep"
    for _level in range(depth):
        found = [found]
    return found


def _holders(body: Any) -> list[Any]:
    found, left = [], [body]
    while left:
        holder = left.pop()
        found.append(holder)
        inner = holder.values() if isinstance(holder, dict) else holder
        left += [each for each in inner if isinstance(each, (dict, list))]
    return found


# Forms.


def form_of(body: bytes, names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, FilePart]]:
    """The fields and files that a spoiled body becomes; what is no object is a field of no name."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = body.decode("latin-1")
    members = said if isinstance(said, dict) else {"": said}
    texts = {_as_text(name): _as_text(value) for name, value in members.items()}
    fields = {name: text for name, text in texts.items() if name not in names}
    files = {
        name: FilePart(text[:100], "image/png", data=text.encode())
        for name, text in texts.items()
        if name in names
    }
    return fields, files


def _as_text(value: Any) -> str:
    """As a form's reader gives it: never half of a surrogate pair, and what has a NUL is refused before."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


def encoded(fields: dict[str, str], files: dict[str, FilePart]) -> bytes:
    """A form that nobody has checked: a name may end its line, and a value the form."""
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    parts += [
        f'name="{name}"; filename="{file.name}"\r\nContent-Type: {file.content_type}\r\n\r\n'.encode()
        + (file.data or b"")
        for name, file in files.items()
    ]
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()
