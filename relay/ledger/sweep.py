"""Signs of life, and what becomes of the dead's: their settlements, their open records, slots that nobody holds.

One step at a time, in the ledger's thread, between its own transactions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from relay.ledger.deciding import Batch
from relay.ledger.items import BadItem, Settlement
from relay.ledger.spool import SETTLEMENTS_AT_ONCE, Orphan, Spool
from relay.ledger.store import OpenRecord, Store

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
# A process that gave no sign of life for so long is dead. Nobody is judged by one who has not lived as long unbroken.
LEASE_SECONDS = 20.0
SWEEP_AT_ONCE = 100
REPAIR_SECONDS = 60.0


class Sweep:
    def __init__(
        self,
        store: Store,
        spool: Spool,
        commit: Callable[[Batch], None],
        commit_or_give_up: Callable[[Settlement], None],
    ) -> None:
        """`commit` raises BadItem; `commit_or_give_up` does not."""
        self._store = store
        self._spool = spool
        self._commit = commit
        self._commit_or_give_up = commit_or_give_up
        # When the next sign of life is due, and whether one was given since the last look at the others.
        self._beat_at = 0.0
        self._has_beaten = False
        self._living_since: float | None = None
        # By the database's clock.
        self._looked_at = 0
        self._repair_at = time.monotonic() + REPAIR_SECONDS
        self._orphans: list[Orphan] = []
        self._dead: list[str] = []

    @property
    def beat_at(self) -> float:
        return self._beat_at

    def beat_now(self) -> None:
        """The next sign of life is due."""
        self._beat_at = 0.0

    @property
    def has_found_some(self) -> bool:
        """Dead ones, of whom something is left to do."""
        return bool(self._orphans or self._dead)

    def note_beat(self) -> None:
        """The sign of life was written."""
        now = time.monotonic()
        if self._living_since is None or now - self._beat_at > LEASE_SECONDS / 2:
            self._living_since = now
        self._beat_at, self._has_beaten = now + HEARTBEAT_SECONDS, True

    def interrupt(self) -> None:
        """The database could not be reached: others may not have been able to give a sign either."""
        self._living_since = None

    def step(self) -> None:
        """Raises what the database says, or BadItem. An orphan is tried again with the next step; the dead are looked for again
        after the next sign of life.
        """
        try:
            if self._orphans:
                self._adopt(self._orphans[0])
                self._orphans.pop(0)
            elif self._dead:
                self._sweep(self._dead[0])
            elif self._has_beaten:
                self._has_beaten = False
                self._look_for_the_dead()
        except Exception:
            self._dead = []
            raise

    def release(self) -> None:
        """Others may adopt what is not done."""
        for orphan in self._orphans:
            orphan.release()

    def _adopt(self, orphan: Orphan) -> None:
        """A dead process of this host, proven by its released lock: its settlements first, then what it left open."""
        for start in range(0, len(orphan.settlements), SETTLEMENTS_AT_ONCE):
            some = orphan.settlements[start : start + SETTLEMENTS_AT_ONCE]
            try:
                self._commit(Batch(settlements=some))
            except BadItem:
                for settlement in some:
                    self._commit_or_give_up(settlement)
        while self._sweep_some(orphan.process):
            pass
        self._store.forget(orphan.process)
        orphan.remove()

    def _look_for_the_dead(self) -> None:
        now = time.monotonic()
        if now >= self._repair_at:
            self._repair_at = now + REPAIR_SECONDS
            self._repair_slots()
        self._orphans = self._spool.orphans()
        moment, beats, busy = self._store.processes()
        if moment - self._looked_at > LEASE_SECONDS / 2 * 1_000_000:
            # The machine was suspended, or the clock was set: others had no time to beat either.
            self._living_since = now
        self._looked_at = moment
        if self._living_since is None or now - self._living_since < LEASE_SECONDS:
            return
        limit = moment - int(LEASE_SECONDS * 1_000_000)
        self._dead = sorted(
            name for name in busy | beats.keys() if name != self._spool.process and beats.get(name, 0) < limit
        )

    def _sweep(self, process: str) -> None:
        if not self._sweep_some(process):
            self._store.forget(process)
            self._dead.remove(process)

    def _sweep_some(self, process: str) -> int:
        records = self._store.open_records(process, SWEEP_AT_ONCE)
        if records:
            log.warning("%d requests of the process %s, which is gone, are lost", len(records), process)
            self._commit(Batch(settlements=[lost(each, "process_died") for each in records]))
        return len(records)

    def _repair_slots(self) -> None:
        """Slots are what open records hold, and nothing else."""
        wrong = self._store.wrong_slots()
        if wrong:
            log.error(
                "slots are put right: %s", ", ".join(f"{id_} {said} -> {n}" for id_, said, n in wrong[:20])
            )
            self._store.set_slots([id_ for id_, _said, _n in wrong])


def lost(of: Settlement | OpenRecord, error_code: str) -> Settlement:
    return Settlement(of.id, of.token_id, of.user_id, of.team_id, of.key_id, "lost", error_code=error_code)
