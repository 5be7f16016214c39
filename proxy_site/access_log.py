"""One line for each request that has ended, as text or JSON, and the place where everything that ends is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec

from proxy_site import masking
from proxy_site.log_writer import LogWriter, local, utc
from relay.visit import Visit

Listener = Callable[[Visit], None]
Format = Literal["text", "json"]

# What a client may have made as long as it likes.
MOST_METHOD, MOST_PATH, MOST_MODEL, MOST_ADDRESS = 20, 250, 100, 50
# Written as it is; whatever could be taken for another field, line or terminal command is written as JSON writes it.
PLAIN = re.compile(r"[!#-\[\]-~]+")

# The status of a visit that has had no answer.
NOT_ANSWERED = 0

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Be told of every request that ends, on the event loop."""
    _listeners.append(listener)


def tell(visit: Visit) -> None:
    """This request has ended."""
    visit.end()
    for listener in _listeners:
        listener(visit)


def refused(
    *,
    request_id: str,
    method: bytes,
    path: bytes,
    address: str,
    status: int,
    error_code: str = "",
    sent_bytes: int = 0,
) -> None:
    """A request ended that no application has seen; with NOT_ANSWERED, because its client left."""
    visit = Visit(request_id, _text(method), _text(path), address, status=status, error_code=error_code)
    visit.sent_bytes = sent_bytes
    if status != NOT_ANSWERED:
        visit.first_byte_at = visit.began
    tell(visit)


def lines_to(writer: LogWriter, form: Format) -> Listener:
    """A listener that has a line written for each request."""
    line = as_json if form == "json" else as_text

    def write(visit: Visit) -> None:
        _shorten(visit)
        writer.put(partial(line, visit))

    return write


def _shorten(visit: Visit) -> None:
    """What waits to be written holds little memory, whatever was sent."""
    visit.method = _short(visit.method, MOST_METHOD)
    visit.path = _short(masking.path(visit.path), MOST_PATH)
    visit.model = _short(visit.model, MOST_MODEL)
    visit.address = _short(visit.address, MOST_ADDRESS)


def _short(value: str, most: int) -> str:
    return value if len(value) <= most else f"{value[:most]}..."


def as_json(visit: Visit) -> bytes:
    said = {
        "time": utc(visit.ended),
        "level": "INFO",
        "logger": "access",
        "request_id": visit.request_id,
        "address": visit.address,
        "method": visit.method,
        "path": visit.path,
        "status": visit.status,
        "outcome": visit.outcome,
        "error": visit.error_code,
        "wire": visit.wire,
        "token": visit.token_prefix,
        "model": visit.model,
        "streamed": visit.streamed,
        "first_byte_ms": _milliseconds(visit.first_byte_seconds),
        "total_ms": _milliseconds(visit.total_seconds),
        "bytes": visit.sent_bytes,
    }
    return msgspec.json.encode(said) + b"\n"


def as_text(visit: Visit) -> bytes:
    first = "" if visit.first_byte_at is None else f" first={_milliseconds(visit.first_byte_seconds)}ms"
    line = (
        f"{local(visit.ended)} INFO access {_quoted(visit.method)} {_quoted(visit.path)} {visit.status} {visit.outcome}"
        f"{first} total={_milliseconds(visit.total_seconds)}ms bytes={visit.sent_bytes}"
        f" address={_quoted(visit.address)} request={visit.request_id}"
    )
    if visit.wire:
        line += f" wire={visit.wire}"
    if visit.token_prefix:
        line += f" token={_quoted(visit.token_prefix)}"
    if visit.model:
        line += f" model={_quoted(visit.model)}"
    if visit.error_code:
        line += f" error={visit.error_code}"
    return line.encode() + b"\n"


def _quoted(value: str) -> str:
    return value if PLAIN.fullmatch(value) else json.dumps(value)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _text(sent: bytes) -> str:
    return sent.decode("ascii", "backslashreplace")
