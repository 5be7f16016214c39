"""What Demo-Faulty does wrong on request, below fastapi-poe: statuses, resets, silence, unreadable bytes.

The word in the last user message names the fault. What fastapi-poe's own server can say (error events)
is only a table here and said by `bots.Faulty`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi_poe import ErrorResponse
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.demo.account import Payer, count_words
from relay.demo.parameters import delay
from relay.demo.refusals import is_bearer, refusal

HANDLE = "Demo-Faulty"
TEXT = "This text comes before the fault. "
HUGE = 8 * 1024 * 1024
STATUS = re.compile(r"status-([45]\d\d)")

ERRORS = {
    "insufficient-fund": ErrorResponse(
        text="You do not have enough points.", allow_retry=False, error_type="insufficient_fund"
    ),
    "too-long": ErrorResponse(
        text="The message is too long.", allow_retry=False, error_type="user_message_too_long"
    ),
    "user-error": ErrorResponse(
        text="The bot cannot answer this.", allow_retry=False, error_type="user_caused_error"
    ),
    "internal-error": ErrorResponse(text="Internal server error", allow_retry=True),
    "error-after-text": ErrorResponse(text="Internal server error", allow_retry=False),
}


def fault_in(text: str) -> str | None:
    """The first word of the text that names a fault."""
    for word in re.findall(r"[a-z0-9-]+", text.lower()):
        if word in ERRORS or word in FAULTS or STATUS.fullmatch(word):
            return str(word)
    return None


def known_words() -> list[str]:
    return ["status-400 ... status-599", *ERRORS, *FAULTS]


def last_user_text(query: list[dict[str, Any]]) -> str:
    texts = [str(message.get("content", "")) for message in query if message.get("role") == "user"]
    return texts[-1] if texts else ""


# The wire: a response that may be as wrong as it likes.


class Wire:
    """One response under way. It knows when the client has left, so that no fault outlives it."""

    def __init__(self, receive: Receive, send: Send, parameters: object) -> None:
        self.parameters = parameters
        self.words = 0
        self.answered = False
        self._receive = receive
        self._send = send
        self._left = asyncio.Event()

    async def watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left.set()

    async def start(self, content_type: str = "text/event-stream") -> None:
        headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self.answered = True
        await self.write(b"")  # Daphne sends the headers with the first piece of the body, even an empty one

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def event(self, name: str, data: str | dict[str, Any]) -> None:
        await self.write(encode(name, data))

    async def text(self, text: str) -> None:
        self.words += count_words(text)
        await self.event("text", {"text": text})

    async def done(self) -> None:
        await self.event("done", {})
        await self.end()

    async def pause(self, seconds: float) -> bool:
        """Wait; True when the client has left."""
        try:
            await asyncio.wait_for(self._left.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def wait_until_left(self) -> None:
        await self._left.wait()

    async def cut(self, *, reset: bool) -> None:
        """End the connection in the middle: with a reset, or politely but with the chunked body cut."""
        await self.pause(0.03)  # what was written before must reach the client first
        _end_connection(self._send, reset=reset)
        await self.pause(1)  # the server must see the end, or it would answer 500 for us


def encode(name: str, data: str | dict[str, Any]) -> bytes:
    said = data if isinstance(data, str) else json.dumps(data)
    return f"event: {name}\r\ndata: {said}\r\n\r\n".encode()


def _end_connection(send: Send, *, reset: bool) -> None:
    """ASGI has no word for it: reach for the server's own objects behind `send`, Daphne's or uvicorn's."""
    if isinstance(send, partial):
        channel = send.args[0].channel
        if channel is not None and reset:
            channel.transport.abortConnection()
        elif channel is not None:
            channel.loseConnection()
        return
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("under this server Demo-Faulty cannot cut a connection: use Daphne or uvicorn")
    if reset:
        _linger_not(transport)
        transport.abort()
    else:
        transport.close()


def _linger_not(transport: Any) -> None:
    """Without this, closing says a polite goodbye (FIN) and not a reset (RST)."""
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# The faults, by their words.

Fault = Callable[[Wire], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def fault(word: str) -> Callable[[Fault], Fault]:
    def register(function: Fault) -> Fault:
        FAULTS[word] = function
        return function

    return register


@fault("reset")
async def _reset(wire: Wire) -> None:
    await wire.cut(reset=True)


@fault("reset-after-headers")
async def _reset_after_headers(wire: Wire) -> None:
    await wire.start()
    await wire.cut(reset=True)


@fault("reset-after-text")
async def _reset_after_text(wire: Wire) -> None:
    await wire.start()
    await wire.text(TEXT)
    await wire.cut(reset=True)


@fault("truncated")
async def _truncated(wire: Wire) -> None:
    await wire.start()
    await wire.text(TEXT)
    await wire.write(b'event: text\r\ndata: {"te')
    await wire.cut(reset=False)


@fault("hang")
async def _hang(wire: Wire) -> None:
    await wire.wait_until_left()


@fault("hang-after-headers")
async def _hang_after_headers(wire: Wire) -> None:
    await wire.start()
    await wire.wait_until_left()


@fault("hang-after-text")
async def _hang_after_text(wire: Wire) -> None:
    await wire.start()
    await wire.text(TEXT)
    await wire.wait_until_left()


@fault("drip")
async def _drip(wire: Wire) -> None:
    await wire.start()
    wire.words += 3
    for byte in encode("text", {"text": "drop by drop"}) + encode("done", {}):
        await wire.write(bytes([byte]))
        if await wire.pause(delay(wire.parameters, 0.002)):
            return
    await wire.end()


@fault("endless")
async def _endless(wire: Wire) -> None:
    await wire.start()
    # Never without a pause: Daphne would keep in memory what a slow reader does not take.
    while not await wire.pause(delay(wire.parameters, 0.01, least=0.001)):
        await wire.text("and on ")


@fault("bad-json")
async def _bad_json(wire: Wire) -> None:
    await wire.start()
    await wire.text(TEXT)
    await wire.event("text", '{"text": "half')
    await wire.done()


@fault("bad-utf8")
async def _bad_utf8(wire: Wire) -> None:
    await wire.start()
    await wire.text(TEXT)
    await wire.write(b'event: text\r\ndata: {"text": "\xff\xfe"}\r\n\r\n')
    await wire.done()


@fault("no-done")
async def _no_done(wire: Wire) -> None:
    await wire.start()
    await wire.text(TEXT)
    await wire.end()


@fault("html")
async def _html(wire: Wire) -> None:
    await wire.start("text/html; charset=utf-8")
    await wire.write(b"<!doctype html><title>Just a moment...</title><h1>Checking your browser</h1>")
    await wire.end()


@fault("huge-line")
async def _huge_line(wire: Wire) -> None:
    await wire.start()
    await wire.text("x" * HUGE)
    await wire.done()


@fault("empty")
async def _empty(wire: Wire) -> None:
    await wire.start()
    await wire.done()


@fault("empty-body")
async def _empty_body(wire: Wire) -> None:
    await wire.start()
    await wire.end()


@fault("ping-json")
async def _ping_json(wire: Wire) -> None:
    await wire.start()
    await wire.event("ping", {})
    await wire.text("one ")
    await wire.event("ping", {"at": 1})
    await wire.text("two")
    await wire.done()


@fault("ping-text")
async def _ping_text(wire: Wire) -> None:
    await wire.start()
    await wire.text("one ")
    await wire.event("ping", "2026-01-01 00:00:00")
    await wire.text("two")
    await wire.done()


@fault("unknown-event")
async def _unknown_event(wire: Wire) -> None:
    await wire.start()
    await wire.event("reasoning", {"text": "an event that no version of the protocol has"})
    await wire.text("one ")
    await wire.event("data", {"metadata": "kept by the bot"})
    await wire.text("two")
    await wire.done()


# The application.


@dataclass(frozen=True, slots=True)
class Faulty:
    """Commits the fault that a question to Demo-Faulty asks for, and leaves every other request to `app`."""

    app: ASGIApp
    key: str
    payer: Payer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method != "POST" or not is_bearer(request.headers.get("authorization"), self.key):
            return await self.app(scope, receive, send)
        body = await request.body()
        query = _question(body)
        word = fault_in(last_user_text(query))
        if word is None or word in ERRORS:
            return await self.app(scope, _again(body, receive), send)
        if status := STATUS.fullmatch(word):
            return await _refuse(int(status[1]))(scope, receive, send)
        wire = Wire(receive, send, query[-1].get("parameters"))
        await self._commit(FAULTS[word], wire)
        if wire.answered:  # like Poe: who was refused or never answered pays nothing
            asked = sum(count_words(str(message.get("content", ""))) for message in query)
            self.payer.charge(HANDLE, asked, wire.words)

    async def _commit(self, fault: Fault, wire: Wire) -> None:
        watcher = asyncio.create_task(wire.watch())
        try:
            await fault(wire)
        finally:
            watcher.cancel()


def _refuse(status: int) -> ASGIApp:
    headers = {"retry-after": "7"} if status == 429 else None
    return refusal(status, f"Demo-Faulty was asked for status {status}.", headers)


def _question(body: bytes) -> list[dict[str, Any]]:
    """The messages of a query; nothing for a report or for what is not Poe's protocol."""
    try:
        asked = json.loads(body)
    except ValueError:
        return []
    if (
        not isinstance(asked, dict)
        or asked.get("type") != "query"
        or not isinstance(asked.get("query"), list)
    ):
        return []
    return [message for message in asked["query"] if isinstance(message, dict)]


def _again(body: bytes, receive: Receive) -> Receive:
    """Hand out the body that was read already, then whatever the client does next."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
