"""GET /openapi.json and GET /docs: what this API takes, without a token."""

from __future__ import annotations

from functools import cache

from django.http import HttpResponse
from django.template.loader import render_to_string
from ninja import NinjaAPI, Router

from relay.api import openapi
from relay.api.request import ApiRequest

# All on the page is this site's own: it works without the internet, and runs no script but its own.
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"


def router_of(api: NinjaAPI) -> Router:
    router = Router()

    @router.get("/openapi.json", url_name="openapi", include_in_schema=False)
    async def description(request: ApiRequest) -> HttpResponse:
        return HttpResponse(openapi.document(api), content_type="application/json")

    router.get("/docs", url_name="docs", include_in_schema=False)(page)
    return router


async def page(request: ApiRequest) -> HttpResponse:
    response = HttpResponse(_page())
    response["Content-Security-Policy"] = POLICY
    response["X-Content-Type-Options"] = "nosniff"
    return response


@cache
def _page() -> str:
    return render_to_string("api/docs.html")
