"""Videos end to end: OpenAI's own SDK, our handler, the demo Poe server's filmer, and processes that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any
from unittest import mock

import httpx2
import msgspec
import openai
import pytest

from proxy_site.config import Config
from relay import leases, stored_files, vault, video_jobs
from relay.models import Lease, StoredFile, UsageRecord, VideoJob
from tests.cast import Cast, mapping
from tests.conftest import Api, DemoPoe, Served, in_database, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled")
DOT = ("dot.png", b"\x89PNG\r\n\x1a\na dot", "image/png")


async def promised(api: Api, cast: Cast) -> str:
    """The id of a video that takes long."""
    body = {"model": "demo-filmer", "prompt": "a lighthouse", "delay": 10}
    headers = {"Authorization": f"Bearer {cast.bob.plain}"}
    with mock.patch.object(video_jobs, "REFUSAL_SECONDS", 0.5):
        answer = await api.http.post("/v1/videos", json=body, headers=headers)
    assert answer.json()["status"] == "in_progress"
    return str(answer.json()["id"])


async def film(sdk: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await sdk.videos.create(**{"model": "demo-filmer", "prompt": "a lighthouse at dusk", **fields})


async def ended(sdk: openai.AsyncOpenAI, id: str) -> Any:
    for _ in range(200):
        video = await sdk.videos.retrieve(id)
        if video.status in ("completed", "failed"):
            return video
        await asyncio.sleep(0.05)
    raise AssertionError("the video does not come to an end")


def left_behind() -> tuple[int, int, int]:
    return VideoJob.objects.count(), StoredFile.objects.count(), Lease.objects.count()


@pytest.mark.asyncio
async def test_a_video_is_made_looked_up_listed_downloaded_and_removed(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    sdk = api.openai(cast.bob.plain)

    asked = await film(sdk, seconds="8", size="1280x720")
    done = await ended(sdk, asked.id)
    other = await film(sdk, prompt="another", input_reference=DOT)

    assert (asked.object, asked.model, asked.seconds, asked.size) == ("video", "demo-filmer", "8", "1280x720")
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.completed_at is not None and done.prompt == "a lighthouse at dusk"
    content = await sdk.videos.download_content(done.id)
    assert (await content.aread())[4:8] == b"ftyp"
    assert content.response.headers["content-type"] == "video/mp4"
    await ended(sdk, other.id)
    assert [each.id async for each in sdk.videos.list()] == [other.id, done.id]
    assert [each.id async for each in sdk.videos.list(order="asc", limit=1)] == [done.id, other.id]
    # Neither the videos nor the pictures that they begin with are files of the client's.
    assert [each async for each in sdk.files.list()] == []

    def records() -> list[tuple[str, str]]:
        return list(UsageRecord.objects.values_list("outcome", "wire"))

    assert await in_database(records) == [("done", "openai-videos")] * 2

    assert (await sdk.videos.delete(done.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.videos.download_content(done.id)


@pytest.mark.asyncio
async def test_json_does_as_well_and_a_picture_by_id_or_url(api: Api, cast: Cast, demo: DemoPoe) -> None:
    sdk = api.openai(cast.bob.plain)
    kept = await sdk.files.create(file=DOT, purpose="vision")
    for reference in (
        {"file_id": kept.id},
        {"image_url": "data:image/png;base64,iVBORw0KGgo="},
        {"image_url": "https://example.org/dot.png"},
    ):
        answer = await api.http.post(
            "/v1/videos",
            json={"model": "demo-filmer", "prompt": "dusk", "input_reference": reference},
            headers={"Authorization": f"Bearer {cast.bob.plain}"},
        )

        assert (await ended(sdk, answer.json()["id"])).status == "completed"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "demo-filmer"}, 400, "missing_required_parameter"),
        ({"prompt": "dusk"}, 400, "missing_required_parameter"),
        ({"model": "demo-filmer", "prompt": " "}, 400, "invalid_value"),
        ({"model": "demo-filmer", "prompt": "x", "input_reference": {}}, 400, "invalid_value"),
        (
            {"model": "demo-filmer", "prompt": "x", "input_reference": {"file_id": "x"}},
            400,
            "invalid_file_id",
        ),
        (
            {"model": "demo-filmer", "prompt": "x", "input_reference": {"file_id": "file-gone"}},
            400,
            "file_not_found",
        ),
        ({"model": "nothing", "prompt": "dusk"}, 404, "model_not_found"),
        ({"model": "demo-echo", "prompt": "dusk"}, 400, "no_video"),
        ({"model": "demo-faulty", "prompt": "status-500"}, 502, None),
    ],
)
async def test_what_is_refused_at_once_is_told_at_once_and_leaves_no_job(
    api: Api, cast: Cast, demo: DemoPoe, body: dict[str, Any], status: int, code: str | None
) -> None:
    headers = {"Authorization": f"Bearer {cast.bob.plain}"}
    with mock.patch.object(video_jobs, "REFUSAL_SECONDS", 30):
        answer = await api.http.post("/v1/videos", json=body, headers=headers)

    assert answer.status_code == status
    assert code is None or answer.json()["error"]["code"] == code
    assert await in_database(left_behind) == (0, 0, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("model", ["nothing", "demo-echo", "demo-filmer"])
async def test_the_picture_that_it_begins_with_is_not_kept_longer_than_it_is_made(
    api: Api, cast: Cast, demo: DemoPoe, model: str
) -> None:
    with mock.patch.object(video_jobs, "REFUSAL_SECONDS", 30):
        answer = await api.http.post(
            "/v1/videos",
            data={"model": model, "prompt": "dusk"},
            files={"input_reference": DOT},
            headers={"Authorization": f"Bearer {cast.bob.plain}"},
        )

    def inputs() -> int:
        return StoredFile.objects.filter(purpose=stored_files.VIDEO_INPUT).count()

    assert answer.is_success is (model == "demo-filmer")
    assert await in_database(inputs) == 0


@pytest.mark.asyncio
async def test_so_many_at_once_and_no_more(api: Api, cast: Cast, demo: DemoPoe) -> None:
    with mock.patch.object(video_jobs, "MOST_UNFINISHED", 1):
        first = await promised(api, cast)
        with pytest.raises(openai.RateLimitError) as refused:
            await film(api.openai(cast.bob.plain), input_reference=DOT)

    assert refused.value.code == "too_many_videos"
    assert await in_database(left_behind) == (1, 0, 1)
    await api.openai(cast.bob.plain).videos.delete(first)


@pytest.mark.asyncio
async def test_one_that_was_promised_waits_for_a_limit(api: Api, cast: Cast, demo: DemoPoe) -> None:
    cast.bob.user.requests_in_flight = 1
    await in_database(cast.bob.user.save)
    first = await promised(api, cast)
    with (
        mock.patch.object(video_jobs, "REFUSAL_SECONDS", 0.0),
        mock.patch.object(video_jobs, "PAUSE_SECONDS", 0.1),
    ):
        second = await film(api.openai(cast.bob.plain))
        await asyncio.sleep(0.3)
        assert (await api.openai(cast.bob.plain).videos.retrieve(second.id)).status == "in_progress"
        await api.openai(cast.bob.plain).videos.delete(first)

        assert (await ended(api.openai(cast.bob.plain), second.id)).status == "completed"


@pytest.mark.asyncio
async def test_what_fails_later_is_told_when_it_is_looked_up(api: Api, cast: Cast, demo: DemoPoe) -> None:
    demo.script("slow", ("text", {"text": "No video today."}), ("done", {}), delay=0.3)
    await in_database(mapping, "slow", "slow")
    sdk = api.openai(cast.bob.plain)

    with mock.patch.object(video_jobs, "REFUSAL_SECONDS", 0.0):
        asked = await film(sdk, model="slow")
    failed = await ended(sdk, asked.id)

    assert asked.status in ("queued", "in_progress")
    assert failed.status == "failed" and failed.error.code == "no_video"
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.videos.download_content(asked.id)
    assert refused.value.code == "no_video"


@pytest.mark.asyncio
async def test_nobody_else_sees_it(api: Api, cast: Cast, demo: DemoPoe) -> None:
    video = await film(api.openai(cast.bob.plain))
    await ended(api.openai(cast.bob.plain), video.id)
    other = api.openai(cast.charlie.plain)

    assert [each async for each in other.videos.list()] == []
    for ask in (other.videos.retrieve, other.videos.download_content, other.videos.delete):
        with pytest.raises(openai.NotFoundError):
            await ask(video.id)
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", f"/{video.id}/content"),
        ("DELETE", f"/{video.id}"),
    ):
        assert (await api.http.request(method, f"/v1/videos{path}")).status_code == 401


@pytest.mark.asyncio
async def test_a_limit_holds_for_it(api: Api, cast: Cast, demo: DemoPoe) -> None:
    sdk = api.openai(cast.bob.plain)
    cast.bob.user.requests_per_minute = 1
    await in_database(cast.bob.user.save)

    first = await film(sdk)
    with pytest.raises(openai.RateLimitError):
        await film(sdk)

    assert (await ended(sdk, first.id)).status == "completed"
    assert (await in_database(left_behind))[0] == 1


@pytest.mark.asyncio
async def test_one_that_is_removed_while_it_is_made_stops(api: Api, cast: Cast, demo: DemoPoe) -> None:
    sdk = api.openai(cast.bob.plain)
    id = await promised(api, cast)
    # Removed before it was admitted, it would be a request that was never begun.
    await in_database(lambda: wait_for(UsageRecord.objects.filter(outcome="open").exists))
    await sdk.videos.delete(id)

    def outcome() -> str:
        wait_for(lambda: not UsageRecord.objects.filter(outcome="open").exists())
        return UsageRecord.objects.get().outcome

    assert await in_database(outcome) == "disconnected"
    assert await in_database(left_behind) == (0, 0, 0)


@pytest.mark.asyncio
async def test_what_another_process_left_is_begun_again(api: Api, cast: Cast, demo: DemoPoe) -> None:
    """As it is after the death of the one that made it: its lease ran out."""
    sdk = api.openai(cast.bob.plain)
    id = await promised(api, cast)
    await api.relay.videos.close()
    assert (await sdk.videos.retrieve(id)).status == "in_progress"
    # Meanwhile somebody else has it.
    await in_database(leases.take, f"video {id}", "another", 60)
    await api.relay.videos.adopt()
    assert not api.relay.videos.making

    await in_database(leases.give_back, f"video {id}", "another")
    await in_database(shorten, id)
    await api.relay.videos.adopt()

    assert (await ended(sdk, id)).status == "completed"
    assert await in_database(lambda: VideoJob.objects.get().attempts) == 2


def shorten(id: str) -> None:
    """The same video, asked with a shorter delay."""
    row = VideoJob.objects.get(pk=id)
    job = video_jobs._told(row)
    job.asked.parameters["delay"] = 0
    plain = msgspec.json.encode(video_jobs._Sealed(job.asked, job.address))
    row.asked = vault.seal_bytes(plain, purpose=video_jobs._purpose(row.token_id, id))
    row.save()


@pytest.mark.asyncio
async def test_one_whose_makers_die_again_and_again_fails(api: Api, cast: Cast, demo: DemoPoe) -> None:
    sdk = api.openai(cast.bob.plain)
    id = await promised(api, cast)
    await api.relay.videos.close()
    await in_database(VideoJob.objects.update, attempts=video_jobs.MOST_ATTEMPTS)

    await api.relay.videos.adopt()

    assert (await ended(sdk, id)).status == "failed"


class TestWithoutKeeping:
    @pytest.fixture
    def config(self, config: Config) -> Config:
        return config.model_copy(update={"files": config.files.model_copy(update={"keep_hours": 0})})

    @pytest.mark.asyncio
    async def test_none_is_made(self, api: Api, cast: Cast) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await film(api.openai(cast.bob.plain))

        assert refused.value.code == "files_not_kept"


def test_a_killed_server_makes_it_when_it_is_there_again(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    first = serve()
    video = httpx2.post(
        f"{first.url}/v1/videos",
        json={"model": "demo-filmer", "prompt": "a lighthouse", "delay": 6},
        headers={"Authorization": f"Bearer {cast.bob.plain}"},
        timeout=20,
    ).json()
    assert video["status"] == "in_progress"
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    # Nobody waits half a minute for it here.
    Lease.objects.update(until=0)

    second = serve()
    with second.openai(cast.bob.plain) as sdk:
        assert wait_for(lambda: sdk.videos.retrieve(video["id"]).status == "completed", 30)
        assert sdk.videos.download_content(video["id"]).read()[4:8] == b"ftyp"
    # Its settlement may let admissions go first, and is then written after the video.
    outcomes = UsageRecord.objects.order_by("outcome").values_list("outcome", flat=True)
    assert wait_for(lambda: [*outcomes.all()] == ["done", "lost"], 5)
    assert VideoJob.objects.get().attempts == 2
