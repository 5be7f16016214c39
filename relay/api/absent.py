"""What OpenAI has and Poe has not: a refusal that says so, where a 404 would send people looking for a wrong address."""

from __future__ import annotations

from django.http import HttpResponse
from ninja import Router

from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.errors import BadRequest
from relay.wire import openai_chat

router = Router()
REFUSED = described("Refused: Poe has nothing of the kind", refuses=True)


@router.post("/embeddings", url_name="embeddings", openapi_extra=REFUSED)
async def embeddings(request: ApiRequest) -> HttpResponse:
    raise await _absent(request, "Poe has no embeddings: use another provider for them.")


@router.post("/moderations", url_name="moderations", openapi_extra=REFUSED)
async def moderations(request: ApiRequest) -> HttpResponse:
    raise await _absent(
        request, "Poe has no moderations: its bots refuse by themselves what they do not answer."
    )


@router.get("/realtime", url_name="realtime", openapi_extra=REFUSED)
@router.post("/realtime/sessions", url_name="realtime-sessions", openapi_extra=REFUSED)
@router.post("/realtime/client_secrets", url_name="realtime-client-secrets", openapi_extra=REFUSED)
async def realtime(request: ApiRequest) -> HttpResponse:
    raise await _absent(request, "Poe has nothing in real time: use /v1/chat/completions with stream.")


async def _absent(request: ApiRequest, message: str) -> BadRequest:
    """To be raised; who has no token is told that instead."""
    await request.relay.caller(asking(request, openai_chat.NAME))
    return BadRequest(message, code="unsupported_by_poe")
