"""POST /chat/completions."""

from __future__ import annotations

from dataclasses import replace

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router

from relay.api.answers import json_response, parsed, stream_response, told_of, whole
from relay.api.request import ApiRequest, asking
from relay.wire import openai_chat

router = Router()


@router.post("/chat/completions", url_name="chat-completions")
async def chat_completions(request: ApiRequest) -> HttpResponse | StreamingHttpResponse:
    # The token first: who has none learns nothing of what would be accepted.
    who = asking(request, openai_chat.NAME)
    caller = await request.relay.caller(who)
    chat = await parsed(openai_chat.parse, request.body)
    answer = await request.relay.ask(who, caller, chat)
    # An answer may take minutes, and the files that were asked with may be large.
    chat = replace(chat, messages=())
    if chat.stream:
        encoder = openai_chat.Encoder(model=chat.model, include_usage=chat.include_usage)
        return told_of(stream_response(answer, encoder), answer)
    events = await whole(answer)
    body = openai_chat.collect(events, model=chat.model, counted=answer.usage)
    return told_of(json_response(body), answer)
