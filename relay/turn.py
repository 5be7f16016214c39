"""Transactions of ours beside the ledger's: whose turn it is on SQLite, and the database's clock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

NOW = {
    "sqlite": "SELECT CAST(strftime('%%s', 'now') AS bigint)",
    "postgresql": "SELECT CAST(floor(extract(epoch FROM clock_timestamp())) AS bigint)",
}


@contextmanager
def turn() -> Iterator[None]:
    """The ledger's own lock on SQLite (see ledger/sqlite.py): its writers take turns instead of sleeping."""
    if connection.vendor != "sqlite":
        yield
        return
    lock = os.open(f"{connection.settings_dict['NAME']}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def transaction_in_turn() -> Iterator[None]:
    """A transaction that neither stalls the ledger nor starves beside it. Keep it under 50 ms."""
    with turn(), transaction.atomic():
        yield


def now() -> int:
    """Seconds since 1970 by the database's clock, as the periods of budgets are."""
    with connection.cursor() as cursor:
        cursor.execute(NOW[connection.vendor], ())
        return int(cursor.fetchone()[0])
