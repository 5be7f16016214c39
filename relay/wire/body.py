"""A request's body as strict JSON, and what is wrong with it in words: shared by the wire formats that read JSON."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from relay.errors import BadRequest

MAX_MESSAGES = 2000
MAX_MODEL_LENGTH = 200
MAX_DEPTH = 64
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PATH = re.compile(r" - at `\$(?:\.?)([^`]*)`$")

T = TypeVar("T")


def decode(raw: bytes) -> dict[str, Any]:
    """A JSON object, or BadRequest.

    Strict: UTF-8, no NaN or Infinity, no NUL or lone surrogate, at most 64 deep, one value per key.
    """
    if not raw.strip():
        raise BadRequest("The body is empty: send a JSON object.", code="invalid_json")
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        hint = " (half a surrogate pair?)" if _SURROGATE.search(raw) else ""
        raise BadRequest(f"The body is not valid JSON: {exc}{hint}", code="invalid_json") from None
    except RecursionError:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    if b"\\u" in raw or b"\x00" in raw:
        _refuse_unstorable(body)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH}.", code="invalid_json")
    if _strings_written(raw) != _strings(body):
        _refuse_repeated_keys(raw)
    return body


def convert(body: dict[str, Any], shape: type[T]) -> T:
    """The body as this Struct, validated in one pass, or BadRequest naming the parameter."""
    try:
        return msgspec.convert(body, shape)
    except msgspec.ValidationError as exc:
        raise invalid(str(exc)) from None


def model_name(name: str) -> str:
    """The model's name without blanks around it, or BadRequest."""
    name = name.strip()
    if not name:
        raise BadRequest("`model` is empty.", param="model")
    if len(name) > MAX_MODEL_LENGTH:
        raise BadRequest(f"`model` is longer than {MAX_MODEL_LENGTH} characters.", param="model")
    return name


def check_count(name: str, count: int) -> None:
    """Of messages, or of what the wire format calls them: at least one, at most MAX_MESSAGES, or BadRequest."""
    if not count:
        raise BadRequest(f"`{name}` is empty: send at least one.", param=name)
    if count > MAX_MESSAGES:
        raise BadRequest(f"`{name}` holds {count}: at most {MAX_MESSAGES}.", param=name)


def _refuse_unstorable(value: Any, path: str = "") -> None:
    """NUL and lone surrogates are legal in JSON, but no database and no bot takes them."""
    stack = [(path, value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, str) and _FORBIDDEN.search(item):
            raise BadRequest(
                f"{f'`{where[:200]}`' if where else 'The body'} holds a NUL character or half a surrogate pair.",
                code="invalid_string",
                param=where[:200] or None,
            )
        if isinstance(item, dict):
            for key, inner in item.items():
                stack += [(f"{where}.{key}" if where else str(key), inner), (where, key)]
        elif isinstance(item, list):
            stack += [(f"{where}[{i}]", inner) for i, inner in enumerate(item)]


def _depth(body: Any) -> int:
    depth, level = 0, [body]
    while level and depth <= MAX_DEPTH:
        depth += 1
        inner = [v for item in level for v in (item.values() if isinstance(item, dict) else item)]
        level = [item for item in inner if isinstance(item, (dict, list))]
    return depth


# One value per key. msgspec takes the last of several in silence, and json.loads with a hook takes many times as long: so
# the strings that are written are counted first. If they are as many as came out, no key was lost.


def _strings_written(raw: bytes) -> int:
    """Two quotes each, but for those within a string; -1 where that cannot be told so simply."""
    quotes = raw.count(b'"')
    if b"\\" in raw:
        if b'\\\\"' in raw:  # a backslash that ends a string, or one more before a quote within
            return -1
        quotes -= raw.count(b'\\"')
    return quotes // 2


def _strings(body: dict[str, Any]) -> int:
    count = 0
    stack: list[Any] = [body]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            count += len(item)
            values = item.values()
        else:
            values = item
        for value in values:
            if isinstance(value, str):
                count += 1
            elif isinstance(value, (dict, list)):
                stack.append(value)
    return count


def _refuse_repeated_keys(raw: bytes) -> None:
    json.loads(raw, object_pairs_hook=_object, parse_int=len, parse_float=len)


def _object(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) == len(dict(pairs)):
        return
    seen: set[str] = set()
    for key, _value in pairs:
        if key in seen:
            shown = key[:MAX_MODEL_LENGTH]
            raise BadRequest(
                f"The key {shown!r} is there twice in one object.", code="invalid_json", param=shown
            )
        seen.add(key)


def invalid(message: str) -> BadRequest:
    """msgspec says "Expected `str`, got `int` - at `$.messages[0].content`"."""
    found = _PATH.search(message)
    param = found.group(1).strip(".") if found else None
    missing = re.match(r"Object missing required field `([^`]+)`", message)
    if missing:
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return BadRequest(
            f"Missing required parameter: `{param}`.", code="missing_required_parameter", param=param
        )
    text = (message[: found.start()] if found else message)[:300]
    return BadRequest(
        f"Invalid `{param}`: {text}." if param else f"Invalid body: {text}.", code="invalid_type", param=param
    )
