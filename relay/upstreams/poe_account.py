"""Reads what Poe tells of an account: its balance, its points history and the catalogue of bots. Never asks a bot."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from relay.errors import UpstreamBroken, UpstreamUnauthorized, UpstreamUnknownBot

from . import poe_errors
from .fetching import Fetcher

# No date of ours is as many seconds, milliseconds or microseconds after 1970: larger ones are in the next smaller unit.
_UNITS = ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (math.inf, 10**9))
_TOKENS = re.compile(r"([\d,._\s']*\d)\s*tokens?\b", re.IGNORECASE)
_GRANTS = ("daily", "monthly")

JSONObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AccountKey:
    """Any key of the account; `api_url` may end in a slash, `proxy` is an address or empty."""

    secret: str = field(repr=False)
    api_url: str
    proxy: str = field(default="", repr=False)  # its address may hold a password


@dataclass(frozen=True, slots=True)
class Balance:
    """`grant_at` is when points are given next, and `grant_points` how many, where Poe says it."""

    points: int
    grant_at: datetime | None = None
    grant_points: int | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """A row of the points history. Poe may say 0 points for a while before it knows."""

    query_id: str
    at: datetime
    bot: str
    points: int
    usage_type: str
    api_key_name: str
    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class ChargePage:
    """Newest first."""

    charges: tuple[Charge, ...]
    has_more: bool


class PoeAccounts:
    """Over connections of its own. Whatever goes wrong is a RelayError."""

    def __init__(self, connect_seconds: float, total_seconds: float = 30) -> None:
        self._fetcher = Fetcher(connect_seconds, total_seconds)

    async def balance(self, key: AccountKey) -> Balance:
        return _balance(await self._read(key.api_url, "usage/current_balance", key.proxy, key.secret))

    async def charges(self, key: AccountKey, *, after: str | None = None, limit: int = 100) -> ChargePage:
        """Those that are older than the charge `after`, a query_id, or else the newest."""
        cursor = "" if after is None else f"&starting_after={quote(after, safe='')}"
        path = f"usage/points_history?limit={limit}{cursor}"
        return _page(await self._read(key.api_url, path, key.proxy, key.secret))

    async def catalogue(self, api_url: str, proxy: str = "") -> list[JSONObject]:
        """Poe tells it to anybody: no key is sent."""
        said = await self._read(api_url, "v1/models", proxy, None)
        return [entry for entry in _list(said, "data") if isinstance(entry, dict)]

    async def close(self) -> None:
        self._fetcher.close()

    async def _read(self, api_url: str, path: str, proxy: str, secret: str | None) -> JSONObject:
        login = "" if secret is None else f"Authorization: Bearer {_checked(secret)}\r\n"
        answer = await self._fetcher.fetch(f"{api_url.rstrip('/')}/", path, proxy=proxy, headers=login)
        if answer.status != 200:
            raise _refusal(answer.status, answer.headers, answer.body, secret or "")
        try:
            said = msgspec.json.decode(answer.body)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise UpstreamBroken("Poe answered with something that nobody can read")
        return said


def _checked(secret: str) -> str:
    if not (secret and secret.isascii() and secret.isprintable()):
        raise UpstreamUnauthorized("the Poe key holds characters that no key has")
    return secret


def _refusal(status: int, headers: Mapping[str, str], body: bytes, secret: str) -> Exception:
    error = poe_errors.from_status(status, headers, body[: poe_errors.MAX_ERROR_BODY], secret)
    if isinstance(error, UpstreamUnknownBot):  # no bot was asked for
        return UpstreamBroken("Poe has no such page at the configured address", retry_after=error.retry_after)
    return error


def _balance(said: JSONObject) -> Balance:
    points = _whole(said.get("current_point_balance"))
    if points is None:
        raise UpstreamBroken("Poe told no balance")
    grants = [
        (at, amount)
        for each in _GRANTS
        if (at := _moment(said.get(f"next_{each}_grant_time"))) is not None
        and (amount := _whole(said.get(f"next_{each}_grant_amount")))
    ]
    at, amount = min(grants, default=(None, None))
    return Balance(points, at, amount)


def _page(said: JSONObject) -> ChargePage:
    rows = (_charge(row) for row in _list(said, "data") if isinstance(row, dict))
    return ChargePage(tuple(row for row in rows if row is not None), said.get("has_more") is True)


def _charge(row: JSONObject) -> Charge | None:
    """None for a row that does not say which, when and of what."""
    query_id, bot = _text(row.get("query_id"), 200), _text(row.get("bot_name"), 200)
    at = _moment(row.get("creation_time"))
    if not query_id or not bot or at is None:
        return None
    breakdown = row.get("cost_breakdown_in_points")
    parts = breakdown if isinstance(breakdown, dict) else {}
    return Charge(
        query_id=query_id,
        at=at,
        bot=bot,
        points=_whole(row.get("cost_points")) or 0,
        usage_type=_text(row.get("usage_type"), 50),
        api_key_name=_text(row.get("api_key_name"), 100),
        input_tokens=_tokens(parts.get("Input")),
        output_tokens=_tokens(parts.get("Output")),
    )


def _tokens(said: object) -> int | None:
    """Of words such as "1,433 points (3,581 tokens)"."""
    found = _TOKENS.search(said) if isinstance(said, str) else None
    digits = re.sub(r"\D", "", found[1]) if found else ""
    return int(digits) if 0 < len(digits) <= 18 else None


def _whole(said: object) -> int | None:
    """A number, or one that is written as text; cut to whole points."""
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        number = int(said)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1 << 63 else None


def _moment(said: object) -> datetime | None:
    """Poe writes microseconds since 1970; seconds and milliseconds are known by their size."""
    number = _whole(said)
    if number is None or number <= 0:
        return None
    unit = next(unit for limit, unit in _UNITS if number < limit)
    try:
        return datetime.fromtimestamp(number // unit, UTC).replace(
            microsecond=number % unit * 1_000_000 // unit
        )
    except (OverflowError, ValueError, OSError):
        return None


def _text(said: object, most: int) -> str:
    return said.replace("\0", "")[:most] if isinstance(said, str) else ""


def _list(said: JSONObject, name: str) -> list[Any]:
    found = said.get(name)
    if not isinstance(found, list):
        raise UpstreamBroken("Poe answered with something that nobody can read")
    return found
