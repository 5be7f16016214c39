"""POST /responses, and what can be done with a response that is kept."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router

from relay.api.answers import json_response, parsed, stream_response, told_of
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.directory import Caller
from relay.errors import BadRequest, NotFound
from relay.stored_responses import Kept
from relay.wire import openai_responses
from relay.wire.listing import check_limit, listing
from relay.wire.openai_responses import Asked
from relay.wire.responses_answer import Encoder, collect
from relay.wire.responses_items import as_kept, item_id, response_of

router = Router()


RESPONSE = {
    "id": "resp_1f0c",
    "object": "response",
    "created_at": 1764288000,
    "status": "completed",
    "model": "gpt-4o",
    "output": [
        {
            "id": "msg_1f0c",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Good morning!", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 11, "output_tokens": 3, "total_tokens": 14},
}


@router.post(
    "/responses",
    url_name="responses",
    openapi_extra=described(
        "Answer a conversation, as OpenAI's responses",
        body=openai_responses.ResponsesBody,
        example={"model": "gpt-4o", "input": "Say good morning.", "max_output_tokens": 100, "store": False},
        answer=RESPONSE,
        streams=True,
    ),
)
async def create(request: ApiRequest) -> HttpResponse | StreamingHttpResponse:
    who = asking(request, openai_responses.NAME)
    caller = await request.relay.caller(who)
    asked = await parsed(openai_responses.parse, request.body)
    asked, before = await _continued(request, caller, asked)
    if asked.store and not request.relay.responses.takes(len(request.body)):
        asked = openai_responses.without_store(asked)
    encoder = Encoder(asked)
    kept_input = _kept_input(encoder.id, asked) if asked.store else []
    answer = await request.relay.ask(who, caller, asked.chat)
    # An answer may take minutes, and the files that were asked with may be large.
    is_streamed, is_kept = asked.chat.stream, asked.store
    del asked

    async def keep() -> None:
        if is_kept:
            await request.relay.responses.keep(caller.token_id, Kept(encoder.response, kept_input, before))

    if is_streamed:
        return told_of(stream_response(answer, encoder, before_end=keep), answer)
    response = collect(await answer.whole(), encoder, answer.usage)
    await keep()
    return told_of(json_response(response), answer)


async def _continued(request: ApiRequest, caller: Caller, asked: Asked) -> tuple[Asked, list[str]]:
    """The request with what it refers to, and the ids of the responses that it goes on from."""
    if not (asked.previous_response_id or asked.references):
        return asked, []
    stored = request.relay.responses
    earlier: list[Kept] = []
    if asked.previous_response_id:
        earlier = await stored.conversation(caller.token_id, asked.previous_response_id)
    named = {response_of(id) for id in asked.references} - {"", *(kept.id for kept in earlier)}
    others = await stored.named(caller.token_id, named) if named else []
    known = {item["id"]: item for kept in (*others, *earlier) for item in kept.items}
    items = [item for kept in earlier for item in kept.items]
    # Not on the event loop: it may hold files.
    asked = await asyncio.to_thread(openai_responses.continued, asked, items, known)
    return asked, [kept.id for kept in earlier]


def _kept_input(response_id: str, asked: Asked) -> list[dict[str, Any]]:
    return [
        as_kept(item, item_id(response_id, item.get("type") or "message", "i", index))
        for index, item in enumerate(asked.written)
    ]


@router.get(
    "/responses/{response_id}",
    url_name="response",
    openapi_extra=described("Look up a response that was kept", answer=RESPONSE),
)
async def retrieve(request: ApiRequest, response_id: str, stream: bool = False) -> HttpResponse:
    kept = await _kept(request, response_id)
    if stream:
        raise BadRequest("A kept response is not streamed again: leave `stream` out.", param="stream")
    return json_response(kept.response)


@router.delete(
    "/responses/{response_id}",
    openapi_extra=described(
        "Forget a response", answer={"id": "resp_1f0c", "object": "response", "deleted": True}
    ),
)
async def delete(request: ApiRequest, response_id: str) -> HttpResponse:
    caller = await request.relay.caller(asking(request, openai_responses.NAME))
    await request.relay.responses.remove(caller.token_id, response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


@router.get(
    "/responses/{response_id}/input_items",
    url_name="response-input-items",
    openapi_extra=described(
        "List what a kept response was asked with", answer={"object": "list", "data": [], "has_more": False}
    ),
)
async def input_items(
    request: ApiRequest,
    response_id: str,
    limit: int = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str = "",
) -> HttpResponse:
    items = (await _kept(request, response_id)).input
    check_limit(limit, 100)
    items = items if order == "asc" else items[::-1]
    ids = [item["id"] for item in items]
    if after:
        if after not in ids:
            raise BadRequest(f"No item {after[:100]!r} in this response.", param="after")
        items = items[ids.index(after) + 1 :]
    return json_response(listing(items[:limit], has_more=len(items) > limit))


@router.post(
    "/responses/{response_id}/cancel",
    url_name="response-cancel",
    openapi_extra=described("Refused: no response is made in the background", refuses=True),
)
async def cancel(request: ApiRequest, response_id: str) -> HttpResponse:
    await _kept(request, response_id)
    raise BadRequest(
        "Only a response that is made in the background can be cancelled, and the relay makes none: close the stream.",
        code="unsupported_value",
    )


@router.post("/responses/{response_id}", include_in_schema=False)
async def compact(request: ApiRequest, response_id: str) -> HttpResponse:
    """OpenAI has /responses/compact and /responses/input_tokens there."""
    await request.relay.caller(asking(request, openai_responses.NAME))
    raise NotFound(f"No such route: POST {request.path}", code="unknown_route")


async def _kept(request: ApiRequest, response_id: str) -> Kept:
    caller = await request.relay.caller(asking(request, openai_responses.NAME))
    return await request.relay.responses.find(caller.token_id, response_id)
