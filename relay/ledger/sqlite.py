"""The ledger's side of SQLite: WAL, one immediate transaction per batch, synced to disk before it counts."""

from __future__ import annotations

import sqlite3
import uuid
from datetime import UTC, datetime

from relay.ledger import BadItem, Batch, sql

BUSY_SECONDS = 2


class SqliteStore:
    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def commit(self, batch: Batch) -> int:
        connection = self._connected()
        try:
            connection.execute("BEGIN IMMEDIATE")
            version = self._write(connection, batch)
            connection.execute("COMMIT")
        except BaseException as exc:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(exc, (sqlite3.DataError, sqlite3.IntegrityError)):
                raise BadItem(type(exc).__name__) from exc
            raise
        return version

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
        return self._connection

    def _write(self, connection: sqlite3.Connection, batch: Batch) -> int:
        row = connection.execute(sql.VERSION).fetchone()
        version = int(row[0]) if row else 0
        admitted = [admission for admission in batch.admissions if admission.version == version]
        if admitted:
            connection.executemany(
                sql.insert_record("?", "1"), [tuple(map(_stored, sql.record_values(a))) for a in admitted]
            )
        if batch.settlements:
            connection.executemany(
                sql.update_record("?"),
                [tuple(map(_stored, sql.settlement_values(s))) for s in batch.settlements],
            )
        if batch.used_tokens and admitted:
            now = _stored(datetime.now(UTC))
            connection.executemany(sql.touch_token("?"), [(token, now) for token in batch.used_tokens])
        return version

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _stored(value: object) -> object:
    """As Django stores it in SQLite: a UUID as 32 hex digits, a time as text in UTC without a zone."""
    if isinstance(value, uuid.UUID):
        return value.hex
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
    return value
