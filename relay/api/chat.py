"""POST /chat/completions."""

from __future__ import annotations

from django.http import HttpResponse, StreamingHttpResponse
from msgspec.structs import replace
from ninja import Router

from relay.api.answers import json_response, parsed, stream_response, told_of
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.wire import chat_request, openai_chat

router = Router()


DESCRIPTION = described(
    "Answer a conversation, as OpenAI's chat completions",
    body=chat_request.ChatBody,
    example={
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Say good morning."}],
        "max_tokens": 100,
        "stream": False,
    },
    answer={
        "id": "chatcmpl-1f0c",
        "object": "chat.completion",
        "created": 1764288000,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Good morning!"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    },
    streams=True,
)


@router.post("/chat/completions", url_name="chat-completions", openapi_extra=DESCRIPTION)
async def chat_completions(request: ApiRequest) -> HttpResponse | StreamingHttpResponse:
    # The token first: who has none learns nothing of what would be accepted.
    who = asking(request, openai_chat.NAME)
    caller = await request.relay.caller(who)
    chat = await parsed(chat_request.parse, request.body)
    answer = await request.relay.ask(who, caller, chat)
    # An answer may take minutes, and the files that were asked with may be large.
    chat = replace(chat, messages=())
    if chat.stream:
        encoder = openai_chat.Encoder(
            model=chat.model,
            include_usage=chat.include_usage,
            calls_functions=chat.calls_functions,
            shows_images=chat.shows_images,
        )
        return told_of(stream_response(answer, encoder), answer)
    events = await answer.whole()
    body = openai_chat.collect(
        events, model=chat.model, counted=answer.usage, calls_functions=chat.calls_functions
    )
    return told_of(json_response(body), answer)
