"""Removes old usage records, a little at a time, and meters that nobody owns any more. Rollups stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Model, Q, QuerySet

from accounts.models import AccessToken, Team, User
from relay.models import Meter, PoeAccount, PoeKey, Pruning, UsageRecord
from relay.turn import now as moment
from relay.turn import transaction_in_turn, turn

# No transaction is to take more than 50 ms; what fits is found out while it goes on.
GOAL_SECONDS = 0.01
FIRST_SIZE, FEWEST, MOST = 20, 5, 2000
OWNERS: dict[str, type[Model]] = {
    "token": AccessToken,
    "user": User,
    "team": Team,
    "key": PoeKey,
    "account": PoeAccount,
}


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, and the moment before which it started. `took`: each transaction, in seconds."""

    before: datetime
    records: int
    meters: int
    took: tuple[float, ...]


def prune(before: datetime) -> Pruned:
    """Remove the records that started before this moment, or before the oldest that must be kept.

    That one is open, or counts in a budget period that is not over. The moment is stored before anything is removed:
    wherever this is stopped, `ledger verify` knows what it cannot check.
    """
    now = moment()
    oldest_kept = UsageRecord.objects.filter(started_at__lt=before).exclude(_may_go(now))
    first = oldest_kept.order_by("started_at").values_list("started_at", flat=True).first()
    before = min(before, first) if first else before
    pace = _Pace()
    with _small_checkpoints():
        records = _remove_records(before, now, pace)
        meters = _remove_meters(now, pace)
    return Pruned(before, records, meters, tuple(pace.seconds))


def _may_go(now: int) -> Q:
    """Settled, and all the periods that it counts in are over."""
    over = {f"{period}__lte": now for period in ("day_ends", "month_ends", "own_day_ends", "own_month_ends")}
    return ~Q(outcome=UsageRecord.Outcome.OPEN) & Q(**over)


def _remove_records(before: datetime, now: int, pace: _Pace) -> int:
    old = UsageRecord.objects.filter(started_at__lt=before).filter(_may_go(now))
    in_order = old.order_by("started_at", "id").values_list("id", "started_at")
    if not in_order[:1]:
        return 0
    with transaction_in_turn():
        _store_watermark(before)
    removed = 0
    # Looked up outside the transaction, and from where the last batch ended: what is removed is not walked over again.
    found = list(in_order[: pace.size])
    while found:
        removed += _remove(old.filter(pk__in=[id_ for id_, _started_at in found]), pace)
        found = list(in_order.filter(started_at__gte=found[-1][1])[: pace.size])
    return removed


def _store_watermark(before: datetime) -> None:
    """It never goes back."""
    Pruning.objects.get_or_create(pk=1, defaults={"pruned_before": before})
    Pruning.objects.filter(pk=1, pruned_before__lt=before).update(pruned_before=before)


def _remove(rows: QuerySet[Any], pace: _Pace) -> int:
    with pace.small_transaction():
        removed, _by_table = rows.delete()
    return removed


# Meters.


def _remove_meters(now: int, pace: _Pace) -> int:
    """Those of owners that are gone, when nothing is in flight and no open period has anything of theirs."""
    idle = Meter.objects.filter(
        Q(day_points=0) | Q(day_ends__lte=now), Q(month_points=0) | Q(month_ends__lte=now), in_flight=0
    )
    ids = sorted(_without_owner(idle))
    removed = 0
    while ids:
        batch, ids = ids[: pace.size], ids[pace.size :]
        # In the order in which the ledger locks meters; one that it holds now is left for the next time.
        free = idle.filter(pk__in=batch).select_for_update(skip_locked=True).order_by("pk")
        with pace.small_transaction():
            removed += Meter.objects.filter(pk__in=list(free.values_list("pk", flat=True))).delete()[0]
    return removed


def _without_owner(meters: QuerySet[Meter]) -> Iterator[str]:
    ids = list(meters.values_list("pk", flat=True))
    for kind, model in OWNERS.items():
        living = {f"{kind}:{pk}" for pk in model._default_manager.values_list("pk", flat=True)}
        yield from (id_ for id_ in ids if id_.startswith(f"{kind}:") and id_ not in living)


# So that the servers hardly notice.


class _Pace:
    """How many rows a transaction removes, and the pause after it: half of the time is the servers'."""

    def __init__(self) -> None:
        self.size = FIRST_SIZE
        self.seconds: list[float] = []

    @contextmanager
    def small_transaction(self) -> Iterator[None]:
        """The wait for its turn does not count."""
        with turn():
            began = time.monotonic()
            with transaction.atomic():
                yield
            took = time.monotonic() - began
        self.took(took)
        _checkpoint()
        time.sleep(max(0.002, took))

    def took(self, seconds: float) -> None:
        """Slowly up, at once down."""
        self.seconds.append(seconds)
        fits = self.size * GOAL_SECONDS / max(seconds, 0.0001)
        self.size = int(max(FEWEST, min(MOST, fits, self.size * 1.5)))


def _checkpoint() -> None:
    """Copies what it can of SQLite's log into the database, beside the writers and not in their way."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")


@contextmanager
def _small_checkpoints() -> Iterator[None]:
    """On SQLite a commit may have to copy the whole log into the database, while it is its turn: not these ones."""
    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        usual = cursor.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
        cursor.execute("PRAGMA wal_autocheckpoint = 0")
        try:
            yield
        finally:
            cursor.execute(f"PRAGMA wal_autocheckpoint = {int(usual)}")
