"""How Poe keys and accounts fare, as people are shown it: the worse of a key's own state and its account's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from relay.models import Health, PoeAccount, PoeKey, PoolEvent, State
from relay.pool.health import RANK

DISABLED = "disabled"
# What happens to an account besides its states.
HAPPENINGS = {
    "low_balance": _("low balance"),
    "leak": _("possible leak"),
    "same_account": _("same account"),
}
NAMES: dict[str, Any] = {**dict(State.choices), DISABLED: _("disabled"), **HAPPENINGS}
# unfold's colours.
COLOURS = {
    "ok": "success",
    "failing": "warning",
    "cooling": "info",
    "resting": "warning",
    "retired": "danger",
    "low_balance": "warning",
    "leak": "danger",
    "same_account": "warning",
}
# A leak that was seen is told of for so long.
LEAK_SHOWN = timedelta(days=1)


def name_of(state: str) -> str:
    return str(NAMES.get(state, state))


@dataclass(frozen=True, slots=True)
class Standing:
    """`of_account`: what is said is the account's state, not the key's own. `now` is when it was looked at."""

    state: str
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None
    of_account: bool = False
    now: datetime = field(default_factory=timezone.now)

    @property
    def name(self) -> str:
        return name_of(self.state)

    @property
    def colour(self) -> str:
        return COLOURS.get(self.state, "")

    @property
    def is_out(self) -> bool:
        """Whether it could be put back into service."""
        return self.state not in ("ok", DISABLED)

    @property
    def ends(self) -> datetime | None:
        """The next probe, if it is yet to come."""
        return self.until if self.is_out and self.until is not None and self.until > self.now else None

    @property
    def is_due(self) -> bool:
        """Whether the next request tries it."""
        return self.is_out and self.until is not None and self.until <= self.now


def of_account(account: PoeAccount) -> Standing:
    """Of an account that was read with its health."""
    if not account.enabled:
        return Standing(DISABLED)
    return of_health(getattr(account, "health", None))


def of_key(key: PoeKey) -> Standing:
    """Of a key that was read with its health, its account and the account's."""
    if not key.enabled:
        return Standing(DISABLED)
    theirs = of_account(key.account)
    own = of_health(getattr(key, "health", None))
    if theirs.state == DISABLED or RANK[theirs.state] > RANK[own.state]:
        return replace(theirs, of_account=True)
    return own


def of_health(health: Health | None) -> Standing:
    if health is None:
        return Standing("ok")
    return Standing(health.state, health.reason, health.since, health.until)


def keys_in(state: str, keys: QuerySet[PoeKey]) -> QuerySet[PoeKey]:
    """Those of which `of_key` says so."""
    if state == DISABLED:
        return keys.filter(Q(enabled=False) | Q(account__enabled=False))
    not_worse = [each for each, rank in RANK.items() if rank <= RANK[state]]
    both = keys.filter(enabled=True, account__enabled=True).annotate(
        own_state=Coalesce("health__state", Value("ok")),
        account_state=Coalesce("account__health__state", Value("ok")),
    )
    return both.filter(
        Q(own_state=state) | Q(account_state=state), own_state__in=not_worse, account_state__in=not_worse
    )


def accounts_in(state: str, accounts: QuerySet[PoeAccount]) -> QuerySet[PoeAccount]:
    """Those of which `of_account` says so."""
    if state == DISABLED:
        return accounts.filter(enabled=False)
    found = accounts.filter(enabled=True).annotate(own_state=Coalesce("health__state", Value("ok")))
    return found.filter(own_state=state)


# What needs somebody. What a user or a team brought along is theirs to look after.


def retired_keys() -> QuerySet[PoeKey]:
    return PoeKey.objects.filter(
        enabled=True,
        account__enabled=True,
        account__counts_in_budgets=True,
        health__state=State.RETIRED,
    )


def troubled_accounts() -> QuerySet[PoeAccount]:
    """Out of points, nearly so, another account's double, or with charges that nobody here caused."""
    leaks = PoolEvent.objects.filter(
        account=OuterRef("pk"), became="leak", at__gte=timezone.now() - LEAK_SHOWN
    )
    return (
        PoeAccount.objects.filter(enabled=True, counts_in_budgets=True)
        .annotate(has_leak=Exists(leaks))
        .filter(
            Q(health__state__in=(State.RESTING, State.RETIRED))
            | Q(health__is_low=True)
            | Q(health__same_as__isnull=False)
            | Q(has_leak=True)
        )
    )


def trouble() -> int:
    """How many keys and accounts need somebody: one query."""
    keys = retired_keys().order_by().values_list("pk")
    return keys.union(troubled_accounts().order_by().values_list("pk"), all=True).count()
