"""What the ledger asks of a database. Used by one thread at a time."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from relay.ledger.deciding import Page


class Conflict(Exception):
    """Others were in the way (deadlock, serialization, a lock held too long): the same again may succeed."""


@dataclass(frozen=True, slots=True)
class OpenRecord:
    id: uuid.UUID
    token_id: int
    user_id: int
    team_id: int
    key_id: int


class Store(Protocol):
    """One database's side of the ledger. Any error but Conflict and BadItem means: not to be reached now."""

    process: str

    def begin(self, meter_ids: Iterable[str], record_ids: Iterable[uuid.UUID]) -> Page:
        """Begin a transaction, lock these meters (in order; those that are missing are made) and read these records.

        One that is under way is given up first, which is no further round trip.
        """

    def commit(self, page: Page) -> None:
        """Write what of the page changed, and end the transaction."""

    def rollback(self) -> None: ...

    # For the sweep, each a statement of its own.

    def processes(self) -> tuple[int, dict[str, int], set[str]]:
        """The time now, the last heartbeat of each process (both in microseconds), and who has open records."""

    def open_records(self, process: str, at_most: int) -> list[OpenRecord]: ...

    def forget(self, process: str) -> None:
        """A process that is gone and has no open records left."""

    def wrong_slots(self) -> list[tuple[str, int, int]]:
        """Meters whose requests in flight differ from the open records: id, what it says, how many there are."""

    def set_slots(self, meter_ids: list[str]) -> None:
        """Put the number of open records into these meters, counted while they are locked."""

    def close(self) -> None: ...
