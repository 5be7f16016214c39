"""The ledger's side of SQLite: WAL, immediate transactions that take turns by a file lock, synced before they count."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from operator import attrgetter
from typing import Any

from relay.ledger import sql
from relay.ledger.deciding import Meters, NewRow, Page, Row
from relay.ledger.items import BadItem
from relay.ledger.meters import Meter
from relay.ledger.store import OpenRecord

BUSY_SECONDS = 2
# A busy process leaves the turn free for a tenth of a millisecond between two batches.
LOOK_AGAIN_SECONDS = 0.00005
# A record goes to the end of its table and into the middle of some indexes: SQLite's own 2 MB soon hold too few of them.
CACHE_KB = 8_000
# The most rows of one statement; those for fewer are kept prepared too.
MOST_ROWS = 32
# So few are written one by one: of records that change, 4 are even, and one alone takes 25 us instead of 75 (measured on
# 2026-11-29).
FEW_ROWS = 4


class Statement:
    """Over several rows of values at once: each step of SQLite lets go of the GIL, and waits for it beside a busy loop."""

    def __init__(self, before: str, columns: int, after: str, one: str = "") -> None:
        """`one`: what does the same for a single row, if that is another statement."""
        row = f"({', '.join('?' * columns)})"
        self._texts = [f"{before} VALUES {', '.join([row] * n)}{after}" for n in range(1, MOST_ROWS + 1)]
        self._one = one or self._texts[0]

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        if len(rows) <= FEW_ROWS:
            for row in rows:
                connection.execute(self._one, row)
            return
        for start in range(0, len(rows), MOST_ROWS):
            some = rows[start : start + MOST_ROWS]
            connection.execute(self._texts[len(some) - 1], tuple(chain.from_iterable(some)))


def _insert(table: str, columns: tuple[str, ...], conflict: str = "") -> Statement:
    return Statement(f"INSERT INTO {table} ({', '.join(columns)})", len(columns), f" {conflict}")


def _update(table: str, columns: tuple[str, ...]) -> Statement:
    """Rows of an id and these columns."""
    one = ", ".join(f"{name} = ?{number}" for number, name in enumerate(columns, 2))
    each = ", ".join(f"{name} = v.column{number}" for number, name in enumerate(columns, 2))
    return Statement(
        f"UPDATE {table} SET {each} FROM (",  # noqa: S608
        len(columns) + 1,
        f") AS v WHERE {table}.id = v.column1",
        one=f"UPDATE {table} SET {one} WHERE id = ?1",  # noqa: S608
    )


def _found(table: str, columns: tuple[str, ...], which: str) -> str:
    """The rows as one JSON array of arrays."""
    return (
        f"(SELECT json_group_array(json_array({', '.join(columns)})) FROM {table} "  # noqa: S608
        f"WHERE id IN (SELECT value FROM json_each({which})))"
    )


STILL_OPEN = "(SELECT count(*) FROM relay_usagerecord WHERE id IN (SELECT value FROM json_each(?3)) AND outcome = 'open')"
READ = (
    f"SELECT ({sql.VERSION}), {_found('relay_meter', sql.METER_COLUMNS, '?1')}, "
    f"{_found('relay_usagerecord', sql.ROW_COLUMNS, '?2')}, {STILL_OPEN}"
)
OTHER_COLUMNS = tuple(c for c in sql.RECORD_COLUMNS if c not in ("id", "started_at"))
METER_VALUES = attrgetter(*sql.METER_COLUMNS)
ROW_VALUES = attrgetter(*sql.CHANGED_COLUMNS)
OTHER_VALUES = attrgetter(*OTHER_COLUMNS)
STARTED_AT = sql.ROW_COLUMNS.index("started_at")
METER_CHANGES = ", ".join(f"{name} = excluded.{name}" for name in sql.METER_COLUMNS[1:])

MAKE_METERS = _insert("relay_meter", sql.METER_COLUMNS, "ON CONFLICT (id) DO NOTHING")
# They are there: an UPDATE of several keeps them in a table of its own first, 25 us for five of them instead of 13.
WRITE_METERS = _insert("relay_meter", sql.METER_COLUMNS, f"ON CONFLICT (id) DO UPDATE SET {METER_CHANGES}")
WRITE_ROWS = _update("relay_usagerecord", sql.CHANGED_COLUMNS)
INSERT_RECORDS = _insert("relay_usagerecord", ("id", "started_at", *OTHER_COLUMNS))
ADD_HOURS = _insert("relay_usagehour", sql.HOUR_COLUMNS, sql.ADD_HOURS)
ADD_REFUSALS = _insert("relay_refusalhour", sql.REFUSAL_COLUMNS, sql.ADD_REFUSALS)
BEAT = _insert("relay_process", ("name", "heartbeat_at"), sql.BEAT)
USED = "SELECT id, ? FROM accounts_accesstoken WHERE id IN (SELECT value FROM json_each(?))"
TOUCH_TOKENS = f"INSERT INTO accounts_tokenactivity (token_id, last_used_at) {USED} {sql.TOUCH_TOKENS}"  # noqa: S608


class _Known:
    """What the database holds, as it was read or written here last: true as long as nobody else has written since.

    But for `doubtful`: rows that were known before somebody else wrote to the database. All that others do to a record that is
    open here is to give it up for lost, if they take this process for dead: whether it is open still is quicker to see than it
    is to read (15 us for 12 of them instead of 80). Whatever else is to change open records has to end that first.
    """

    def __init__(self, data_version: int) -> None:
        self.data_version = data_version
        self.version: int | None = None
        self.meters: dict[str, Meter] = {}
        # Open records that began here, until they are settled.
        self.rows: dict[uuid.UUID, Row] = {}
        self.doubtful: dict[uuid.UUID, Row] = {}

    def doubt(self, data_version: int) -> None:
        self.data_version, self.version = data_version, None
        self.meters.clear()
        if len(self.doubtful) > MOST_KNOWN:
            self.doubtful.clear()
        self.doubtful.update(self.rows)
        self.rows.clear()


NOTHING_KNOWN = -1
MOST_KNOWN = 10_000


class SqliteStore:
    def __init__(self, path: str, process: str) -> None:
        self.process = process
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._turn: int | None = None
        # Meters that were there once. Almost always they still are.
        self._made: set[str] = set()
        self._known = _Known(NOTHING_KNOWN)

    def begin(self, meter_ids: Iterable[str], record_ids: Iterable[uuid.UUID]) -> Page:
        wanted, ids = sorted(meter_ids), list(dict.fromkeys(record_ids))
        if self._connection is not None and self._connection.in_transaction:
            self.rollback()
        connection = self._begin()
        try:
            page = self._read(connection, wanted, ids)
        except BaseException:
            self.rollback()
            raise
        if len(page.meters) < len(wanted):  # some were removed since
            self._made.clear()
            return self.begin(wanted, ids)
        self._made.update(wanted)
        return page

    def _read(self, connection: sqlite3.Connection, wanted: list[str], ids: list[uuid.UUID]) -> Page:
        """Only what is not known, which is nothing where one process relays: reading costs more than all of the deciding."""
        (data_version,) = connection.execute("PRAGMA data_version").fetchone()
        known = self._known
        if data_version != known.data_version or len(known.meters) > MOST_KNOWN:
            known.doubt(data_version)
        meters = [id_ for id_ in wanted if id_ not in known.meters]
        unread = [id_ for id_ in ids if id_ not in known.rows]
        if meters or unread or known.version is None:
            MAKE_METERS.run(connection, [METER_VALUES(Meter(id_)) for id_ in meters if id_ not in self._made])
            doubtful = [id_ for id_ in unread if id_ in known.doubtful]
            rows = [id_ for id_ in unread if id_ not in known.doubtful]
            version, found, records, open_ = connection.execute(
                READ, (json.dumps(meters), _hexes(rows), _hexes(doubtful))
            ).fetchone()
            if open_ != len(doubtful):
                known.doubtful.clear()
                return self._read(connection, wanted, ids)
            known.version = version or 0
            known.meters.update({values[0]: Meter(*values) for values in json.loads(found)})
            known.rows.update({row.id: row for row in map(_row, json.loads(records))})
            known.rows.update({id_: known.doubtful.pop(id_) for id_ in doubtful})
        return Page(
            process=self.process,
            version=known.version,
            now=_now(),
            meters=Meters({id_: known.meters[id_] for id_ in wanted if id_ in known.meters}),
            rows={id_: known.rows[id_] for id_ in ids if id_ in known.rows},
        )

    def commit(self, page: Page) -> None:
        connection = self._connected()
        try:
            self._write(connection, page)
            connection.execute("COMMIT")
        except BaseException as exc:
            self.rollback()
            if isinstance(exc, (sqlite3.DataError, sqlite3.IntegrityError, ValueError, OverflowError)):
                raise BadItem(type(exc).__name__) from exc
            raise
        self._give_turn()
        rows = self._known.rows
        rows.update({row.id: row for row in page.inserted})
        for row in page.rows.values():
            if row.outcome != "open":
                del rows[row.id]

    def _write(self, connection: sqlite3.Connection, page: Page) -> None:
        WRITE_METERS.run(connection, [METER_VALUES(meter) for meter in page.touched.values()])
        INSERT_RECORDS.run(connection, [_record_values(row) for row in page.inserted])
        WRITE_ROWS.run(connection, [(row.id.hex, *ROW_VALUES(row)) for row in page.updated.values()])
        ADD_HOURS.run(connection, [(_text(row[0]), *row[1:]) for row in page.hours.rows()])
        ADD_REFUSALS.run(connection, [(_text(hour), *rest, n) for (hour, *rest), n in page.refusals.items()])
        if page.used_tokens:
            connection.execute(TOUCH_TOKENS, (_text(datetime.now(UTC)), json.dumps(page.used_tokens)))
        if page.heartbeat:
            BEAT.run(connection, [(page.heartbeat, page.now)])

    def rollback(self) -> None:
        # Pages are changed before they are written.
        self._known = _Known(NOTHING_KNOWN)
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        finally:
            self._give_turn()

    # For the sweep.

    def processes(self) -> tuple[int, dict[str, int], set[str]]:
        connection = self._connected()
        living = dict(connection.execute(sql.LIVING).fetchall())
        return _now(), living, {row[0] for row in connection.execute(sql.PROCESSES_WITH_OPEN_RECORDS)}

    def open_records(self, process: str, at_most: int) -> list[OpenRecord]:
        found = self._connected().execute(
            "SELECT id, token_id, user_id, team_id, coalesce(key_id, 0) FROM relay_usagerecord "
            "WHERE outcome = 'open' AND process = ? LIMIT ?",
            (process, at_most),
        )
        return [OpenRecord(uuid.UUID(row[0]), *row[1:]) for row in found]

    def forget(self, process: str) -> None:
        self._in_transaction(lambda c: c.execute("DELETE FROM relay_process WHERE name = ?", (process,)))

    def wrong_slots(self) -> list[tuple[str, int, int]]:
        return self._connected().execute(sql.WRONG_SLOTS).fetchall()

    def set_slots(self, meter_ids: list[str]) -> None:
        def correct(connection: sqlite3.Connection) -> None:
            wrong = connection.execute(sql.WRONG_SLOTS).fetchall()
            values = [(right, id_) for id_, _said, right in wrong if id_ in meter_ids]
            connection.executemany("UPDATE relay_meter SET in_flight = ? WHERE id = ?", values)

        self._in_transaction(correct)

    def _in_transaction(self, do: Callable[[sqlite3.Connection], Any]) -> None:
        connection = self._begin()
        try:
            do(connection)
            connection.execute("COMMIT")
        finally:
            self.rollback()

    # The connection, and whose turn it is.

    def _begin(self) -> sqlite3.Connection:
        connection = self._connected()
        self._take_turn()
        try:
            connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._give_turn()
            raise
        return connection

    def _take_turn(self) -> None:
        """SQLite's own waiting sleeps longer and longer, and whoever sleeps longest starves: this looks again at once."""
        if self._turn is None:
            self._turn = os.open(f"{self._path}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("another process holds the database") from None
                time.sleep(LOOK_AGAIN_SECONDS)

    def _give_turn(self) -> None:
        if self._turn is not None:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._path,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=8 * MOST_ROWS,
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(f"PRAGMA cache_size=-{CACHE_KB}")
            # A statement over several rows keeps the pages that it changes until its end, and beyond 64 KB in a file that it
            # makes for it: 100 us of each transaction.
            self._connection.execute("PRAGMA temp_store=MEMORY")
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None


def _record_values(row: NewRow) -> tuple[Any, ...]:
    return (row.id.hex, _text(row.started_at), *OTHER_VALUES(row))


def _hexes(ids: Iterable[uuid.UUID]) -> str:
    return json.dumps([id_.hex for id_ in ids])


def _now() -> int:
    return time.time_ns() // 1000


def _row(found: list[Any]) -> Row:
    row = Row(*found)
    row.id = uuid.UUID(found[0])
    row.started_at = datetime.fromisoformat(found[STARTED_AT]).replace(tzinfo=UTC)
    row.key_id = row.key_id or 0
    return row


def _text(moment: datetime) -> str:
    """As Django stores it in SQLite: in UTC, without a zone."""
    return moment.replace(tzinfo=None).isoformat(" ")
