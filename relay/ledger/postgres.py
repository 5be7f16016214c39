"""The ledger's side of PostgreSQL: two round trips per batch, rows as JSON."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg import errors

from relay.ledger import sql
from relay.ledger.deciding import Meters, Page, Row
from relay.ledger.items import BadItem
from relay.ledger.meters import Meter
from relay.ledger.pipe import Call, Pipe
from relay.ledger.store import Conflict, OpenRecord

T = TypeVar("T")
# So that a frozen host or a long lock stalls nobody for long. Every statement finds its rows by an index, whatever the
# planner thinks of a table that was small when it was last counted.
SESSION = (
    "-c lock_timeout=1000 -c statement_timeout=2000 -c idle_in_transaction_session_timeout=2000 -c TimeZone=UTC "
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c client_encoding=UTF8"
)
# As pg_stat_activity and PostgreSQL's log name the ledger's connection, unless the URL or PGAPPNAME says otherwise.
APPLICATION_NAME = "poe-relay ledger"
CONFLICTS = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.QueryCanceled,
)
TYPES = {
    "id": "uuid",
    "started_at": "timestamptz",
    "hour": "timestamptz",
    "streamed": "bool",
    "tokens_estimated": "bool",
    **dict.fromkeys(("in_flight", "prompt_tokens", "completion_tokens", "images"), "int"),
    **dict.fromkeys(("first_byte_ms", "total_ms"), "int"),
    **dict.fromkeys(
        ("model", "outcome", "error_code", "finish_reason", "bot", "key_name", "accounting"), "text"
    ),
    **dict.fromkeys(("request_id", "token_prefix", "user_name", "team_name", "wire", "process"), "text"),
    '"limit"': "text",
}


# Where the rows are that a statement is given: its first parameter, a JSON array of objects.
GIVEN = "$1::json"


def _given(columns: tuple[str, ...], rows: str, **types: str) -> str:
    typed = ", ".join(f"{c} {({**TYPES, **types}).get(c, 'bigint')}" for c in columns)
    return f"json_to_recordset({rows}) AS v({typed})"


def _insert(table: str, columns: tuple[str, ...], conflict: str = "", rows: str = GIVEN, **types: str) -> str:
    names = ", ".join(columns)
    # A WHERE tells the parser that ON CONFLICT is none of a join's ON.
    return (
        f"INSERT INTO {table} ({names}) SELECT {names} FROM {_given(columns, rows, **types)} "  # noqa: S608
        f"WHERE true {conflict}"
    )


def _update(table: str, columns: tuple[str, ...], rows: str = GIVEN, **types: str) -> str:
    assigned = ", ".join(f"{c} = v.{c}" for c in columns)
    given = _given(("id", *columns), rows, **types)
    return f"UPDATE {table} AS t SET {assigned} FROM {given} WHERE t.id = v.id"  # noqa: S608


def _all(statement: str) -> str:
    """The rows as one JSON array."""
    return f"WITH found AS ({statement}) SELECT coalesce(json_agg(found), '[]') FROM found"  # noqa: S608


def _state(rows: str) -> str:
    """The directory's version, the time, and these records, as one JSON array."""
    return f"SELECT json_build_array(coalesce(({sql.VERSION}), 0), {NOW}, {rows})"


NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
READ_ROWS = _all(
    f"SELECT {', '.join(c if c != 'key_id' else 'coalesce(key_id, 0) AS key_id' for c in sql.ROW_COLUMNS)} "  # noqa: S608
    "FROM relay_usagerecord WHERE id = ANY($1::uuid[])"
)
# One statement: each that is sent and answered lets go of the GIL, and waits for it beside a busy loop. A parameter for each
# of its parts: to find one in a JSON object, the server reads all of it.
WRITE_METERS = _update("relay_meter", sql.METER_COLUMNS[1:], "$1::json", id="text")
INSERT_RECORDS = _insert("relay_usagerecord", sql.RECORD_COLUMNS, rows="$2::json")
WRITE = f"""
WITH meters AS ({WRITE_METERS}),
records AS ({INSERT_RECORDS}),
rows AS ({_update("relay_usagerecord", sql.CHANGED_COLUMNS, "$3::json")})
{_insert("relay_usagehour", sql.HOUR_COLUMNS, sql.ADD_HOURS, "$4::json", images="bigint", total_ms="bigint")}
"""
# The same where only admissions are written, which somebody waits for: what a statement does not change costs as well, since
# each table and index that it might change is opened.
ADMIT = f"WITH meters AS ({WRITE_METERS}) {INSERT_RECORDS}"
STATEMENTS = {
    "begin": "BEGIN",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "now": f"SELECT {NOW}",
    "make_meters": _insert("relay_meter", sql.METER_COLUMNS, "ON CONFLICT (id) DO NOTHING", id="text"),
    "read_meters": _all(
        f"SELECT {', '.join(sql.METER_COLUMNS)} FROM relay_meter WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"  # noqa: S608
    ),
    # After the meters are locked, so that it is the state and the time that they are held at.
    "read": _state(f"({READ_ROWS})"),
    "read_no_rows": _state("'[]'::json"),
    "write": WRITE,
    "admit": ADMIT,
    "add_refusals": _insert("relay_refusalhour", sql.REFUSAL_COLUMNS, sql.ADD_REFUSALS),
    "touch_tokens": (
        "INSERT INTO accounts_tokenactivity (token_id, last_used_at) "  # noqa: S608
        "SELECT id, clock_timestamp() FROM accounts_accesstoken "
        f"WHERE id IN (SELECT v::bigint FROM json_array_elements_text($1::json) AS v) {sql.TOUCH_TOKENS}"
    ),
    "beat": _insert("relay_process", ("name", "heartbeat_at"), sql.BEAT, name="text"),
    # For the sweep.
    "living": _all(sql.LIVING),
    "busy": f"SELECT coalesce(json_agg(process), '[]') FROM ({sql.PROCESSES_WITH_OPEN_RECORDS}) AS found",  # noqa: S608
    "open_records": _all(
        "SELECT r.id, token_id, user_id, team_id, coalesce(key_id, 0) AS key_id FROM relay_usagerecord AS r, "
        "json_to_record($1::json) AS v(process text, at_most int) "
        "WHERE outcome = 'open' AND r.process = v.process LIMIT (SELECT ($1::json->>'at_most')::int)"
    ),
    "forget": "DELETE FROM relay_process WHERE name = $1",
    "wrong_slots": _all(sql.WRONG_SLOTS),
    "set_slots": (
        "UPDATE relay_meter AS t SET in_flight = v.n FROM json_to_recordset($1::json) AS v(id text, n int) "
        "WHERE t.id = v.id"
    ),
}


METERS = msgspec.json.Decoder(list[Meter])
# As `_state` says.
READ = msgspec.json.Decoder(tuple[int, int, list[Row]])


class PostgresStore:
    def __init__(self, parameters: dict[str, Any], process: str) -> None:
        self.process = process
        self._parameters = {
            **parameters,
            # Nobody waits longer for an admission.
            "connect_timeout": 2,
            "tcp_user_timeout": 3000,
            "options": f"{parameters.get('options', '')} {SESSION}".strip(),
            "fallback_application_name": APPLICATION_NAME,
        }
        self._pipe: Pipe | None = None
        # Meters that were there when a transaction was committed. Almost always they still are.
        self._known: set[str] = set()

    def begin(self, meter_ids: Iterable[str], record_ids: Iterable[uuid.UUID]) -> Page:
        wanted, ids = sorted(meter_ids), list(record_ids)
        page = self._do(lambda pipe: self._begin(pipe, wanted, ids))
        if len(page.meters) < len(wanted):  # some were removed since
            self._known.clear()
            return self.begin(wanted, ids)
        return page

    def _begin(self, pipe: Pipe, wanted: list[str], ids: list[uuid.UUID]) -> Page:
        unknown = [Meter(id_) for id_ in wanted if id_ not in self._known]
        calls: list[Call] = [("make_meters", _json(unknown))] if unknown else []
        calls.append(("read_meters", _array(wanted)))
        calls.append(("read", _array(id_.hex for id_ in ids)) if ids else ("read_no_rows",))
        given_up: list[Call] = [("rollback",)] if pipe.is_in_transaction else []
        meters, read = pipe.run(*given_up, ("begin",), *calls)[-2:]
        version, now, rows = READ.decode(read or b"")
        return Page(
            process=self.process,
            version=version,
            now=now,
            meters=Meters({meter.id: meter for meter in METERS.decode(meters or b"[]")}),
            rows={row.id: row for row in rows},
        )

    def commit(self, page: Page) -> None:
        try:
            calls = _writes(page)
        except (ValueError, OverflowError) as exc:  # half a surrogate pair, a number beyond 64 bits
            self.rollback()
            raise BadItem(type(exc).__name__) from exc
        self._do(lambda pipe: pipe.run(*calls, ("commit",)))
        self._known.update(page.meters)

    def rollback(self) -> None:
        if self._pipe is None:
            return
        try:
            self._pipe.rollback()
        except psycopg.Error:
            self.close()

    # For the sweep.

    def processes(self) -> tuple[int, dict[str, int], set[str]]:
        now, living, busy = self._do(lambda pipe: pipe.run(("now",), ("living",), ("busy",)))
        beats = {found["name"]: found["heartbeat_at"] for found in msgspec.json.decode(living or b"[]")}
        return int(now or 0), beats, set(msgspec.json.decode(busy or b"[]"))

    def open_records(self, process: str, at_most: int) -> list[OpenRecord]:
        asked = _json({"process": process, "at_most": at_most})
        return self._do(lambda pipe: _read(pipe.run(("open_records", asked))[0], OpenRecord))

    def forget(self, process: str) -> None:
        self._do(lambda pipe: pipe.run(("forget", process.encode())))

    def wrong_slots(self) -> list[tuple[str, int, int]]:
        return self._do(_wrong_slots)

    def set_slots(self, meter_ids: list[str]) -> None:
        def correct(pipe: Pipe) -> None:
            pipe.run(("begin",), ("read_meters", _array(sorted(meter_ids))))
            right = [{"id": id_, "n": n} for id_, _said, n in _wrong_slots(pipe) if id_ in meter_ids]
            pipe.run(("set_slots", _json(right)), ("commit",))

        self._do(correct)

    # The connection.

    def _do(self, work: Callable[[Pipe], T]) -> T:
        """psycopg's errors become the ledger's; what fails leaves no transaction open."""
        try:
            if self._pipe is None or not self._pipe.is_usable:
                self._known.clear()
                self._pipe = Pipe(self._parameters, STATEMENTS)
            return work(self._pipe)
        except CONFLICTS as exc:
            self.rollback()
            raise Conflict(type(exc).__name__) from exc
        except (psycopg.DataError, psycopg.IntegrityError) as exc:
            self.rollback()
            raise BadItem(type(exc).__name__) from exc
        except BaseException:
            # A connection that failed in a way that nobody expects is not used again.
            self.close()
            raise

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _writes(page: Page) -> list[Call]:
    calls: list[Call] = []

    def write(name: str, rows: list[Any]) -> None:
        if rows:
            calls.append((name, _json(rows)))

    if page.inserted and not page.updated:
        calls.append(("admit", _json(list(page.touched.values())), _json(page.inserted)))
    elif page.touched or page.updated:
        hours = [dict(zip(sql.HOUR_COLUMNS, row, strict=True)) for row in page.hours.rows()]
        parts = (list(page.touched.values()), page.inserted, list(page.updated.values()), hours)
        calls.append(("write", *map(_json, parts)))
    write("add_refusals", [_refusal(*key, n) for key, n in sorted(page.refusals.items())])
    write("touch_tokens", page.used_tokens)
    if page.heartbeat:
        write("beat", [{"name": page.heartbeat, "heartbeat_at": page.now}])
    return calls


def _refusal(*values: object) -> dict[str, object]:
    return {column.strip('"'): value for column, value in zip(sql.REFUSAL_COLUMNS, values, strict=True)}


def _wrong_slots(pipe: Pipe) -> list[tuple[str, int, int]]:
    found = msgspec.json.decode(pipe.run(("wrong_slots",))[0] or b"[]")
    return [(each["id"], each["in_flight"], each["open"]) for each in found]


_json = msgspec.json.encode


def _array(ids: Iterable[str]) -> bytes:
    """PostgreSQL's own notation; ids have no characters that it would need quoted."""
    return f"{{{','.join(ids)}}}".encode()


def _read(value: bytes | None, kind: type[T]) -> list[T]:
    return msgspec.json.decode(value or b"[]", type=list[kind])  # type: ignore[valid-type]
