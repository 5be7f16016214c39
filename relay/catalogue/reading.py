"""An entry of Poe's `/v1/models` as values of ours. What is missing or odd in it is left out, and never fails a sync."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

LONGEST_NAME = 200
LONGEST_TEXT = 4_000
LONGEST_WORD = 50
MOST_WORDS = 50
MOST_PARAMETERS = 100
# As JSON: what a bot's whole schema may take in the database and in the directory's memory.
LONGEST_PARAMETER = 20_000
MOST_NUMBER = 2**53
# The columns hold ten digits before the point and four after it.
MOST_POINTS = Decimal(10) ** 10
STEP = Decimal("0.0001")

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Listed:
    """Prices in points; None where Poe names none."""

    handle: str
    display_name: str
    description: str
    owner: str
    input_modalities: list[str]
    output_modalities: list[str]
    features: list[str]
    parameters: list[dict[str, Any]]
    context_length: int | None
    max_output_tokens: int | None
    points_per_request: Decimal | None
    points_per_1000_input_tokens: Decimal | None
    points_per_1000_output_tokens: Decimal | None
    points_per_image: Decimal | None

    @property
    def key(self) -> str:
        return self.handle.casefold()


@dataclass(frozen=True, slots=True)
class Reading:
    """The bots of a list, each once, and how many of its entries nobody could read."""

    bots: tuple[Listed, ...]
    skipped: int


def read(entries: Iterable[Any], points_per_usd: float) -> Reading:
    rate = Decimal(str(points_per_usd))
    bots: dict[str, Listed] = {}
    skipped = 0
    for entry in entries:
        bot = _listed(entry, rate)
        if bot is None:
            skipped += 1
        else:
            bots.setdefault(bot.key, bot)
    return Reading(tuple(bots.values()), skipped)


def _listed(entry: Any, rate: Decimal) -> Listed | None:
    """None for one without a name that a bot can have."""
    if not isinstance(entry, dict):
        return None
    metadata, architecture, pricing, window = (
        _object(entry.get(name)) for name in ("metadata", "architecture", "pricing", "context_window")
    )
    handle = _handle(entry.get("id"), metadata)
    if not handle:
        return None
    return Listed(
        handle=handle,
        display_name=_text(metadata.get("display_name"), LONGEST_NAME),
        description=_text(entry.get("description"), LONGEST_TEXT),
        owner=_text(entry.get("owned_by"), LONGEST_NAME),
        input_modalities=_words(architecture.get("input_modalities")),
        output_modalities=_words(architecture.get("output_modalities")),
        features=_words(entry.get("supported_features")),
        parameters=_parameters(entry.get("parameters")),
        context_length=_whole(window.get("context_length")) or _whole(entry.get("context_length")),
        max_output_tokens=_whole(window.get("max_output_tokens")),
        points_per_request=_points(pricing.get("request"), rate),
        points_per_1000_input_tokens=_points(pricing.get("prompt"), rate * 1000),
        points_per_1000_output_tokens=_points(pricing.get("completion"), rate * 1000),
        points_per_image=_points(pricing.get("image"), rate),
    )


def _object(said: Any) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


def _handle(said: Any, metadata: dict[str, Any]) -> str:
    """Ids are in small letters; the bot's address and its name tell how the handle is really written."""
    if not isinstance(said, str) or _CONTROL.search(said):
        return ""
    handle = said.strip()
    if not handle or len(handle) > LONGEST_NAME or "*" in handle:
        return ""
    url = metadata.get("url")
    spellings = (
        url.rstrip("/").rsplit("/", 1)[-1] if isinstance(url, str) else "",
        metadata.get("display_name"),
    )
    for spelling in spellings:
        if isinstance(spelling, str) and spelling.casefold() == handle.casefold():
            return spelling
    return handle


def _text(said: Any, most: int) -> str:
    return _UNSTORABLE.sub("", said)[:most].strip() if isinstance(said, str) else ""


def _words(said: Any) -> list[str]:
    found = (_text(word, LONGEST_WORD) for word in (said if isinstance(said, list) else ())[:MOST_WORDS])
    return list(dict.fromkeys(word for word in found if word))


def _whole(said: Any) -> int | None:
    """A number above zero, or one that is written as text."""
    if isinstance(said, str) and said.strip().isdecimal() and len(said) < 20:
        said = int(said)
    if isinstance(said, float) and said.is_integer():
        said = int(said)
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 < said < MOST_NUMBER else None


def _points(dollars: Any, rate: Decimal) -> Decimal | None:
    """A price such as "0.0000012" or "3.03E-7", in points and rounded up; None for what is no price."""
    if isinstance(dollars, bool) or not isinstance(dollars, str | int | float):
        return None
    try:
        price = Decimal(str(dollars).strip())
        if not price.is_finite() or price < 0 or price * rate >= MOST_POINTS:
            return None
        return (price * rate).quantize(STEP, ROUND_CEILING)
    except ArithmeticError:
        return None


def _parameters(said: Any) -> list[dict[str, Any]]:
    """With their schemas as Poe wrote them: relay.parameters reads what it knows of these."""
    found = []
    for entry in (said if isinstance(said, list) else ())[:MOST_PARAMETERS]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            continue
        name = entry["name"].strip()
        if not name or len(name) > LONGEST_NAME or _CONTROL.search(name):
            continue
        parameter = {
            "name": name,
            "schema": _object(entry.get("schema")),
            "default_value": entry.get("default_value"),
            "description": _text(entry.get("description"), LONGEST_TEXT),
        }
        if _is_storable(parameter):
            found.append(parameter)
    return found


def _is_storable(parameter: dict[str, Any]) -> bool:
    try:
        written = json.dumps(parameter, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return len(written) <= LONGEST_PARAMETER and not _UNSTORABLE.search(written) and r"\u0000" not in written
