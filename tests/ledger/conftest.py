from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay.ledger import Ledger, Settlement, writer
from relay.ledger.opening import open_ledger
from relay.ledger.spool import Spool, read
from tests.ledger.memory import MemoryStore


class Kept:
    """A ledger on a store in memory, with a spool in a directory of the test's own."""

    def __init__(self, directory: Path, store: MemoryStore | None = None) -> None:
        self.spool = Spool(directory)
        self.directory = directory
        self.store = store or MemoryStore()
        self.store.process = self.spool.process
        self.ledger = Ledger(self.store, self.spool)
        # Its first sign of life is written.
        assert self.ledger.flush(5)

    async def flushed(self, seconds: float = 5) -> bool:
        return await asyncio.to_thread(self.ledger.flush, seconds)

    def on_disk(self) -> list[Settlement]:
        path = self.directory / f"{self.spool.process}.jsonl"
        return read(path.read_bytes(), path.name) if path.exists() else []

    def let_go(self) -> None:
        """As the kernel does when a process is killed: its files are closed, and so are their locks released."""
        self.spool._file.close()
        self.ledger._sweep.release()

    def is_running(self) -> bool:
        return self.ledger._thread.is_alive()


class Gate:
    """Holds the ledger's thread at the door of its next transaction, so that what follows makes one batch."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._entered, self._open = threading.Event(), threading.Event()
        store.before_begin = self._pass

    def _pass(self) -> None:
        self._entered.set()
        assert self._open.wait(5)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, 5)

    def open(self) -> None:
        self._store.before_begin = lambda: None
        self._open.set()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Kept]]:
    """Makes ledgers on stores in memory, and closes them in the end."""
    monkeypatch.setattr(writer, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(writer, "RETRY_MOST", 0.02)
    made: list[Kept] = []

    def make(store: MemoryStore | None = None, directory: Path | None = None) -> Kept:
        made.append(Kept(directory or tmp_path / "spool", store))
        return made[-1]

    yield make
    for each in made:
        if each.is_running():
            each.store.is_down = False
            each.store.before_begin = lambda: None
            each.store.before_commit = each.store.after_commit = lambda page: None
            each.ledger.close(2)
        each.let_go()


# On the real database.


class Ledgers:
    """Opens ledgers on the test database, each as a process of its own would, and closes them in the end."""

    def __init__(self) -> None:
        self.opened: list[Ledger] = []

    def open(self) -> Ledger:
        self.opened.append(open_ledger())
        assert self.opened[-1].flush(5)
        return self.opened[-1]


@pytest.fixture
def ledgers(transactional_db: None) -> Iterator[Ledgers]:
    made = Ledgers()
    yield made
    for each in made.opened:
        if each._thread.is_alive():
            assert each.close()


@pytest.fixture
def ledger(ledgers: Ledgers) -> Ledger:
    return ledgers.open()
