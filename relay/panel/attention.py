"""What needs an administrator now: the number beside the sidebar's entry, and the sentences on the panel's first page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from relay import standings
from relay.models import PoeKey, State

# Nobody reads more sentences.
MOST = 20


@dataclass(frozen=True, slots=True)
class Item:
    """`more`: Poe's words or ours."""

    sentence: str
    more: str
    link: str
    colour: str
    icon: str = "warning"


def items() -> list[Item]:
    keys = standings.retired_keys().select_related("account", "health")[:MOST]
    accounts = standings.troubled_accounts().select_related("health", "health__same_as")[:MOST]
    found = [*map(_retired, keys)]
    for account in accounts:
        found += _of(account)
    return found


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """unfold asks this for the panel's first page."""
    if request.user.has_perm("relay.view_poekey"):
        context["attention"] = items()
    return context


def badge(request: HttpRequest) -> int:
    """0 for whoever could do nothing about it."""
    return standings.trouble() if request.user.has_perm("relay.view_poekey") else 0


def _retired(key: PoeKey) -> Item:
    health: Any = key.health
    return Item(
        _("The Poe key %(name)s is retired.") % {"name": key.name},
        health.reason,
        reverse("admin:relay_poekey_change", args=[key.pk]),
        "danger",
    )


def _of(account: Any) -> Iterator[Item]:
    link = reverse("admin:relay_poeaccount_change", args=[account.pk])
    health = getattr(account, "health", None)
    name = {"name": account.name}
    if health is not None and health.state == State.RESTING:
        yield Item(_("The Poe account %(name)s is out of points.") % name, health.reason, link, "danger")
    elif health is not None and health.state == State.RETIRED:
        yield Item(_("The Poe account %(name)s is retired.") % name, health.reason, link, "danger")
    elif health is not None and health.is_low:
        said = _("The Poe account %(name)s has few points left: %(points)s.")
        yield Item(said % {**name, "points": f"{health.balance or 0:,}"}, "", link, "warning")
    if health is not None and health.same_as is not None:
        said = _("The Poe account %(name)s is the same at Poe as %(other)s: merge them.")
        merge = reverse("admin:relay_poeaccount_merge", args=[account.pk])
        yield Item(said % {**name, "other": health.same_as.name}, "", merge, "warning")
    if account.has_leak:
        said = _(
            "Poe charged the account %(name)s for requests that nobody made here: a key of it may have leaked."
        )
        charges = f"{reverse('admin:relay_poecharge_changelist')}?match__exact=leak&account={account.pk}"
        yield Item(said % name, "", charges, "danger")
