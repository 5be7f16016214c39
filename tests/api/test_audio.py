"""Sound end to end: OpenAI's own SDK, our handler, the demo Poe server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import openai
import pytest
import pytest_asyncio

from relay.models import UsageRecord
from tests.cast import Cast, mapping
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio
SOUND = b"ID3 a sound"


@pytest_asyncio.fixture
async def sdk(api: Api, cast: Cast, demo: DemoPoe) -> AsyncIterator[openai.AsyncOpenAI]:
    """With a bot that speaks, and one that writes down."""
    kept = httpx2.post(
        f"{demo.url}/poe_api/file_upload_3RD_PARTY_POST",
        files={"file": ("speech.mp3", SOUND, "audio/mpeg")},
        headers={"Authorization": demo.key},
    ).json()
    said = {"url": kept["attachment_url"], "content_type": "audio/mpeg", "name": "speech.mp3"}
    demo.script("speaker", ("text", {"text": "Here it is."}), ("file", said), ("done", {}))
    demo.script("listener", ("text", {"text": "Good "}), ("text", {"text": "morning!"}), ("done", {}))
    for name in ("speaker", "listener"):
        await in_database(mapping, name, name)
    yield api.openai(cast.bob.plain)


async def test_a_text_is_spoken(sdk: openai.AsyncOpenAI) -> None:
    spoken = await sdk.audio.speech.create(model="speaker", input="Good morning!", voice="alloy")

    assert spoken.content == SOUND
    assert spoken.response.headers["content-type"] == "audio/mpeg"


async def test_a_recording_is_written_down(sdk: openai.AsyncOpenAI, api: Api, cast: Cast) -> None:
    recording = ("hello.wav", b"RIFF", "audio/wav")

    plain = await sdk.audio.transcriptions.create(model="listener", file=recording, language="en")
    text = await sdk.audio.transcriptions.create(model="listener", file=recording, response_format="text")
    verbose = await sdk.audio.transcriptions.create(
        model="listener", file=recording, response_format="verbose_json", prompt="Names: Alice"
    )
    # The SDK calls it deprecated.
    english = await api.http.post(
        "/v1/audio/translations",
        data={"model": "listener"},
        files={"file": recording},
        headers={"Authorization": f"Bearer {cast.bob.plain}"},
    )

    assert plain.text == verbose.text == english.json()["text"] == "Good morning!"
    assert str(text).strip() == "Good morning!"


async def test_what_hardly_a_bot_can_be_told_of_a_recording_is_named(
    sdk: openai.AsyncOpenAI,
) -> None:
    answer = await sdk.audio.transcriptions.with_raw_response.create(
        model="listener", file=("a.wav", b"RIFF"), timestamp_granularities=["word"], include=["logprobs"]
    )

    assert answer.headers["x-poe-relay-ignored"] == "include, timestamp_granularities"


async def test_a_bot_that_only_writes_is_told_to_be_none_that_speaks(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.audio.speech.create(model="listener", input="Good morning!", voice="alloy")

    assert refused.value.code == "no_sound"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("speech", {"model": "speaker", "input": " "}, "invalid_value"),
        ("speech", {"model": "speaker", "input": "x" * 100_001}, "invalid_value"),
        ("speech", {"model": "speaker"}, "missing_required_parameter"),
        ("speech", {"model": "speaker", "input": "x", "stream_format": "sse"}, "unsupported_parameter"),
        ("transcriptions", {"model": "listener"}, "invalid_form"),
    ],
)
async def test_what_cannot_be_done_is_refused_and_costs_nothing(
    sdk: openai.AsyncOpenAI, api: Api, cast: Cast, path: str, body: dict[str, str], code: str
) -> None:
    answer = await api.http.post(
        f"/v1/audio/{path}", json=body, headers={"Authorization": f"Bearer {cast.bob.plain}"}
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert not await in_database(UsageRecord.objects.exists)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"response_format": "srt"}, "unsupported_value"),
        ({"stream": "true"}, "unsupported_parameter"),
        ({"temperature": "warm"}, "invalid_type"),
        ({"model": ""}, "invalid_value"),
        ({"prompt": "a\x00b"}, "invalid_string"),
    ],
)
async def test_a_form_that_asks_for_what_no_bot_can_is_refused(
    sdk: openai.AsyncOpenAI, api: Api, cast: Cast, fields: dict[str, str], code: str
) -> None:
    answer = await api.http.post(
        "/v1/audio/transcriptions",
        data={"model": "listener", **fields},
        files={"file": ("a.wav", b"RIFF", "audio/wav")},
        headers={"Authorization": f"Bearer {cast.bob.plain}"},
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
