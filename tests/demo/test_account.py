"""The demo Poe account: balance, history, catalogue and uploads, as a client of Poe sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import fastapi_poe
import httpx
import pytest
import pytest_asyncio
from fastapi_poe.client import AttachmentUploadError

from relay.demo.account import GRANT, Account
from relay.demo.app import make
from relay.demo.files import Files, StoredFile, parse_form
from tests.demo.asking import Poe

pytestmark = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecatedSince20"
)  # fastapi-poe's own

KEY = "k" * 32
UPLOAD = "/poe_api/file_upload_3RD_PARTY_POST"


@pytest.fixture
def transport() -> httpx.ASGITransport:
    """A server of its own, so that nobody else's charges come between."""
    return httpx.ASGITransport(make(KEY, public_url="http://demo"))


@pytest_asyncio.fixture
async def poe(transport: httpx.ASGITransport) -> AsyncIterator[Poe]:
    async with httpx.AsyncClient(transport=transport) as session:
        yield Poe("http://demo", KEY, session)


async def upload(transport: httpx.ASGITransport, name: str, data: bytes, key: str) -> fastapi_poe.Attachment:
    return await fastapi_poe.upload_file(
        file=data,
        file_name=name,
        api_key=key,
        session=httpx.AsyncClient(transport=transport),  # upload_file closes it
        base_url="http://demo/poe_api/",
        num_tries=1,
        on_error=lambda exc, message: None,
    )


async def get(poe: Poe, path: str) -> Any:
    response = await poe.session.get(poe.url + path, headers=poe.bearer)
    assert response.status_code == 200
    return response.json()


def test_a_charge_lowers_the_balance_and_says_what_for() -> None:
    account = Account(balance=1000)

    points = account.charge("Demo-Echo", 21, 5, per_message=200)

    assert (points, account.balance) == (3 + 3 + 200, 794)
    row = account.history[0]
    assert row["cost_breakdown_in_points"] == {
        "Input": "3 points (21 tokens)",
        "Output": "3 points (5 tokens)",
        "Bot message": "200 points",
        "Total": "206 points",
    }
    assert (row["cost_points"], row["cost_usd"], row["usage_type"]) == (206, "0.00618", "API")


def test_an_account_that_runs_dry_gets_its_next_grant() -> None:
    account = Account(balance=2)

    account.charge("Demo-Echo", 10, 10)

    assert account.balance == 2 + GRANT - 6


@pytest.mark.parametrize(
    ("limit", "after", "numbers", "has_more"),
    [
        (3, None, [5, 4, 3], True),
        (3, 3, [2, 1], False),
        (2, 3, [2, 1], False),
        (1, 3, [2], True),
        (9, None, [5, 4, 3, 2, 1], False),
        (9, 1, [], False),
    ],
)
def test_the_history_goes_back_page_by_page(
    limit: int, after: int | None, numbers: list[int], has_more: bool
) -> None:
    account = Account()
    for number in range(1, 6):
        account.charge(f"bot {number}", 0, number)
    cursor = account.history[5 - after]["query_id"] if after else None

    rows, more = account.page(limit, cursor)

    assert [row["bot_name"] for row in rows] == [f"bot {number}" for number in numbers]
    assert more is has_more


@pytest.mark.asyncio
@pytest.mark.parametrize("bot", ["Demo-Echo", "Demo-Faulty", "Demo-Painter", "Scripted"])
async def test_every_answer_is_charged(poe: Poe, bot: str) -> None:
    script = {"bot": "Scripted", "events": [["text", {"text": "hi"}], ["done", {}]]}
    await poe.session.post(f"{poe.url}/demo/script", json=script, headers=poe.bearer)
    before = (await get(poe, "/usage/current_balance"))["current_point_balance"]

    await poe.post(bot.lower(), "no-done if you can")

    after = (await get(poe, "/usage/current_balance"))["current_point_balance"]
    row = (await get(poe, "/usage/points_history?limit=1"))["data"][0]
    assert row["bot_name"] == bot
    assert before - after == row["cost_points"] > 0
    assert row["creation_time"] > 10**15 and row["api_key_name"] == "demo"


@pytest.mark.asyncio
async def test_a_refusal_costs_nothing(poe: Poe) -> None:
    before = await get(poe, "/usage/current_balance")

    await poe.post("Demo-Faulty", "status-500")
    await poe.post("no-such-bot", "hi")

    assert await get(poe, "/usage/current_balance") == before


@pytest.mark.asyncio
async def test_the_history_is_told_over_http(poe: Poe) -> None:
    for text in ("one", "two two"):
        await poe.post("Demo-Echo", text)

    first = await get(poe, "/usage/points_history?limit=1")
    second = await get(poe, f"/usage/points_history?limit=1&starting_after={first['data'][0]['query_id']}")

    assert (first["has_more"], first["length"]) == (True, 1)
    inputs = [page["data"][0]["cost_breakdown_in_points"]["Input"] for page in (first, second)]
    assert inputs == ["1 points (2 tokens)", "1 points (1 tokens)"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "asked", ["limit=0", "limit=101", "limit=x", "limit=" + "9" * 5000, "starting_after=nobody"]
)
async def test_it_refuses_a_page_that_there_is_not(poe: Poe, asked: str) -> None:
    response = await poe.session.get(f"{poe.url}/usage/points_history?{asked}", headers=poe.bearer)

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/usage/current_balance", "/usage/points_history"])
@pytest.mark.parametrize("authorization", ["", KEY, "Bearer nobody"])
async def test_the_account_wants_the_key(poe: Poe, path: str, authorization: str) -> None:
    response = await poe.session.get(poe.url + path, headers={"Authorization": authorization})

    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"


@pytest.mark.asyncio
async def test_the_catalogue_lists_the_demo_bots_without_a_key(poe: Poe) -> None:
    listed = (await poe.session.get(f"{poe.url}/v1/models")).json()

    models = {model["id"]: model for model in listed["data"]}
    assert sorted(models) == [
        "demo-echo",
        "demo-faulty",
        "demo-painter",
        "demo-replacer",
        "demo-thinker",
        "demo-tools",
    ]
    assert models["demo-echo"]["architecture"]["modality"] == "text,image->text"
    assert [parameter["name"] for parameter in models["demo-echo"]["parameters"]] == ["delay", "repeat"]
    assert models["demo-painter"]["pricing"]["request"] == "0.00600"
    assert models["demo-thinker"]["reasoning"]["required"] is True
    assert models["demo-tools"]["supported_features"] == ["tools"]
    assert {model["context_window"]["context_length"] for model in models.values()} == {128_000}


@pytest.mark.asyncio
async def test_the_prices_of_the_catalogue_are_those_that_are_charged(poe: Poe) -> None:
    pricing = (await poe.session.get(f"{poe.url}/v1/models")).json()["data"][0]["pricing"]
    account = Account()

    account.charge("Demo-Echo", 1000, 500)

    paid = Decimal(account.history[0]["cost_usd"])
    assert paid == 1000 * Decimal(pricing["prompt"]) + 500 * Decimal(pricing["completion"])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "data", "content_type"),
    [
        ("naïve 你.png", b"\x89PNG\r\n--not a boundary\r\n\r\n\x00\xff", "image/png"),
        ("notes.txt", b"", "text/plain"),
        ("blob", bytes(range(256)) * 1000 + b"\r\n", "application/octet-stream"),
    ],
)
async def test_what_fastapi_poe_uploads_is_served_again(
    poe: Poe, transport: httpx.ASGITransport, name: str, data: bytes, content_type: str
) -> None:
    attachment = await upload(transport, name, data, KEY)

    assert (attachment.name, attachment.content_type) == (name, content_type)
    served = await poe.session.get(attachment.url)
    assert served.content == data
    assert served.headers["content-type"].partition(";")[0] == content_type


@pytest.mark.asyncio
async def test_a_url_is_handed_back_and_not_fetched(poe: Poe) -> None:
    form = {"download_url": "https://example.org/cat?x=1", "download_filename": "cat.jpg"}

    response = await poe.session.post(poe.url + UPLOAD, data=form, headers={"Authorization": KEY})

    assert response.json() == {"attachment_url": "https://example.org/cat?x=1", "mime_type": "image/jpeg"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"data": {"download_url": "file:///etc/passwd"}}, 400),
        ({"data": {"other": "field"}}, 400),
        ({"json": {"file": "x"}}, 400),
        ({"files": {"wrong": ("a.txt", b"x")}}, 400),
        ({"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400),
        ({"files": {"file": ("a.txt", b"x")}, "headers": {"Authorization": f"Bearer {KEY}"}}, 401),
        ({"files": {"file": ("a.txt", b"x")}, "headers": {"Authorization": ""}}, 401),
    ],
)
async def test_it_refuses_an_upload_that_it_cannot_read(poe: Poe, sent: dict[str, Any], status: int) -> None:
    sent = {**sent, "headers": {"Authorization": KEY, **sent.get("headers", {})}}

    assert (await poe.session.post(poe.url + UPLOAD, **sent)).status_code == status


@pytest.mark.asyncio
async def test_fastapi_poe_sees_that_its_key_was_refused(transport: httpx.ASGITransport) -> None:
    with pytest.raises(AttachmentUploadError, match="401"):
        await upload(transport, "a.txt", b"x", "x" * 32)


@pytest.mark.asyncio
async def test_there_is_no_file_of_that_name(poe: Poe) -> None:
    assert (await poe.session.get(f"{poe.url}/files/nothing/cat.png")).status_code == 404


def test_the_oldest_files_are_dropped_first() -> None:
    files = Files("http://demo", limit=10)
    urls = [files.keep(StoredFile(f"{number}", "text/plain", b"1234")) for number in range(3)]

    kept = [files.find(url.split("/")[4]) for url in urls]

    assert [file and file.name for file in kept] == [None, "1", "2"]
    with pytest.raises(ValueError, match="larger"):
        files.keep(StoredFile("big", "text/plain", b"x" * 11))


def test_a_file_name_never_carries_a_path() -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="C:\\\\dir/../cat.png"\r\n\r\nx\r\n--b--\r\n'

    assert parse_form("multipart/form-data; boundary=b", body)["file"] == StoredFile(
        "cat.png", "image/png", b"x"
    )
