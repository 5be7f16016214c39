"""What is left of each Poe account's points: when it is read, what comes of it, and a key's test that costs nothing."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import Exists, Min, Model, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from relay.aside import Aside
from relay.errors import RelayError, UpstreamRateLimited, UpstreamTimeout
from relay.models import (
    AccountHealth,
    BalanceReading,
    BotMapping,
    KeyHealth,
    Meter,
    PoeAccount,
    PoeCharge,
    PoeKey,
    PoolEvent,
    State,
    Upload,
)
from relay.poe_accounts import account_key
from relay.pool import keeping
from relay.pool.health import Standing
from relay.turn import transaction_in_turn
from relay.upstreams.poe_account import AccountKey, Balance, PoeAccounts

log = logging.getLogger(__name__)

# So much of the time between two readings is left to chance, so that accounts are not all read together.
JITTER = 0.1
# An account without points is left alone a bit longer than until it is read again: no request finds out before us.
MARGIN = timedelta(minutes=1)
# Of keys that cannot read the balance, so many are tried in a row.
TRIES = 5
# The balance must have risen by this share above the threshold before it is no longer low.
ENOUGH = 1.05
# A reading is kept when it differs from the last one, or after so long.
KEPT_EVERY = timedelta(hours=1)
# So long an account that rests again although it has points is taken to have too few of them.
DOUBT = 3600.0
# Of rows that are moved or removed, in one transaction.
ROWS_AT_ONCE = 500

M = TypeVar("M", bound=Model)
Clock = Callable[[], datetime]


class Balances:
    """Reads them for the one process whose job it is. The database says when each is due, whoever reads."""

    def __init__(
        self,
        accounts: PoeAccounts,
        aside: Aside,
        poll_seconds: float,
        *,
        clock: Clock = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._accounts = accounts
        self._aside = aside
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._chance = chance
        # Since when accounts rest: as the last look found them, and those that were read because of it.
        self._rests: dict[int, datetime] = {}
        self._read_for: dict[int, datetime] = {}
        # With how many points an account was said to be well again although it had to rest, and when.
        self._doubts: dict[int, tuple[int, float]] = {}

    async def due(self) -> list[int]:
        """The accounts to be read now; first those that have just run out of points."""
        found = await self._aside.run(_candidates, self._clock())
        self._rests = {each.id: each.rests_since for each in found if each.rests_since is not None}
        resting = [id_ for id_, since in self._rests.items() if self._read_for.get(id_) != since]
        return resting + [each.id for each in found if each.is_due and each.id not in resting]

    async def read(self, account_id: int) -> bool:
        """Read one and write down what was said; whether Poe told it."""
        if account_id in self._rests:
            self._read_for[account_id] = self._rests[account_id]
        answer = await self._ask(account_id)
        now = self._clock()
        due_at = now + timedelta(seconds=self._poll_seconds * (1 + JITTER * (2 * self._chance() - 1)))
        if isinstance(answer, str):
            await self._aside.run(_store_failure, account_id, answer, now, due_at)
            return False
        state = await self._aside.run(store, account_id, answer, now, due_at)
        if state == State.RESTING:
            await self._aside.run(self._settle_rest, account_id, answer.points, due_at)
        elif answer.points <= 0:
            await self._aside.run(_let_rest, account_id, answer.points, now, due_at + MARGIN)
        return state is not None

    async def _ask(self, account_id: int) -> Balance | str:
        """One key after the other: that Poe refuses one here says nothing about the others, nor about bots."""
        keys = await self._aside.run(_keys, account_id)
        failure = "every key of the account is retired"
        for key in keys[:TRIES]:
            if isinstance(key, str):
                failure = key
                continue
            try:
                return await self._accounts.balance(key)
            except RelayError as exc:
                failure = exc.message
                if isinstance(exc, UpstreamRateLimited | UpstreamTimeout):
                    break  # another key of this account would fare no better
        return failure

    def _settle_rest(self, account_id: int, points: int, due_at: datetime) -> None:
        """Of an account that rests: with points it is well again, without it waits for the next reading."""
        if points <= 0:
            self._doubts.pop(account_id, None)
            _rest_until(account_id, due_at + MARGIN)
            return
        before, at = self._doubts.get(account_id, (0, 0.0))
        self._doubts[account_id] = (points, time.monotonic())
        if points <= before and time.monotonic() - at < DOUBT:
            return  # it was asked with as many, and they were too few: the next try is by the clock
        keeping.revive("account", account_id, f"the balance is {_points(points)}")


@dataclass(frozen=True, slots=True)
class _Candidate:
    id: int
    is_due: bool
    # Since when it rests, if it was not read since.
    rests_since: datetime | None


def _candidates(now: datetime) -> list[_Candidate]:
    is_due = Q(health__isnull=True) | Q(health__due_at__isnull=True) | Q(health__due_at__lte=now)
    rows = (
        PoeAccount.objects.filter(
            is_due | Q(health__state=State.RESTING),
            Exists(PoeKey.objects.filter(account=OuterRef("pk"), enabled=True)),
            enabled=True,
        )
        .order_by("health__due_at", "pk")
        .values_list("pk", "health__due_at", "health__state", "health__since", "health__balance_at")
    )
    return [
        _Candidate(
            pk,
            due_at is None or due_at <= now,
            since if state == State.RESTING and (balance_at is None or balance_at < since) else None,
        )
        for pk, due_at, state, since, balance_at in rows
    ]


def _keys(account_id: int) -> list[AccountKey | str]:
    """What may read the balance, and in the place of what cannot: why not."""
    found: list[AccountKey | str] = []
    keys = PoeKey.objects.filter(account=account_id, enabled=True).exclude(health__state=State.RETIRED)
    for key in keys.select_related("account"):
        try:
            found.append(account_key(key.account, key))
        except RelayError as exc:
            found.append(exc.message)
    return found


def store(account_id: int, balance: Balance, now: datetime, due_at: datetime | None = None) -> str | None:
    """Write down a balance that Poe told; in which state the account is, None if it is gone."""
    with transaction_in_turn():
        row = _health(account_id, now)
        if row is None:
            return None
        row.balance, row.balance_at, row.balance_error = balance.points, now, ""
        row.grant_at, row.grant_points = balance.grant_at, balance.grant_points
        row.due_at = due_at or row.due_at
        _note_low(row, now)
        row.save(
            update_fields=[
                *("balance", "balance_at", "balance_error", "grant_at", "grant_points", "due_at", "is_low")
            ]
        )
        last = BalanceReading.objects.filter(account=account_id).order_by("-at").first()
        if last is None or last.points != balance.points or now - last.at >= KEPT_EVERY:
            BalanceReading.objects.create(account_id=account_id, at=now, points=balance.points)
        return row.state


def _store_failure(account_id: int, reason: str, now: datetime, due_at: datetime) -> None:
    with transaction_in_turn():
        row = _health(account_id, now)
        if row is None:
            return
        is_new = row.balance_error != reason[:300]
        row.balance_error, row.due_at = reason[:300], due_at
        row.save(update_fields=["balance_error", "due_at"])
    if is_new:
        log.warning("the balance of the Poe account %d cannot be read: %s", account_id, reason)


def _health(account_id: int, now: datetime) -> AccountHealth | None:
    if not PoeAccount.objects.filter(pk=account_id).exists():
        return None
    return AccountHealth.objects.select_for_update().get_or_create(pk=account_id, defaults={"since": now})[0]


def _note_low(row: AccountHealth, now: datetime) -> None:
    """Administrators are told once, not each time the balance crosses the line."""
    assert row.balance is not None
    least = row.account.low_balance
    if least is None or row.balance >= least * ENOUGH:
        row.is_low = False
    elif row.balance < least and not row.is_low:
        row.is_low = True
        PoolEvent.objects.create(
            at=now,
            account_id=row.pk,
            became="low_balance",
            reason=f"{_points(row.balance)} left, fewer than {least:,}",
            is_news=True,
        )


def _points(number: int) -> str:
    return f"{number:,} {'point' if abs(number) == 1 else 'points'}"


def _let_rest(account_id: int, points: int, now: datetime, until: datetime) -> None:
    """Nobody has to be refused first to find out."""

    def rule(was: Standing, _now: datetime) -> Standing | None:
        if was.state in (State.RESTING, State.RETIRED):
            return None
        return Standing(State.RESTING, f"the balance is {_points(points)}", now, until, was.failures + 1)

    keeping.change("account", account_id, rule, now)


def _rest_until(account_id: int, until: datetime) -> None:
    """Longer, or shorter: no change of state, so nobody is told."""
    with transaction_in_turn():
        # In the ledger's order: the meter first.
        meter = Meter.objects.get_or_create(pk=f"account:{account_id}")[0]
        Meter.objects.select_for_update().get(pk=meter.pk)
        row = AccountHealth.objects.select_for_update().filter(pk=account_id, state=State.RESTING).first()
        if row is None:
            return
        row.until = until
        row.save(update_fields=["until"])
        block = keeping.block_of(Standing(row.state, row.reason, row.since, until, row.failures))
        Meter.objects.filter(pk=meter.pk).update(blocked_until=block)


# For an administrator.


async def test(account: PoeAccount, key: PoeKey) -> Balance:
    """Ask for the balance with this very key, which costs nothing; it is well again if that works.

    Raises RelayError, which says in words why it does not; then nothing but a note is written.
    """
    accounts = PoeAccounts(settings.CONFIG.poe.connect_seconds)
    try:
        balance = await accounts.balance(account_key(account, key))
    except RelayError as exc:
        await sync_to_async(_note_failed_test)(key, exc.message)
        raise
    finally:
        await accounts.close()
    await sync_to_async(_note_test)(key, balance)
    return balance


def _note_test(key: PoeKey, balance: Balance) -> None:
    reason = f"tested: {_points(balance.points)}"
    state = store(key.account_id, balance, datetime.now(UTC))
    keeping.revive("key", key.pk, reason)
    if state == State.RESTING and balance.points > 0:
        keeping.revive("account", key.account_id, reason)


def _note_failed_test(key: PoeKey, reason: str) -> None:
    health = KeyHealth.objects.filter(pk=key.pk).first()
    state = health.state if health else State.OK
    with transaction_in_turn():
        PoolEvent.objects.create(
            at=datetime.now(UTC),
            account_id=key.account_id,
            key=key,
            was=state,
            became=state,
            reason=f"tested: {reason}"[:300],
        )


# Two that are one.


def same_account(one_id: int, other_id: int) -> None:
    """These were found to be the same account at Poe: noted at the younger, once."""
    accounts = PoeAccount.objects.filter(pk__in=(one_id, other_id)).order_by("created_at", "pk")
    if len(accounts) < 2:
        return
    older, younger = accounts
    now = datetime.now(UTC)
    with transaction_in_turn():
        row = _health(younger.pk, now)
        if row is None or row.same_as_id is not None:
            return
        row.same_as = older
        row.save(update_fields=["same_as"])
        PoolEvent.objects.create(
            at=now,
            account=younger,
            became="same_account",
            reason=f"it has the points history of {older.name!r}"[:300],
            is_news=True,
        )


def merge(younger: PoeAccount) -> None:
    """Move all that it has to the account that it was found to be, and delete it. Raises ValidationError."""
    older = _twin(younger)
    _in_steps(PoeCharge.objects.filter(account=younger), lambda some: some.update(account=older))
    _move_readings(younger, older)
    known = Upload.objects.filter(account=older, digest=OuterRef("digest"))
    with transaction_in_turn():
        # Keys and mappings count the directory's version up, and that comes first.
        PoeKey.objects.filter(account=younger).update(account=older)
        BotMapping.objects.filter(account=younger).update(account=older)
        AccountHealth.objects.filter(same_as=younger).exclude(pk=older.pk).update(same_as=older)
        # What was read since.
        PoeCharge.objects.filter(account=younger).update(account=older)
        PoolEvent.objects.filter(account=younger).update(account=older)
        Upload.objects.filter(~Exists(known), account=younger).update(account=older)
        younger.delete()


def _twin(younger: PoeAccount) -> PoeAccount:
    health = AccountHealth.objects.filter(pk=younger.pk).select_related("same_as").first()
    older = health.same_as if health else None
    if older is None or older.pk == younger.pk:
        raise ValidationError(_("Nothing says that this account is the same as another one."))
    if (older.team_id, older.user_id) != (younger.team_id, younger.user_id):
        raise ValidationError(
            _("The two accounts serve different people: make team and user the same first.")
        )
    for name in ("is_demo", "base_url", "upload_url", "api_url", "counts_in_budgets"):
        if getattr(older, name) != getattr(younger, name):
            raise ValidationError(
                _("The two accounts differ in “%(field)s”: make it the same first.")
                % {"field": PoeAccount._meta.get_field(name).verbose_name}  # type: ignore[union-attr]
            )
    return older


def _move_readings(younger: PoeAccount, older: PoeAccount) -> None:
    """Both have read the one balance: of the younger's readings those count that are from before the older's."""
    first = BalanceReading.objects.filter(account=older).aggregate(at=Min("at"))["at"]
    readings = BalanceReading.objects.filter(account=younger)
    _in_steps(readings.filter(at__lt=first) if first else readings, lambda some: some.update(account=older))
    _in_steps(readings, lambda some: some.delete())


def forget(account: PoeAccount) -> None:
    """What was read of it, a little at a time: before it is deleted, which would remove all of it at once."""
    for rows in (account.charges, account.readings, account.events, account.uploads):
        _in_steps(rows.all(), lambda some: some.delete())


def _in_steps(rows: QuerySet[M], do: Callable[[QuerySet[M]], object]) -> None:
    """Until no row is left that is to be changed; each step is short enough for the ledger beside it."""
    while some := list(rows.values_list("pk", flat=True)[:ROWS_AT_ONCE]):
        with transaction_in_turn():
            do(rows.filter(pk__in=some))
