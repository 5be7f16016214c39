"""OpenAI's old billing pages, which apps still ask to show what is left: a budget in Poe points, told in US dollars.

Poe sells a million points for 30 dollars; by that rate, and no other, points are told as dollars here.
"""

from __future__ import annotations

from typing import Any

NAME = "openai-billing"
DOLLARS_PER_POINT = 30 / 1_000_000
# What apps are told where there is no limit; other relays tell the same, and apps know it as such.
UNLIMITED_DOLLARS = 100_000_000.0


def dollars(points: int) -> float:
    return round(points * DOLLARS_PER_POINT, 6)


def subscription(limit: int | None, ends: int) -> dict[str, Any]:
    """`ends` is when the budget is there again, in seconds since 1970."""
    total = UNLIMITED_DOLLARS if limit is None else dollars(limit)
    return {
        "object": "billing_subscription",
        "has_payment_method": True,
        "soft_limit_usd": total,
        "hard_limit_usd": total,
        "system_hard_limit_usd": total,
        "access_until": ends,
    }


def usage(used: int) -> dict[str, Any]:
    """In cents."""
    return {"object": "list", "total_usage": round(used * DOLLARS_PER_POINT * 100, 4)}


def credit_grants(limit: int | None, used: int) -> dict[str, Any]:
    granted = UNLIMITED_DOLLARS if limit is None else dollars(limit)
    return {
        "object": "credit_summary",
        "total_granted": granted,
        "total_used": dollars(used),
        "total_available": max(0.0, round(granted - dollars(used), 6)),
        "grants": {"object": "list", "data": []},
    }
