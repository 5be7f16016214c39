"""Files by their ids end to end: the official SDKs, our handler, the demo Poe server."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import openai
import pytest

from proxy_site.config import Config
from relay import stored_files, stored_responses
from relay.errors import BadRequest
from relay.events import FilePart
from relay.models import FilePiece, StoredFile, StoredResponse, UsageRecord
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio
PDF = ("report.pdf", b"%PDF-1.4 a report", "application/pdf")
SEEN = "Read this\n\nAttached: report.pdf (application/pdf)"


async def upload(sdk: openai.AsyncOpenAI, file: Any = PDF, **fields: Any) -> Any:
    return await sdk.files.create(file=file, purpose="user_data", **fields)


def rows() -> tuple[int, int]:
    return StoredFile.objects.count(), FilePiece.objects.count()


async def test_a_file_is_kept_listed_read_and_removed(api: Api, cast: Cast) -> None:
    sdk = api.openai(cast.bob.plain)
    content = os.urandom(2 * stored_files.PIECE_BYTES + 17)

    first = await upload(sdk)
    second = await upload(sdk, ("big.bin", content, "application/octet-stream"))

    assert (first.filename, first.bytes, first.purpose) == ("report.pdf", 17, "user_data")
    assert [each.id async for each in sdk.files.list()] == [second.id, first.id]
    assert [each.id async for each in sdk.files.list(order="asc", limit=1)] == [first.id, second.id]
    assert [each.id async for each in sdk.files.list(purpose="vision")] == []
    assert await sdk.files.retrieve(second.id) == second
    assert (await sdk.files.content(second.id)).read() == content
    assert await in_database(rows) == (2, 4)

    assert (await sdk.files.delete(second.id)).deleted
    with pytest.raises(openai.NotFoundError) as gone:
        await sdk.files.retrieve(second.id)
    assert gone.value.code == "file_not_found"
    assert await in_database(rows) == (1, 1)


async def test_its_type_is_told_by_its_name_where_the_client_does_not(api: Api, cast: Cast) -> None:
    sdk = api.openai(cast.bob.plain)
    kept = await upload(sdk, ("dot.png", b"\x89PNG", "application/octet-stream"))

    answer = await sdk.files.content(kept.id)

    assert answer.response.headers["content-type"] == "image/png"
    # A page that somebody uploaded must not run as one of this site.
    assert answer.response.headers["content-disposition"].startswith("attachment")


async def test_it_is_used_by_its_id_in_chat_responses_messages_and_edits(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    sdk = api.openai(cast.bob.plain)
    id = (await upload(sdk)).id

    chat = await sdk.chat.completions.create(
        model="demo-echo",
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "Read this"}, {"type": "file", "file": {"file_id": id}}],
            }
        ],
    )
    response = await sdk.responses.create(
        model="demo-echo",
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Read this"},
                    {"type": "input_file", "file_id": id},
                ],
            }
        ],
    )
    message = await api.anthropic(cast.bob.plain).beta.messages.create(
        model="demo-echo",
        max_tokens=50,
        betas=["files-api-2025-04-14"],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Read this"},
                    {"type": "document", "source": {"type": "file", "file_id": id}},
                ],
            }
        ],
    )
    edit = await api.http.post(
        "/v1/images/edits",
        json={"model": "demo-painter", "prompt": "at night", "images": [{"file_id": id}]},
        headers={"Authorization": f"Bearer {cast.bob.plain}"},
    )

    assert chat.choices[0].message.content == SEEN
    assert response.output_text == SEEN
    assert isinstance(message.content[0], anthropic.types.beta.BetaTextBlock)
    assert message.content[0].text == SEEN
    assert edit.status_code == 200
    assert api.relay.files.held == 0


async def test_it_is_read_once_however_often_it_is_named(api: Api, cast: Cast, demo: DemoPoe) -> None:
    sdk = api.openai(cast.bob.plain)
    id = (await upload(sdk)).id
    named: Any = {"type": "file", "file": {"file_id": id}}

    chat = await sdk.chat.completions.create(
        model="demo-echo", messages=[{"role": "user", "content": [named, named]}]
    )

    seen = "report.pdf (application/pdf)"
    assert chat.choices[0].message.content == f"Attached: {seen}, {seen}"


@pytest.mark.parametrize(
    "id", ["file-000000000000000000000000", "file-of-charlie", "../../etc", "file-\u00e9"]
)
async def test_an_id_that_is_not_ones_own_is_refused_and_costs_nothing(
    api: Api, cast: Cast, demo: DemoPoe, id: str
) -> None:
    if id == "file-of-charlie":
        id = (await upload(api.openai(cast.charlie.plain))).id
    sdk = api.openai(cast.bob.plain)

    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.chat.completions.create(
            model="demo-echo",
            messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": id}}]}],
        )

    assert refused.value.code in ("file_not_found", "invalid_file_id")
    assert not await in_database(UsageRecord.objects.exists)


async def test_nobody_else_sees_reads_or_removes_it(api: Api, cast: Cast) -> None:
    kept = await upload(api.openai(cast.bob.plain))
    other = api.openai(cast.charlie.plain)

    assert [each async for each in other.files.list()] == []
    for ask in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            await ask(kept.id)
    for method, path in (("GET", ""), ("POST", ""), ("GET", f"/{kept.id}"), ("DELETE", f"/{kept.id}")):
        assert (await api.http.request(method, f"/v1/files{path}")).status_code == 401
    assert await in_database(rows) == (1, 1)


async def test_what_is_kept_is_encrypted(api: Api, cast: Cast) -> None:
    await upload(api.openai(cast.bob.plain))

    def stored() -> bytes:
        return StoredFile.objects.get().name.encode() + bytes(FilePiece.objects.get().content)

    assert b"report" not in await in_database(stored)


async def test_it_expires_when_the_client_wants_and_is_cleared_up(api: Api, cast: Cast) -> None:
    sdk = api.openai(cast.bob.plain)
    kept = await upload(sdk, expires_after={"anchor": "created_at", "seconds": 3600})
    assert kept.expires_at == kept.created_at + 3600

    past = datetime.now(UTC) - timedelta(seconds=1)
    await in_database(StoredFile.objects.update, expires_at=past)
    with pytest.raises(openai.NotFoundError):
        await sdk.files.retrieve(kept.id)

    def clear_up() -> None:
        while stored_files.forget_expired():
            pass

    await in_database(clear_up)
    assert await in_database(rows) == (0, 0)


async def test_a_token_goes_at_once_and_what_was_kept_for_it_later(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    """In one transaction it could hold up the ledger for seconds."""
    sdk = api.openai(cast.bob.plain)
    await upload(sdk)
    await sdk.responses.create(model="demo-echo", input="Good morning")
    await upload(api.openai(cast.charlie.plain))

    def clear_up() -> None:
        while stored_files.forget_expired() or stored_responses.forget_expired():
            pass

    await in_database(cast.bob.token.delete)
    assert await in_database(rows) == (2, 2)
    await in_database(clear_up)

    assert await in_database(rows) == (1, 1)
    assert not await in_database(StoredResponse.objects.exists)


async def test_what_was_not_written_to_its_end_is_there_for_nobody(api: Api, cast: Cast) -> None:
    sdk = api.openai(cast.bob.plain)
    kept = await upload(sdk)
    await in_database(StoredFile.objects.update, is_whole=False)

    assert [each async for each in sdk.files.list()] == []
    with pytest.raises(openai.NotFoundError):
        await sdk.files.content(kept.id)


@pytest.mark.parametrize(
    ("fields", "files", "code"),
    [
        ({"purpose": "user_data"}, {}, "missing_required_parameter"),
        ({}, {"file": PDF}, "invalid_value"),
        ({"purpose": "batch"}, {"file": PDF}, "unsupported_by_poe"),
        ({"purpose": "user_data"}, {"file": ("empty.txt", b"", "text/plain")}, "empty_file"),
        ({"purpose": "user_data", "expires_after[seconds]": "60"}, {"file": PDF}, "invalid_value"),
        (
            {"purpose": "user_data", "expires_after[seconds]": "000003600" + "5" * 5000},
            {"file": PDF},
            "invalid_value",
        ),
        ({"purpose": "user_data", "expires_after[anchor]": "now"}, {"file": PDF}, "invalid_value"),
        ({"purpose": "user_data", "expires_after[seconds]": "3600" * 9}, {"file": PDF}, "invalid_value"),
        ({"purpose": ["user_data", "vision"]}, {"file": PDF}, "invalid_form"),
        ({"purpose": "user_data", "note": "a\x00b"}, {"file": PDF}, "invalid_string"),
        ({"purpose": "user_data", **{f"f{n}": "" for n in range(1001)}}, {"file": PDF}, "invalid_form"),
    ],
)
async def test_a_form_that_is_not_right_is_refused(
    api: Api, cast: Cast, fields: Any, files: Any, code: str
) -> None:
    answer = await api.http.post(
        "/v1/files",
        data=fields,
        files=files or {"other": PDF},
        headers={"Authorization": f"Bearer {cast.bob.plain}"},
    )

    assert answer.status_code == 400 and answer.json()["error"]["code"] == code
    assert await in_database(rows) == (0, 0)


@pytest.mark.parametrize("charset", ["base64", "utf-7", "latin-1"])
async def test_a_form_in_another_charset_is_refused(api: Api, cast: Cast, charset: str) -> None:
    answer = await api.http.post(
        "/v1/files",
        content=b'--X\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--X--\r\n',
        headers={
            "Authorization": f"Bearer {cast.bob.plain}",
            "Content-Type": f"multipart/form-data; boundary=X; charset={charset}",
        },
    )

    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_form"


@pytest.mark.parametrize("path", ["files/%00", "videos/x%00", "responses/resp_%00", "files?purpose=%00"])
async def test_an_address_with_nul_is_refused(api: Api, cast: Cast, path: str) -> None:
    answer = await api.http.get(f"/v1/{path}", headers={"Authorization": f"Bearer {cast.bob.plain}"})

    assert answer.status_code == 400 and answer.json()["error"]["message"]


async def test_one_that_is_removed_while_it_is_looked_up_is_not_found(api: Api, cast: Cast) -> None:
    sdk = api.openai(cast.bob.plain)
    kept = await upload(sdk)
    await in_database(FilePiece.objects.all().delete)

    with pytest.raises(openai.NotFoundError):
        await sdk.files.content(kept.id)


async def test_many_uploads_at_once_stay_within_the_share(api: Api, cast: Cast, config: Config) -> None:
    """Of several processes, as it were: each has a thread and a connection of its own."""
    small = config.files.model_copy(update={"token_mb": 1})
    others = [stored_files.StoredFiles(small, 0) for _ in range(4)]
    file = FilePart("x.txt", "text/plain", data=b"x" * 400_000)

    done = await asyncio.gather(
        *(each.keep(cast.bob.token.pk, file, "user_data") for each in others), return_exceptions=True
    )
    for each in others:
        await each.close()

    assert sum(isinstance(each, BadRequest) for each in done) == 2
    assert await in_database(rows) == (2, 2)


async def test_json_instead_of_a_form_is_refused(api: Api, cast: Cast) -> None:
    answer = await api.http.post(
        "/v1/files", json={"purpose": "user_data"}, headers={"Authorization": f"Bearer {cast.bob.plain}"}
    )

    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_form"


class TestWithLittleRoom:
    @pytest.fixture
    def config(self, config: Config) -> Config:
        files = config.files.model_copy(update={"token_mb": 0.001})
        return config.model_copy(update={"files": files})

    async def test_beyond_its_share_a_token_keeps_no_more(self, api: Api, cast: Cast) -> None:
        sdk = api.openai(cast.bob.plain)
        kept = await upload(sdk, ("some.txt", b"x" * 900, "text/plain"))

        with pytest.raises(openai.BadRequestError) as full:
            await upload(sdk, ("more.txt", b"x" * 200, "text/plain"))
        await upload(api.openai(cast.charlie.plain), ("more.txt", b"x" * 200, "text/plain"))
        await sdk.files.delete(kept.id)
        await upload(sdk, ("more.txt", b"x" * 200, "text/plain"))

        assert full.value.code == "storage_full"


class TestWithoutKeeping:
    @pytest.fixture
    def config(self, config: Config) -> Config:
        return config.model_copy(update={"files": config.files.model_copy(update={"keep_hours": 0})})

    async def test_an_upload_is_refused(self, api: Api, cast: Cast) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await upload(api.openai(cast.bob.plain))

        assert refused.value.code == "files_not_kept"


class TestWithLittleMemory:
    @pytest.fixture
    def config(self, config: Config) -> Config:
        server = config.server.model_copy(update={"body_memory_mb": 0.001})
        return config.model_copy(update={"server": server})

    async def test_too_many_files_at_once_are_refused_for_a_moment(
        self, api: Api, cast: Cast, demo: DemoPoe
    ) -> None:
        sdk = api.openai(cast.bob.plain)
        id = (await upload(sdk, ("some.txt", b"x" * 2000, "text/plain"))).id

        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.chat.completions.create(
                model="demo-echo",
                messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": id}}]}],
            )

        assert refused.value.status_code == 503
        assert refused.value.response.headers["retry-after"] == "2"
        assert not await in_database(UsageRecord.objects.exists)
