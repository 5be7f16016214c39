"""What a client asks of a bot by name, held against what the bot declares in Poe's catalogue. Pure values, no I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import quote

from msgspec import structs

from relay.errors import BadRequest
from relay.events import ChatRequest

KINDS = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
MOST_CHOICES = 500
MOST_DEPTH = 4
# So much of a catalogue's choices, and of names that a client made up, is said back.
MOST_TOLD = 30
LONGEST_TOLD = 64
# A number that is written as text has no more characters.
LONGEST_NUMBER = 40

# Poe's bots have several names for OpenAI's fields, best first.
EFFORT = "reasoning_effort"
EFFORTS = (EFFORT, "effort", "thinking_effort", "output_effort", "thinking_level", "reasoning_level")
# The words that clients have for it, from the least on; and what a bot may think, in tokens, that takes only these.
EFFORT_TOKENS = {
    "none": 0,
    "minimal": 1_024,
    "low": 4_096,
    "medium": 10_240,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 64_000,
}
BUDGET = "thinking_budget"
MAX_TOKENS = "max_tokens"
LENGTHS = (MAX_TOKENS, "max_completion_tokens", "max_output_tokens")
SECONDS = "seconds"
DURATIONS = ("duration", "duration_seconds", "video_length", "length")
SIZE = "size"
ASPECTS = ("aspect_ratio", "aspect", "ratio")
ALIASES = {EFFORT: EFFORTS, MAX_TOKENS: LENGTHS, "max_completion_tokens": LENGTHS, SECONDS: DURATIONS}

_RATIO = re.compile(r"\s*(\d{1,5}(?:\.\d{1,5})?)\s*[x×:/*]\s*(\d{1,5}(?:\.\d{1,5})?)\s*", re.IGNORECASE)
_PLAIN = re.compile(r"[!-+\--~]{1,64}")


class Refused(ValueError):
    """The parameter does not take this value; the message says what it takes."""


class Declares(Protocol):
    @property
    def declared(self) -> tuple[Parameter, ...]: ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """One that a bot declares. No kinds: anything. No choices: any of its kinds."""

    name: str
    # The name as clients may spell it too: case and hyphens do not matter.
    key: str = ""
    kinds: tuple[str, ...] = ()
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    # What Poe takes when nothing is sent.
    default: Any = None
    description: str = ""

    def take(self, value: Any) -> Any:
        """The value as the bot wants it, or Refused. What is written as text counts as what it says."""
        if self.choices:
            return self._chosen(value)
        if not self.kinds:
            return value
        for read in (_exact, _written):
            for kind in self.kinds:
                found = read(kind, value)
                if found is not None and self._is_in_bounds(found):
                    return found
        raise Refused(self.allowed)

    def _chosen(self, value: Any) -> Any:
        for choice in self.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        if isinstance(value, str | int | float):
            said = text_of(value).strip().casefold()
            for choice in self.choices:
                if text_of(choice).casefold() == said:
                    return choice
        raise Refused(self.allowed)

    def _is_in_bounds(self, value: Any) -> bool:
        if isinstance(value, str):
            return (self.min_length is None or len(value) >= self.min_length) and (
                self.max_length is None or len(value) <= self.max_length
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    @property
    def allowed(self) -> str:
        """In words, to follow "must be"."""
        if self.choices:
            told = ", ".join(text_of(choice)[:LONGEST_TOLD] for choice in self.choices[:MOST_TOLD])
            return f"one of {told}{', ...' if len(self.choices) > MOST_TOLD else ''}"
        return " or ".join(self._words(kind) for kind in self.kinds if kind != "null") or "null"

    def _words(self, kind: str) -> str:
        match kind:
            case "boolean":
                return "true or false"
            case "integer" | "number":
                return f"a {'whole ' if kind == 'integer' else ''}number{self._bounds()}"
            case "string":
                return f"text{self._lengths()}"
            case "array":
                return "a list"
            case _:
                return "an object"

    def _bounds(self) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f" from {self.minimum:.15g} to {self.maximum:.15g}"
        bounds = (
            ("of at least", self.minimum),
            ("above", self.above),
            ("at most", self.maximum),
            ("below", self.below),
        )
        told = [f"{words} {bound:.15g}" for words, bound in bounds if bound is not None]
        return f" {' and '.join(told)}" if told else ""

    def _lengths(self) -> str:
        told = []
        if self.min_length:
            told.append(f"at least {self.min_length}")
        if self.max_length is not None:
            told.append(f"at most {self.max_length}")
        return f" of {' and '.join(told)} characters" if told else ""


def text_of(value: Any) -> str:
    """As JSON writes it, text without its quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _exact(kind: str, value: Any) -> Any:
    """The value if it is of this kind, else None."""
    if isinstance(value, bool):
        return value if kind == "boolean" else None
    match kind:
        case "string":
            fits = isinstance(value, str)
        case "number":
            fits = isinstance(value, int | float)
        case "integer":
            return int(value) if isinstance(value, int) or _is_whole(value) else None
        case "array":
            fits = isinstance(value, list)
        case "object":
            fits = isinstance(value, dict)
        case _:
            fits = False
    return value if fits else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _written(kind: str, value: Any) -> Any:
    """What a text says in this kind, else None: clients that have only text fields send "true" and "5"."""
    if not isinstance(value, str):
        return None
    said = value.strip()
    if kind == "boolean":
        return {"true": True, "false": False}.get(said.casefold())
    if kind not in ("integer", "number") or len(said) > LONGEST_NUMBER or not said.isascii() or "_" in said:
        return None
    try:
        number = float(said)
    except ValueError:
        return None
    if not math.isfinite(number) or (kind == "integer" and not number.is_integer()):
        return None
    return int(said) if said.lstrip("+-").isdecimal() else int(number) if kind == "integer" else number


# Reading a schema: the part of JSON Schema that says what a single value may be. What is not known of it allows.


def declared(entries: Any) -> tuple[Parameter, ...]:
    """The parameters in a list such as the catalogue has; what cannot be read is left out."""
    if not isinstance(entries, list):
        return ()
    found = (_parameter(entry) for entry in entries)
    return tuple({each.name: each for each in found if each is not None}.values())


def _parameter(entry: Any) -> Parameter | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        return None
    description = entry.get("description")
    schema = entry.get("schema")
    return replace(
        _read(schema if isinstance(schema, dict) else {}, MOST_DEPTH),
        name=entry["name"],
        key=_folded(entry["name"]),
        default=entry.get("default_value"),
        description=description if isinstance(description, str) else "",
    )


def _read(schema: Mapping[str, Any], depth: int) -> Parameter:
    branches = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(branches, list) and depth:
        read = [_read(branch, depth - 1) for branch in branches if isinstance(branch, dict)]
        return _either([each for each in read if each.kinds != ("null",)])
    said = schema.get("type")
    kinds = tuple(
        kind
        for kind in (said if isinstance(said, list) else [said])
        if isinstance(kind, str) and kind in KINDS
    )
    minimum, maximum = _number(schema.get("minimum")), _number(schema.get("maximum"))
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    # OpenAPI 3.0 writes `true` there, about the bound beside it.
    return Parameter(
        name="",
        kinds=kinds,
        choices=_choices(schema),
        minimum=None if above is True else minimum,
        maximum=None if below is True else maximum,
        above=minimum if above is True else _number(above),
        below=maximum if below is True else _number(below),
        min_length=_length(schema.get("minLength")),
        max_length=_length(schema.get("maxLength")),
    )


def _choices(schema: Mapping[str, Any]) -> tuple[Any, ...]:
    said = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(said, list):
        return ()
    return tuple(each for each in said if isinstance(each, str | int | float))[:MOST_CHOICES]


def _either(branches: list[Parameter]) -> Parameter:
    """What any of these allows. A branch that allows anything of its kind makes the choices of the others too few."""
    if not branches or any(not each.kinds and not each.choices for each in branches):
        return Parameter("")
    is_closed = all(each.choices for each in branches)
    numbers = [each for each in branches if {"integer", "number"} & set(each.kinds)]
    texts = [each for each in branches if "string" in each.kinds]
    number = numbers[0] if len(numbers) == 1 else Parameter("")
    text = texts[0] if len(texts) == 1 else Parameter("")
    return Parameter(
        name="",
        kinds=tuple(dict.fromkeys(kind for each in branches for kind in each.kinds or KINDS)),
        choices=tuple(choice for each in branches for choice in each.choices) if is_closed else (),
        minimum=number.minimum,
        maximum=number.maximum,
        above=number.above,
        below=number.below,
        min_length=text.min_length,
        max_length=text.max_length,
    )


def _number(said: Any) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    return said if math.isfinite(said) else None


def _length(said: Any) -> int | None:
    return said if isinstance(said, int) and not isinstance(said, bool) and said >= 0 else None


# A mapping's defaults, and a client's wishes.


def defaults(stored: dict[str, Any], of_bot: tuple[Parameter, ...]) -> dict[str, Any]:
    """Without those that the bot does not take any more: no client can do anything about them."""
    by_name = {each.name: each for each in of_bot}
    kept = {}
    for name, value in stored.items():
        parameter = by_name.get(name)
        try:
            kept[name] = parameter.take(value) if parameter else value
        except Refused:
            continue
    return kept


def for_bot(chat: ChatRequest, mapping: Declares, *, is_fallback: bool = False) -> ChatRequest:
    """The request with its parameters as the bot declares them, or BadRequest naming the one that it does not take.

    What the bot does not declare goes to `ignored`. A bot without a known schema is sent all. `is_fallback`: it is not
    the bot that the client asked for, so what it does not take is left out.
    """
    has_wishes = chat.parameters or chat.rare or chat.max_tokens or chat.temperature is not None
    if not mapping.declared or not has_wishes:
        return chat
    by_name = {each.key: each for each in mapping.declared}
    taken: dict[str, Any] = {}
    ignored: list[str] = []
    rare = {name: value for name, value in chat.rare.items() if _folded(name) in by_name}
    for name, value in (rare | chat.parameters).items():
        if value is None:
            continue
        try:
            found = _find(name, value, by_name)
        except Refused as exc:
            if is_fallback:
                continue
            raise _bad(name, str(exc)) from None
        if found is None:
            ignored.append(name)
        elif found[0] not in taken or found[0] == name:
            taken[found[0]] = found[1]
    for name, value in (("temperature", chat.temperature), (MAX_TOKENS, chat.max_tokens)):
        parameter = _first(ALIASES.get(name, (name,)), by_name)
        if value is None or parameter is None or parameter.name in taken:
            continue
        try:
            taken[parameter.name] = parameter.take(value)
        except Refused as exc:
            if not is_fallback:
                raise _bad(name, str(exc)) from None
    before = tuple(name for name in chat.ignored if name not in rare)
    return structs.replace(chat, parameters=taken, ignored=_told(before, ignored))


def _bad(name: str, allowed: str) -> BadRequest:
    shown = name[:LONGEST_TOLD]
    return BadRequest(f"`{shown}` must be {allowed}.", code="invalid_parameter", param=shown)


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")


def _first(names: Iterable[str], by_name: Mapping[str, Parameter]) -> Parameter | None:
    return next((by_name[name] for name in names if name in by_name), None)


def _find(name: str, value: Any, by_name: Mapping[str, Parameter]) -> tuple[str, Any] | None:
    """Which declared parameter this is about, and its value there; None if the bot has none such."""
    folded = _folded(name)
    parameter = by_name.get(folded) or _first(ALIASES.get(folded, ()), by_name)
    if folded == EFFORT and (parameter or BUDGET in by_name):
        parameter = parameter or by_name[BUDGET]
        return parameter.name, _effort(parameter, value)
    if parameter is not None:
        return parameter.name, parameter.take(value)
    if folded == SIZE and (parameter := _first(ASPECTS, by_name)) is not None:
        return parameter.name, _aspect(parameter, value)
    return None


def _effort(parameter: Parameter, value: Any) -> Any:
    """As much thinking as the bot takes that comes nearest: no two models have the same words for it."""
    said = value.strip().casefold() if isinstance(value, str) else ""
    if said not in EFFORT_TOKENS:
        return parameter.take(value)
    if "integer" in parameter.kinds and not parameter.choices:
        least, most = parameter.minimum or 0, parameter.maximum
        tokens = max(EFFORT_TOKENS[said], math.ceil(least))
        return parameter.take(tokens if most is None else min(tokens, math.floor(most)))
    scale = list(EFFORT_TOKENS)
    known = {text_of(choice).casefold(): choice for choice in parameter.choices}
    near = [word for word in scale if word in known]
    if said in known or not near:
        return parameter.take(value)
    return known[min(near, key=lambda word: abs(scale.index(word) - scale.index(said)))]


def _aspect(parameter: Parameter, size: Any) -> Any:
    """The declared aspect that a picture of this size has, or comes nearest to."""
    ratio = _ratio(size)
    if ratio is None:
        try:
            return parameter.take(size)
        except Refused:
            raise Refused(f"such as 1024x1024, or {parameter.allowed}") from None
    near = [(abs(math.log(ratio / of)), choice) for choice in parameter.choices if (of := _ratio(choice))]
    if near:
        return min(near, key=lambda each: each[0])[1]
    width, height = (int(float(side)) for side in _sides(size))
    shared = math.gcd(width, height) or 1
    return parameter.take(f"{width // shared}:{height // shared}")


def _sides(size: Any) -> tuple[str, str]:
    found = _RATIO.fullmatch(size) if isinstance(size, str) else None
    return (found[1], found[2]) if found else ("", "")


def _ratio(size: Any) -> float | None:
    """Of 1024x1792 or 16:9."""
    width, height = (float(side or 0) for side in _sides(size))
    return width / height if width and height else None


def _told(before: tuple[str, ...], names: list[str]) -> tuple[str, ...]:
    """They are said back in a header: a name that does not fit there is percent-encoded."""
    fresh = [
        name if _PLAIN.fullmatch(name) else quote(name[:LONGEST_TOLD], safe="")[:LONGEST_TOLD]
        for name in names
    ]
    return tuple(sorted({*before, *fresh[:MOST_TOLD]}))
