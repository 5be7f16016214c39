"""A yardstick, not a part of the relay: as little as can be done under Daphne. Bare ASGI, aiohttp, a reader of Poe's events that
copies the text as it was escaped, one write for each read; no tokens, no limits, no log."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import aiohttp

UPSTREAM = os.environ["BENCH_UPSTREAM"]
TEXT = b'event: text\r\ndata: {"text": "'
END = b"\r\n\r\n"
HEAD = b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":0,"model":"bench","choices":[{"index":0,"delta":'
CHUNK, CHUNK_END = HEAD + b'{"content":"', b'"},"finish_reason":null}]}\n\n'
LAST = HEAD + b'{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
WHOLE = b'{"id":"chatcmpl-bench","object":"chat.completion","created":0,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"'
WHOLE_END = b'"},"finish_reason":"stop"}]}'

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@cache
def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    question = json.loads(await _body(receive))
    query = {"version": "1.1", "type": "query", "query": question["messages"]}
    async with session().post(UPSTREAM + question["model"], data=json.dumps(query)) as answer:
        await (_stream if question["stream"] else _whole)(answer, send)


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    return body


async def _stream(answer: aiohttp.ClientResponse, send: Send) -> None:
    await send(_start(b"text/event-stream"))
    rest = b""
    async for data in answer.content.iter_any():
        texts, rest = _texts(rest + data)
        if texts:
            chunks = b"".join([CHUNK + text + CHUNK_END for text in texts])
            await send({"type": "http.response.body", "body": chunks, "more_body": True})
    await send({"type": "http.response.body", "body": LAST})


async def _whole(answer: aiohttp.ClientResponse, send: Send) -> None:
    texts, _rest = _texts(await answer.read())
    await send(_start(b"application/json"))
    await send({"type": "http.response.body", "body": WHOLE + b"".join(texts) + WHOLE_END})


def _start(kind: bytes) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", kind)]}


def _texts(data: bytes) -> tuple[list[bytes], bytes]:
    """The texts of the events that are whole, escaped as they came, and what begins the next one."""
    *events, rest = data.split(END)
    return [event[len(TEXT) : -2] for event in events if event.startswith(TEXT)], rest
