"""Puts Poe's own points and token counts in the place of our estimates: in record, meters and hour, in one transaction."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from django.db import connection

from relay.ledger import sql
from relay.ledger.deciding import Row, add_points, owners
from relay.ledger.rollups import Hours
from relay.models import Meter, PoeCharge, UsageRecord
from relay.turn import transaction_in_turn

# No transaction is to take 50 ms; so many records take a third of that.
MOST = 50
LARGEST_COUNT = 2**31 - 1
ROW_FIELDS = Row.__struct_fields__
RECORD_COLUMNS = ("prompt_tokens", "completion_tokens", "tokens_estimated", "points", "accounting")
CHARGE_COLUMNS = ("is_ambiguous", "estimated_points")


def _update(table: str, *columns: str) -> str:
    return f"UPDATE {table} SET {', '.join(f'{name} = %s' for name in columns)} WHERE id = %s"  # noqa: S608


UPDATE_METER = _update("relay_meter", "day_points", "month_points")
UPDATE_RECORD = _update("relay_usagerecord", *RECORD_COLUMNS)
UPDATE_CHARGE = _update("relay_poecharge", "match", "record_id", *CHARGE_COLUMNS)
ADD_HOURS = (
    f"INSERT INTO relay_usagehour ({', '.join(sql.HOUR_COLUMNS)}) "  # noqa: S608
    f"VALUES ({', '.join(['%s'] * len(sql.HOUR_COLUMNS))}) {sql.ADD_HOURS}"
)
RECORD_VALUES, CHARGE_VALUES = attrgetter(*RECORD_COLUMNS), attrgetter(*CHARGE_COLUMNS)
OPEN, OWN = UsageRecord.Outcome.OPEN, UsageRecord.Accounting.OWN
RECONCILED = UsageRecord.Accounting.RECONCILED


@dataclass(frozen=True, slots=True)
class Correction:
    """This charge is that of this record; both by their numbers."""

    charge_id: int
    record_id: uuid.UUID
    is_ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class Corrected:
    """How many records are as Poe charged now, and for how long nobody else could write (in seconds)."""

    records: int
    seconds: float


def correct(corrections: Sequence[Correction]) -> Corrected:
    """Up to MOST of them. What somebody else has matched meanwhile, and what is open or gone, is left alone.

    A charge that was matched to this record before corrects it again, by what has changed since.
    """
    assert len(corrections) <= MOST
    by_record = {each.record_id: each for each in corrections}
    with transaction_in_turn():
        meters = _lock_meters(by_record)
        # Others wait from here on; before, it was us.
        began = time.monotonic()
        done = _correct(by_record, meters)
    return Corrected(done, time.monotonic() - began)


def _correct(corrections: dict[uuid.UUID, Correction], meters: dict[str, Meter]) -> int:
    hours = Hours()
    records: list[UsageRecord] = []
    charges: list[PoeCharge] = []
    for record, charge in _locked(corrections):
        before = _row(record)
        if charge.record_id is None:
            charge.is_ambiguous = corrections[record.pk].is_ambiguous
            charge.estimated_points = None if record.accounting == OWN else record.points
        charge.match, charge.record_id = PoeCharge.Match.MATCHED, record.pk
        _take_over(record, charge)
        after = _row(record)
        for id_ in owners(before):
            if id_ in meters:
                add_points(meters[id_], before, after.points - before.points)
        hours.add(before, -1)
        hours.add(after, +1)
        records.append(record)
        charges.append(charge)
    if records:
        _write(meters.values(), records, charges, hours)
    return len(records)


def _lock_meters(record_ids: Iterable[uuid.UUID]) -> dict[str, Meter]:
    """In the ledger's order: meters, then records. Whose a record is never changes."""
    whose = UsageRecord.objects.filter(pk__in=record_ids).values_list("token_id", "user_id", "team_id")
    ids = {
        f"{kind}:{number}"
        for each in whose
        for kind, number in zip(("token", "user", "team"), each, strict=True)
    }
    return {each.id: each for each in Meter.objects.select_for_update().filter(pk__in=ids).order_by("pk")}


def _locked(corrections: dict[uuid.UUID, Correction]) -> Iterable[tuple[UsageRecord, PoeCharge]]:
    """Those that are still to be corrected. Open ones are their process's alone, which may not read them again."""
    records = UsageRecord.objects.select_for_update().filter(pk__in=corrections).order_by("pk")
    found = {each.pk: each for each in records.exclude(outcome=OPEN)}
    ids = [each.charge_id for each in corrections.values()]
    charges = {
        each.pk: each for each in PoeCharge.objects.select_for_update().filter(pk__in=ids).order_by("pk")
    }
    taken = set(PoeCharge.objects.filter(record_id__in=corrections).values_list("record_id", flat=True))
    for record_id, correction in corrections.items():
        record, charge = found.get(record_id), charges.get(correction.charge_id)
        if record is None or charge is None:
            continue
        is_new = charge.match == PoeCharge.Match.WAITING and record_id not in taken
        if is_new or charge.record_id == record_id:
            yield record, charge


def _row(record: UsageRecord) -> Row:
    values = {name: getattr(record, name) for name in ROW_FIELDS}
    return Row(**values | {"key_id": record.key_id or 0})


def _take_over(record: UsageRecord, charge: PoeCharge) -> None:
    """What was asked with an own Poe key costs nobody's budget anything."""
    if charge.input_tokens is not None:
        record.prompt_tokens = min(max(0, charge.input_tokens), LARGEST_COUNT)
    if charge.output_tokens is not None:
        record.completion_tokens = min(max(0, charge.output_tokens), LARGEST_COUNT)
    if charge.input_tokens is not None and charge.output_tokens is not None:
        record.tokens_estimated = False
    if record.accounting != OWN:
        record.points, record.accounting = charge.points, RECONCILED


def _write(
    meters: Iterable[Meter], records: list[UsageRecord], charges: list[PoeCharge], hours: Hours
) -> None:
    """In statements of one row each: the ORM's for many rows at once take ten times as long."""
    as_uuid = UsageRecord._meta.pk.get_db_prep_value
    as_time = connection.ops.adapt_datetimefield_value
    rows = [
        (UPDATE_METER, [(each.day_points, each.month_points, each.pk) for each in meters]),
        (UPDATE_RECORD, [(*RECORD_VALUES(each), as_uuid(each.pk, connection)) for each in records]),
        (
            UPDATE_CHARGE,
            [
                (each.match, as_uuid(each.record_id, connection), *CHARGE_VALUES(each), each.pk)
                for each in charges
            ],
        ),
        (ADD_HOURS, [(as_time(hour), *rest) for hour, *rest in hours.rows()]),
    ]
    with connection.cursor() as cursor:
        for statement, values in rows:
            if values:
                cursor.executemany(statement, values)
