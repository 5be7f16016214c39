"""What apps are told of a budget when they ask as OpenAI once answered."""

from __future__ import annotations

from typing import Any

import pytest

from relay.models import BotMapping
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio


async def told(api: Api, token: str, page: str, base: str = "/v1") -> dict[str, Any]:
    response = await api.http.get(
        f"{base}/dashboard/billing/{page}", headers={"Authorization": f"Bearer {token}"}
    )
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def limit(of: Any, **limits: int | None) -> None:
    await in_database(lambda: type(of).objects.filter(pk=of.pk).update(**limits))


@pytest.mark.parametrize("base", ["/v1", ""])
async def test_it_tells_limit_and_use_of_the_month_in_dollars(
    api: Api, cast: Cast, demo: DemoPoe, base: str
) -> None:
    await limit(cast.bob.token, points_per_month=1_000_000)
    await in_database(BotMapping.objects.filter(model="demo-echo").update, points_per_request=50_000)
    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200

    subscription = await told(api, cast.bob.plain, "subscription", base)
    usage = await told(api, cast.bob.plain, "usage?start_date=2026-11-01&end_date=2026-11-29", base)
    grants = await told(api, cast.bob.plain, "credit_grants", base)

    assert subscription["hard_limit_usd"] == subscription["soft_limit_usd"] == 30.0
    assert subscription["has_payment_method"] is True and subscription["access_until"] > 1_700_000_000
    assert usage == {"object": "list", "total_usage": 150.0}
    assert (grants["total_granted"], grants["total_used"], grants["total_available"]) == (30.0, 1.5, 28.5)


async def test_it_tells_of_the_budget_that_has_least_left(api: Api, cast: Cast) -> None:
    await limit(cast.bob.token, points_per_month=2_000_000)
    await limit(cast.bob.user, points_per_day=1_000_000)
    await limit(cast.physics, points_per_month=3_000_000)

    assert (await told(api, cast.bob.plain, "subscription"))["hard_limit_usd"] == 30.0
    assert (await told(api, cast.alice.plain, "subscription"))["hard_limit_usd"] == 90.0


async def test_without_a_budget_it_tells_what_was_used_of_a_large_number(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await in_database(BotMapping.objects.filter(model="demo-echo").update, points_per_request=1000)
    await api.chat(cast.bob.plain, "demo-echo")

    assert (await told(api, cast.bob.plain, "subscription"))["hard_limit_usd"] == 100_000_000
    assert (await told(api, cast.bob.plain, "usage"))["total_usage"] == 3.0


async def test_what_others_used_is_not_told_as_ones_own(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await api.chat(cast.alice.plain, "demo-echo")

    assert (await told(api, cast.charlie.plain, "usage"))["total_usage"] == 0


async def test_without_a_token_nothing_is_told(api: Api, cast: Cast) -> None:
    for page in ("subscription", "usage", "credit_grants"):
        assert (await api.http.get(f"/v1/dashboard/billing/{page}")).status_code == 401


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("POST", "/v1/embeddings"),
        ("POST", "/embeddings"),
        ("POST", "/v1/moderations"),
        ("GET", "/v1/realtime"),
        ("POST", "/v1/realtime/sessions"),
        ("POST", "/v1/realtime/client_secrets"),
    ],
)
async def test_what_poe_has_not_is_said_plainly(api: Api, cast: Cast, method: str, route: str) -> None:
    refused = await api.http.request(method, route, headers={"Authorization": f"Bearer {cast.bob.plain}"})

    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_by_poe")
    assert "Poe has no" in error["message"]
    assert (await api.http.request(method, route)).status_code == 401
