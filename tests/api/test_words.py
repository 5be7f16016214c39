"""Words that came in one read, where they cannot go on as they came: each is still an event of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from relay import counting
from relay.events import Event, Text, Words
from relay.upstreams.poe import Poe
from tests import cast as people
from tests.api.test_at_once import ROUTES, Client, _text
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio

SAID = Words("one two three four", [b'"one "', b'"two "', b'"three "', b'"four"'])
EACH = ["zero ", "one ", "two ", "three ", "four"]


@pytest.fixture(autouse=True)
def in_one_read(monkeypatch: pytest.MonkeyPatch, demo: DemoPoe) -> None:
    async def stream(*_arguments: Any, **_named: Any) -> AsyncGenerator[list[Event], None]:
        yield [Text("zero ")]  # until an answer has begun, nothing goes on as it came
        yield [SAID]

    monkeypatch.setattr(Poe, "stream", stream)


async def texts(api: Api, cast: Cast, path: str, **body: object) -> list[str]:
    await in_database(people.mapping, "words", "words", points_per_1000_output_tokens=1000)
    client = Client()
    await client.ask(api, cast.bob.plain, path, **body)
    return [text for event in client.events() if (text := _text(event))]


@pytest.mark.parametrize("path", ROUTES)
async def test_each_is_an_event_of_its_own(api: Api, cast: Cast, path: str) -> None:
    assert await texts(api, cast, path) == EACH


@pytest.mark.parametrize(
    ("path", "stop", "said"),
    [
        ("/v1/chat/completions", {"stop": ["never"]}, EACH),
        ("/v1/completions", {"stop": ["never"]}, EACH),
        ("/v1/messages", {"stop_sequences": ["never"]}, EACH),
        ("/v1/chat/completions", {"stop": ["three"]}, ["zero ", "one ", "two "]),
    ],
)
async def test_where_a_stop_sequence_is_looked_for(
    api: Api, cast: Cast, path: str, stop: dict[str, object], said: list[str]
) -> None:
    assert await texts(api, cast, path, **stop) == said


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
async def test_no_more_is_said_than_may_be(api: Api, cast: Cast, path: str) -> None:
    most = counting.count("zero one two three")

    assert await texts(api, cast, path, max_tokens=most) == ["zero ", "one ", "two ", "three"]
