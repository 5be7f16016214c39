"""The whole demo Poe server as one ASGI application: bots, files, the account, and bots that a test scripts.

The bots themselves are served by fastapi-poe's `make_app`. Nothing here prints what it was asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

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
from relay.demo.account import NO_LAG, DemoKey, Lag, Payer, Payers, count_words, payers_of
from relay.demo.bots import BOTS
from relay.demo.faulty import HANDLE as FAULTY
from relay.demo.faulty import Faulty
from relay.demo.files import Files
from relay.demo.refusals import find_bearer, refusal

PREFIX = "/bot/"
HANDLES = {handle.lower(): handle for handle in BOTS}


def make(
    keys: str | Sequence[DemoKey],
    *,
    public_url: str,
    lag: Lag = NO_LAG,
    catalogue: Sequence[dict[str, Any]] = (),
) -> ASGIApp:
    """`keys` are the only Poe keys that the server accepts; a plain one is that of the account `demo`.

    `public_url` is where its files are found, `lag` how far the history runs behind, `catalogue` what is listed beside
    the bots that there are.
    """
    payers = payers_of([DemoKey(keys)] if isinstance(keys, str) else keys, lag)
    files = Files(public_url)
    scripts: Scripts = {}
    listings = [bot.listing for bot in BOTS.values()]
    routes = [
        *accounts.routes(payers, listings, catalogue),
        *uploads.routes(files, payers),
        *_script_routes(scripts, payers),
    ]
    doors = {secret: _door(secret, payer, files) for secret, payer in payers.items()}
    return DemoServer(doors, Starlette(routes=routes), scripts, payers)


@dataclass(frozen=True, slots=True)
class Door:
    """The bots as whoever asks with this key meets them: fastapi-poe knows one key a bot."""

    bots: ASGIApp
    faulty: ASGIApp


def _door(key: str, payer: Payer, files: Files) -> Door:
    bots = _bots(key, payer, files)
    return Door(bots, Faulty(bots, key, payer))


def _bots(key: str, payer: Payer, files: Files) -> ASGIApp:
    # fastapi-poe warns at length that settings are not synced and logs requests that it could not read.
    logging.getLogger("uvicorn.default").disabled = True
    app = FastAPI(openapi_url=None)
    # What is not Poe's protocol makes it raise: a 400, not a traceback.
    for raised in (ValueError, KeyError, TypeError):
        app.add_exception_handler(raised, _not_a_query)
    # Without a bot_name it checks the access key but does not send the bots' settings to api.poe.com.
    bots = [
        bot(path=PREFIX + handle, access_key=key, files=files, payer=payer) for handle, bot in BOTS.items()
    ]
    fastapi_poe.make_app(bots, app=app)
    return app


async def _not_a_query(request: Request, exc: Exception) -> Response:
    return refusal(400, "the body is not a request of Poe's bot protocol")


Events: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Script:
    """`later` is what it says when it is asked again, the last of it for ever."""

    bot: str
    events: Events
    delay: float
    later: tuple[Events, ...] = ()

    @property
    def next(self) -> Script:
        return replace(self, events=self.later[0], later=self.later[1:]) if self.later else self


# Bots that a test defines, by handle in small letters.
Scripts = dict[str, Script]


@dataclass(frozen=True, slots=True)
class DemoServer:
    """Finds the bot that a path names: handles are read without regard to case, as Poe does."""

    doors: Mapping[str, Door]
    others: ASGIApp
    scripts: Scripts
    payers: Payers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            return await self.others(scope, receive, send)
        request = Request(scope, receive)
        secret = find_bearer(request.headers.get("authorization"), self.payers)
        named = scope["path"].removeprefix(PREFIX).lower()
        script = self.scripts.get(named)
        if script is None and named in HANDLES:
            handle = HANDLES[named]
            # Whoever has no key is refused at any door.
            door = self.doors[secret] if secret else next(iter(self.doors.values()))
            app = door.faulty if handle == FAULTY else door.bots
            return await app({**scope, "path": PREFIX + handle}, receive, send)
        response = await self._answer(script, request, self.payers[secret] if secret else None)
        await response(scope, receive, send)

    async def _answer(self, script: Script | None, request: Request, payer: Payer | None) -> Response:
        if payer is None:
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
        self.scripts[script.bot.lower()] = script.next
        return EventSourceResponse(self._play(script, words, payer), ping=0)

    async def _play(self, script: Script, words_in: int, payer: Payer) -> AsyncIterator[ServerSentEvent]:
        words_out = 0
        try:
            for number, (name, data) in enumerate(script.events):
                if number and script.delay:
                    await asyncio.sleep(script.delay)
                words_out += count_words(data) if name in ("text", "replace_response") else 0
                yield ServerSentEvent(data, event=name)
        finally:
            payer.charge(script.bot, words_in, words_out)


def _script_routes(scripts: Scripts, keys: Collection[str]) -> list[Route]:
    async def define(request: Request) -> Response:
        if find_bearer(request.headers.get("authorization"), keys) is None:
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
    delay = min(max(float(body.get("delay", 0)), 0), 60)
    later = tuple(_parse_events(events) for events in body.get("later", []))
    return Script(body["bot"], _parse_events(body["events"]), delay, later)


def _parse_events(said: list[Any]) -> Events:
    events = []
    for name, data in said:
        if not isinstance(name, str):
            raise TypeError("event")
        events.append((name, data if isinstance(data, str) else json.dumps(data)))
    return tuple(events)
