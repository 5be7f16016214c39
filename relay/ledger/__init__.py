"""The ledger: `admit` before anything goes upstream, `settle` exactly once after. The only door to usage records.

Both are group-committed: whatever waits in this process goes into the next transaction, written by one thread on a
connection of its own. Nothing here runs on the event loop but putting an item into a queue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from relay.errors import Unavailable

log = logging.getLogger(__name__)

PROCESS = f"{socket.gethostname()[:30]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
# A token's last use is written at most this often by a process, in seconds.
LAST_USED_EVERY = 60
RETRY_FIRST, RETRY_MOST = 0.2, 5.0
# Settlements that piled up while the database was down are written in transactions of this many.
MOST_AT_ONCE = 500


class Stale(Exception):
    """The directory is newer than what this admission rests on: reload, look again, admit again."""


class BadItem(Exception):
    """The database refuses this very item, whatever else is in its batch."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A request as it is accepted. `version` is the directory's version that it was looked up in."""

    version: int
    request_id: str
    token_id: int
    token_prefix: str
    user_id: int
    user_name: str
    team_id: int
    team_name: str
    model: str
    bot: str
    wire: str
    streamed: bool
    prompt_tokens: int
    key_id: int
    key_name: str
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    process: str = PROCESS


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a request ended: `outcome` is done, failed or disconnected. Times in milliseconds.

    `completion_tokens` may be a function, which the ledger's thread calls.
    """

    id: uuid.UUID
    outcome: str
    error_code: str
    finish_reason: str
    completion_tokens: int | Callable[[], int]
    bot: str
    key_id: int
    key_name: str
    first_byte_ms: int | None
    total_ms: int


@dataclass(slots=True)
class Batch:
    admissions: list[Admission] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    used_tokens: list[int] = field(default_factory=list)


class Store(Protocol):
    """One database's side of the ledger; used by one thread only."""

    def commit(self, batch: Batch) -> int:
        """Write the batch in one transaction and return the directory's version.

        Admissions of another version are left out. Raises BadItem if the database refuses an item for what it is,
        any other exception if the database cannot be reached.
        """

    def close(self) -> None: ...


@dataclass(slots=True)
class _Waiting:
    admission: Admission
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[None]

    def tell(self, error: Exception | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self._set, error)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _set(self, error: Exception | None) -> None:
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)


_Item = _Waiting | Settlement | threading.Event


class Ledger:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._unsettled: list[Settlement] = []
        self._last_used: dict[int, float] = {}
        self._retry_at = 0.0
        self._retry_after = RETRY_FIRST
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    async def admit(self, admission: Admission) -> None:
        """Write the usage record, or raise Stale or Unavailable. Nothing goes upstream before this returns."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(admission, loop, loop.create_future())
        self._queue.put(waiting)
        try:
            await waiting.answer
        except asyncio.CancelledError:
            # It may be committed already or may be yet: settled as nothing, which is harmless to no row.
            self.settle(_nothing_happened(admission))
            raise

    def settle(self, settlement: Settlement) -> None:
        """Take it in and return at once. It is written whatever becomes of the request, its client or its task."""
        self._queue.put(settlement)

    def flush(self, seconds: float) -> bool:
        """Wait until all that was taken in is written; False if the database did not take it in time."""
        done = threading.Event()
        self._queue.put(done)
        return done.wait(seconds)

    def close(self, seconds: float = 5.0) -> bool:
        flushed = self.flush(seconds)
        self._queue.put(None)
        self._thread.join(seconds)
        if not flushed:
            log.error("the ledger could not write %d settlements before it closed", len(self._unsettled))
        return flushed

    # In the ledger's thread.

    def _run(self) -> None:
        marks: list[threading.Event] = []
        while True:
            items = self._wait()
            waiting = [item for item in items if isinstance(item, _Waiting)]
            self._unsettled += [item for item in items if isinstance(item, Settlement)]
            marks += [item for item in items if isinstance(item, threading.Event)]
            self._write(waiting)
            if not self._unsettled:
                for mark in marks:
                    mark.set()
                marks.clear()
            if None in items:
                self._store.close()
                return

    def _wait(self) -> list[_Item | None]:
        """Everything that waits; blocks for the first, or until settlements that failed are due again."""
        items: list[_Item | None] = []
        timeout = max(0.01, self._retry_at - time.monotonic()) if self._unsettled else None
        try:
            items.append(self._queue.get(timeout=timeout))
            while True:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            return items

    def _write(self, waiting: list[_Waiting]) -> None:
        due = time.monotonic() >= self._retry_at
        settlements = self._unsettled[:MOST_AT_ONCE] if due else []
        if not waiting and not settlements:
            return
        batch = Batch([each.admission for each in waiting], list(settlements), self._used(waiting))
        try:
            version = self._store.commit(batch)
        except BadItem as exc:
            self._write_one_by_one(waiting, batch.settlements, exc)
            return
        except Exception as exc:  # the database is down, restarting or full: whatever its driver calls that
            self._failed(waiting, exc)
            return
        self._succeeded(waiting, batch, version)

    def _used(self, waiting: list[_Waiting]) -> list[int]:
        now = time.monotonic()
        tokens = {each.admission.token_id for each in waiting}
        return sorted(t for t in tokens if now - self._last_used.get(t, -LAST_USED_EVERY) >= LAST_USED_EVERY)

    def _succeeded(self, waiting: list[_Waiting], batch: Batch, version: int) -> None:
        self._retry_at, self._retry_after = 0.0, RETRY_FIRST
        written = {settlement.id for settlement in batch.settlements}
        self._unsettled = [settlement for settlement in self._unsettled if settlement.id not in written]
        if any(admission.version == version for admission in batch.admissions):
            self._last_used.update(dict.fromkeys(batch.used_tokens, time.monotonic()))
        for each in waiting:
            each.tell(None if each.admission.version == version else Stale())

    def _failed(self, waiting: list[_Waiting], exc: Exception) -> None:
        log.warning("the ledger cannot be written: %s", type(exc).__name__)
        self._retry_at = time.monotonic() + self._retry_after
        self._retry_after = min(self._retry_after * 2, RETRY_MOST)
        for each in waiting:
            each.tell(
                Unavailable("The relay's database cannot be reached. Try again shortly.", retry_after=2)
            )
            # The commit may have succeeded all the same: then the record says that nothing came of it.
            self._unsettled.append(_nothing_happened(each.admission))

    def _write_one_by_one(
        self, waiting: list[_Waiting], settlements: list[Settlement], exc: Exception
    ) -> None:
        """One bad item is refused, never the batch."""
        if len(waiting) + len(settlements) == 1:
            for each in waiting:
                log.error("an admission was refused by the database: %s", exc)
                each.tell(Unavailable("This request could not be written down.", retry_after=None))
            for settlement in settlements:
                log.error("the settlement of %s was refused by the database: %s", settlement.id, exc)
                self._unsettled = [kept for kept in self._unsettled if kept.id != settlement.id]
            return
        kept = [settlement for settlement in self._unsettled if settlement not in settlements]
        for settlement in settlements:
            self._unsettled = [settlement]
            self._write([])
            kept += self._unsettled
        self._unsettled = []
        for each in waiting:
            self._write([each])
        self._unsettled += kept


def _nothing_happened(admission: Admission) -> Settlement:
    return Settlement(
        id=admission.id,
        outcome="failed",
        error_code="not_started",
        finish_reason="",
        completion_tokens=0,
        bot=admission.bot,
        key_id=admission.key_id,
        key_name=admission.key_name,
        first_byte_ms=None,
        total_ms=0,
    )
