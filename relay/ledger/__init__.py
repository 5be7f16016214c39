"""The ledger: `admit` before anything goes upstream, `settle` exactly once after. The only door to usage records.

items     what it is told and what it answers
meters    the limits, a function for each; periods: days and months by the team's calendar
deciding  what becomes of a batch, on a locked page of the database
writer    the thread that writes batches, and looks after what dead processes left
sqlite, postgres  the databases; spool: what waits on disk for one that is away
"""

from __future__ import annotations

from relay.ledger.items import (
    Admission,
    Admitted,
    BadItem,
    Candidate,
    Change,
    Reservation,
    Settlement,
    Stale,
    reserve,
)
from relay.ledger.writer import Ledger

__all__ = [
    "Admission",
    "Admitted",
    "BadItem",
    "Candidate",
    "Change",
    "Ledger",
    "Reservation",
    "Settlement",
    "Stale",
    "reserve",
]
