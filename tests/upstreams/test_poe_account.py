"""The account client against scripted servers: what it asks, what it understands, and what it makes of failures."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from relay.errors import (
    RelayError,
    UpstreamBroken,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnreachable,
)
from relay.upstreams import fetching
from relay.upstreams.poe_account import AccountKey, Balance, ChargePage, PoeAccounts

from . import scripted
from .scripted import SECRET, Request, Script, Upstream, chunk, finish, start

pytestmark = pytest.mark.asyncio
NOON = datetime(2026, 10, 22, 12, 0, 0, 250_000, tzinfo=UTC)
NOON_US = 1_792_670_400_250_000
ROW = {
    "bot_name": "GPT-4o",
    "creation_time": NOON_US,
    "query_id": "q1",
    "cost_points": 1475,
    "cost_usd": "0.04",
    "cost_breakdown_in_points": {
        "Input": "1433 points (3581 tokens)",
        "Output": "42 points (21 tokens)",
        "Cache write": "0 points (9 tokens)",
        "Total": "1475 points",
    },
    "usage_type": "API",
    "chat_name": None,
    "api_key_name": "ours",
}


def saying(body: object, status: str = "200 OK", **headers: str) -> Script:
    """A plain answer with its length."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(_: Request, writer: asyncio.StreamWriter) -> None:
        lines = {"content_type": "application/json", "content_length": str(len(raw)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + raw)
        await writer.drain()

    return script


def key_of(upstream: Upstream, secret: str = SECRET, proxy: str = "") -> AccountKey:
    return AccountKey(secret, f"http://127.0.0.1:{upstream.port}", proxy)


Ask = Callable[[PoeAccounts, AccountKey], Awaitable[Any]]


async def ask(script: Script, what: Ask, *, seconds: float = 5) -> tuple[Any, Upstream]:
    accounts = PoeAccounts(5, seconds)
    async with scripted.upstream(script) as upstream:
        try:
            return await what(accounts, key_of(upstream)), upstream
        finally:
            await accounts.close()


async def balance(accounts: PoeAccounts, key: AccountKey) -> Balance:
    return await accounts.balance(key)


async def charges(accounts: PoeAccounts, key: AccountKey) -> ChargePage:
    return await accounts.charges(key)


async def page_of(*rows: object, **rest: object) -> ChargePage:
    found = (await ask(saying({"data": list(rows), **rest}), charges))[0]
    assert isinstance(found, ChargePage)
    return found


# What it asks.


async def test_it_sends_the_key_to_the_account_pages_and_to_no_other() -> None:
    async def all_three(accounts: PoeAccounts, key: AccountKey) -> None:
        await accounts.charges(key, after="a b/?&", limit=7)
        await accounts.catalogue(key.api_url)

    _, upstream = await ask(saying({"data": []}), all_three)

    assert [(request.method, request.target) for request in upstream.requests] == [
        ("GET", "/usage/points_history?limit=7&starting_after=a%20b%2F%3F%26"),
        ("GET", "/v1/models"),
    ]
    assert [request.headers.get("authorization") for request in upstream.requests] == [
        f"Bearer {SECRET}",
        None,
    ]
    assert upstream.connections == 1


async def test_it_asks_again_over_a_new_connection_when_a_kept_one_was_closed() -> None:
    async def closing_the_first(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(upstreams[0].requests) == 2:
            writer.close()
            return
        await saying({"current_point_balance": 5})(request, writer)

    upstreams: list[Upstream] = []
    accounts = PoeAccounts(5)
    async with scripted.upstream(closing_the_first) as upstream:
        upstreams.append(upstream)
        found = [await accounts.balance(key_of(upstream)) for _ in range(2)]
        await accounts.close()

    assert found == [Balance(5), Balance(5)]
    assert (len(upstream.requests), upstream.connections) == (3, 2)


async def test_it_goes_by_the_outbound_proxy() -> None:
    accounts = PoeAccounts(5)
    async with (
        scripted.upstream(saying({"current_point_balance": 5})) as upstream,
        scripted.http_proxy() as proxy,
    ):
        found = await accounts.balance(key_of(upstream, proxy=f"http://127.0.0.1:{proxy.port}"))
        await accounts.close()

    assert found.points == 5
    assert proxy.asked == [f"http://127.0.0.1:{upstream.port}/usage/current_balance"]


@pytest.mark.parametrize("secret", ["", "a\r\nX-Evil: 1", "ключ"])
async def test_it_sends_no_key_that_cannot_be_one(secret: str) -> None:
    accounts = PoeAccounts(5)
    async with scripted.upstream(saying({})) as upstream:
        with pytest.raises(UpstreamUnauthorized):
            await accounts.balance(key_of(upstream, secret))
        await accounts.close()

    assert upstream.requests == []


# What it understands.


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"current_point_balance": 0}, Balance(0)),
        ({"current_point_balance": -3, "auto_recharge": {"x": [1]}, "new_field": None}, Balance(-3)),
        ({"current_point_balance": "1200"}, Balance(1200)),
        ({"current_point_balance": 1200.9}, Balance(1200)),
        (
            {
                "current_point_balance": 7,
                "next_daily_grant_time": NOON_US - 86_400_000_000,
                "next_daily_grant_amount": 0,
                "next_monthly_grant_time": NOON_US,
                "next_monthly_grant_amount": 1_000_000,
            },
            Balance(7, NOON, 1_000_000),
        ),
        (
            {
                "current_point_balance": 7,
                "next_daily_grant_time": NOON_US,
                "next_daily_grant_amount": 3000,
                "next_monthly_grant_time": NOON_US + 1,
                "next_monthly_grant_amount": 1_000_000,
            },
            Balance(7, NOON, 3000),
        ),
        ({"current_point_balance": 7, "next_monthly_grant_time": "soon"}, Balance(7)),
    ],
)
async def test_it_reads_a_balance(said: dict[str, Any], found: Balance) -> None:
    assert (await ask(saying(said), balance))[0] == found


async def test_it_reads_a_body_in_chunks() -> None:
    async def script(_: Request, writer: asyncio.StreamWriter) -> None:
        start(writer, content_type="application/json")
        for piece in (b'{"current_', b"point_balance", b'": 12}'):
            chunk(writer, piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        finish(writer)

    assert (await ask(script, balance))[0] == Balance(12)


async def test_it_reads_a_charge() -> None:
    page = await page_of(ROW, has_more=True, length=1)

    assert page.has_more
    (charge,) = page.charges
    assert (charge.query_id, charge.at, charge.bot, charge.points) == ("q1", NOON, "GPT-4o", 1475)
    assert (charge.usage_type, charge.api_key_name) == ("API", "ours")
    assert (charge.input_tokens, charge.output_tokens) == (3581, 21)


@pytest.mark.parametrize(
    "at",
    [NOON_US, NOON_US // 1000, NOON_US * 1000, str(NOON_US), float(NOON_US)],
    ids=["microseconds", "milliseconds", "nanoseconds", "text", "float"],
)
async def test_it_knows_the_unit_of_a_moment_by_its_size(at: object) -> None:
    (charge,) = (await page_of({**ROW, "creation_time": at})).charges

    assert charge.at == NOON


async def test_it_knows_seconds() -> None:
    (charge,) = (await page_of({**ROW, "creation_time": NOON_US // 1_000_000})).charges

    assert charge.at == NOON.replace(microsecond=0)


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ("1,433 points (3,581 tokens)", 3581),
        ("1.433 points (3.581 tokens)", 3581),
        ("1 point (1 token)", 1),
        ("1 point (12 345 Tokens)", 12345),
        ("20 points", None),
        ("many points (many tokens)", None),
        ("9" * 40 + " tokens", None),
        (3581, None),
        (None, None),
    ],
)
async def test_it_reads_tokens_out_of_words(said: object, tokens: int | None) -> None:
    (charge,) = (await page_of({**ROW, "cost_breakdown_in_points": {"Input": said}})).charges

    assert (charge.input_tokens, charge.output_tokens) == (tokens, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_id": None},
        {"query_id": ""},
        {"bot_name": 3},
        {"creation_time": "yesterday"},
        {"creation_time": 0},
    ],
)
async def test_it_leaves_out_a_charge_that_says_too_little(changes: dict[str, Any]) -> None:
    page = await page_of({**ROW, **changes}, "no row", None, {**ROW, "query_id": "q2"})

    assert [charge.query_id for charge in page.charges] == ["q2"]


async def test_it_takes_a_charge_of_which_little_is_known() -> None:
    page = await page_of({"query_id": "q\0" + "1" * 300, "bot_name": "b", "creation_time": NOON_US})

    (charge,) = page.charges
    assert not page.has_more
    assert (charge.points, charge.usage_type, charge.api_key_name, charge.input_tokens) == (0, "", "", None)
    assert len(charge.query_id) == 200 and "\0" not in charge.query_id


async def test_it_reads_a_large_catalogue() -> None:
    async def catalogue(accounts: PoeAccounts, key: AccountKey) -> list[dict[str, Any]]:
        return await accounts.catalogue(key.api_url + "/")

    entries = [{"id": f"bot-{n}", "description": "x" * 4000} for n in range(500)]
    found, upstream = await ask(saying({"object": "list", "data": [*entries, "x"]}), catalogue)

    assert found == entries
    assert upstream.requests[0].target == "/v1/models"


# Failures.


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (saying({"error": {"message": "no"}}, "401 Unauthorized"), UpstreamUnauthorized),
        (saying({}, "429 Too Many Requests", retry_after="7"), UpstreamRateLimited),
        (saying(b"<html>", "502 Bad Gateway"), UpstreamFailed),
        (saying({}, "404 Not Found"), UpstreamBroken),
        (saying({}, "302 Found", location="http://127.0.0.1:1/"), UpstreamBroken),
        (saying(b"<html>"), UpstreamBroken),
        (saying(b"[" * 5000), UpstreamBroken),
        (saying([]), UpstreamBroken),
        (saying({"points": 3}), UpstreamBroken),
        (saying({"current_point_balance": True}), UpstreamBroken),
        (saying({"current_point_balance": None}), UpstreamBroken),
        (saying({"current_point_balance": 1}, content_encoding="gzip"), UpstreamBroken),
        (saying(b"x" * (fetching.MOST_BODY + 1)), UpstreamBroken),
    ],
)
async def test_it_says_what_went_wrong(script: Script, error: type[RelayError]) -> None:
    with pytest.raises(error) as raised:
        await ask(script, balance)

    assert SECRET not in str(raised.value) and "bot" not in raised.value.message
    if error is UpstreamRateLimited:
        assert raised.value.retry_after == 7


@pytest.mark.parametrize("said", [{}, {"data": None}, {"data": {"0": ROW}}])
async def test_a_history_without_rows_is_a_failure(said: object) -> None:
    with pytest.raises(UpstreamBroken):
        await ask(saying(said), charges)


@pytest.mark.parametrize("begins", [False, True])
async def test_it_does_not_wait_for_ever(begins: bool) -> None:
    async def silent(_: Request, writer: asyncio.StreamWriter) -> None:
        while begins:
            start(writer, content_type="application/json")
            chunk(writer, b" ")
            await writer.drain()
            await asyncio.sleep(0.02)
            break
        await asyncio.sleep(10)

    began = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        await ask(silent, balance, seconds=0.2)
    assert time.monotonic() - began < 2


async def test_nobody_there_is_unreachable() -> None:
    accounts = PoeAccounts(2)
    with pytest.raises(UpstreamUnreachable):
        await accounts.balance(AccountKey(SECRET, "http://127.0.0.1:1"))
    await accounts.close()


async def test_a_key_does_not_show_what_it_holds() -> None:
    key = AccountKey(SECRET, "https://api.poe.com", "http://me:word@proxy:1")

    assert SECRET not in repr(key) and "word" not in repr(key)
