"""Legacy completions end to end: OpenAI's own SDK, our handler, the demo Poe server."""

from __future__ import annotations

import openai
import pytest

from relay.models import UsageRecord
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio


async def test_it_completes_for_the_official_sdk(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await api.openai(cast.bob.plain).completions.create(model="demo-echo", prompt="Good morning")

    assert answer.choices[0].text == "Good morning" and answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens == 2


async def test_it_streams_with_the_prompt_said_first(api: Api, cast: Cast, demo: DemoPoe) -> None:
    stream = await api.openai(cast.bob.plain).completions.create(
        model="demo-echo", prompt=["Good morning"], stream=True, echo=True
    )
    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].text for chunk in chunks) == "Good morningGood morning"
    assert chunks[0].choices[0].text == "Good morning"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_it_is_cut_at_max_tokens(api: Api, cast: Cast, demo: DemoPoe) -> None:
    answer = await api.openai(cast.bob.plain).completions.create(
        model="demo-echo", prompt="one two three four five", max_tokens=3
    )

    assert answer.choices[0].text.strip() == "one two three"
    assert answer.choices[0].finish_reason == "length"


async def test_what_is_refused_costs_nothing(api: Api, cast: Cast, demo: DemoPoe) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await api.openai(cast.bob.plain).completions.create(model="demo-echo", prompt="Hi", n=2)

    assert refused.value.param == "n"
    assert await in_database(UsageRecord.objects.count) == 0


async def test_it_refuses_who_has_no_token(api: Api, cast: Cast, demo: DemoPoe) -> None:
    with pytest.raises(openai.AuthenticationError):
        await api.openai("sk-poe-nobody").completions.create(model="demo-echo", prompt="Hi")
