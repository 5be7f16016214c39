"""A store without a database: it keeps what is committed, and fails as it is told to."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy

from relay.ledger.deciding import Meters, Page, RefusalKey, Row
from relay.ledger.items import Admission
from relay.ledger.meters import Meter
from relay.ledger.rollups import Key
from relay.ledger.store import OpenRecord
from tests.ledger.making import NOON, VERSION


class MemoryStore:
    """`before_begin`, `before_commit` and `after_commit` may raise: what is raised after is raised though it is written.

    Everything here happens in the ledger's thread; tests read it when the ledger is flushed or stands still.
    """

    def __init__(self, process: str = "memory") -> None:
        self.process = process
        self.version = VERSION
        self.now = NOON
        self.meters: dict[str, Meter] = {}
        self.rows: dict[uuid.UUID, Row] = {}
        self.processes_of: dict[uuid.UUID, str] = {}
        self.sums: dict[Key, list[int]] = {}
        self.refusals: Counter[RefusalKey] = Counter()
        self.beats: dict[str, int] = {}
        self.is_down = False
        self.before_begin: Callable[[], object] = lambda: None
        self.before_commit: Callable[[Page], object] = lambda page: None
        self.after_commit: Callable[[Page], object] = lambda page: None
        self.commits: list[Page] = []
        self.begun: list[list[str]] = []
        self.is_closed = False
        self.has_begun = threading.Event()

    def begin(self, meter_ids: Iterable[str], record_ids: Iterable[uuid.UUID]) -> Page:
        self._reached()
        self.has_begun.set()
        self.before_begin()
        ids = sorted(meter_ids)
        self.begun.append(ids)
        return Page(
            process=self.process,
            version=self.version,
            now=self.now,
            meters=Meters({id_: copy(self.meters.get(id_) or Meter(id_)) for id_ in ids}),
            rows={id_: copy(self.rows[id_]) for id_ in record_ids if id_ in self.rows},
        )

    def commit(self, page: Page) -> None:
        self._reached()
        self.before_commit(page)
        self._apply(page)
        self.commits.append(page)
        self.after_commit(page)

    def _apply(self, page: Page) -> None:
        self.meters.update((id_, copy(meter)) for id_, meter in page.touched.items())
        for row in page.inserted:
            assert row.id not in self.rows
            self.rows[row.id], self.processes_of[row.id] = copy(row), row.process
        self.rows.update((id_, copy(row)) for id_, row in page.updated.items())
        for key, sums in page.hours.sums.items():
            old = self.sums.get(key, [0] * len(sums))
            self.sums[key] = [a + b for a, b in zip(old, sums, strict=True)]
        self.refusals.update(page.refusals)
        if page.heartbeat:
            self.beats[page.heartbeat] = page.now

    def rollback(self) -> None:
        pass

    def processes(self) -> tuple[int, dict[str, int], set[str]]:
        self._reached()
        return self.now, dict(self.beats), {self.processes_of[id_] for id_ in self._open()}

    def open_records(self, process: str, at_most: int) -> list[OpenRecord]:
        self._reached()
        found = [self.rows[id_] for id_ in self._open() if self.processes_of[id_] == process]
        return [OpenRecord(r.id, r.token_id, r.user_id, r.team_id, r.key_id) for r in found[:at_most]]

    def forget(self, process: str) -> None:
        self._reached()
        self.beats.pop(process, None)

    def wrong_slots(self) -> list[tuple[str, int, int]]:
        right = self._slots()
        return [(m.id, m.in_flight, right[m.id]) for m in self.meters.values() if m.in_flight != right[m.id]]

    def set_slots(self, meter_ids: list[str]) -> None:
        right = self._slots()
        for id_ in meter_ids:
            self.meters[id_].in_flight = right[id_]

    def close(self) -> None:
        self.is_closed = True

    def _reached(self) -> None:
        if self.is_down:
            raise ConnectionError("down")

    def _open(self) -> list[uuid.UUID]:
        return [id_ for id_, row in self.rows.items() if row.outcome == "open"]

    def _slots(self) -> Counter[str]:
        rows = [self.rows[id_] for id_ in self._open()]
        return Counter(
            id_
            for row in rows
            for id_ in (
                f"token:{row.token_id}",
                f"user:{row.user_id}",
                f"team:{row.team_id}",
                f"key:{row.key_id}",
            )
        )

    # For tests.

    def outcome(self, of: Admission) -> tuple[str, str]:
        return self.rows[of.id].outcome, self.rows[of.id].error_code
