"""Server-sent events as bytes."""

from __future__ import annotations

KEEP_ALIVE = b": keep-alive\n\n"


def data(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"


DONE = data(b"[DONE]")
