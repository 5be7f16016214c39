"""The API's routes: one NinjaAPI, one router per wire format. Pages know nothing of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError
from ninja.errors import ValidationError as NinjaValidationError
from ninja.operation import Operation

from relay.api import (
    absent,
    audio,
    billing,
    chat,
    completions,
    documents,
    files,
    images,
    messages,
    models,
    responses,
    videos,
)
from relay.api.answers import error_response
from relay.api.dialects import spoken
from relay.errors import BadRequest, NotFound, RelayError

if TYPE_CHECKING:
    from relay.api.request import ApiRequest

log = logging.getLogger(__name__)


class RelayAPI(NinjaAPI):
    """Every view here answers with a response of its own."""

    def create_temporal_response(self, request: HttpRequest) -> HttpResponse:
        """Ninja makes one for each request, for views that set headers on it: 15 us for nothing."""
        return UNUSED

    def get_openapi_operation_id(self, operation: Operation) -> str:
        """The route's name, which the first of its methods has and the others lack."""
        return getattr(operation, "url_name", None) or super().get_openapi_operation_id(operation)


UNUSED = HttpResponse()
api = RelayAPI(title="poe-relay", version="1", urls_namespace="relay-api", docs_url=None, openapi_url=None)
api.add_router("", models.router)
api.add_router("", chat.router)
api.add_router("", completions.router)
api.add_router("", images.router)
api.add_router("", audio.router)
api.add_router("", files.router)
api.add_router("", videos.router)
api.add_router("", messages.router)
api.add_router("", responses.router)
api.add_router("", billing.router)
api.add_router("", absent.router)
api.add_router("", documents.router_of(api))


@api.exception_handler(RelayError)
def on_relay_error(request: ApiRequest, exc: RelayError) -> HttpResponse:
    return error_response(exc, spoken(request.path, request.scope["headers"]), request.visit.request_id)


@api.exception_handler(NinjaValidationError)
def on_validation_error(request: ApiRequest, exc: NinjaValidationError) -> HttpResponse:
    first = exc.errors[0] if exc.errors else {}
    param = ".".join(str(part) for part in first.get("loc", ())[1:]) or None
    return on_relay_error(request, BadRequest(str(first.get("msg", "Invalid request.")), param=param))


@api.exception_handler(HttpError)
def on_http_error(request: ApiRequest, exc: HttpError) -> HttpResponse:
    return on_relay_error(
        request, NotFound(exc.message) if exc.status_code == 404 else BadRequest(exc.message)
    )


@api.exception_handler(Exception)
def on_bug(request: ApiRequest, exc: Exception) -> HttpResponse:
    log.exception("request %s failed", request.visit.request_id, exc_info=exc)
    return on_relay_error(
        request, RelayError("The relay failed on this request; its administrator finds why under this id.")
    )
