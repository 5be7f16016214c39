"""Pictures end to end: OpenAI's own SDK, our handler, the demo Poe server's painter."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from relay.models import UsageRecord
from tests.cast import Cast, mapping
from tests.conftest import Api, DemoPoe, in_database, wait_for

pytestmark = pytest.mark.asyncio
PNG = b"\x89PNG\r\n\x1a\n"
DOT = PNG + b"a dot"


@pytest_asyncio.fixture
async def sdk(api: Api, cast: Cast, demo: DemoPoe) -> AsyncIterator[openai.AsyncOpenAI]:
    yield api.openai(cast.bob.plain)


async def settled(count: int) -> list[tuple[str, str, int]]:
    def look() -> list[tuple[str, str, int]]:
        wait_for(lambda: UsageRecord.objects.exclude(outcome="open").count() >= count)
        return list(UsageRecord.objects.values_list("outcome", "wire", "images"))

    return await in_database(look)


async def test_it_paints_and_tells_where(sdk: openai.AsyncOpenAI, demo: DemoPoe) -> None:
    made = await sdk.images.generate(model="demo-painter", prompt="a lighthouse", size="1024x1024")

    assert made.data is not None and len(made.data) == 1
    assert str(made.data[0].url).startswith(f"{demo.url}/files/")
    assert await settled(1) == [("done", "openai-images", 1)]


async def test_it_hands_over_the_bytes_of_as_many_as_are_wanted(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.images.generate(model="demo-painter", prompt="dusk", n=3, response_format="b64_json")

    assert made.data is not None
    assert [base64.b64decode(str(each.b64_json))[:8] for each in made.data] == [PNG] * 3
    assert await settled(3) == [("done", "openai-images", 1)] * 3


async def test_a_model_named_like_openais_newest_answers_with_bytes(
    sdk: openai.AsyncOpenAI, cast: Cast, demo: DemoPoe
) -> None:
    await in_database(mapping, "gpt-image-2", "Demo-Painter")

    made = await sdk.images.generate(model="gpt-image-2", prompt="dusk")

    assert made.data is not None and made.data[0].b64_json and not made.data[0].url


async def test_a_picture_is_painted_from_others(sdk: openai.AsyncOpenAI, api: Api, cast: Cast) -> None:
    made = await sdk.images.edit(
        model="demo-painter", prompt="at night", image=[("dot.png", DOT), ("other.png", DOT)]
    )
    url = "data:image/png;base64," + base64.b64encode(DOT).decode()
    answer = await api.http.post(
        "/v1/images/edits",
        json={"model": "demo-painter", "prompt": "at night", "images": [{"image_url": url}]},
        headers={"Authorization": f"Bearer {cast.bob.plain}"},
    )

    assert made.data is not None and made.data[0].url
    assert answer.status_code == 200 and answer.json()["data"][0]["url"]
    assert await settled(2) == [("done", "openai-images", 1)] * 2


async def test_a_model_that_paints_nothing_is_told(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.images.generate(model="demo-echo", prompt="a lighthouse")

    assert refused.value.code == "no_picture"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": " "}, "invalid_value"),
        ({"n": 0}, "invalid_value"),
        ({"n": 11}, "invalid_value"),
        ({"stream": True}, "unsupported_parameter"),
        ({"response_format": "gif"}, "invalid_type"),
        ({"model": None}, "invalid_type"),
    ],
)
async def test_what_cannot_be_done_is_refused_and_costs_nothing(
    api: Api, cast: Cast, demo: DemoPoe, fields: dict[str, object], code: str
) -> None:
    answer = await api.http.post(
        "/v1/images/generations",
        json={"model": "demo-painter", "prompt": "a lighthouse", **fields},
        headers={"Authorization": f"Bearer {cast.bob.plain}"},
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert not await in_database(UsageRecord.objects.exists)


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("multipart/form-data; boundary=x", b"--x\r\n", "missing_required_parameter"),
        ("multipart/form-data; boundary=", b"", "invalid_form"),
        ("application/json", b'{"model": "m", "prompt": "p", "images": []}', "invalid_value"),
        ("application/json", b'{"model": "m", "prompt": "p", "images": [{}]}', "missing_required_parameter"),
    ],
)
async def test_a_form_or_body_without_a_picture_is_refused(
    api: Api, cast: Cast, demo: DemoPoe, content_type: str, body: bytes, code: str
) -> None:
    answer = await api.http.post(
        "/v1/images/edits",
        content=body,
        headers={"Authorization": f"Bearer {cast.bob.plain}", "Content-Type": content_type},
    )

    assert answer.status_code == 400 and answer.json()["error"]["code"] in (code, "invalid_value")


async def test_nothing_is_fetched_from_a_host_that_is_not_poes(
    sdk: openai.AsyncOpenAI, cast: Cast, demo: DemoPoe
) -> None:
    picture = {"url": "http://127.0.0.1:9/x.png", "content_type": "image/png", "name": "x.png"}
    demo.script("sly", ("file", picture), ("done", {}))
    await in_database(mapping, "sly", "sly")

    made = await sdk.images.generate(model="sly", prompt="x")
    with pytest.raises(openai.InternalServerError) as refused:
        await sdk.images.generate(model="sly", prompt="x", response_format="b64_json")

    assert made.data is not None and made.data[0].url == picture["url"]  # the client may do as it likes
    assert refused.value.code == "upstream_broken" and "not Poe's" in refused.value.message


async def test_variations_are_refused_with_a_way_out(api: Api, cast: Cast) -> None:
    answer = await api.http.post(
        "/v1/images/variations", headers={"Authorization": f"Bearer {cast.bob.plain}"}
    )
    nobody = await api.http.post("/v1/images/variations")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_by_poe")
    assert nobody.status_code == 401
