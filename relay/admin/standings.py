"""What the pages of Poe keys and accounts share: how a state is shown, the filter by it, and the last events."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from relay import standings
from relay.models import PoeAccount, PoeKey, PoolEvent, State
from relay.standings import Standing

LAST_EVENTS = 10


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [*State.choices, (standings.DISABLED, standings.NAMES[standings.DISABLED])]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None or value not in dict(self.lookups(request, None)):
            return queryset
        narrow: Any = standings.keys_in if queryset.model is PoeKey else standings.accounts_in
        found: QuerySet[Any] = narrow(value, queryset)
        return found


def shown(standing: Standing, account: PoeAccount) -> SafeString:
    """A cell of a list."""
    health = getattr(account, "health", None)
    return render_to_string(
        "panel/standing.html", {"standing": standing, "account": account, "health": health}
    )


def balance(account: PoeAccount) -> SafeString:
    return render_to_string("panel/balance.html", {"health": getattr(account, "health", None)})


def last_events(most: int = LAST_EVENTS, **which: Any) -> list[PoolEvent]:
    found = PoolEvent.objects.filter(**which).select_related("account", "key")
    return list(found[:most])
