"""What needs an administrator now: the number beside the sidebar's entry, and the sentences on the panel's first page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import AccessToken
from relay import reasons, reports, standings
from relay.ledger.meters import BUDGETS
from relay.models import BotMapping, PoeKey, State
from relay.panel.explaining import LIMITS

# Nobody reads more sentences.
MOST = 20
MOST_REFUSED = 5
REFUSED_WITHIN = timedelta(days=1)
# A rate that refuses now and then does what it is for.
OFTEN = 100


@dataclass(frozen=True, slots=True)
class Item:
    """`more`: Poe's words or ours, or what somebody called a thing."""

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
    return [*found, *_stale_mappings(), *_refused()]


def badge(request: HttpRequest) -> int:
    """0 for whoever could do nothing about it."""
    return standings.trouble() if request.user.has_perm("relay.view_poekey") else 0


def _retired(key: PoeKey) -> Item:
    health: Any = key.health
    return Item(
        _("The Poe key %(name)s is retired.") % {"name": key.name},
        reasons.told(health.reason),
        reverse("admin:relay_poekey_change", args=[key.pk]),
        "danger",
    )


def _of(account: Any) -> Iterator[Item]:
    link = reverse("admin:relay_poeaccount_change", args=[account.pk])
    health = getattr(account, "health", None)
    name = {"name": account.name}
    if health is not None and health.state == State.RESTING:
        yield Item(
            _("The Poe account %(name)s is out of points.") % name,
            reasons.told(health.reason),
            link,
            "danger",
        )
    elif health is not None and health.state == State.RETIRED:
        yield Item(
            _("The Poe account %(name)s is retired.") % name, reasons.told(health.reason), link, "danger"
        )
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


def _stale_mappings() -> Iterator[Item]:
    """A bot that was never in Poe's list may well be a private one; one that has gone from it is not."""
    stale = BotMapping.objects.filter(enabled=True, found=BotMapping.Found.GONE)
    for mapping in stale[:MOST]:
        said = _("The model %(model)s asks a bot that is gone from Poe: %(bot)s.")
        nearest = _("The nearest is %(bot)s.") % {"bot": mapping.suggested_bot}
        yield Item(
            said % {"model": mapping.model, "bot": mapping.bot},
            nearest if mapping.suggested_bot else "",
            reverse("admin:relay_botmapping_change", args=[mapping.pk]),
            "warning",
        )


def _refused() -> Iterator[Item]:
    """Who could not work in the last day. That a budget is used up is told at once; a rate, when it was often."""
    now = timezone.now()
    refused = [
        each
        for each in reports.refused(reports.Scope(now - REFUSED_WITHIN, now), MOST)
        if each.limit in BUDGETS or each.count >= OFTEN
    ][:MOST_REFUSED]
    tokens = AccessToken.objects.select_related("owner").in_bulk([each.token_id for each in refused])
    for each in refused:
        token = tokens.get(each.token_id)
        if token is None:
            continue
        said = _("%(user)s was refused %(count)s times in a day: %(limit)s.")
        names = {
            "user": token.owner.username,
            "count": f"{each.count:,}",
            "limit": LIMITS.get(each.limit, each.limit),
        }
        yield Item(
            said % names, token.name, reverse("admin:accounts_accesstoken_change", args=[token.pk]), "warning"
        )
