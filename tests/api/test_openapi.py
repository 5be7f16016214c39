"""The description of the API: complete, true to what is validated, and a page that needs nobody else."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from django.contrib.staticfiles import finders

from relay.api import api as ninja
from relay.api import openapi
from relay.api.urls import ALIASES
from relay.models import BotMapping
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

HIDDEN = {"/docs", "/openapi.json"}


def described() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(openapi.document(ninja))
    return found


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in described()["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_route_is_described() -> None:
    paths = set(described()["paths"])

    assert paths | HIDDEN >= ALIASES
    for method, path, operation in operations():
        assert not operation["summary"].startswith("Relay "), path
        assert "default" in operation["responses"] or "400" in operation["responses"], (method, path)
        if method == "POST" and "400" not in operation["responses"]:
            assert operation["requestBody"]["content"], path
    ids = [operation["operationId"] for _method, _path, operation in operations()]
    assert len(set(ids)) == len(ids)


def test_every_example_is_what_its_schema_says() -> None:
    found = described()
    checked = 0
    for _method, _path, operation in operations():
        for media in operation.get("requestBody", {}).get("content", {}).values():
            schema = {**media["schema"], "components": found["components"]}
            jsonschema_rs.Draft202012Validator(schema).validate(media["example"])
            checked += 1
    assert checked >= 3


MAKERS = (("images", "Demo-Painter"), ("videos", "Demo-Filmer"), ("speech", "Demo-Speaker"))


@pytest.mark.asyncio
async def test_every_example_is_answered(api: Api, cast: Cast, demo: DemoPoe) -> None:
    headers = {"Authorization": f"Bearer {cast.bob.plain}"}
    for _method, path, operation in operations():
        example = (
            operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        )
        if example is None or "{" in path:
            continue
        bot = next((bot for word, bot in MAKERS if word in path), "Demo-Echo")
        await in_database(BotMapping.objects.get_or_create, model=example["model"], bot=bot)

        answer = await api.http.post(f"/v1{path}", json=example, headers=headers)

        assert answer.status_code == 200, (path, answer.text)


@pytest.mark.asyncio
async def test_the_description_needs_no_token(api: Api) -> None:
    answer = await api.http.get("/v1/openapi.json")

    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert answer.json()["openapi"].startswith("3.1")


@pytest.mark.asyncio
async def test_the_page_takes_nothing_from_elsewhere(api: Api) -> None:
    answer = await api.http.get("/v1/docs")

    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "http" not in answer.text
    assert re.findall(r"<script(?![^>]*\b(?:src|application/json))", answer.text) == []
    for asset in re.findall(r'(?:src|href)="/static/([^"]+)"', answer.text):
        assert finders.find(asset), asset
