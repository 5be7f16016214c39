"""OpenAI's lists, a page at a time."""

from __future__ import annotations

from typing import Any

from relay.errors import BadRequest


def check_limit(limit: int, most: int) -> None:
    """Of how many are wanted, or BadRequest."""
    if not 1 <= limit <= most:
        raise BadRequest(f"`limit` must be from 1 to {most}.", param="limit")


def listing(data: list[dict[str, Any]], *, has_more: bool, nothing: str | None = None) -> dict[str, Any]:
    """`nothing` is what stands for an id where the page is empty."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else nothing,
        "last_id": data[-1]["id"] if data else nothing,
        "has_more": has_more,
    }
