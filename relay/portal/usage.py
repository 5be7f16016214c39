"""What one has used, what is left, and one's requests: from meters and rollups; the list by place, never by number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.models import Limits, Team, User
from relay import reports
from relay.ledger import periods
from relay.models import Meter, UsageRecord
from relay.panel.paging import Page, Place, older_page

DAYS = 30
PAGE = 50


@dataclass(frozen=True, slots=True)
class Budget:
    """Points of a day or a month: used, and how many there are; None: no limit."""

    name: str
    used: int
    limit: int | None
    resets_at: datetime

    @property
    def left(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class Bar:
    """A day in the chart, in its own units."""

    x: int
    y: int
    height: int
    day: reports.Day


CHART_HEIGHT, BAR_WIDTH = 100, 10


@never_cache
@login_required
@require_safe
def own(request: HttpRequest) -> HttpResponse:
    user = cast(User, request.user)
    scope = last_days(user_id=user.pk)
    days = reports.by_day(scope, timezone.get_current_timezone_name())
    context = {
        "budgets": budgets(f"user:{user.pk}", user, user.team),
        "team_budgets": team_budgets(user.team),
        "rates": rates(user, user.team),
        "bars": bars(days),
        "days": days,
        "chart_width": len(days) * BAR_WIDTH,
        "total": reports.totals(scope),
        "tables": [(_("By model"), reports.by_model(scope)), (_("By token"), reports.by_token(scope))],
    }
    return render(request, "portal/usage.html", context)


@never_cache
@login_required
@require_safe
def requests(request: HttpRequest) -> HttpResponse:
    mine = UsageRecord.objects.filter(user_id=cast(User, request.user).pk)
    page, is_first = older_records(request, mine)
    return render(request, "portal/requests.html", {"page": page, "is_first": is_first})


def older_records(
    request: HttpRequest, found: QuerySet[UsageRecord], within: QuerySet[UsageRecord] | None = None
) -> tuple[Page, bool]:
    """The page that was asked for, and whether it is the newest one; `within` as in older_page."""
    try:
        place = Place.read(request.GET["older"]) if "older" in request.GET else None
    except IncorrectLookupParameters:
        raise Http404 from None
    return older_page(found, within, place, PAGE), place is None


def budgets(meter_id: str, whose: Limits, team: Team) -> list[Budget]:
    """By the meter as it is, or as it will be when the next request turns it."""
    meter = Meter.objects.filter(pk=meter_id).first() or Meter(pk=meter_id)
    now = int(timezone.now().timestamp())
    found = []
    for name, ends, used, limit, end in (
        (_("Today"), meter.day_ends, meter.day_points, whose.points_per_day, periods.day_end),
        (_("This month"), meter.month_ends, meter.month_points, whose.points_per_month, periods.month_end),
    ):
        is_over = now >= ends
        resets_at = datetime.fromtimestamp(end(now, team.time_zone) if is_over else ends, UTC)
        found.append(Budget(name, 0 if is_over else used, limit, resets_at))
    return found


def team_budgets(team: Team) -> list[Budget]:
    """Those that the team has."""
    return [each for each in budgets(f"team:{team.pk}", team, team) if each.limit]


def rates(*holders: Limits) -> list[tuple[Any, int]]:
    """The tightest of each of the limits that are not budgets."""
    found = []
    for name in ("requests_per_minute", "tokens_per_minute", "requests_in_flight"):
        bounds = [bound for each in holders if (bound := getattr(each, name)) is not None]
        if bounds:
            found.append((Limits._meta.get_field(name).verbose_name, min(bounds)))  # type: ignore[union-attr]
    return found


def bars(days: list[reports.Day]) -> list[Bar]:
    most = max((day.use.points for day in days), default=0) or 1
    heights = [round(CHART_HEIGHT * day.use.points / most) for day in days]
    return [
        Bar(place * BAR_WIDTH + 1, CHART_HEIGHT - height, height, day)
        for place, (day, height) in enumerate(zip(days, heights, strict=True))
    ]


def last_days(*, team_id: int | None = None, user_id: int | None = None) -> reports.Scope:
    """With today."""
    today = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    since, until = today - timedelta(days=DAYS - 1), timezone.now() + timedelta(hours=1)
    return reports.Scope(since, until, team_id, user_id)
