"""The parameters that demo bots take from the last message, and how the catalogue lists them."""

from __future__ import annotations

import math
from typing import Any

MOST_SECONDS = 60
MOST_REPEATS = 10_000

DELAY: dict[str, Any] = {
    "name": "delay",
    "schema": {"type": "number", "minimum": 0, "maximum": MOST_SECONDS},
    "default_value": None,
    "description": "Seconds between two events.",
}
REPEAT: dict[str, Any] = {
    "name": "repeat",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_REPEATS},
    "default_value": 1,
    "description": "How often the answer is said.",
}


def number(parameters: object, name: str, default: float, *, least: float = 0, most: float) -> float:
    """The named number, kept in its bounds; the default when it is missing or no number."""
    value = parameters.get(name) if isinstance(parameters, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return default
    return min(max(value, least), most)


def delay(parameters: object, default: float, *, least: float = 0) -> float:
    return number(parameters, "delay", default, least=least, most=MOST_SECONDS)
