"""Records, meters and rollups in the real database as the ledger writes them, without its thread."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import connection

from relay.directory import read_version
from relay.ledger.deciding import Batch, decide
from relay.ledger.items import Admission, Change, Reservation, Settlement
from relay.ledger.opening import open_store
from tests.ledger import making


def write(batch: Batch, now: datetime | None = None) -> None:
    """As if it were this moment."""
    store = open_store("test")
    try:
        page = store.begin(batch.meter_ids(), batch.record_ids())
        if now is not None:
            page.now = int(now.timestamp() * 1_000_000)
        decide(page, batch)
        refused = [answer for answer in batch.answers if isinstance(answer, Exception)]
        assert not refused, refused
        store.commit(page)
    finally:
        store.close()


def admit(points: int = 10, when: datetime | None = None, **fields: Any) -> Admission:
    moment = when or datetime.now(UTC)
    asked = making.admission(
        Reservation(prompt_tokens=7, output_tokens=100, images=0, points=points),
        version=read_version(),
        started_at=moment,
        **fields,
    )
    write(Batch(admissions=[asked]), moment)
    return asked


def settle(*settlements: Settlement) -> None:
    write(Batch(settlements=list(settlements)))


def used(points: int = 10, when: datetime | None = None, **fields: Any) -> Admission:
    """A request that is done, and cost this."""
    asked = admit(points, when, **fields)
    settle(making.settlement(asked))
    return asked


def change(of: Admission, wanted: Reservation, **fields: object) -> None:
    write(Batch(changes=[Change(of, of.candidates[0].key_id, wanted, **fields)]))  # type: ignore[arg-type]


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
