"""GET /models and GET /models/{id}, in OpenAI's shape; in Anthropic's for a client that says `anthropic-version`."""

from __future__ import annotations

from django.http import HttpResponse
from ninja import Router

from relay.api.answers import json_response
from relay.api.dialects import ANTHROPIC, spoken
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.errors import BadRequest
from relay.wire import anthropic_messages, openai_chat

router = Router()


MODEL = {"id": "gpt-4o", "object": "model", "created": 1764288000, "owned_by": "poe"}


@router.get(
    "/models",
    url_name="models",
    openapi_extra=described(
        "List the models that this token may ask for", answer={"object": "list", "data": [MODEL]}
    ),
)
async def models(request: ApiRequest) -> HttpResponse:
    if _is_anthropic(request):
        return await _anthropic_models(request)
    found = await request.relay.models(asking(request, openai_chat.NAME))
    data = [openai_chat.model(mapping.model, mapping.created) for mapping in found]
    return json_response({"object": "list", "data": data})


@router.get(
    "/models/{path:name}", url_name="model", openapi_extra=described("Look up one model", answer=MODEL)
)
async def model(request: ApiRequest, name: str) -> HttpResponse:
    wire = anthropic_messages if _is_anthropic(request) else openai_chat
    mapping = await request.relay.model(asking(request, wire.NAME), name)
    return json_response(wire.model(name if mapping.is_wildcard else mapping.model, mapping.created))


def _is_anthropic(request: ApiRequest) -> bool:
    return spoken(request.path, request.scope["headers"]) is ANTHROPIC


async def _anthropic_models(request: ApiRequest) -> HttpResponse:
    """A page of them: `limit`, and `after_id` or `before_id`."""
    found = await request.relay.models(asking(request, anthropic_messages.NAME))
    data = [anthropic_messages.model(mapping.model, mapping.created) for mapping in found]
    after_id, before_id = request.GET.get("after_id"), request.GET.get("before_id")
    return json_response(anthropic_messages.models(data, _limit(request), after_id, before_id))


def _limit(request: ApiRequest) -> int:
    said = request.GET.get("limit") or str(anthropic_messages.PAGE)
    most = anthropic_messages.MOST_PAGE
    if not said.isascii() or not said.isdecimal() or len(said) > 4 or not 1 <= int(said) <= most:
        raise BadRequest(f"`limit` must be a whole number from 1 to {most}.", param="limit")
    return int(said)
