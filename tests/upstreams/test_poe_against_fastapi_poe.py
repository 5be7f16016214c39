"""The Poe upstream held against fastapi-poe itself: its client on the same bytes, and its server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import fastapi_poe as fp
import pytest
import uvicorn
from fastapi_poe.client import BotError, stream_request_base
from fastapi_poe.types import ToolCallDefinitionDelta
from sse_starlette import ServerSentEvent

from relay.errors import RelayError, UpstreamBroken, UpstreamOutOfPoints, UpstreamUnknownBot, UserError
from relay.events import (
    Attachment,
    ChatRequest,
    Event,
    FilePart,
    Finish,
    Message,
    Reasoning,
    Replace,
    Text,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    one_by_one,
)
from relay.upstreams.poe import Key, Poe

from . import scripted, streams

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.filterwarnings("ignore:The `parse_obj` method:DeprecationWarning"),  # of fastapi-poe's server
]

HELLO = ChatRequest(model="m", messages=(Message("user", (TextPart("hello"),)),))


# Against its client.


@dataclass
class Heard:
    """An answer as its reader has it at the end."""

    text: str = ""
    files: list[tuple[str, str, str, str | None]] = field(default_factory=list)
    tool_calls: list[tuple[int, str, str, str]] = field(default_factory=list)
    failed: bool = False


async def heard_by_fastapi_poe(base_url: str) -> Heard:
    heard = Heard()
    query = fp.QueryRequest(
        version="1.2",
        type="query",
        query=[fp.ProtocolMessage(role="user", content="hello")],
        user_id="",
        conversation_id="",
        message_id="",
    )
    answer = stream_request_base(
        query, "B", scripted.SECRET, base_url=base_url, num_tries=1, on_error=lambda *_: None
    )
    try:
        async for said in answer:
            if said.is_suggested_reply:
                continue
            heard.text = said.text if said.is_replace_response else heard.text + said.text
            if (file := said.attachment) is not None:
                heard.files.append((file.url, file.name, file.content_type, file.inline_ref))
            if said.data is not None:
                heard.tool_calls += tool_calls(said.data)
    except BotError:
        heard.failed = True
    return heard


def tool_calls(data: dict[str, Any]) -> Iterator[tuple[int, str, str, str]]:
    """As fastapi-poe's own tool loop picks them out of a chunk."""
    if not data["choices"] or "tool_calls" not in data["choices"][0]["delta"]:
        return
    for raw in data["choices"][0]["delta"]["tool_calls"]:
        piece = ToolCallDefinitionDelta(**raw)
        yield piece.index, piece.id or "", piece.function.name or "", piece.function.arguments


async def heard_by_us(key: Key) -> Heard:
    heard = Heard()
    poe = Poe()
    try:
        async for batch in poe.stream(HELLO, bot="B", key=key):
            for event in one_by_one(batch):
                hear(event, heard)
    except RelayError:
        heard.failed = True
    finally:
        await poe.close()
    return heard


def hear(event: Event, heard: Heard) -> None:
    match event:
        case Text(text):
            heard.text += text
        case Replace(text):
            heard.text = text
        case Attachment(url, name, content_type, inline_ref):
            heard.files.append((url, name, content_type, inline_ref))
        case ToolCall(index, id, name, arguments):
            heard.tool_calls.append((index, id, name, arguments))
        case Reasoning() | Finish():
            pass


def in_pieces(stream: bytes, size: int) -> scripted.Script:
    async def script(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        scripted.start(writer)
        if b'"report_error"' not in request.body:
            for at in range(0, len(stream), size):
                scripted.chunk(writer, stream[at : at + size])
        scripted.finish(writer)
        await writer.drain()

    return script


# Where we differ on purpose: fastapi-poe drops a delta's content unless it runs the tool loop.
OURS_ALONE = {"OpenAI content": "never shown by eithera"}


@pytest.mark.parametrize("size", [1 << 20, 7], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", streams.STREAMS)
async def test_both_clients_hear_the_same(name: str, size: int) -> None:
    stream = streams.STREAMS[name]
    if size == 7 and len(stream) > 10_000:
        size = 1000
    async with scripted.upstream(in_pieces(stream, size)) as upstream:
        theirs = await heard_by_fastapi_poe(upstream.key().base_url)
        ours = await heard_by_us(upstream.key())

    if name in OURS_ALONE:
        theirs.text = OURS_ALONE[name]
    assert ours == theirs


async def test_the_recorded_answers_hold_something_to_compare() -> None:
    heard = []
    for stream in streams.STREAMS.values():
        async with scripted.upstream(scripted.answering(stream)) as upstream:
            heard.append(await heard_by_us(upstream.key()))

    assert sum(one.failed for one in heard) >= 8
    assert sum(bool(one.text) and not one.failed for one in heard) >= 15
    assert any(one.files for one in heard)
    assert any(len(one.tool_calls) == 4 for one in heard)


async def test_both_clients_hear_a_body_cut_off_as_a_failure() -> None:
    async def script(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        scripted.start(writer)
        scripted.chunk(writer, scripted.text("a"))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    async with scripted.upstream(script) as upstream:
        theirs = await heard_by_fastapi_poe(upstream.key().base_url)
        ours = await heard_by_us(upstream.key())

    assert ours == theirs == Heard("a", failed=True)


async def test_ours_hears_no_replacement_characters_for_bad_utf8() -> None:
    async with scripted.upstream(in_pieces(streams.BAD_UTF8, 1 << 20)) as upstream:
        theirs = await heard_by_fastapi_poe(upstream.key().base_url)
        ours = await heard_by_us(upstream.key())

    assert theirs.text == "a\ufffd\ufffd"
    assert ours == Heard("a", failed=True)


# Against its server.


class Bot(fp.PoeBot):
    """What it answers depends on the last message."""

    seen: list[fp.QueryRequest]

    async def get_response(self, request: fp.QueryRequest) -> AsyncIterable[Any]:
        self.seen.append(request)
        match request.query[-1].content:
            case "replace":
                yield fp.PartialResponse(text="Thinking...")
                yield fp.PartialResponse(text="42", is_replace_response=True)
            case "file":
                yield fp.PartialResponse(
                    text="",
                    attachment=fp.Attachment(
                        url="https://u", content_type="image/png", name="n", inline_ref="r"
                    ),
                )
                yield fp.PartialResponse(text="![n][r]")
            case "tool":
                delta = {
                    "tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]
                }
                chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
                yield ServerSentEvent(event="json", data=json.dumps(chunk))  # it has no other way for these
            case "no points":
                yield fp.ErrorResponse(text="No.", error_type="insufficient_fund", allow_retry=False)
            case "refuse":
                yield fp.ErrorResponse(text="Not that.", error_type="user_caused_error", allow_retry=False)
            case "crash":
                raise RuntimeError("a bug in the bot")
            case "rest":
                yield fp.MetaResponse(
                    text="", content_type="text/plain", linkify=True, suggested_replies=True
                )
                yield fp.PartialResponse(text="a")
                yield fp.PartialResponse(text="Why?", is_suggested_reply=True)
                yield fp.DataResponse(metadata="kept")
                yield fp.PartialResponse(text="b")
            case words:
                for word in words.split():
                    yield fp.PartialResponse(text=f"{word} ")


@pytest.fixture(scope="module")
def bot() -> Bot:
    bot = Bot(path="/bot/X")
    bot.seen = []
    return bot


@pytest.fixture(scope="module")
def key(bot: Bot) -> Iterator[Key]:
    app = fp.make_app([bot], allow_without_key=True)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Key(secret=scripted.SECRET, base_url=f"http://127.0.0.1:{port}/bot/", upload_url="", account_id=1)
    server.should_exit = True
    thread.join()


async def answer_of(key: Key, chat: ChatRequest, bot: str = "X") -> list[Event]:
    poe = Poe()
    try:
        return [event async for batch in poe.stream(chat, bot=bot, key=key) for event in one_by_one(batch)]
    finally:
        await poe.close()


def asking(words: str) -> ChatRequest:
    return ChatRequest(model="m", messages=(Message("user", (TextPart(words),)),))


@pytest.mark.parametrize(
    ("words", "events"),
    [
        ("one two 三", [Text("one "), Text("two "), Text("三 ")]),
        ("replace", [Text("Thinking..."), Replace("42")]),
        ("file", [Attachment("https://u", "n", "image/png", "r"), Text("![n][r]")]),
        ("tool", [ToolCall(0, "c", "f", "{}")]),
        ("rest", [Text("a"), Text("b")]),
    ],
)
async def test_its_server_answers(key: Key, words: str, events: list[Event]) -> None:
    assert await answer_of(key, asking(words)) == events


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ("no points", UpstreamOutOfPoints, "the Poe account has no points left"),
        ("refuse", UserError, "Not that."),
        ("crash", UpstreamBroken, "The bot encountered an unexpected issue."),
    ],
)
async def test_its_server_refuses(key: Key, words: str, kind: type[RelayError], message: str) -> None:
    with pytest.raises(RelayError) as raised:
        await answer_of(key, asking(words))

    assert (type(raised.value), raised.value.message) == (kind, message)


async def test_its_server_knows_no_such_bot(key: Key) -> None:
    with pytest.raises(UpstreamUnknownBot):
        await answer_of(key, HELLO, bot="Nobody")


async def test_its_server_understands_a_whole_conversation(key: Key, bot: Bot) -> None:
    chat = ChatRequest(
        model="m",
        messages=(
            Message("system", (TextPart("Be kind."),)),
            Message("user", (TextPart("hi"), FilePart("a.png", "image/png", url="https://x/a.png"))),
            Message("assistant", (ToolCallPart("c1", "now", "{}"),)),
            Message("tool", (ToolResultPart("c1", "", "noon"),)),
            Message("user", (TextPart("so"),)),
        ),
        temperature=0.3,
        stop=("END",),
        logit_bias={"7": 1.0},
        tools=({"type": "function", "function": {"name": "now"}},),
        parameters={"reasoning_effort": "low"},
    )

    assert await answer_of(key, chat) == [Text("so ")]

    query = bot.seen[-1]
    assert [(message.role, message.content) for message in query.query] == [
        ("system", "Be kind."),
        ("user", "hi"),
        ("user", "so"),
    ]
    assert query.query[1].attachments == [
        fp.Attachment(url="https://x/a.png", content_type="image/png", name="a.png")
    ]
    assert query.query[2].parameters == {"reasoning_effort": "low"}
    assert (query.temperature, query.stop_sequences, query.logit_bias) == (0.3, ["END"], {"7": 1.0})
    assert query.tools is not None and query.tools[0].function.name == "now"
    assert query.tool_calls is not None and query.tool_calls[0].function.name == "now"
    assert query.tool_results is not None and query.tool_results[0].content == "noon"
