"""GET /dashboard/billing/...: what is left of the budget of the token that asks."""

from __future__ import annotations

from django.http import HttpResponse
from ninja import Router

from relay.api.answers import json_response
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.budgets import Budget
from relay.wire import billing

router = Router()


@router.get(
    "/dashboard/billing/subscription",
    url_name="billing-subscription",
    openapi_extra=described(
        "Tell the limit of the tightest budget", answer=billing.subscription(1_000_000, 1764547200)
    ),
)
async def subscription(request: ApiRequest) -> HttpResponse:
    budget = await _budget(request)
    return json_response(billing.subscription(budget.limit, budget.ends))


@router.get(
    "/dashboard/billing/usage",
    url_name="billing-usage",
    openapi_extra=described("Tell what of the tightest budget is used", answer=billing.usage(250_000)),
)
async def usage(request: ApiRequest) -> HttpResponse:
    """Of the running day or month: the dates that apps ask for would not fit the budget that is told."""
    return json_response(billing.usage((await _budget(request)).used))


@router.get(
    "/dashboard/billing/credit_grants",
    url_name="billing-credit-grants",
    openapi_extra=described(
        "Tell limit, use and rest of the tightest budget", answer=billing.credit_grants(1_000_000, 250_000)
    ),
)
async def credit_grants(request: ApiRequest) -> HttpResponse:
    budget = await _budget(request)
    return json_response(billing.credit_grants(budget.limit, budget.used))


async def _budget(request: ApiRequest) -> Budget:
    caller = await request.relay.caller(asking(request, billing.NAME))
    return await request.relay.budgets.tightest(caller)
