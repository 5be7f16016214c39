"""The demo Poe account: its balance, its points history and the catalogue, shaped as Poe's. Knows no bot."""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.demo.refusals import is_bearer, refusal

GRANT = 1_000_000
WORDS_PER_INPUT_POINT = 10
WORDS_PER_OUTPUT_POINT = 2
USD_PER_POINT = Decimal("0.00003")
CREATED_MS = 1_767_225_600_000  # 2026-01-01


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


class Account:
    """Charges are counted in words, one word as one token, so that anybody can check them by hand."""

    def __init__(self, balance: int = GRANT) -> None:
        self.balance = balance
        # Poe tells 30 days; the demo server tells its last ten thousand charges.
        self.history: deque[dict[str, Any]] = deque(maxlen=10_000)

    def charge(self, handle: str, words_in: int, words_out: int, per_message: int = 0) -> int:
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
        self.history.appendleft(_history_row(handle, points, breakdown))
        if points > self.balance:  # a demo that has run dry would be of no use: the next grant comes at once
            self.balance += GRANT
        self.balance -= points
        return points

    def page(self, limit: int, starting_after: str | None) -> tuple[list[dict[str, Any]], bool]:
        """Up to `limit` rows, newest first, and whether there are more; LookupError for an unknown cursor."""
        start = 0
        if starting_after is not None:
            ids = [row["query_id"] for row in self.history]
            if starting_after not in ids:
                raise LookupError(starting_after)
            start = ids.index(starting_after) + 1
        rows = list(islice(self.history, start, start + limit + 1))
        return rows[:limit], len(rows) > limit


def _history_row(handle: str, points: int, breakdown: dict[str, str]) -> dict[str, Any]:
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
        "api_key_name": "demo",
    }


def routes(account: Account, listings: list[Listing], key: str) -> list[Route]:
    async def current_balance(request: Request) -> Response:
        if not is_bearer(request.headers.get("authorization"), key):
            return refusal(401, "Invalid API key")
        return JSONResponse(_balance(account.balance))

    async def points_history(request: Request) -> Response:
        if not is_bearer(request.headers.get("authorization"), key):
            return refusal(401, "Invalid API key")
        limit = request.query_params.get("limit", "20")
        if not limit.isdecimal() or len(limit) > 3 or not 1 <= int(limit) <= 100:
            return refusal(400, "limit must be a number from 1 to 100")
        try:
            rows, has_more = account.page(int(limit), request.query_params.get("starting_after"))
        except LookupError:
            return refusal(400, "starting_after names no query")
        return JSONResponse({"has_more": has_more, "length": len(rows), "data": rows})

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_entry(listing) for listing in listings]})

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
