"""The ledger's tables and columns, and the statements that both databases run alike. Values travel as parameters only."""

from __future__ import annotations

from dataclasses import fields

from relay.ledger.deciding import NewRow, Row
from relay.ledger.meters import Meter
from relay.ledger.rollups import KEY_COLUMNS, SUM_COLUMNS

VERSION = "SELECT n FROM relay_directoryversion WHERE id = 1"

METER_COLUMNS = tuple(each.name for each in fields(Meter))
# What is read of a record, in the order of Row's fields; what is written when it changes.
ROW_COLUMNS = Row.__struct_fields__
CHANGED_COLUMNS = ROW_COLUMNS[ROW_COLUMNS.index("outcome") :]
RECORD_COLUMNS = NewRow.__struct_fields__
HOUR_COLUMNS = (*KEY_COLUMNS, *SUM_COLUMNS)
REFUSAL_COLUMNS = ("hour", "team_id", "user_id", "token_id", '"limit"', "refusals")

ADD_SUMS = ", ".join(f"{name} = relay_usagehour.{name} + excluded.{name}" for name in SUM_COLUMNS)
ADD_HOURS = f"ON CONFLICT ({', '.join(KEY_COLUMNS)}) DO UPDATE SET {ADD_SUMS}"
ADD_REFUSALS = (
    f"ON CONFLICT ({', '.join(REFUSAL_COLUMNS[:-1])}) "
    "DO UPDATE SET refusals = relay_refusalhour.refusals + excluded.refusals"
)
TOUCH_TOKENS = "ON CONFLICT (token_id) DO UPDATE SET last_used_at = excluded.last_used_at"
BEAT = "ON CONFLICT (name) DO UPDATE SET heartbeat_at = excluded.heartbeat_at"
PROCESSES_WITH_OPEN_RECORDS = "SELECT DISTINCT process FROM relay_usagerecord WHERE outcome = 'open'"
LIVING = "SELECT name, heartbeat_at FROM relay_process"

OPEN_BY_OWNER = " UNION ALL ".join(
    f"SELECT '{kind}:' || {kind}_id AS id FROM relay_usagerecord WHERE outcome = 'open'"  # noqa: S608
    for kind in ("token", "user", "team", "key")
)
SLOTS_WITHOUT_A_METER = (
    f"SELECT id, count(*) FROM ({OPEN_BY_OWNER}) AS each_open "  # noqa: S608
    "WHERE id NOT IN (SELECT id FROM relay_meter) GROUP BY id ORDER BY id"
)
# Meters whose slots are not those of the open records: one statement, so that it sees both as of one moment.
WRONG_SLOTS = f"""
SELECT m.id, m.in_flight, coalesce(o.n, 0) AS open FROM relay_meter m
LEFT JOIN (SELECT id, count(*) AS n FROM ({OPEN_BY_OWNER}) AS each_open GROUP BY id) AS o ON o.id = m.id
WHERE m.in_flight <> coalesce(o.n, 0) ORDER BY m.id
"""  # noqa: S608
