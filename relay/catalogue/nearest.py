"""Which living bot comes nearest to one that is gone, by name: vendor first, then its kind, then its version."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

# Farther than this is another bot, not a successor.
FARTHEST = 5.0
ANOTHER_KIND, ANOTHER_MEDIUM, ANOTHER_MAJOR = 2.0, 4.0, 1.0
ANOTHER_HOST, ANOTHER_SPELLING, NO_SIZE = 0.3, 1.5, 0.5
SIZE_WEIGHT, MOST_FOR_SIZE = 0.4, 2.0

# What a name says of who runs the bot, or when it was made: nearly nothing.
HOSTS = frozenset(
    [
        "t",
        "n",
        "el",
        "di",
        "osl",
        "cs",
        "ds",
        "e",
        "fw",
        "tog",
        "togetherai",
        "alibaba",
        "xiaomi",
        "latest",
        "preview",
        "exp",
        "beta",
        "instruct",
        "test",
    ]
)
MEDIA = frozenset(
    [
        "image",
        "img",
        "imagine",
        "imgn",
        "video",
        "audio",
        "tts",
        "speech",
        "music",
        "voice",
        "vision",
        "search",
        "research",
        "embedding",
    ]
)
NOISE = frozenset({"v"})
# Names that no letters lead from to what took their place.
RENAMED = (
    (re.compile(r"(chat)?gpt-?(3\.5.*|16k|4k|instruct)?"), "gpt-mini"),
    (re.compile(r"chatgpt-(.*)"), r"gpt-\1"),
    (re.compile(r"claude-instant.*"), "claude-haiku"),
    (re.compile(r"dall-?e.*"), "gpt-image"),
)
_PIECE = re.compile(r"(\d+(?:\.\d+)?)([bt])(?![a-z0-9])|(\d+(?:\.\d+)*)|([^\W\d_]+)")


@dataclass(frozen=True, slots=True)
class _Name:
    handle: str
    vendor: str
    words: frozenset[str]
    version: tuple[int, ...] = ()
    # In billions of parameters.
    size: float = 0.0
    dates: frozenset[str] = field(default_factory=frozenset)


def nearest(handle: str, living: Iterable[str]) -> str:
    """The handle of the nearest, or an empty text. Case does not matter."""
    gone = _read(_renamed(handle.casefold()))
    near = []
    for other in living:
        name = _read(other.casefold())
        distance = _distance(gone, name)
        if distance <= FARTHEST and other.casefold() != handle.casefold():
            newest = tuple(-part for part in name.version) + (0,) * (4 - len(name.version))
            near.append((round(distance, 6), newest, len(other), other.casefold(), other))
    return min(near)[-1] if near else ""


def _renamed(key: str) -> str:
    for old, new in RENAMED:
        if old.fullmatch(key):
            return old.sub(new, key, count=1)
    return key


@lru_cache(maxsize=2048)
def _read(key: str) -> _Name:
    words: list[str] = []
    version: tuple[int, ...] = ()
    size, dates = 0.0, []
    for found in _PIECE.finditer(key):
        amount, unit, number, word = found.groups()
        if amount:
            size = size or float(amount) * (1000 if unit == "t" else 1)
        elif number and len(number) >= 4 and "." not in number:
            dates.append(number)
        elif number:
            # The first is the version; "claude-3-5" says it in two.
            version += tuple(int(part) for part in number.split("."))[: 4 - len(version)]
        elif word not in NOISE:
            words.append(word)
    vendor = words[0] if words else ""
    return _Name(key, vendor, frozenset(words[1:]), version, size, frozenset(dates))


def _distance(gone: _Name, other: _Name) -> float:
    distance = _between_vendors(gone.vendor, other.vendor)
    if distance > FARTHEST:
        return distance
    for word in gone.words ^ other.words:
        distance += ANOTHER_HOST if word in HOSTS else ANOTHER_MEDIUM if word in MEDIA else ANOTHER_KIND
    if gone.dates != other.dates:
        distance += ANOTHER_HOST
    if gone.size and other.size:
        distance += min(MOST_FOR_SIZE, abs(math.log2(gone.size / other.size)) * SIZE_WEIGHT)
    elif gone.size or other.size:
        distance += NO_SIZE
    if gone.version and other.version and gone.version[0] != other.version[0]:
        distance += ANOTHER_MAJOR
    return distance


def _between_vendors(one: str, other: str) -> float:
    if one == other and one:
        return 0.0
    shorter, longer = sorted((one, other), key=len)
    # "stablediffusionxl" and "stablediffusion" are of one house.
    return ANOTHER_SPELLING if len(shorter) >= 8 and longer.startswith(shorter) else math.inf
