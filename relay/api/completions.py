"""POST /completions, as old clients still ask."""

from __future__ import annotations

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router

from relay.api.answers import json_response, parsed, stream_response, told_of
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.wire import openai_completions

router = Router()
DESCRIPTION = described(
    "Go on with a text, as OpenAI's legacy completions",
    body=openai_completions.CompletionBody,
    example={"model": "gpt-4o", "prompt": "Say good morning.", "max_tokens": 100},
    answer={
        "id": "cmpl-1f0c",
        "object": "text_completion",
        "created": 1764288000,
        "model": "gpt-4o",
        "choices": [{"index": 0, "text": "Good morning!", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    },
    streams=True,
)


@router.post("/completions", url_name="completions", openapi_extra=DESCRIPTION)
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
    events = await answer.whole()
    body = openai_completions.collect(events, model=model, counted=answer.usage, echo=echo)
    return told_of(json_response(body), answer)
