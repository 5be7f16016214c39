"""The demo Poe accounts: balance, history, catalogue and uploads, as a client of Poe sees them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastapi_poe
import httpx
import pytest
import pytest_asyncio
from fastapi_poe.client import AttachmentUploadError

from relay.demo.account import GRANT, Account, DemoKey, History, Lag, read_catalogue
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


def newest(account: Account) -> dict[str, Any]:
    return next(account.history.newest_first())


def numbered(account: Account, number: int) -> dict[str, Any]:
    return [*account.history.newest_first()][-number]


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
    row = newest(account)
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
    cursor = numbered(account, after)["query_id"] if after else None

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
        "demo-filmer",
        "demo-painter",
        "demo-replacer",
        "demo-speaker",
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

    paid = Decimal(newest(account)["cost_usd"])
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


# Several keys.

KEYS = [
    DemoKey("a" * 32, "one", "first"),
    DemoKey("b" * 32, "one", "second"),
    DemoKey("c" * 32, "two", "third"),
]


def server(**options: Any) -> list[Poe]:
    """The same server, as each key's owner asks it."""
    transport = httpx.ASGITransport(make(KEYS, public_url="http://demo", **options))
    return [Poe("http://demo", key.secret, httpx.AsyncClient(transport=transport)) for key in KEYS]


@pytest.mark.asyncio
async def test_two_keys_may_share_an_account() -> None:
    first, second, third = server()
    for poe, text in ((first, "one"), (second, "two two"), (third, "three three three")):
        assert (await poe.post("Demo-Echo", text)).status_code == 200

    told = [(await get(poe, "/usage/points_history"))["data"] for poe in (first, second, third)]
    balances = [
        (await get(poe, "/usage/current_balance"))["current_point_balance"] for poe in (first, second)
    ]

    assert told[0] == told[1]
    assert [row["api_key_name"] for row in told[0]] == ["second", "first"]
    assert [row["api_key_name"] for row in told[2]] == ["third"]
    assert balances[0] == balances[1] == GRANT - sum(row["cost_points"] for row in told[0])


@pytest.mark.asyncio
@pytest.mark.parametrize("bot", ["Demo-Echo", "Demo-Faulty", "Scripted"])
async def test_every_kind_of_bot_charges_whoever_asks(bot: str) -> None:
    _first, _second, third = server()
    script = {"bot": "Scripted", "events": [["text", {"text": "hi"}], ["done", {}]]}
    await third.session.post(f"{third.url}/demo/script", json=script, headers=third.bearer)

    await third.post(bot, "no-done if you can")

    [row] = (await get(third, "/usage/points_history"))["data"]
    assert (row["bot_name"], row["api_key_name"]) == (bot, "third")


@pytest.mark.asyncio
@pytest.mark.parametrize("bot", ["Demo-Echo", "Scripted"])
async def test_a_key_that_there_is_not_opens_no_door(bot: str) -> None:
    first, *_others = server()
    stranger = Poe(first.url, "d" * 32, first.session)

    assert (await stranger.post(bot, "hi")).status_code == 401
    assert (await get(first, "/usage/points_history"))["data"] == []


@pytest.mark.asyncio
async def test_the_history_may_run_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_others = server(lag=Lag(hidden_seconds=10, zero_seconds=20))
    began = time.time_ns()
    await first.post("Demo-Echo", "one")

    async def row_after(seconds: int) -> dict[str, Any] | None:
        monkeypatch.setattr("relay.demo.account.time.time_ns", lambda: began + seconds * 10**9)
        rows = (await get(first, "/usage/points_history"))["data"]
        return rows[0] if rows else None

    assert await row_after(9) is None
    early, late = await row_after(12), await row_after(32)
    assert early is not None and late is not None
    assert (early["cost_points"], early["cost_breakdown_in_points"]) == (0, None)
    assert late["cost_points"] == 2
    assert early["query_id"] == late["query_id"]


def test_a_long_history_is_read_at_once() -> None:
    account = Account()
    for number in range(25_000):
        account.charge("Demo-Echo", number, 1)
    cursor, seen, began = None, 0, time.process_time()

    while True:
        rows, has_more = account.page(100, cursor)
        seen += len(rows)
        cursor = rows[-1]["query_id"]
        if not has_more:
            break

    assert seen == 25_000
    assert time.process_time() - began < 1


def test_the_oldest_charges_are_forgotten() -> None:
    history = History(most=10)
    for number in range(25):
        history.add({"query_id": str(number)})

    left = [row["query_id"] for row in history.newest_first()]

    assert left == [str(number) for number in range(24, 24 - len(left), -1)]
    assert 9 <= len(left) <= 10
    assert next(history.newest_first("20"))["query_id"] == "19"
    with pytest.raises(LookupError):
        history.newest_first("3")


@pytest.mark.asyncio
async def test_a_catalogue_of_a_file_is_listed_too(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps({"object": "list", "data": [{"id": "GPT-4o", "pricing": None}]}))
    first, *_others = server(catalogue=read_catalogue(file))

    listed = (await first.session.get(f"{first.url}/v1/models")).json()["data"]

    assert {"id": "GPT-4o", "pricing": None} in listed
    assert "demo-echo" in {entry["id"] for entry in listed}
