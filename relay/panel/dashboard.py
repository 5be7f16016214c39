"""The panel's first page: how much is asked and how well it goes, by whom and of what, how the Poe accounts fare, and what to do.

Figures come from rollups: nothing here reads usage records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from typing import Any
from urllib.parse import urlencode

from django.db.models import Count, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from relay import reports, standings
from relay.models import BalanceReading, PoeAccount
from relay.panel import attention, first_steps
from relay.panel.forecast import LOOKED_AT, Forecast, forecast
from relay.reports import Scope, Share, Slot
from relay.standings import Standing

TOP = 5
# More accounts than a glance takes in: the list has them all.
MOST_ACCOUNTS = 12
# An account that runs out within so long is shown in red.
SOON = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Span:
    """What the page may show: so many hours, days or months, the current one included."""

    step: str
    title: Any
    label: str
    back: Callable[[datetime], datetime]


SPANS = (
    Span("hour", gettext_lazy("Last 24 hours"), "%H:%M", lambda now: now - timedelta(hours=23)),
    Span("day", gettext_lazy("Last 30 days"), "%m-%d", lambda now: now - timedelta(days=29)),
    Span(
        "month",
        gettext_lazy("Last 12 months"),
        "%Y-%m",
        # To the same month of the last year, and on to the next one.
        lambda now: (now.replace(day=1, year=now.year - 1) + timedelta(days=32)).replace(day=1),
    ),
)


@dataclass(frozen=True, slots=True)
class Chart:
    """As unfold's script takes it from the attributes of a canvas."""

    title: str
    kind: str
    data: str
    options: str


@dataclass(frozen=True, slots=True)
class Top:
    """The greatest of a kind, each with the query that shows its usage records, and its part of the greatest's points."""

    title: str
    rows: list[tuple[Share, str, int]]


@dataclass(frozen=True, slots=True)
class AccountLine:
    account: Any
    standing: Standing
    forecast: Forecast | None
    is_soon: bool


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """unfold asks this for the panel's first page; everybody sees what their rights are enough for."""
    may = request.user.has_perm
    if may("relay.view_poekey"):
        context["attention"] = attention.items()
        context["accounts"], context["more_accounts"] = _accounts(timezone.now())
    if may("relay.view_usagerecord"):
        context |= _figures(_span(request))
    if request.user.is_superuser:
        context["steps"] = first_steps.steps()
    return context


def _span(request: HttpRequest) -> Span:
    """The hours unless one of the links was followed."""
    asked = request.GET.get("by", "")
    return next((span for span in SPANS if span.step == asked), SPANS[0])


def _figures(span: Span) -> dict[str, Any]:
    now = timezone.localtime()
    floor, next_ = reports.STEPS[span.step]
    scope = Scope(floor(span.back(now)), next_(floor(now)))
    slots = reports.slots(scope, span.step, timezone.get_current_timezone_name())
    total = reduce(add, slots)
    return {
        "spans": SPANS,
        "span": span,
        "slots": [(slot, slot.start.strftime(span.label), *_first_byte(slot)) for slot in slots],
        "total": total,
        "error_percent": 100 * total.errors / total.requests if total.requests else None,
        "first_byte": _first_byte(total),
        "charts": _charts(slots, span) if total.requests else [],
        "tops": [
            _top(_("Users"), reports.by_user(scope, TOP), "user"),
            _top(_("Teams"), reports.by_team(scope, TOP), "team"),
            _top(_("Models"), reports.by_model(scope, TOP), "model"),
        ],
    }


def _first_byte(slot: Slot) -> tuple[float | None, float | None]:
    """In seconds: what half of the answers kept, and what nineteen in twenty did."""
    half, most = slot.first_bytes.percentile(50), slot.first_bytes.percentile(95)
    return (None if half is None else half / 1000, None if most is None else most / 1000)


def _top(title: str, shares: Sequence[Share], parameter: str) -> Top:
    """A user or team that is gone is called by its number."""
    most = max((share.points for share in shares), default=0) or 1
    address = reverse("admin:relay_usagerecord_changelist")
    return Top(
        title,
        [
            (share, f"{address}?{urlencode({parameter: share.id or share.name})}", 100 * share.points // most)
            for share in shares
        ],
    )


def _accounts(now: datetime) -> tuple[list[AccountLine], int]:
    """The shared ones, those that run out first above; and how many more there are."""
    shared = PoeAccount.objects.filter(counts_in_budgets=True).order_by("is_demo", "name")
    found = shared.select_related("health", "team").annotate(
        all_keys=Count("keys"), working_keys=Count("keys", filter=Q(keys__enabled=True))
    )
    accounts = list(found[: MOST_ACCOUNTS + 1])
    readings: dict[int, list[tuple[datetime, int]]] = {account.pk: [] for account in accounts}
    looked_at = BalanceReading.objects.filter(account__in=accounts, at__gte=now - LOOKED_AT).order_by("at")
    for account_id, at, points in looked_at.values_list("account_id", "at", "points"):
        readings[account_id].append((at, points))
    lines = [_line(account, readings[account.pk], now) for account in accounts[:MOST_ACCOUNTS]]
    more = shared.count() - MOST_ACCOUNTS if len(accounts) > MOST_ACCOUNTS else 0
    return sorted(lines, key=lambda line: _runs_out(line) or datetime.max.replace(tzinfo=UTC)), more


def _line(account: PoeAccount, readings: list[tuple[datetime, int]], now: datetime) -> AccountLine:
    expected = forecast(readings, now)
    runs_out = expected.runs_out if expected else None
    return AccountLine(
        account, standings.of_account(account), expected, runs_out is not None and runs_out < now + SOON
    )


def _runs_out(line: AccountLine) -> datetime | None:
    return line.forecast.runs_out if line.forecast else None


# What unfold's script draws. Colours are those of its theme, or read well on light and dark.


def _charts(slots: Sequence[Slot], span: Span) -> list[Chart]:
    labels = [slot.start.strftime(span.label) for slot in slots]
    first_bytes = [_first_byte(slot) for slot in slots]
    return [
        _chart(
            _("Requests"),
            "bar",
            labels,
            _bars(_("without error"), [slot.requests - slot.errors for slot in slots], PRIMARY),
            _bars(_("errors"), [slot.errors for slot in slots], RED),
        ),
        _chart(_("Points"), "bar", labels, _bars(_("points"), [slot.points for slot in slots], PRIMARY)),
        _chart(
            _("First byte, seconds"),
            "line",
            labels,
            _curve(_("half within"), [half for half, _most in first_bytes], PRIMARY),
            _curve(_("95 in 100 within"), [most for _half, most in first_bytes], ORANGE),
        ),
    ]


PRIMARY, RED, ORANGE, GREY = "var(--color-primary-500)", "#dc2626", "#f97316", "#808896"
# unfold's would be loaded for the charts alone: see panel.css.
FONT = {"family": "system-ui, sans-serif"}


def _bars(label: str, values: list[int], colour: str) -> dict[str, Any]:
    return {"label": label, "data": values, "backgroundColor": colour, "maxBarThickness": 24}


def _curve(label: str, values: list[float | None], colour: str) -> dict[str, Any]:
    # A dot each: with few requests there may be no line.
    drawn = {"borderColor": colour, "backgroundColor": colour, "borderWidth": 2, "pointRadius": 2}
    return {"label": label, "data": values, "spanGaps": True, **drawn}


def _chart(title: str, kind: str, labels: list[str], *datasets: dict[str, Any]) -> Chart:
    axis = {
        "ticks": {"color": GREY, "font": FONT, "maxRotation": 0, "autoSkipPadding": 10},
        "grid": {"display": False},
        "border": {"display": False},
    }
    options = {
        "animation": False,
        "responsive": True,
        "maintainAspectRatio": False,
        "interaction": {"mode": "index", "intersect": False},
        "plugins": {
            "legend": {
                "display": len(datasets) > 1,
                "align": "end",
                "labels": {"color": GREY, "font": FONT, "boxWidth": 10},
            },
            "tooltip": {"titleFont": FONT, "bodyFont": FONT},
        },
        "scales": {
            "x": {**axis, "stacked": kind == "bar"},
            "y": {**axis, "stacked": kind == "bar", "beginAtZero": True, "grid": {"lineWidth": 1}},
        },
    }
    return Chart(title, kind, json.dumps({"labels": labels, "datasets": datasets}), json.dumps(options))
