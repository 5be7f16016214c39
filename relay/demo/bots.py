"""The demo bots, made with fastapi-poe's own PoeBot: each shows one thing that real Poe bots do."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import math
import re
import secrets
import struct
import wave
import zlib
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from fastapi_poe import DataResponse, ErrorResponse, PartialResponse, PoeBot, QueryRequest
from fastapi_poe.types import ReportErrorRequest, RequestContext, ToolDefinition
from sse_starlette.event import ServerSentEvent

from relay.demo import faulty
from relay.demo.account import Listing, Payer, count_words
from relay.demo.files import Files, StoredFile
from relay.demo.parameters import DELAY, MOST_REPEATS, REPEAT, delay, number

MEDIA = Path(__file__).parent / "media"

Said: TypeAlias = PartialResponse | ServerSentEvent | DataResponse


@dataclass(kw_only=True)
class DemoBot(PoeBot):
    """A PoeBot that charges whoever asks for what it says, even when the listener leaves early."""

    listing: ClassVar[Listing]

    files: Files
    payer: Payer
    should_insert_attachment_messages: bool = False

    @abstractmethod
    def answer(self, request: QueryRequest) -> AsyncIterator[Said]: ...

    async def get_response_with_context(
        self, request: QueryRequest, context: RequestContext
    ) -> AsyncIterable[Said]:
        words_out = 0
        try:
            async for event in self.answer(request):
                words_out = _words_so_far(words_out, event)
                yield event
        finally:
            words_in = sum(count_words(message.content) for message in request.query)
            self.payer.charge(self.listing.handle, words_in, words_out, self.listing.points_per_message)

    async def on_error(self, error_request: ReportErrorRequest) -> None:
        """Clients report what they could not read, with its content: not for the log."""


def _words_so_far(words: int, event: Said) -> int:
    if isinstance(event, ServerSentEvent):
        return words + 1
    if isinstance(event, ErrorResponse) or not isinstance(event, PartialResponse):
        return words
    return count_words(event.text) + (0 if event.is_replace_response else words)


def _text(text: str) -> PartialResponse:
    return PartialResponse(text=text)


def _replace(text: str) -> PartialResponse:
    return PartialResponse(text=text, is_replace_response=True)


def _pieces(text: str) -> list[str]:
    """The text word by word; joined again it is the same text."""
    return re.findall(r"\s*\S+|\s+$", text)


def _asked(request: QueryRequest) -> str:
    texts = [message.content for message in request.query if message.role == "user"]
    return texts[-1] if texts else ""


def _parameters(request: QueryRequest) -> dict[str, Any]:
    return request.query[-1].parameters if request.query else {}


def _delay(request: QueryRequest, default: float) -> float:
    return delay(_parameters(request), default)


async def _slowly(events: list[PartialResponse], pause: float) -> AsyncIterator[Said]:
    for event in events[:1]:
        yield event
    for event in events[1:]:
        await asyncio.sleep(pause)
        yield event


class Echo(DemoBot):
    listing = Listing(
        "Demo-Echo",
        "Says again what you said, word by word.",
        inputs=("text", "image"),
        parameters=(DELAY, REPEAT),
    )

    async def answer(self, request: QueryRequest) -> AsyncIterator[Said]:
        pause = _delay(request, 0)
        repeat = number(_parameters(request), "repeat", 1, least=1, most=MOST_REPEATS)
        pieces = [_text(piece) for piece in _pieces(self._echo(request))]
        for turn in range(int(repeat)):
            if turn:
                await asyncio.sleep(pause)
                yield _text("\n")
            async for event in _slowly(pieces, pause):
                yield event

    def _echo(self, request: QueryRequest) -> str:
        text = _asked(request)
        attached = request.query[-1].attachments if request.query else []
        names = ", ".join(f"{file.name} ({file.content_type})" for file in attached)
        if names:
            return f"{text}\n\nAttached: {names}" if text.strip() else f"Attached: {names}"
        return text if text.strip() else "Your message is empty."


class Thinker(DemoBot):
    listing = Listing(
        "Demo-Thinker",
        "Thinks before it answers, as Poe's reasoning bots show it.",
        reasons=True,
        parameters=(DELAY,),
    )

    async def answer(self, request: QueryRequest) -> AsyncIterator[Said]:
        words = count_words(_asked(request))
        ticks = [_replace(f"Thinking... ({second}s elapsed)") for second in (1, 2, 3)]
        thoughts = [
            _replace("*Thinking...*\n\n"),
            _text("> Somebody asks me something.\n"),
            _text(f"> I count {words} words in it.\n"),
            _text("> That is all I need to know.\n\n"),
        ]
        answer = [
            _text(piece) for piece in _pieces(f"You asked with {words} words. I thought about all of them.")
        ]
        async for event in _slowly(ticks + thoughts + answer, _delay(request, 0.025)):
            yield event


class Replacer(DemoBot):
    listing = Listing(
        "Demo-Replacer", "Sends its whole answer again each time a word is added.", parameters=(DELAY,)
    )

    async def answer(self, request: QueryRequest) -> AsyncIterator[Said]:
        pieces = _pieces(_asked(request) or "Your message is empty.")
        so_far = [_replace("".join(pieces[: end + 1])) for end in range(len(pieces))]
        async for event in _slowly(so_far, _delay(request, 0.02)):
            yield event


class Painter(DemoBot):
    listing = Listing(
        "Demo-Painter",
        "Paints a gradient in colours made from your words.",
        outputs=("image",),
        points_per_message=200,
        parameters=(DELAY,),
    )

    async def answer(self, request: QueryRequest) -> AsyncIterator[Said]:
        pause = _delay(request, 0.05)
        title = re.sub(r"[\[\]\s]+", " ", _asked(request)).strip()[:80] or "a gradient"
        yield _replace("Generating image...")
        await asyncio.sleep(pause)
        yield _replace("Generating image... (1s elapsed)")
        picture = StoredFile("gradient.png", "image/png", paint(_asked(request)))
        await asyncio.sleep(pause)
        ref = secrets.token_hex(4)
        url = self.files.keep(picture)
        yield self.file_event(url, picture.content_type, picture.name, inline_ref=ref)
        yield _replace(f"![{title}][{ref}]")


def paint(words: str, width: int = 192, height: int = 128) -> bytes:
    """A PNG: a gradient between three colours, which the words choose."""
    colours = hashlib.sha256(words.encode()).digest()
    left, right, bottom = colours[0:3], colours[3:6], colours[6:9]
    rows = bytearray()
    for y in range(height):
        rows.append(0)  # the row's filter: none
        for x in range(width):
            across, down = x / (width - 1), y / (height - 1)
            for red_green_blue in range(3):
                top = left[red_green_blue] * (1 - across) + right[red_green_blue] * across
                rows.append(int(top * (1 - down) + bottom[red_green_blue] * down))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 6)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class Filmer(DemoBot):
    listing = Listing(
        "Demo-Filmer",
        "Shows two seconds of dusk, whatever you ask for. With the parameter delay it takes its time.",
        outputs=("video",),
        points_per_message=1000,
        parameters=(DELAY,),
    )

    async def answer(self, request: QueryRequest) -> AsyncIterator[Said]:
        yield _replace("Generating video...")
        await asyncio.sleep(_delay(request, 0.05))
        film = StoredFile("dusk.mp4", "video/mp4", (MEDIA / "dusk.mp4").read_bytes())
        yield self.file_event(self.files.keep(film), film.content_type, film.name)
        yield _replace("Here is your video.")


class Speaker(DemoBot):
    listing = Listing(
        "Demo-Speaker",
        "Hums a tone for each of your words, the longer the word the longer the tone.",
        outputs=("audio",),
        points_per_message=50,
        parameters=(DELAY,),
    )

    async def answer(self, request: QueryRequest) -> AsyncIterator[Said]:
        await asyncio.sleep(_delay(request, 0))
        spoken = StoredFile("speech.wav", "audio/wav", hum(_asked(request)))
        yield self.file_event(self.files.keep(spoken), spoken.content_type, spoken.name)
        yield _text("Here it is.")


def hum(words: str, rate: int = 8000) -> bytes:
    """A WAV: a tone for each word, at most twenty."""
    sound = bytearray()
    for step, word in enumerate(words.split()[:20]):
        pitch, length = 220 * 2 ** (step % 12 / 12), rate * min(len(word), 12) // 20
        sound += bytes(int(128 + 60 * math.sin(2 * math.pi * pitch * at / rate)) for at in range(length))
        sound += bytes([128]) * (rate // 20)
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(rate)
        file.writeframes(bytes(sound))
    return written.getvalue()


class Tools(DemoBot):
    listing = Listing(
        "Demo-Tools",
        "Calls the first tool that it is given, two when your message says 'both', or those that it names: "
        'call NAME with {"its": "arguments"}. Told a JSON schema, it answers with JSON.',
        features=("tools",),
        parameters=(DELAY,),
    )

    async def answer(self, request: QueryRequest) -> AsyncIterator[Said]:
        pause = _delay(request, 0.01)
        results = _results(request)
        steps = _steps(request)
        if request.tools and (len(results) < (len(steps) or 1) or _must_call(request)):
            left = steps[len(results) : len(results) + 1]
            calls = left or self._choose(request.tools, _asked(request))
            for event in _calls(calls):
                yield event
                await asyncio.sleep(pause)
            return
        schema = _schema_told(request)
        text = " ".join(results) if results else f"I was given no tools. You said: {_asked(request)}"
        if schema is not None:
            text = json.dumps(_value(schema, _words(_asked(request))), ensure_ascii=False)
        async for said in _slowly([_text(piece) for piece in _pieces(text)], pause):
            yield said

    def _choose(self, tools: list[ToolDefinition], asked: str) -> list[tuple[str, Any]]:
        words = _words(asked)
        called = (tools * 2)[:2] if "both" in asked.lower() else tools[:1]
        return [(tool.function.name, _arguments(tool, words)) for tool in called]


# An agent's task in words: what is to be called, one after another, each when the one before it has answered.
_STEP = re.compile(r"\bcall ([\w.-]+) with (?=\{)", re.IGNORECASE)


def _steps(request: QueryRequest) -> list[tuple[str, Any]]:
    asked = "\n".join(message.content for message in request.query if message.role == "user")
    found = []
    for step in _STEP.finditer(asked):
        try:
            found.append((step[1], json.JSONDecoder().raw_decode(asked, step.end())[0]))
        except json.JSONDecodeError:  # no step, but a way of speaking
            continue
    return found


def _told(request: QueryRequest) -> str:
    return "\n".join(message.content for message in request.query if message.role == "system")


def _must_call(request: QueryRequest) -> bool:
    """As relay/shaping/calls.py says it."""
    return "Do not answer in words: call" in _told(request)


def _schema_told(request: QueryRequest) -> Any:
    """The schema that the answer must fit, in whoever's words; None if there is none."""
    _before, said, after = _told(request).partition("JSON schema:\n")
    return json.JSONDecoder().raw_decode(after)[0] if said else None


def _words(text: str) -> list[str]:
    """The words of a message, with what it quotes in the end, whole."""
    quoted = re.findall(r"'([^'\n]+)'", text)
    return re.findall(r"\w+", text) + quoted


def _calls(calls: list[tuple[str, Any]]) -> Iterator[ServerSentEvent]:
    for index, (name, given) in enumerate(calls):
        id = f"call_{secrets.token_hex(8)}"
        yield _delta(index, {"id": id, "type": "function", "function": {"name": name, "arguments": ""}})
        arguments = json.dumps(given, ensure_ascii=False)
        for start in range(0, len(arguments), 12):
            yield _delta(index, {"function": {"arguments": arguments[start : start + 12]}})
    yield _choice({}, "tool_calls")


def _results(request: QueryRequest) -> list[str]:
    if request.tool_results:
        return [f"The tool {result.name} says: {result.content}" for result in request.tool_results]
    return [f"The tool says: {message.content}" for message in request.query if message.role == "tool"]


def _delta(index: int, call: dict[str, Any]) -> ServerSentEvent:
    return _choice({"tool_calls": [{"index": index, **call}]}, None)


def _choice(delta: dict[str, Any], finish_reason: str | None) -> ServerSentEvent:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return ServerSentEvent(json.dumps({"choices": [choice]}), event="json")


def _arguments(tool: ToolDefinition, words: list[str]) -> dict[str, Any]:
    schema = tool.function.parameters
    names = schema.properties if schema.required is None else schema.required
    left = list(words)
    return {name: _value(schema.properties.get(name), left) for name in names}


def _value(schema: Any, words: list[str]) -> Any:
    """Something that the schema allows. Strings are the message's words, from the last one backwards."""
    if not isinstance(schema, dict):
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _value(schema[key][0], words)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object":
        properties = schema.get("properties") or {}
        required = schema.get("required")
        names = properties if required is None else required
        return {name: _value(properties.get(name), words) for name in names}
    if kind == "array":
        return [_value(schema.get("items"), words)]
    if kind in ("integer", "number"):
        return schema.get("minimum", 3)
    if kind == "boolean":
        return True
    return None if kind == "null" else (words.pop() if words else "something")


class Faulty(DemoBot):
    """What fastapi-poe's server can say itself; `faulty.Faulty` stands before it and does the rest."""

    listing = Listing(
        faulty.HANDLE,
        "Fails in the way that your message names: status-429, reset, hang, bad-json and more.",
        parameters=(DELAY,),
    )

    async def answer(self, request: QueryRequest) -> AsyncIterator[Said]:
        word = faulty.fault_in(_asked(request))
        if word not in faulty.ERRORS:
            yield _text(
                "Name the fault that you want in one word. I know: " + ", ".join(faulty.known_words())
            )
            return
        if word == "error-after-text":
            yield _text(faulty.TEXT)
        yield faulty.ERRORS[word]


BOTS: dict[str, type[DemoBot]] = {
    bot.listing.handle: bot for bot in (Echo, Thinker, Replacer, Painter, Filmer, Speaker, Tools, Faulty)
}
