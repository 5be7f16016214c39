"""The Poe upstream against scripted servers: what it sends, what it understands, when it gives up."""

from __future__ import annotations

import asyncio
import email.utils
import time
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import aiohttp.http_exceptions
import aiohttp_socks
import pytest
from fastapi_poe.types import QueryRequest

from relay.errors import (
    RelayError,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamOutOfPoints,
    UpstreamOutOfTime,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnknownBot,
    UserError,
)
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
    Words,
    one_by_one,
)
from relay.upstreams import poe_errors
from relay.upstreams.poe import Deadlines, Key, Poe

from . import scripted, streams
from .scripted import DONE, SECRET, Script, Upstream, answering, chunk, event, finish, start, text

pytestmark = pytest.mark.asyncio

PATIENT = Deadlines()
HELLO = ChatRequest(model="gpt-4o", messages=(Message("user", (TextPart("hello"),)),))


async def ask(
    script: Script,
    chat: ChatRequest = HELLO,
    *,
    deadlines: Deadlines = PATIENT,
    max_event_bytes: int = 1 << 20,
    spelled_out: bool = True,
) -> list[list[Event]]:
    """What one question to a scripted upstream yields."""
    poe = Poe(deadlines, max_event_bytes=max_event_bytes)
    async with scripted.upstream(script) as upstream:
        try:
            said = [said async for said in poe.stream(chat, bot="GPT-4o", key=upstream.key())]
            return list(map(one_by_one, said)) if spelled_out else said
        finally:
            await poe.close()


async def refusal(script: Script, chat: ChatRequest = HELLO, **options: Any) -> RelayError:
    with pytest.raises(RelayError) as raised:
        await ask(script, chat, **options)
    return raised.value


def flat(said: list[list[Event]]) -> list[Event]:
    return [event for batch in said for event in batch]


# What it understands.


def delta(index: object = None, finish_reason: object = None, **fields: object) -> bytes:
    choice = {"delta": fields, "finish_reason": finish_reason}
    return event("json", {"choices": [choice], "index": index})


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (text("a") + text("b"), [Text("a"), Text("b")]),
        (text(""), []),
        (event("replace_response", {"text": "b"}), [Replace("b")]),
        (event("replace_response", {"text": ""}), [Replace("")]),
        (streams.FILE, [Attachment("https://pfst.example/cat.png", "cat.png", "image/png", "ab12")]),
        (
            event("file", {"url": "u", "name": "n", "content_type": "c", "inline_ref": 3}),
            [Attachment("u", "n", "c", None)],
        ),
        (event("text", {"text": "x", "index": 1}), []),
        (event("text", {"text": "x", "index": None}), [Text("x")]),
        (event("text", {"text": "x", "index": "first"}), [Text("x")]),
        (event("replace_response", {"text": "x", "index": 2}), []),
        (event("file", {"url": "u", "name": "n", "content_type": "c", "index": 1}), []),
        (delta(index=1, content="x"), []),
        (delta(content="x", reasoning_content="hm"), [Reasoning("hm"), Text("x")]),
        (delta(content=None), []),
        (delta(content=""), []),
        (delta(content=["x"]), []),
        (delta(finish_reason="stop"), [Finish("stop")]),
        (delta(finish_reason="tool_calls"), [Finish("tool_calls")]),
        (delta(finish_reason="eos"), []),
        (delta(finish_reason=7), []),
        (delta(tool_calls=[{}]), [ToolCall(0)]),
        (delta(tool_calls=[{"id": "c"}, {"id": "d"}]), [ToolCall(0, "c"), ToolCall(1, "d")]),
        (
            delta(tool_calls=[{"index": 2, "id": "c", "function": {"name": "f", "arguments": None}}]),
            [ToolCall(2, "c", "f", "")],
        ),
        (delta(tool_calls=[{"function": {"arguments": {"a": 1}}}]), [ToolCall(0, arguments='{"a":1}')]),
        (delta(tool_calls=["c"]), []),
        (delta(tool_calls=None), []),
        (event("json", {"choices": []}), []),
        (event("json", {"choices": None}), []),
        (event("json", {"choices": [None]}), []),
        (event("json", {"choices": [{"index": 1, "delta": {"content": "x"}}]}), []),
        (event("json", {"choices": [{"delta": None, "finish_reason": "length"}]}), [Finish("length")]),
        (event("json", {}), []),
        (event("reasoning", {"text": "hm"}), [Reasoning("hm")]),
        (event("reasoning_content", {"text": "hm"}), [Reasoning("hm")]),
        (event("reasoning", {"thought": "hm"}), []),
        (b"event: reasoning\ndata: {\n\n", []),
        (event("suggested_reply", {"text": "x"}), []),
        (event("meta", {"linkify": True}), []),
        (event("data", {"metadata": "x"}), []),
        (b"event: ping\ndata: not JSON\n\nevent: done\n\n", []),
        (b"event: sparkle\ndata: \xff\n\n", []),
        (b"data: no name\n\n", []),
        (b": comment\n\nevent: done\n\n", []),
        (streams.HALF_EMOJI, [Text("ok \ufffd")]),
        (b'event: text\ndata: {"text": "\\ud83c\\udf89"}\n\n', [Text("🎉")]),
        (streams.WITH_MARK, [Text("a")]),
        (text("a") + DONE + text("b"), [Text("a")]),
        (text("a") + b"event: done\n\n", [Text("a")]),
        (text("a") + b"event: done\ndata: [DONE]\n\n", [Text("a")]),
    ],
)
async def test_it_understands_events(stream: bytes, events: list[Event]) -> None:
    assert flat(await ask(answering(stream))) == events


async def test_it_understands_tool_calls_in_pieces() -> None:
    said = flat(await ask(answering(streams.STREAMS["tool calls"])))

    assert said == [
        ToolCall(0, "c1", "add", ""),
        ToolCall(0, arguments='{"a": 1, '),
        ToolCall(0, arguments='"b": 2}'),
        ToolCall(1, "c2", "sub", "{}"),
        Finish("tool_calls"),
    ]


@pytest.mark.parametrize(
    "stream",
    [
        streams.BAD_UTF8,
        b'event: text\ndata: {"text": \n\n',
        b"event: text\ndata: []\n\n",
        b"event: text\n\n",
        b'event: text\ndata: {"text": 1}\n\n',
        b"event: text\ndata: " + b"[" * 50_000 + b"\n\n",
        b"event: replace_response\ndata: {}\n\n",
        b'event: file\ndata: {"url": "u"}\n\n',
        b"event: json\ndata: [1]\n\n",
        b"event: json\ndata: \xff\n\n",
        b"event: error\ndata: oops\n\n",
        b"event: error\ndata: [1]\n\n",
    ],
)
async def test_it_refuses_an_event_that_nobody_can_read(stream: bytes) -> None:
    error = await refusal(answering(stream + DONE))

    assert isinstance(error, UpstreamBroken)
    assert error.message.endswith("event that nobody can read")


async def test_it_tells_what_came_before_a_failure() -> None:
    poe = Poe()
    async with scripted.upstream(answering(text("a") + event("error", {"text": "gone"}))) as upstream:
        answer = poe.stream(HELLO, bot="B", key=upstream.key())

        assert one_by_one(await anext(answer)) == [Text("a")]
        with pytest.raises(UpstreamBroken, match="^gone$"):
            await anext(answer)
        await poe.close()


@pytest.mark.parametrize("size", [5_000, 500_000])
async def test_it_refuses_an_event_over_the_limit(size: int) -> None:
    error = await refusal(answering(b"data: " + b"x" * size), max_event_bytes=4096)

    assert isinstance(error, UpstreamBroken)
    assert error.message == "the bot sent an event that is too large"


async def test_what_arrives_together_leaves_together() -> None:
    seen = asyncio.Event()

    async def script(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        start(writer)
        chunk(writer, text("a") + text("b") + text("c")[:9])
        await seen.wait()
        chunk(writer, text("c")[9:] + DONE)
        finish(writer)

    poe = Poe()
    async with scripted.upstream(script) as upstream:
        answer = poe.stream(HELLO, bot="B", key=upstream.key())
        first = await anext(answer)
        seen.set()
        rest = [one_by_one(said) async for said in answer]
        await poe.close()

    assert one_by_one(first) == [Text("a"), Text("b")]
    assert rest == [[Text("c")]]


async def test_words_after_the_end_of_an_event_are_read_at_once() -> None:
    """A read that begins within an event is most of what comes when the loop has fallen behind."""
    said = await ask(
        pausing(text("a")[:20], 0.05, text("a")[20:] + text("b") + text("c") + DONE), spelled_out=False
    )

    assert said == [[Text("a"), Words("bc", [b'"b"', b'"c"'])]]


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        ({"error_type": "insufficient_fund"}, UpstreamOutOfPoints, "upstream_out_of_points"),
        ({"error_type": "user_message_too_long"}, UserError, "context_length_exceeded"),
        ({"error_type": "user_caused_error", "text": "no"}, UserError, "user_error"),
        ({"error_type": "privacy_authorization_error", "text": "no"}, UserError, "user_error"),
        (
            {"error_type": "sparkle", "text": "Rate limit exceeded"},
            UpstreamRateLimited,
            "upstream_rate_limited",
        ),
        ({"text": "rate limit"}, UpstreamRateLimited, "upstream_rate_limited"),
        ({"text": "Invalid token"}, UpstreamUnauthorized, "upstream_unauthorized"),
        ({"text": "Unauthorized"}, UpstreamUnauthorized, "upstream_unauthorized"),
        ({"text": "Bot does not exist"}, UpstreamUnknownBot, "upstream_unknown_bot"),
        ({"text": "You have insufficient points"}, UpstreamOutOfPoints, "upstream_out_of_points"),
        ({"text": "Not enough points"}, UpstreamOutOfPoints, "upstream_out_of_points"),
        ({"text": "Your message is too long"}, UserError, "context_length_exceeded"),
        ({"text": "maximum context length is 8"}, UserError, "context_length_exceeded"),
        ({"text": "The bot took too long"}, UpstreamTimeout, "upstream_timeout"),
        ({"text": "Internal server error", "allow_retry": True}, UpstreamBroken, "upstream_broken"),
        ({}, UpstreamBroken, "upstream_broken"),
    ],
)
async def test_it_understands_an_error_event(
    said: dict[str, object], kind: type[RelayError], code: str
) -> None:
    error = await refusal(answering(event("error", said)))

    assert type(error) is kind
    assert error.code == code


async def test_a_bots_own_words_are_told_shortened_and_without_the_key() -> None:
    words = f"broken with {SECRET}\n and " + "more " * 200

    error = await refusal(answering(event("error", {"text": words})))

    assert error.message.startswith("broken with *** and more more")
    assert len(error.message) == 300


# Statuses.


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, "", UpstreamUnauthorized, "Poe refused the key"),
        (403, "<html>", UpstreamUnauthorized, "Poe refused the key"),
        (402, "", UpstreamOutOfPoints, "the Poe account has no points left"),
        (404, '{"detail": "Not Found"}', UpstreamUnknownBot, "Poe has no such bot"),
        (429, "", UpstreamRateLimited, "Poe says: too many requests for this account"),
        (408, "", UpstreamTimeout, "the bot took too long"),
        (504, "", UpstreamTimeout, "the bot took too long"),
        (400, "", UpstreamBroken, "Poe answered HTTP 400"),
        (400, '{"error": {"type": "invalid_request_error", "message": "bad"}}', UserError, "bad"),
        (401, '{"error": {"type": "invalid_request_error"}}', UpstreamUnauthorized, "Poe refused the key"),
        (400, '{"text": "prompt is too long"}', UserError, "prompt is too long"),
        (413, "<html>", UserError, "Poe answered HTTP 413"),
        (422, '{"detail": "bad value"}', UserError, "bad value"),
        (451, "", UserError, "Poe answered HTTP 451"),
        (403, '{"error": {"type": "permission_error", "message": "flagged by moderation"}}', UserError, None),
        (413, '{"error": {"type": "request_too_large", "message": "big"}}', UserError, "big"),
        (403, '{"error": {"type": "moderation_error", "message": "no"}}', UserError, "no"),
        (500, "", UpstreamFailed, "Poe answered HTTP 500"),
        (500, '{"text": "Internal server error"}', UpstreamFailed, "Internal server error"),
        (500, '{"error": "plain"}', UpstreamFailed, "plain"),
        (
            500,
            '{"error_type": "insufficient_fund"}',
            UpstreamOutOfPoints,
            "the Poe account has no points left",
        ),
        (500, '{"text": "' + "x" * 20_000 + '"}', UpstreamFailed, "Poe answered HTTP 500"),
        (500, event("error", {"text": "rate limit"}).decode(), UpstreamRateLimited, None),
        (503, "[1]", UpstreamFailed, "Poe answered HTTP 503"),
        (529, "", UpstreamFailed, "Poe answered HTTP 529"),
        (201, DONE.decode(), UpstreamBroken, "Poe answered HTTP 201"),
        (302, "", UpstreamBroken, "Poe answered HTTP 302"),
    ],
)
async def test_it_understands_a_status(
    status: int, body: str, kind: type[RelayError], message: str | None
) -> None:
    headers = {"location": "/elsewhere"} if status == 302 else {}

    error = await refusal(answering(body.encode() or b" ", f"{status} Some", **headers))

    assert type(error) is kind
    assert message is None or error.message == message


@pytest.mark.parametrize(
    ("script", "is_hearsay"),
    [
        (answering(b" ", "401 No"), False),
        (answering(b'{"detail": "Forbidden"}', "403 No"), False),
        (answering(b"<html>Just a moment...", "403 No"), True),
        (answering(b'{"text": "rate limit"}', "500 No"), True),
        (answering(b" ", "429 No"), False),
        (answering(event("error", {"error_type": "insufficient_fund"})), False),
        (answering(event("error", {"text": "not enough points"})), True),
        (answering(event("error", {"text": "flagged: unauthorized content"})), True),
        (answering(event("error", {"text": "x", "error_type": "authentication_error"})), True),
        (answering(event("error", {"text": "rate limit exceeded at our provider"})), True),
    ],
)
async def test_a_bots_own_words_are_hearsay(script: scripted.Script, is_hearsay: bool) -> None:
    error = await refusal(script)

    assert isinstance(error, UpstreamError)
    assert error.is_hearsay is is_hearsay


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("1.5", 1.5, 1.5),
        ("-3", 0, 0),
        ("999999999", 86400, 86400),
        ("in 100 s", 97, 101),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_survives(status: int, value: str, low: float, high: float) -> None:
    if value == "in 100 s":
        value = email.utils.formatdate(time.time() + 100, usegmt=True)

    error = await refusal(answering(b"{}", f"{status} Wait", retry_after=value))

    assert error.retry_after is not None
    assert low <= error.retry_after <= high


@pytest.mark.parametrize("value", ["soon", "nan", "inf", ""])
async def test_a_retry_after_that_nobody_can_read_is_none(value: str) -> None:
    error = await refusal(answering(b"{}", "429 Wait", retry_after=value))

    assert error.retry_after is None


@pytest.mark.parametrize("content_type", ["text/html", "application/json; charset=utf-8", ""])
async def test_it_refuses_another_content_type(content_type: str) -> None:
    error = await refusal(answering(DONE, content_type=content_type))

    assert isinstance(error, UpstreamBroken)
    assert "no event stream" in error.message


async def test_it_takes_a_content_type_with_a_charset() -> None:
    said = await ask(answering(text("a") + DONE, content_type="text/event-stream; charset=utf-8"))

    assert said == [[Text("a")]]


@pytest.mark.parametrize(
    "headers",
    [{"content_encoding": "gzip"}, {"transfer_encoding": "gzip, chunked"}],
    ids=["content", "transfer"],
)
async def test_it_refuses_a_compressed_answer(headers: dict[str, str]) -> None:
    error = await refusal(answering(text("a"), **headers))

    assert isinstance(error, UpstreamBroken)


async def test_an_error_body_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.upstreams.poe._ERROR_BODY_WAIT", 0.05)

    async def script(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        start(writer, "429 Wait", retry_after="3")
        chunk(writer, b"{")
        await asyncio.sleep(5)

    error = await refusal(script)

    assert (type(error), error.retry_after) == (UpstreamRateLimited, 3)


# How an answer ends.


async def test_no_done_and_a_proper_end_is_an_end() -> None:
    assert await ask(answering(text("a"))) == [[Text("a")]]


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_a_cut_off_body_is_broken(abort: bool) -> None:
    async def script(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        start(writer)
        chunk(writer, text("a"))
        await writer.drain()
        await asyncio.sleep(0.02)
        if abort:
            writer.transport.abort()
        writer.close()

    error = await refusal(script)

    assert isinstance(error, UpstreamBroken)
    assert error.message in ("the answer was cut off", "the connection to Poe broke")


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n", b"\xff" * 20_000],
)
async def test_an_answer_that_is_not_http_is_broken(answer: bytes) -> None:
    async def script(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    assert isinstance(await refusal(script), UpstreamBroken)


async def test_broken_chunks_are_broken() -> None:
    async def script(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        start(writer)
        chunk(writer, text("a"))
        await asyncio.sleep(0.02)
        writer.write(b"not a chunk\r\n")
        await asyncio.sleep(1)

    error = await refusal(script, deadlines=Deadlines(heartbeat=0.1))

    assert isinstance(error, UpstreamBroken)
    assert error.message == "the answer was cut off"


async def test_an_upstream_that_nobody_serves_is_broken() -> None:
    async with scripted.upstream(answering(DONE)) as upstream:
        pass
    poe = Poe()

    with pytest.raises(UpstreamBroken, match="^cannot reach Poe$"):
        await anext(poe.stream(HELLO, bot="B", key=upstream.key()))
    await poe.close()


@pytest.mark.parametrize("base_url", ["ftp://127.0.0.1/bot/", "http:///bot/", "nothing", "http://[1/"])
async def test_an_address_that_cannot_be_used_is_broken(base_url: str) -> None:
    poe = Poe()
    key = Key(secret=SECRET, base_url=base_url, upload_url="", account_id=1)

    with pytest.raises(UpstreamBroken):
        await anext(poe.stream(HELLO, bot="B", key=key))
    await poe.close()


@pytest.mark.parametrize("secret", ["two\r\nlines", "schlüssel", "a\tb"])
async def test_a_secret_that_fits_no_header_is_refused(secret: str) -> None:
    poe = Poe()

    with pytest.raises(UpstreamUnauthorized):
        await anext(poe.stream(HELLO, bot="B", key=Upstream().key(secret=secret)))
    await poe.close()


# Deadlines and heartbeats.


def pausing(*steps: bytes | float) -> Script:
    """Sends the bytes, sleeps the seconds, then stays."""

    async def script(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        start(writer)
        for step in steps:
            if isinstance(step, bytes):
                chunk(writer, step)
                await writer.drain()
            else:
                await asyncio.sleep(step)
        finish(writer)
        await asyncio.sleep(5)

    return script


async def silent(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


PINGS = [step for _ in range(20) for step in (b": ping\n\n", 0.02, event("ping", {}), 0.02)]


@pytest.mark.parametrize(
    ("script", "deadlines", "message", "seconds"),
    [
        (silent, Deadlines(first_event=0.1), "Poe did not answer in time", 0.1),
        (silent, Deadlines(total=0.1), "Poe did not answer in time", 0.1),
        (pausing(5.0), Deadlines(first_event=0.1), "the bot said nothing for 0.1 s", 0.1),
        (pausing(*PINGS), Deadlines(first_event=0.1), "the bot said nothing for 0.1 s", 0.1),
        (pausing(text("a"), 5.0), Deadlines(first_event=5, idle=0.1), "the bot fell silent for 0.1 s", 0.1),
        (pausing(text("a"), 5.0), Deadlines(total=0.5), "the answer took more than 0.5 s", 0.5),
        (
            pausing(*[step for _ in range(250) for step in (text("a"), 0.02)]),
            Deadlines(total=0.5),
            "the answer took more than 0.5 s",
            0.5,
        ),
        (
            pausing(text("a"), 5.0),
            Deadlines(first_event=5, idle=0.1, heartbeat=0.03),
            "the bot fell silent for 0.1 s",
            0.1,
        ),
    ],
)
async def test_a_deadline_passes(script: Script, deadlines: Deadlines, message: str, seconds: float) -> None:
    began = time.monotonic()

    error = await refusal(script, deadlines=deadlines)

    assert isinstance(error, UpstreamTimeout)
    assert error.message == message
    # Without its deadline each would take 5 s; the machine may be busy.
    assert seconds * 0.9 <= time.monotonic() - began < seconds + 2


async def test_the_connect_deadline_passes() -> None:
    async def never_greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    poe = Poe(Deadlines(connect=0.1))
    async with scripted.listening(never_greet) as port:
        key = Upstream(port=port).key(f"socks5://127.0.0.1:{port}")
        with pytest.raises(UpstreamTimeout, match="in time"):
            await anext(poe.stream(HELLO, bot="B", key=key))
        await poe.close()


async def test_pings_keep_a_silent_answer_alive() -> None:
    said = await ask(
        pausing(text("a"), *PINGS[:40], text("b"), DONE), deadlines=Deadlines(idle=0.15, heartbeat=9)
    )

    assert said == [[Text("a")], [Text("b")]]


async def test_heartbeats_come_in_silence_and_lose_nothing() -> None:
    said = await ask(
        pausing(0.25, text("a")[:9], 0.25, text("a")[9:], text("b"), 0.12, text("c"), DONE),
        deadlines=Deadlines(heartbeat=0.1),
    )

    assert [batch for batch in said if batch] in (
        [[Text("a")], [Text("b")], [Text("c")]],
        [[Text("a"), Text("b")], [Text("c")]],
    )
    assert said[:4] == [[], [], [], []]
    assert said[-2] == []


async def test_heartbeats_come_before_the_head_and_no_more_often() -> None:
    async def late(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.35)
        start(writer)
        chunk(writer, text("a"))
        chunk(writer, DONE)
        finish(writer)

    said = await ask(late, deadlines=Deadlines(heartbeat=0.1))

    assert said[0] == [] and said[-1] == [Text("a")]
    assert said.count([]) <= 3


async def test_no_heartbeat_comes_between_words() -> None:
    words = [step for _ in range(12) for step in (text("a"), 0.03)]

    said = await ask(pausing(*words, DONE), deadlines=Deadlines(heartbeat=0.25))

    assert [] not in said and sum(map(len, said)) == 12


async def test_heartbeats_come_while_the_bot_only_pings() -> None:
    said = await ask(pausing(*PINGS[:26], text("a"), DONE), deadlines=Deadlines(heartbeat=0.1))

    assert said[:2] == [[], []]
    assert said[-1] == [Text("a")]


async def test_a_slow_reader_is_no_silence_of_the_bot() -> None:
    poe = Poe(Deadlines(first_event=0.1, idle=0.1))
    async with scripted.upstream(pausing(text("a"), 0.05, text("b"), DONE)) as upstream:
        said = []
        async for batch in poe.stream(HELLO, bot="B", key=upstream.key()):
            said.append(one_by_one(batch))
            await asyncio.sleep(0.2)
        await poe.close()

    assert said == [[Text("a")], [Text("b")]]


async def test_a_heartbeat_leaves_the_callers_task_uncancelled() -> None:
    poe = Poe(Deadlines(heartbeat=0.02))
    async with scripted.upstream(pausing(5.0)) as upstream:
        answer = poe.stream(HELLO, bot="B", key=upstream.key())
        task = asyncio.current_task()
        assert task is not None

        assert await anext(answer) == []
        assert task.cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                while True:
                    await anext(answer)
        assert task.cancelling() == 0
        await poe.close()


async def test_the_tasks_that_read_one_answer_may_change() -> None:
    poe = Poe(Deadlines(heartbeat=0.03))
    async with scripted.upstream(pausing(text("a"), 0.05, text("b"), DONE)) as upstream:
        answer = poe.stream(HELLO, bot="B", key=upstream.key())

        async def read_one() -> list[Event]:
            return one_by_one(await anext(answer))

        said = [await asyncio.create_task(read_one()) for _ in range(3)]
        await answer.aclose()
        await poe.close()

    assert said == [[Text("a")], [], [Text("b")]]


# Connections.


async def test_a_connection_is_used_again() -> None:
    async def script(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        start(writer)
        chunk(writer, text("a") + DONE)
        await writer.drain()
        await asyncio.sleep(0.02)  # the end of the body comes after `done` has been told
        finish(writer)
        await writer.drain()

    poe = Poe()
    async with scripted.upstream(script) as upstream:
        for _ in range(3):
            assert [one_by_one(said) async for said in poe.stream(HELLO, bot="B", key=upstream.key())] == [
                [Text("a")]
            ]
            await asyncio.sleep(0.05)
        await poe.close()

    assert len(upstream.requests) == 3
    assert upstream.connections == 1


async def test_a_connection_is_used_again_after_a_refusal() -> None:
    poe = Poe()
    async with scripted.upstream(answering(b"{}", "429 Wait")) as upstream:
        for _ in range(2):
            with pytest.raises(UpstreamRateLimited):
                await anext(poe.stream(HELLO, bot="B", key=upstream.key()))
        await poe.close()

    assert upstream.connections == 1


@pytest.mark.parametrize("garbage", [b"", b"x" * 1_000_000], ids=["silence", "garbage"])
async def test_an_answer_that_does_not_end_after_done_is_closed(
    garbage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.upstreams.poe._END_OF_BODY_WAIT", 0.5)

    async def script(_: scripted.Request, writer: asyncio.StreamWriter) -> None:
        start(writer)
        chunk(writer, text("a") + DONE + garbage)
        await asyncio.sleep(5)

    poe = Poe()
    async with scripted.upstream(script) as upstream:
        began = time.monotonic()
        said = [one_by_one(batch) async for batch in poe.stream(HELLO, bot="B", key=upstream.key())]
        took = time.monotonic() - began
        await asyncio.wait_for(upstream.left.wait(), 1)
        await poe.close()

    assert said == [[Text("a")]]
    assert took < 0.45


@pytest.mark.parametrize("how", ["closed", "cancelled", "dropped", "cancelled before an answer"])
async def test_leaving_closes_the_connection_at_once(how: str) -> None:
    poe = Poe()
    script = silent if how == "cancelled before an answer" else pausing(text("a"), 5.0)
    async with scripted.upstream(script) as upstream:
        answer = poe.stream(HELLO, bot="B", key=upstream.key())
        if how == "closed":
            await anext(answer)
            await answer.aclose()
        elif how == "dropped":
            await anext(answer)
            del answer
        else:
            await cancelled(answer, upstream)
        began = time.monotonic()
        await asyncio.wait_for(upstream.left.wait(), 1)
        assert time.monotonic() - began < 0.1
        await poe.close()


async def cancelled(answer: AsyncIterator[list[Event]], upstream: Upstream) -> None:
    """Once the bot was asked, and has said what it says at once."""

    async def read() -> None:
        async for _ in answer:
            pass

    task = asyncio.create_task(read())
    async with asyncio.timeout(5):
        while not upstream.requests:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_fails_what_still_runs() -> None:
    poe = Poe()
    async with scripted.upstream(pausing(text("a"), 5.0)) as upstream:
        answer = poe.stream(HELLO, bot="B", key=upstream.key())
        await anext(answer)
        reading = asyncio.ensure_future(anext(answer))
        await asyncio.sleep(0.01)

        await poe.close()
        with pytest.raises(UpstreamBroken):
            await asyncio.wait_for(reading, 1)
        await poe.close()


# Proxies.


@pytest.mark.parametrize("login", ["", "anna:p%40ss@"])
async def test_an_http_proxy_is_used(login: str) -> None:
    poe = Poe()
    async with scripted.upstream(answering(text("a") + DONE)) as upstream, scripted.http_proxy() as proxy:
        key = upstream.key(f"http://{login}127.0.0.1:{proxy.port}")
        said = [one_by_one(batch) async for batch in poe.stream(HELLO, bot="B", key=key)]
        await poe.close()

    assert said == [[Text("a")]]
    assert proxy.asked == [f"http://127.0.0.1:{upstream.port}/bot/B"]
    assert proxy.authorization == ["Basic YW5uYTpwQHNz" if login else ""]


@pytest.mark.parametrize(
    ("scheme", "host", "asked"),
    [
        ("socks5", "127.0.0.1", "127.0.0.1"),
        ("socks5h", "poe.invalid", "poe.invalid"),
        ("socks5", "localhost", "127.0.0.1"),
    ],
)
async def test_a_socks_proxy_is_used(scheme: str, host: str, asked: str) -> None:
    poe = Poe()
    async with scripted.upstream(answering(text("a") + DONE)) as upstream, scripted.socks5_proxy() as proxy:
        key = upstream.key(f"{scheme}://127.0.0.1:{proxy.port}", host=host)
        said = [one_by_one(batch) async for batch in poe.stream(HELLO, bot="B", key=key)]
        await poe.close()

    assert said == [[Text("a")]]
    assert proxy.asked == [f"{asked}:{upstream.port}"]


async def test_each_proxy_has_connections_of_its_own() -> None:
    poe = Poe()
    async with (
        scripted.upstream(answering(text("a") + DONE)) as upstream,
        scripted.socks5_proxy() as one,
        scripted.socks5_proxy() as other,
    ):
        for proxy in ("", f"socks5://127.0.0.1:{one.port}", f"socks5://127.0.0.1:{other.port}") * 2:
            async for _ in poe.stream(HELLO, bot="B", key=upstream.key(proxy)):
                pass
            await asyncio.sleep(0.02)
        await poe.close()

    assert upstream.connections == 3
    assert (len(one.asked), len(other.asked)) == (1, 1)


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks4"])
async def test_a_dead_proxy_is_broken_and_its_password_is_not_told(scheme: str) -> None:
    async with scripted.http_proxy() as proxy:
        pass
    poe = Poe()
    key = Upstream(port=1).key(f"{scheme}://anna:hunter2@127.0.0.1:{proxy.port}")

    with pytest.raises(UpstreamBroken, match="^cannot reach the outbound proxy$") as raised:
        await anext(poe.stream(HELLO, bot="B", key=key))
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))
    await poe.close()


@pytest.mark.parametrize("proxy", ["socks5://nowhere", "socks9://127.0.0.1:1", "http://", "gopher://x:1"])
async def test_a_proxy_address_that_cannot_be_used_is_broken(proxy: str) -> None:
    poe = Poe()

    with pytest.raises(UpstreamBroken):
        await anext(poe.stream(HELLO, bot="B", key=Upstream(port=1).key(proxy)))
    await poe.close()


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert await ask(answering(text("a") + DONE)) == [[Text("a")]]


# What it sends.


async def sent(chat: ChatRequest, *, bot: str = "GPT-4o") -> scripted.Request:
    poe = Poe()
    async with scripted.upstream(answering(DONE)) as upstream:
        async for _ in poe.stream(chat, bot=bot, key=upstream.key()):
            pass
        await poe.close()
    return upstream.requests[-1]


async def test_it_sends_a_query() -> None:
    request = await sent(HELLO)

    assert (request.method, request.target) == ("POST", "/bot/GPT-4o")
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert "cookie" not in request.headers


@pytest.mark.parametrize(
    ("bot", "target"),
    [
        ("Claude-3.5", "Claude-3.5"),
        ("my bot", "my%20bot"),
        ("a/b?c#d", "a%2Fb%3Fc%23d"),
        ("机器", "%E6%9C%BA%E5%99%A8"),
    ],
)
async def test_a_bots_name_is_quoted(bot: str, target: str) -> None:
    assert (await sent(HELLO, bot=bot)).target == f"/bot/{target}"


CONVERSATION = ChatRequest(
    model="gpt-4o",
    messages=(
        Message("system", (TextPart("Be kind."),)),
        Message(
            "user",
            (TextPart("What is "), TextPart("1+2?"), FilePart("a.png", "image/png", url="https://x/a")),
        ),
        Message("assistant", (TextPart("Let me add."), ToolCallPart("c1", "add", '{"a":1,"b":2}'))),
        Message("tool", (ToolResultPart("c1", "", "3"),)),
        Message("assistant", (ToolCallPart("c2", "sub", "{}"),)),
        Message("tool", (ToolResultPart("c2", "minus", "-1"),)),
        Message("user", (TextPart("So?"),)),
        Message("assistant", ()),
    ),
    stream=True,
    include_usage=True,
    max_tokens=5,
    temperature=0.5,
    stop=("END",),
    logit_bias={"50": -1.0},
    tools=(
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "Adds.",
                "strict": True,
                "parameters": {
                    "type": "object",
                    "properties": {"a": {"$ref": "#/$defs/n"}},
                    "$defs": {"n": {"type": "integer"}},
                    "additionalProperties": False,
                },
            },
        },
        {"type": "function", "function": {"name": "now"}},
        {"type": "web_search"},
    ),
    parameters={"reasoning_effort": "high", "budget": {"tokens": 10}},
)


async def test_a_conversation_is_sent_in_poes_shape() -> None:
    body = (await sent(CONVERSATION)).json

    assert [(message["role"], message["content"]) for message in body["query"]] == [
        ("system", "Be kind."),
        ("user", "What is 1+2?"),
        ("bot", "Let me add."),
        ("user", "So?"),
        ("bot", ""),
    ]
    assert [message["parameters"] for message in body["query"]] == [{}, {}, {}, CONVERSATION.parameters, {}]
    assert body["query"][1]["attachments"] == [
        {"url": "https://x/a", "content_type": "image/png", "name": "a.png"}
    ]
    assert body["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1,"b":2}'}},
        {"id": "c2", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
    ]
    assert body["tool_results"] == [
        {"role": "tool", "name": "add", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "name": "minus", "tool_call_id": "c2", "content": "-1"},
    ]
    assert (body["temperature"], body["stop_sequences"], body["logit_bias"]) == (0.5, ["END"], {"50": -1.0})
    assert not {"stream", "include_usage", "max_tokens", "parameters"} & set(body)


async def test_tools_are_sent_as_they_are_but_with_what_poe_requires() -> None:
    tools = (await sent(CONVERSATION)).json["tools"]

    assert tools[0] == CONVERSATION.tools[0]
    assert tools[1]["function"] == {
        "name": "now",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }
    assert tools[2] == {"type": "web_search"}


async def test_fastapi_poe_takes_what_is_sent() -> None:
    body = (await sent(CONVERSATION)).json
    body["tools"].pop()  # fastapi-poe knows functions only

    query = QueryRequest.model_validate(body)

    assert (query.version, query.type) == ("1.2", "query")
    assert (query.user_id, query.conversation_id, query.message_id) == ("", "", "")
    assert query.query[1].attachments[0].name == "a.png"
    assert query.query[3].parameters == CONVERSATION.parameters
    assert query.tools is not None and query.tools[0].function.name == "add"
    assert query.tool_calls is not None and query.tool_calls[1].id == "c2"
    assert query.tool_results is not None and query.tool_results[0].name == "add"
    assert set(body) <= set(QueryRequest.model_fields)


async def test_what_is_not_there_is_not_sent() -> None:
    body = (await sent(HELLO)).json

    assert not {"tools", "tool_calls", "tool_results"} & set(body)
    assert body["temperature"] is None


async def test_parameters_without_a_user_go_with_the_last_message() -> None:
    chat = ChatRequest(model="m", messages=(Message("system", (TextPart("x"),)),), parameters={"a": 1})

    assert (await sent(chat)).json["query"][0]["parameters"] == {"a": 1}


async def test_a_large_question_is_sent_whole() -> None:
    words = "wörter " * 300_000
    chat = ChatRequest(model="m", messages=(Message("user", (TextPart(words),)),))

    assert (await sent(chat)).json["query"][0]["content"] == words


# Failures of the libraries.


def subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


THEIRS = sorted(
    subclasses(aiohttp.ClientError)
    | subclasses(aiohttp.http_exceptions.HttpProcessingError)
    | {aiohttp_socks.ProxyError, aiohttp_socks.ProxyConnectionError, aiohttp_socks.ProxyTimeoutError}
    | {TimeoutError, OSError, ConnectionResetError, BrokenPipeError},
    key=lambda kind: kind.__qualname__,
)


@pytest.mark.parametrize("kind", THEIRS, ids=lambda kind: kind.__qualname__)
async def test_every_failure_of_the_libraries_is_one_of_ours(kind: type[BaseException]) -> None:
    failure = kind.__new__(kind)
    failure.args = (f"{SECRET} and so on",)

    with pytest.raises(UpstreamError) as raised, poe_errors.failures_told():
        raise failure

    is_late = issubclass(kind, TimeoutError | aiohttp_socks.ProxyTimeoutError)
    assert isinstance(raised.value, UpstreamTimeout if is_late else UpstreamBroken)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


async def test_the_secret_is_in_no_failure_and_no_repr() -> None:
    key = Upstream(port=1).key("http://anna:hunter2@127.0.0.1:1")
    told = [repr(key), str(key)]
    for script in (
        answering(f'{{"text": "{SECRET}"}}'.encode(), "500 No"),
        answering(event("error", {"text": f"{SECRET} {SECRET}"})),
        answering(b"event: text\ndata: " + SECRET.encode() + b"\n\n"),
        answering(DONE, content_type=f"text/{SECRET}"),
    ):
        error = await refusal(script)
        told += [str(error), repr(error), error.message, "".join(traceback.format_exception(error))]

    assert not [words for words in told if SECRET in words or "hunter2" in words]


# What leaves past whoever waits for it.


def takes_into(taken: list[Event]) -> Callable[[list[Event]], bool]:
    def at_once(said: list[Event]) -> bool:
        taken.extend(one_by_one(said))
        return True

    return at_once


async def test_what_is_waited_for_is_taken_at_once() -> None:
    order: list[tuple[str, list[Event]]] = []

    def at_once(said: list[Event]) -> bool:
        order.append(("at once", one_by_one(said)))
        return one_by_one(said) != [Text("c")]

    poe = Poe()
    half, other_half = text("b")[:9], text("b")[9:]
    script = pausing(0.05, text("a"), 0.05, half, 0.05, other_half, 0.05, text("c"), 0.05, text("d"), DONE)
    async with scripted.upstream(script) as upstream:
        async for batch in poe.stream(HELLO, bot="B", key=upstream.key(), at_once=at_once):
            order.append(("read", one_by_one(batch)))
        await poe.close()

    a, b, c, d = ([Text(letter)] for letter in "abcd")
    assert order[:4] == [("at once", a), ("at once", b), ("at once", c), ("read", c)]
    # With its end or just before it.
    assert order[4:] in ([("read", d)], [("at once", d)])


async def test_what_is_taken_at_once_is_a_sign_of_life() -> None:
    taken: list[Event] = []
    poe = Poe(Deadlines(idle=0.2, heartbeat=0.15))
    script = pausing(*[step for number in range(12) for step in (0.05, text(str(number)))], 5.0)
    async with scripted.upstream(script) as upstream:
        answer = poe.stream(HELLO, bot="B", key=upstream.key(), at_once=takes_into(taken))

        assert await anext(answer) == []  # nothing for a heartbeat, since all of it is said
        assert taken == [Text(str(number)) for number in range(12)]
        with pytest.raises(UpstreamTimeout, match="fell silent"):
            while True:
                await anext(answer)
        await poe.close()


async def test_patience_with_a_bot_that_has_begun_is_that_of_others() -> None:
    """Its first event says nothing, and another deadline counts from then on."""
    poe = Poe(Deadlines(first_event=5, idle=0.2, heartbeat=9))
    async with scripted.upstream(
        pausing(0.05, event("meta", {"content_type": "text/markdown"}), 9.0)
    ) as upstream:
        began = time.monotonic()
        with pytest.raises(UpstreamTimeout, match="fell silent"):
            await anext(poe.stream(HELLO, bot="B", key=upstream.key(), at_once=takes_into([])))
        assert time.monotonic() - began < 2
        await poe.close()


async def test_a_bot_that_is_taken_at_once_has_no_more_time_than_another() -> None:
    taken: list[Event] = []
    poe = Poe(Deadlines(total=0.3))
    script = pausing(*[step for number in range(50) for step in (0.02, text(str(number)))])
    async with scripted.upstream(script) as upstream:
        with pytest.raises(UpstreamOutOfTime):
            answer = poe.stream(HELLO, bot="B", key=upstream.key(), at_once=takes_into(taken))
            taken += [event async for batch in answer for event in one_by_one(batch)]
        await asyncio.wait_for(upstream.left.wait(), 1)
        await poe.close()

    assert 5 < len(taken) < 25
    assert taken == [Text(str(number)) for number in range(len(taken))]


async def test_a_failure_of_who_takes_at_once_is_told_to_who_waits() -> None:
    def at_once(said: list[Event]) -> bool:
        raise LookupError("broken")

    poe = Poe()
    async with scripted.upstream(pausing(0.03, text("a"), 5.0)) as upstream:
        with pytest.raises(LookupError, match="broken"):
            await anext(poe.stream(HELLO, bot="B", key=upstream.key(), at_once=at_once))
        await asyncio.wait_for(upstream.left.wait(), 1)
        await poe.close()


@pytest.mark.parametrize(
    ("failing", "kind"),
    [(event("error", {"text": "gone"}), UpstreamBroken), (b"data: " + b"x" * 5_000, UpstreamBroken)],
)
async def test_a_failure_after_words_that_were_taken_at_once(failing: bytes, kind: type[Exception]) -> None:
    said: list[Event] = []
    poe = Poe(max_event_bytes=4096)
    async with scripted.upstream(pausing(0.03, text("a"), 0.03, text("b") + failing)) as upstream:
        answer = poe.stream(HELLO, bot="B", key=upstream.key(), at_once=takes_into(said))

        said += one_by_one(await anext(answer))  # what came with the failure
        with pytest.raises(kind):
            await anext(answer)
        await poe.close()

    assert said == [Text("a"), Text("b")]
