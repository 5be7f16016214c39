"""What an API view is given: Django's request with the relay that serves it and an id of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.handlers.asgi import ASGIRequest

from relay.visit import Asking

if TYPE_CHECKING:
    from relay.pipeline import Relay
    from relay.visit import Visit


class ApiRequest(ASGIRequest):
    relay: Relay
    visit: Visit


def asking(request: ApiRequest, wire: str) -> Asking:
    visit = request.visit
    visit.wire = wire
    return Asking(credential(request), visit.address, visit.request_id, wire, visit)


def credential(request: ApiRequest) -> str:
    return credential_of(request.META.get("HTTP_AUTHORIZATION", ""), request.META.get("HTTP_X_API_KEY", ""))


def credential_of(authorization: str, api_key: str) -> str:
    """The access token: `Authorization: Bearer ...`, or `x-api-key` as Anthropic's clients send it."""
    kind, _space, token = authorization.strip().partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    return api_key.strip()
