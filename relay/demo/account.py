"""The demo Poe accounts: balance, points history and the catalogue, shaped as Poe's. Knows no bot."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.demo.refusals import find_bearer, refusal

GRANT = 1_000_000
WORDS_PER_INPUT_POINT = 10
WORDS_PER_OUTPUT_POINT = 2
USD_PER_POINT = Decimal("0.00003")
CREATED_MS = 1_767_225_600_000  # 2026-01-01
# Poe tells 30 days; the demo server tells its last so many charges.
MOST_CHARGES = 100_000


@dataclass(frozen=True, slots=True)
class DemoKey:
    """A key of the demo server: whose points it spends, and what it is called there. Two may share an account."""

    secret: str = field(repr=False)
    account: str = "demo"
    name: str = "demo"


@dataclass(frozen=True, slots=True)
class Lag:
    """How the history runs behind, as Poe's may: a charge is not told for so long, and then reads 0 for so long."""

    hidden_seconds: float = 0
    zero_seconds: float = 0


NO_LAG = Lag()


@dataclass(frozen=True, slots=True)
class Listing:
    """What the catalogue tells about a bot."""

    handle: str
    description: str
    inputs: tuple[str, ...] = ("text",)
    outputs: tuple[str, ...] = ("text",)
    features: tuple[str, ...] = ()
    reasons: bool = False
    points_per_message: int = 0
    parameters: tuple[dict[str, Any], ...] = ()


def count_words(text: str) -> int:
    return len(text.split())


class History:
    """Charges in the order in which they were made; any of them is found at once."""

    def __init__(self, most: int = MOST_CHARGES) -> None:
        self._most = most
        self._rows: list[dict[str, Any]] = []
        # How many were dropped, and the number of each that is left, counted from the first one ever.
        self._dropped = 0
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: dict[str, Any]) -> None:
        self._numbers[row["query_id"]] = self._dropped + len(self._rows)
        self._rows.append(row)
        if len(self._rows) > self._most:
            self._drop(self._most // 10 or 1)

    def _drop(self, count: int) -> None:
        for row in self._rows[:count]:
            del self._numbers[row["query_id"]]
        del self._rows[:count]
        self._dropped += count

    def newest_first(self, before: str | None = None) -> Iterator[dict[str, Any]]:
        """LookupError if there is no charge of this number."""
        end = len(self._rows) if before is None else self._numbers[before] - self._dropped
        return (self._rows[index] for index in range(end - 1, -1, -1))


class Account:
    """Charges are counted in words, one word as one token, so that anybody can check them by hand."""

    def __init__(self, balance: int = GRANT, lag: Lag = NO_LAG) -> None:
        self.balance = balance
        self.history = History()
        self._lag = lag

    def charge(
        self, handle: str, words_in: int, words_out: int, per_message: int = 0, *, key_name: str = "demo"
    ) -> int:
        """Lower the balance, write the history, return the points."""
        points_in = math.ceil(words_in / WORDS_PER_INPUT_POINT)
        points_out = math.ceil(words_out / WORDS_PER_OUTPUT_POINT)
        points = points_in + points_out + per_message
        breakdown = {
            "Input": f"{points_in} points ({words_in} tokens)",
            "Output": f"{points_out} points ({words_out} tokens)",
        }
        if per_message:
            breakdown["Bot message"] = f"{per_message} points"
        breakdown["Total"] = f"{points} points"
        self.history.add(_history_row(handle, points, breakdown, key_name))
        if points > self.balance:  # a demo that has run dry would be of no use: the next grant comes at once
            self.balance += GRANT
        self.balance -= points
        return points

    def page(self, limit: int, starting_after: str | None) -> tuple[list[dict[str, Any]], bool]:
        """Up to `limit` rows, newest first, and whether there are more; LookupError for an unknown cursor."""
        now = time.time_ns() // 1000
        rows = []
        for row in self.history.newest_first(starting_after):
            told = _as_told(row, now, self._lag)
            if told is not None:
                rows.append(told)
            if len(rows) > limit:
                break
        return rows[:limit], len(rows) > limit


def _as_told(row: dict[str, Any], now: int, lag: Lag) -> dict[str, Any] | None:
    age = (now - row["creation_time"]) / 1_000_000
    if age < lag.hidden_seconds:
        return None
    if age < lag.hidden_seconds + lag.zero_seconds:
        return {**row, "cost_points": 0, "cost_usd": "0.00000", "cost_breakdown_in_points": None}
    return row


@dataclass(frozen=True, slots=True)
class Payer:
    """An account as one of its keys charges it."""

    account: Account
    key_name: str = "demo"

    def charge(self, handle: str, words_in: int, words_out: int, per_message: int = 0) -> int:
        return self.account.charge(handle, words_in, words_out, per_message, key_name=self.key_name)


# By the secret of each key.
Payers = Mapping[str, Payer]


def payers_of(keys: Iterable[DemoKey], lag: Lag = NO_LAG) -> dict[str, Payer]:
    accounts: dict[str, Account] = {}
    found = {}
    for key in keys:
        if len(key.secret) != 32:
            raise ValueError("a Poe key of the demo server has 32 characters")
        account = accounts.setdefault(key.account, Account(lag=lag))
        found[key.secret] = Payer(account, key.name)
    return found


def _history_row(handle: str, points: int, breakdown: dict[str, str], key_name: str) -> dict[str, Any]:
    return {
        "bot_name": handle,
        "creation_time": time.time_ns() // 1000,
        "query_id": secrets.token_hex(16),
        "cost_usd": f"{points * USD_PER_POINT:.5f}",
        "cost_points": points,
        "cost_breakdown_in_points": breakdown,
        "usage_type": "API",
        "chat_name": None,
        "canvas_tab_name": None,
        "api_key_name": key_name,
    }


def read_catalogue(path: Path) -> list[dict[str, Any]]:
    """The entries of a file of Poe's shape: {"data": [...]}."""
    entries = json.loads(path.read_text())["data"]
    if not isinstance(entries, list):
        raise ValueError(f"{path}: no list of models")
    return entries


def routes(payers: Payers, listings: list[Listing], more: Sequence[dict[str, Any]] = ()) -> list[Route]:
    """`more`: entries of the catalogue that are no bots of ours."""

    async def current_balance(request: Request) -> Response:
        secret = find_bearer(request.headers.get("authorization"), payers)
        if secret is None:
            return refusal(401, "Invalid API key")
        return JSONResponse(_balance(payers[secret].account.balance))

    async def points_history(request: Request) -> Response:
        secret = find_bearer(request.headers.get("authorization"), payers)
        if secret is None:
            return refusal(401, "Invalid API key")
        limit = request.query_params.get("limit", "20")
        if not limit.isdecimal() or len(limit) > 3 or not 1 <= int(limit) <= 100:
            return refusal(400, "limit must be a number from 1 to 100")
        try:
            account = payers[secret].account
            rows, has_more = account.page(int(limit), request.query_params.get("starting_after"))
        except LookupError:
            return refusal(400, "starting_after names no query")
        return JSONResponse({"has_more": has_more, "length": len(rows), "data": rows})

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [*map(_entry, listings), *more]})

    return [
        Route("/usage/current_balance", current_balance),
        Route("/usage/points_history", points_history),
        Route("/v1/models", models),
    ]


def _balance(points: int) -> dict[str, Any]:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    month = today.replace(day=1)
    next_month = (month + timedelta(days=32)).replace(day=1)
    return {
        "current_point_balance": points,
        "plan_points_balance": points,
        "addon_point_balance": 0,
        "plan_balance_usd": _usd(points),
        "addon_balance_usd": _usd(0),
        "total_balance_usd": _usd(points),
        "points_cycle_start_time": _microseconds(month),
        "next_daily_grant_time": _microseconds(today + timedelta(days=1)),
        "next_daily_grant_amount": 0,
        "next_monthly_grant_time": _microseconds(next_month),
        "next_monthly_grant_amount": GRANT,
        "auto_recharge": None,
    }


def _usd(points: int) -> str:
    return f"{points * USD_PER_POINT:.2f}"


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


def _entry(listing: Listing) -> dict[str, Any]:
    return {
        "id": listing.handle.lower(),
        "object": "model",
        "created": CREATED_MS,
        "description": listing.description,
        "owned_by": "poe-relay",
        "root": listing.handle.lower(),
        "architecture": {
            "input_modalities": list(listing.inputs),
            "output_modalities": list(listing.outputs),
            "modality": f"{','.join(listing.inputs)}->{','.join(listing.outputs)}",
        },
        "pricing": _pricing(listing.points_per_message),
        "context_window": {"context_length": 128_000, "max_output_tokens": 8_192},
        "context_length": 128_000,
        "metadata": {
            "display_name": listing.handle,
            "image": None,
            "url": f"https://poe.com/{listing.handle}",
        },
        "reasoning": {"budget": None, "required": True, "supports_reasoning_effort": False}
        if listing.reasons
        else None,
        "parameters": list(listing.parameters),
        "supported_endpoints": [],
        "supported_features": list(listing.features),
    }


def _pricing(points_per_message: int) -> dict[str, str | None]:
    request = f"{points_per_message * USD_PER_POINT:f}" if points_per_message else None
    return {
        "prompt": f"{USD_PER_POINT / WORDS_PER_INPUT_POINT:f}",
        "completion": f"{USD_PER_POINT / WORDS_PER_OUTPUT_POINT:f}",
        "image": None,
        "request": request,
        "input_cache_read": None,
        "input_cache_write": None,
    }
