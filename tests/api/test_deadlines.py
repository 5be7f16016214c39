"""Silence: keep-alive comments, and deadlines that end it."""

from __future__ import annotations

import pytest
from django.conf import settings

from proxy_site.config import Config
from relay.models import UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio


@pytest.fixture
def config() -> Config:
    base: Config = settings.CONFIG
    poe = base.poe.model_copy(update={"first_event_seconds": 0.6, "idle_seconds": 0.6})
    return base.model_copy(
        update={"poe": poe, "relay": base.relay.model_copy(update={"keep_alive_seconds": 0.1})}
    )


async def test_silence_is_filled_with_comments(api: Api, cast: Cast, demo: DemoPoe) -> None:
    demo.script("quiet", ("text", {"text": "a"}), ("text", {"text": "b"}), ("done", {}), delay=0.35)
    await in_database(people.mapping, "quiet", "quiet")

    streamed = (await api.chat(cast.bob.plain, "quiet", stream=True)).text
    whole = (await api.chat(cast.bob.plain, "quiet")).json()

    assert streamed.count(": keep-alive\n\n") >= 2
    assert whole["choices"][0]["message"]["content"] == "ab"


async def test_silence_is_filled_with_pings_where_anthropics_clients_listen(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    demo.script("quiet", ("text", {"text": "a"}), ("text", {"text": "b"}), ("done", {}), delay=0.35)
    await in_database(people.mapping, "quiet", "quiet")

    async with api.anthropic(cast.bob.plain).messages.stream(
        model="quiet", max_tokens=9, messages=[{"role": "user", "content": "x"}]
    ) as stream:
        said = b"".join([part async for part in stream.response.aiter_raw()])

    assert said.count(b"event: ping\n") >= 3 and b"keep-alive" not in said
    assert said.endswith(b'data: {"type":"message_stop"}\n\n')


async def test_a_bot_that_never_answers_is_a_504(api: Api, cast: Cast, demo: DemoPoe) -> None:
    response = await api.chat(cast.bob.plain, "demo-faulty", "hang")

    assert response.status_code == 504 and response.json()["error"]["code"] == "upstream_timeout"
    (record,) = await in_database(lambda: list(UsageRecord.objects.all()))
    assert record.first_byte_ms is None


async def test_a_stream_is_kept_alive_even_before_poe_has_answered(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    response = await api.chat(cast.bob.plain, "demo-faulty", "hang", stream=True)

    assert response.status_code == 200 and response.text.count(": keep-alive") >= 3
    assert '"code":"upstream_timeout"' in response.text


async def test_silence_is_no_answer_when_another_key_can_be_asked(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    """The bot says nothing, then fails: not streamed, nothing was sent, so the fallback answers."""
    demo.script("late", ("error", {"text": "Internal server error"}), delay=0.3)
    await in_database(people.mapping, "late", "late", fallback_models=["demo-echo"])

    response = await api.chat(cast.bob.plain, "late")

    assert response.json()["choices"][0]["message"]["content"] == "Hello there"


async def test_an_answer_without_any_event_is_a_failure(api: Api, cast: Cast, demo: DemoPoe) -> None:
    for stream in (False, True):
        response = await api.chat(cast.bob.plain, "demo-faulty", "empty-body", stream=stream)
        assert response.status_code == 502 and response.json()["error"]["code"] == "upstream_broken"
        response = await api.chat(cast.bob.plain, "demo-faulty", "empty", stream=stream)
        assert response.status_code == 200 and "keep-alive" not in response.text


async def test_a_bot_that_stops_in_the_middle_is_said_in_the_stream(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    response = await api.chat(cast.bob.plain, "demo-faulty", "hang-after-text", stream=True)

    assert response.status_code == 200 and '"code":"upstream_timeout"' in response.text
