"""Whether this process has begun to stop: one place to ask, which knows nothing of who stops it or why."""

from __future__ import annotations


class Draining:
    """On from the signal until the process ends: new requests are still answered, but nobody should send more."""

    is_on: bool = False
    # Also where another worker takes its place: no WebSocket is opened any more.
    is_leaving: bool = False


draining = Draining()
