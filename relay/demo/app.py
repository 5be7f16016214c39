"""The whole demo Poe server as one ASGI application: bots, files, the account, and bots that a test scripts.

The bots themselves are served by fastapi-poe's `make_app`. Nothing here prints what it was asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import fastapi_poe
from fastapi import FastAPI
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.demo import account as accounts
from relay.demo import files as uploads
from relay.demo.account import Account, count_words
from relay.demo.bots import BOTS
from relay.demo.faulty import HANDLE as FAULTY
from relay.demo.faulty import Faulty
from relay.demo.files import Files
from relay.demo.refusals import is_bearer, refusal

PREFIX = "/bot/"
HANDLES = {handle.lower(): handle for handle in BOTS}


def make(key: str, *, public_url: str) -> ASGIApp:
    """`key` is the only Poe key that the server accepts; `public_url` is where its files are found."""
    if len(key) != 32:
        raise ValueError("a Poe key of the demo server has 32 characters")
    account, files = Account(), Files(public_url)
    scripts: Scripts = {}
    listings = [bot.listing for bot in BOTS.values()]
    routes = [
        *accounts.routes(account, listings, key),
        *uploads.routes(files, key),
        *_script_routes(scripts, key),
    ]
    bots = _bots(key, account, files)
    return DemoServer(bots, Faulty(bots, key, account), Starlette(routes=routes), scripts, account, key)


def _bots(key: str, account: Account, files: Files) -> ASGIApp:
    # fastapi-poe warns at length that settings are not synced and logs requests that it could not read.
    logging.getLogger("uvicorn.default").disabled = True
    app = FastAPI(openapi_url=None)
    # What is not Poe's protocol makes it raise: a 400, not a traceback.
    for raised in (ValueError, KeyError, TypeError):
        app.add_exception_handler(raised, _not_a_query)
    # Without a bot_name it checks the access key but does not send the bots' settings to api.poe.com.
    bots = [
        bot(path=PREFIX + handle, access_key=key, files=files, account=account)
        for handle, bot in BOTS.items()
    ]
    fastapi_poe.make_app(bots, app=app)
    return app


async def _not_a_query(request: Request, exc: Exception) -> Response:
    return refusal(400, "the body is not a request of Poe's bot protocol")


@dataclass(frozen=True, slots=True)
class Script:
    bot: str
    events: tuple[tuple[str, str], ...]
    delay: float


# Bots that a test defines, by handle in small letters.
Scripts = dict[str, Script]


@dataclass(frozen=True, slots=True)
class DemoServer:
    """Finds the bot that a path names: handles are read without regard to case, as Poe does."""

    bots: ASGIApp
    faulty: ASGIApp
    others: ASGIApp
    scripts: Scripts
    account: Account
    key: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            return await self.others(scope, receive, send)
        named = scope["path"].removeprefix(PREFIX).lower()
        script = self.scripts.get(named)
        if script is None and named in HANDLES:
            handle = HANDLES[named]
            app = self.faulty if handle == FAULTY else self.bots
            return await app({**scope, "path": PREFIX + handle}, receive, send)
        response = await self._answer(script, Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, script: Script | None, request: Request) -> Response:
        if not is_bearer(request.headers.get("authorization"), self.key):
            return refusal(401, "Invalid access key")
        if script is None:
            return refusal(404, "Bot does not exist")
        try:
            asked = await request.json()
            words = sum(count_words(message["content"]) for message in asked.get("query", []))
        except (ValueError, KeyError, TypeError, AttributeError):
            return await _not_a_query(request, ValueError())
        if asked.get("type") != "query":
            return JSONResponse({})
        return EventSourceResponse(self._play(script, words), ping=0)

    async def _play(self, script: Script, words_in: int) -> AsyncIterator[ServerSentEvent]:
        words_out = 0
        try:
            for number, (name, data) in enumerate(script.events):
                if number and script.delay:
                    await asyncio.sleep(script.delay)
                words_out += count_words(data) if name in ("text", "replace_response") else 0
                yield ServerSentEvent(data, event=name)
        finally:
            self.account.charge(script.bot, words_in, words_out)


def _script_routes(scripts: Scripts, key: str) -> list[Route]:
    async def define(request: Request) -> Response:
        if not is_bearer(request.headers.get("authorization"), key):
            return refusal(401, "Invalid access key")
        try:
            script = _parse_script(await request.json())
        except (ValueError, KeyError, TypeError):
            return refusal(400, 'send {"bot": name, "events": [[event, data], ...], "delay": seconds}')
        scripts[script.bot.lower()] = script
        return JSONResponse({"bot": script.bot, "events": len(script.events)})

    return [Route("/demo/script", define, methods=["POST"])]


def _parse_script(body: dict[str, Any]) -> Script:
    if not isinstance(body["bot"], str) or not body["bot"] or "/" in body["bot"]:
        raise ValueError("bot")
    events = []
    for name, data in body["events"]:
        if not isinstance(name, str):
            raise TypeError("event")
        events.append((name, data if isinstance(data, str) else json.dumps(data)))
    return Script(body["bot"], tuple(events), min(max(float(body.get("delay", 0)), 0), 60))
