"""The panel's page of what was reckoned against what Poe charged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from relay import reasons

if TYPE_CHECKING:
    from relay.charges import Figures, Round

DAYS = (1, 7, 30)


@dataclass(frozen=True, slots=True)
class Kind:
    """So many charges that came to the same. `match`: as the list of charges is filtered; empty: by doubt."""

    name: str
    match: str
    charges: int
    points: int | None = None

    @property
    def query(self) -> str:
        return f"match__exact={self.match}" if self.match else "is_ambiguous__exact=1"


@require_http_methods(["GET", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    if not request.user.is_superuser:
        raise PermissionDenied
    from relay import charges

    days = _days(request)
    if request.method == "POST":
        _tell(request, async_to_sync(charges.reconcile)())
        return HttpResponseRedirect(f"{reverse('relay-reconciliation')}?days={days}")
    figures = charges.figures(days)
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": _("Reconciliation"),
        "content_title": _("Reconciliation"),
        "days": days,
        "choices": DAYS,
        "figures": figures,
        "kinds": _kinds(figures),
        "list_url": reverse("admin:relay_poecharge_changelist"),
    }
    return render(request, "panel/reconciliation.html", context)


def _kinds(figures: Figures) -> list[Kind]:
    return [
        Kind(_("matched"), "matched", figures.matched),
        Kind(_("ambiguous"), "", figures.ambiguous),
        Kind(_("waiting for its request"), "waiting", figures.waiting),
        Kind(_("possible leak"), "leak", figures.leaks, figures.leaked_points),
        Kind(_("owner's own use"), "own", figures.own, figures.own_points),
    ]


def _tell(request: HttpRequest, done: Round) -> None:
    said = _("New charges: %(stored)d. Matched: %(matched)d. Waiting: %(waiting)d.")
    figures = {"stored": done.stored, "matched": done.matched, "waiting": done.waiting}
    messages.success(request, said % figures)
    for name, reason in done.failures.items():
        said = _("The history of %(account)s cannot be read: %(reason)s")
        messages.error(request, said % {"account": name, "reason": reasons.told(reason)})


def _days(request: HttpRequest) -> int:
    """A week unless one of the links was followed."""
    said = request.GET.get("days", "")
    return next((days for days in DAYS if said == str(days)), DAYS[1])
