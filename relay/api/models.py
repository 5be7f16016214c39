"""GET /models and GET /models/{id}."""

from __future__ import annotations

from django.http import HttpResponse
from ninja import Router

from relay.api.answers import json_response
from relay.api.request import ApiRequest, asking
from relay.wire import openai_chat

router = Router()


@router.get("/models", url_name="models")
async def models(request: ApiRequest) -> HttpResponse:
    found = await request.relay.models(asking(request, openai_chat.NAME))
    data = [openai_chat.model(mapping.model, mapping.created) for mapping in found]
    return json_response({"object": "list", "data": data})


@router.get("/models/{path:name}", url_name="model")
async def model(request: ApiRequest, name: str) -> HttpResponse:
    mapping = await request.relay.model(asking(request, openai_chat.NAME), name)
    return json_response(openai_chat.model(name if mapping.is_wildcard else mapping.model, mapping.created))
