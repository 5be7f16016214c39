"""POST /messages and POST /messages/count_tokens."""

from __future__ import annotations

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router

from relay import counting
from relay.api.answers import json_response, parsed, stream_response, told_of
from relay.api.dialects import ANTHROPIC
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.wire import anthropic_messages, anthropic_request

router = Router()


QUESTION = {"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": "Say good morning."}]}
ANSWER = {
    "id": "msg_1f0c",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4.5",
    "content": [{"type": "text", "text": "Good morning!"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 11, "output_tokens": 3},
}


@router.post(
    "/messages",
    url_name="messages",
    openapi_extra=described(
        "Answer a conversation, as Anthropic's Messages",
        body=anthropic_request.MessagesBody,
        example={**QUESTION, "max_tokens": 100},
        answer=ANSWER,
        streams=True,
    ),
)
async def messages(request: ApiRequest) -> HttpResponse | StreamingHttpResponse:
    # The token first: who has none learns nothing of what would be accepted.
    who = asking(request, anthropic_messages.NAME)
    caller = await request.relay.caller(who)
    asked = await parsed(anthropic_messages.parse, request.body)
    model, is_streamed, shows_thinking = asked.chat.model, asked.chat.stream, asked.shows_thinking
    answer = await request.relay.ask(who, caller, asked.chat)
    # An answer may take minutes, and the files that were asked with may be large.
    del asked
    if is_streamed:
        encoder = anthropic_messages.Encoder(
            model=model,
            prompt_tokens=answer.usage.prompt_tokens,
            request_id=who.request_id,
            shows_thinking=shows_thinking,
        )
        return told_of(stream_response(answer, encoder, anthropic_messages.PING), answer, ANTHROPIC)
    events = await answer.whole()
    body = anthropic_messages.collect(
        events, model=model, counted=answer.usage, shows_thinking=shows_thinking
    )
    return told_of(json_response(body), answer, ANTHROPIC)


@router.post(
    "/messages/count_tokens",
    url_name="messages-count-tokens",
    openapi_extra=described(
        "Estimate how many tokens a conversation has",
        body=anthropic_request.CountBody,
        example=QUESTION,
        answer={"input_tokens": 11},
    ),
)
async def count_tokens(request: ApiRequest) -> HttpResponse:
    """Costs nothing and asks nobody: the same estimate that a request of this kind is counted with."""
    who = asking(request, anthropic_messages.NAME)
    await request.relay.caller(who)
    chat = await parsed(anthropic_messages.parse_count, request.body)
    await request.relay.model(who, chat.model)
    return json_response({"input_tokens": await counting.count_prompt(chat)})
