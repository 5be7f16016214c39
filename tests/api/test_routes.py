"""Routes, errors and headers as a client sees them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from relay.models import UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio

MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("base", ["/v1", "", "/v1/v1", "//v1/"])
async def test_models_with_and_without_v1(api: Api, cast: Cast, base: str) -> None:
    await in_database(people.mapping, "gpt-4o", "GPT-4o")
    await in_database(people.mapping, "hidden", "H", hidden=True)
    await in_database(people.mapping, "off", "O", enabled=False)
    await in_database(people.mapping, "org/some-model", "S")
    headers = {"Authorization": f"Bearer {cast.bob.plain}"}

    listed = (await api.http.get(f"{base}/models", headers=headers)).json()
    one = (await api.http.get(f"{base}/models/ORG/some-model", headers=headers)).json()

    assert listed["object"] == "list"
    assert [m["id"] for m in listed["data"]] == ["gpt-4o", "org/some-model"]
    assert one["id"] == "org/some-model" and one["object"] == "model" and isinstance(one["created"], int)


async def test_a_slash_at_the_end_is_no_other_route(api: Api, cast: Cast) -> None:
    headers = {"Authorization": f"Bearer {cast.bob.plain}"}

    listed = await api.http.get("/v1/models/", headers=headers)
    asked = await api.http.post("/v1/chat/completions/", headers=headers, content=b"{}")

    assert listed.status_code == 200 and listed.json()["object"] == "list"
    assert asked.status_code == 400 and asked.json()["error"]["param"] == "model"


async def test_models_for_the_sdk(api: Api, cast: Cast) -> None:
    await in_database(people.mapping, "gpt-4o", "GPT-4o")
    client = api.openai(cast.bob.plain)

    assert [model.id async for model in client.models.list()] == ["gpt-4o"]
    assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.models.retrieve("gpt-9")
    assert missing.value.code == "model_not_found" and "gpt-9" in str(missing.value)


async def test_a_team_sees_its_models_only(api: Api, cast: Cast) -> None:
    def only_for_chemistry() -> None:
        people.mapping("secret", "S").teams.add(cast.chemistry)

    await in_database(only_for_chemistry)

    assert [m.id async for m in api.openai(cast.bob.plain).models.list()] == []
    assert [m.id async for m in api.openai(cast.charlie.plain).models.list()] == ["secret"]
    with pytest.raises(openai.NotFoundError):
        await api.openai(cast.bob.plain).models.retrieve("secret")


async def test_a_model_without_a_poe_key_says_where_to_add_one(api: Api, cast: Cast) -> None:
    await in_database(people.mapping, "gpt-4o", "GPT-4o")

    response = await api.chat(cast.bob.plain, "gpt-4o")

    error = response.json()["error"]
    assert response.status_code == 503 and error["code"] == "no_poe_key"
    assert "/admin/relay/poekey/add/" in error["message"]
    assert not await in_database(UsageRecord.objects.exists)


async def test_the_token_may_come_as_x_api_key(api: Api, cast: Cast) -> None:
    assert (await api.http.get("/v1/models", headers={"x-api-key": cast.bob.plain})).status_code == 200


REFUSED: list[tuple[str, str, Any, int, str, str | None]] = [
    ("POST", "/v1/chat/completions", b"", 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", b"{nonsense", 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", b"[]", 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", b'{"model": "m", "messages": [], "n": NaN}', 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", {"messages": [MESSAGE]}, 400, "missing_required_parameter", "model"),
    ("POST", "/v1/chat/completions", {"model": "m"}, 400, "missing_required_parameter", "messages"),
    ("POST", "/v1/chat/completions", {"model": "m", "messages": []}, 400, "invalid_value", "messages"),
    ("POST", "/v1/chat/completions", {"model": 5, "messages": [MESSAGE]}, 400, "invalid_type", "model"),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "king", "content": "x"}]},
        400,
        "invalid_type",
        "messages[0].role",
    ),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "a\x00b"}]},
        400,
        "invalid_string",
        "messages[0].content",
    ),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "gpt-9", "messages": [MESSAGE]},
        404,
        "model_not_found",
        "model",
    ),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "m" * 201, "messages": [MESSAGE]},
        400,
        "invalid_value",
        "model",
    ),
    ("GET", "/v1/nothing", None, 404, "unknown_route", None),
    ("GET", "/v1/", None, 404, "unknown_route", None),
    ("GET", "/v1/chat/completions", None, 405, "method_not_allowed", None),
    ("DELETE", "/models", None, 405, "method_not_allowed", None),
]


@pytest.mark.parametrize(("method", "route", "body", "status", "code", "param"), REFUSED)
async def test_refusals_are_openai_errors_and_cost_nothing(
    api: Api, cast: Cast, method: str, route: str, body: Any, status: int, code: str, param: str | None
) -> None:
    content = body if body is None or isinstance(body, bytes) else json.dumps(body)

    response = await api.http.request(
        method, route, content=content, headers={"Authorization": f"Bearer {cast.bob.plain}"}
    )

    assert response.status_code == status and response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-request-id"].startswith("req_")
    assert status != 405 or response.headers["allow"]
    assert not await in_database(UsageRecord.objects.exists)


@pytest.mark.parametrize("token", ["", "sk-poe-nonsense", "sk-other", "ü" * 9])
async def test_without_a_real_token_nothing_is_told(api: Api, cast: Cast, token: str) -> None:
    headers = [(b"Authorization", f"Bearer {token}".encode())] if token else []
    for method, route in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models/x")):
        response = await api.http.request(method, route, headers=headers, content=b"{nonsense")
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["access-control-allow-origin"] == "*"


async def test_preflight_needs_no_token(api: Api) -> None:
    response = await api.http.options(
        "/v1/chat/completions",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Headers": "authorization,x-stainless-os",
        },
    )

    assert response.status_code == 204 and response.content == b""
    assert response.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert response.headers["access-control-max-age"] == "86400"
    assert "access-control-allow-credentials" not in response.headers
    assert "DELETE" in response.headers["access-control-allow-methods"]


async def test_a_fallback_model_answers_and_is_named(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await in_database(people.mapping, "gone", "No-Such-Bot", fallback_models=["missing-too", "demo-echo"])

    response = await api.chat(cast.bob.plain, "gone")

    assert response.json()["choices"][0]["message"]["content"] == "Hello there"
    assert response.headers["x-poe-relay-model"] == "demo-echo"


async def test_what_the_user_caused_is_asked_once(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await in_database(people.mapping, "strict", "Demo-Faulty", fallback_models=["demo-echo"])

    response = await api.chat(cast.bob.plain, "strict", "too-long")

    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_default_parameters_reach_the_bot_and_the_client_wins(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await in_database(people.mapping, "twice", "Demo-Echo", parameters={"repeat": 2})

    twice = (await api.chat(cast.bob.plain, "twice", "hey")).json()["choices"][0]["message"]["content"]
    thrice = (await api.chat(cast.bob.plain, "twice", "hey", extra_body={"repeat": 3})).json()

    assert twice.split() == ["hey"] * 2
    assert thrice["choices"][0]["message"]["content"].split() == ["hey"] * 3
