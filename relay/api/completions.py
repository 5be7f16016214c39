"""POST /completions, as old clients still ask."""

from __future__ import annotations

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router

from relay.api.answers import json_response, parsed, stream_response, told_of, whole
from relay.api.request import ApiRequest, asking
from relay.wire import openai_completions

router = Router()


@router.post("/completions", url_name="completions")
async def completions(request: ApiRequest) -> HttpResponse | StreamingHttpResponse:
    # The token first: who has none learns nothing of what would be accepted.
    who = asking(request, openai_completions.NAME)
    caller = await request.relay.caller(who)
    asked = await parsed(openai_completions.parse, request.body)
    model, chat, echo = asked.chat.model, asked.chat, asked.echo
    answer = await request.relay.ask(who, caller, chat)
    if chat.stream:
        encoder = openai_completions.Encoder(model=model, include_usage=chat.include_usage, echo=echo)
        return told_of(stream_response(answer, encoder), answer)
    events = await whole(answer)
    body = openai_completions.collect(events, model=model, counted=answer.usage, echo=echo)
    return told_of(json_response(body), answer)
