"""POST /chat/completions."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from urllib.parse import quote

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router

from relay.api.answers import add_rate_limits, json_response, stream_response
from relay.api.request import ApiRequest, asking
from relay.events import ChatRequest, Event
from relay.wire import openai_chat

router = Router()
# A body of 50 MB takes a quarter of a second to parse and to decode: not on the event loop.
OFF_LOOP_BYTES = 1_000_000


@router.post("/chat/completions", url_name="chat-completions")
async def chat_completions(request: ApiRequest) -> HttpResponse | StreamingHttpResponse:
    # The token first: who has none learns nothing of what would be accepted.
    who = asking(request, openai_chat.NAME)
    caller = await request.relay.caller(who)
    chat = await parsed(request.body)
    answer = await request.relay.ask(who, caller, chat)
    # An answer may take minutes, and the files that were asked with may be large.
    chat = replace(chat, messages=())
    response: HttpResponse | StreamingHttpResponse
    if chat.stream:
        encoder = openai_chat.Encoder(model=chat.model, include_usage=chat.include_usage)
        response = stream_response(answer, encoder)
    else:
        events: list[Event] = []
        async with answer:
            async for batch in answer:
                events += batch
        response = json_response(openai_chat.collect(events, model=chat.model, counted=answer.usage))
    add_rate_limits(response, answer.rate_limits)
    if answer.ignored:
        response["x-poe-relay-ignored"] = ", ".join(answer.ignored)
    if answer.fallback_model is not None:
        response["x-poe-relay-model"] = quote(answer.fallback_model)
    return response


async def parsed(body: bytes) -> ChatRequest:
    if len(body) <= OFF_LOOP_BYTES:
        return openai_chat.parse(body)
    return await asyncio.to_thread(openai_chat.parse, body)
