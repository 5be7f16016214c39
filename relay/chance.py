"""Chance for what only has to be different each time: ids. What has to be secret takes it of `secrets`.

Each of the system's calls lets go of the GIL, and the event loop waits to get it back while the ledger's thread is at work.
"""

from __future__ import annotations

import os

SIZE = 16
_AT_ONCE = 256
_ready: list[bytes] = []
# Two processes must not go on with the same.
os.register_at_fork(after_in_child=_ready.clear)


def chance() -> bytes:
    """16 bytes of the system's. From any thread."""
    try:
        return _ready.pop()
    except IndexError:
        fresh = os.urandom(SIZE * _AT_ONCE)
        _ready.extend(fresh[start : start + SIZE] for start in range(SIZE, len(fresh), SIZE))
        return fresh[:SIZE]
