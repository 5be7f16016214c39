"""What chat apps send, replayed from tests/fixtures/clients: each file names where its requests were read.

The source also says what was captured, and what was written from the app's code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cast import Cast
from tests.conftest import Api, DemoPoe

pytestmark = pytest.mark.asyncio

CLIENTS = Path(__file__).parent.parent / "fixtures" / "clients"
RECORDED = [
    pytest.param(request, id=f"{file.stem}: {request['name']}")
    for file in sorted(CLIENTS.glob("*.json"))
    for request in json.loads(file.read_text())["requests"]
]


@pytest.mark.parametrize("recorded", RECORDED)
async def test_it_answers_as_the_app_needs(
    api: Api, cast: Cast, demo: DemoPoe, recorded: dict[str, Any]
) -> None:
    expected = recorded["expect"]

    response = await send(api, cast.bob.plain, recorded)

    assert response.status_code == expected["status"], response.text
    # A page in a browser is not shown the answer otherwise, be it an error.
    assert response.headers["access-control-allow-origin"] == "*"
    if recorded["method"] == "OPTIONS":
        assert lets_through(response, recorded["headers"])
    elif expected["stream"]:
        assert_streamed(response, expected)
    else:
        assert_whole(response, expected)


async def send(api: Api, token: str, recorded: dict[str, Any]) -> httpx2.Response:
    headers = {name: value.replace("TOKEN", token) for name, value in recorded["headers"].items()}
    body = recorded["body"]
    content = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return await api.http.request(recorded["method"], recorded["path"], headers=headers, content=content)


def lets_through(response: httpx2.Response, asked: dict[str, str]) -> bool:
    """Whether a browser goes on after this answer to its preflight; `*` would not cover Authorization."""
    methods = response.headers["access-control-allow-methods"].split(", ")
    headers = {name.strip() for name in response.headers["access-control-allow-headers"].split(",")}
    wanted = set(asked["Access-Control-Request-Headers"].split(","))
    return asked["Access-Control-Request-Method"] in methods and wanted <= headers


def assert_streamed(response: httpx2.Response, expected: dict[str, Any]) -> None:
    assert response.headers["content-type"].startswith("text/event-stream")
    *_, last, rest = response.text.split("\n\n")
    assert last.startswith(expected["ends"]) and rest == ""
    for words in expected["says"]:
        assert words in response.text


def assert_whole(response: httpx2.Response, expected: dict[str, Any]) -> None:
    assert response.headers["content-type"].startswith("application/json")
    answer = response.json()
    assert answer.keys() >= set(expected["keys"]) and answer.items() >= expected["holds"].items()
    if code := expected.get("code"):
        assert answer["error"]["code"] == code
