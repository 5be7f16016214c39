"""What an API view is given: Django's request with the relay that serves it and an id of its own."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from django.core.handlers.asgi import ASGIRequest

from relay.pipeline import Asking

if TYPE_CHECKING:
    from relay.pipeline import Relay


class ApiRequest(ASGIRequest):
    relay: Relay
    request_id: str
    address: str


def asking(request: ApiRequest, wire: str) -> Asking:
    return Asking(credential(request), request.address, request.request_id, wire)


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def credential(request: ApiRequest) -> str:
    """The access token: `Authorization: Bearer ...`, or `x-api-key` as Anthropic's clients send it."""
    kind, _space, token = request.META.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return str(token.strip())
    return str(request.META.get("HTTP_X_API_KEY", "")).strip()
