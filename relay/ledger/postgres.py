"""The ledger's side of PostgreSQL: one psycopg connection, two round trips per batch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg

from relay.ledger import BadItem, Batch, sql

# So that a frozen host or a long lock stalls nobody for long.
SESSION = "-c lock_timeout=1000 -c statement_timeout=2000 -c idle_in_transaction_session_timeout=2000 -c TimeZone=UTC"


class PostgresStore:
    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def commit(self, batch: Batch) -> int:
        connection = self._connected()
        try:
            return self._commit(connection, batch)
        except (psycopg.DataError, psycopg.IntegrityError) as exc:
            raise BadItem(type(exc).__name__) from exc
        except psycopg.OperationalError:
            self.close()
            raise

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None or self._connection.broken or self._connection.closed:
            self._connection = psycopg.connect(
                autocommit=True,
                options=SESSION,
                tcp_user_timeout=3000,
                **{"connect_timeout": 3, **self._parameters},
            )
        return self._connection

    def _commit(self, connection: psycopg.Connection[tuple[Any, ...]], batch: Batch) -> int:
        with connection.transaction():
            row = connection.execute(sql.VERSION).fetchone()
            version = int(row[0]) if row else 0
            admitted = [admission for admission in batch.admissions if admission.version == version]
            with connection.pipeline(), connection.cursor() as cursor:
                if admitted:
                    cursor.executemany(
                        sql.insert_record("%s", "true"), [sql.record_values(a) for a in admitted]
                    )
                if batch.settlements:
                    cursor.executemany(
                        sql.update_record("%s"), [sql.settlement_values(s) for s in batch.settlements]
                    )
                if batch.used_tokens and admitted:
                    now = datetime.now(UTC)
                    cursor.executemany(sql.touch_token("%s"), [(token, now) for token in batch.used_tokens])
        return version

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
