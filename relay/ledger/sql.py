"""The ledger's statements, as both databases run them; values travel as parameters only."""

from __future__ import annotations

from dataclasses import fields

from relay.ledger import Admission, Settlement

# Admission's fields in the record's columns; `version` is not one.
RECORD_COLUMNS = tuple(each.name for each in fields(Admission) if each.name != "version")
CONSTANTS = {"outcome": "'open'", "error_code": "''", "finish_reason": "''", "completion_tokens": "0"}

VERSION = "SELECT n FROM relay_directoryversion WHERE id = 1"


def insert_record(mark: str, true: str) -> str:
    columns = ", ".join((*RECORD_COLUMNS, *CONSTANTS, "tokens_estimated"))
    values = ", ".join((*[mark] * len(RECORD_COLUMNS), *CONSTANTS.values(), true))
    return f"INSERT INTO relay_usagerecord ({columns}) VALUES ({values})"


def update_record(mark: str) -> str:
    """Settles an open record, and nothing else: a second settlement of the same record changes nothing."""
    assigned = ", ".join(f"{each.name} = {mark}" for each in fields(Settlement) if each.name != "id")
    return f"UPDATE relay_usagerecord SET {assigned} WHERE id = {mark} AND outcome = 'open'"


def touch_token(mark: str) -> str:
    return (
        f"INSERT INTO accounts_tokenactivity (token_id, last_used_at) VALUES ({mark}, {mark}) "
        "ON CONFLICT (token_id) DO UPDATE SET last_used_at = excluded.last_used_at"
    )


def record_values(admission: Admission) -> tuple[object, ...]:
    return tuple(getattr(admission, name) for name in RECORD_COLUMNS)


def settlement_values(settlement: Settlement) -> tuple[object, ...]:
    values = [getattr(settlement, each.name) for each in fields(Settlement) if each.name != "id"]
    return (*(value() if callable(value) else value for value in values), settlement.id)
