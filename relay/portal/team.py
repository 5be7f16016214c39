"""The own team, for whoever manages it: its people, what it used and asked. Nobody else finds these pages."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Model, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.models import Team, User
from relay import reports
from relay.models import UsageRecord
from relay.portal import usage
from relay.portal.models import asked_for
from relay.portal.team_forms import MemberForm

PEOPLE_ON_A_PAGE = 100
# A team with more people has the rest of them in the panel.
MOST_PEOPLE = 10_000


def manager_of(request: HttpRequest) -> User:
    user = cast(User, request.user)
    if not user.is_manager:
        raise Http404
    return user


def member_of(manager: User, pk: int) -> User:
    """Whoever is not theirs to manage cannot be found."""
    found = get_object_or_404(User.objects.select_related("team"), pk=pk, team=manager.team_id)
    if not manager.may_manage(found):
        raise Http404
    return found


def note(manager: User, about: Model, *fields: str) -> None:
    """In the panel's history of it, where administrators look. Without fields: it is new."""
    changed = [{"changed": {"fields": list(fields)}}] if fields else [{"added": {}}]
    LogEntry.objects.log_actions(
        manager.pk, [about], CHANGE if fields else ADDITION, change_message=changed, single_object=True
    )


@never_cache
@login_required
@require_safe
def people(request: HttpRequest) -> HttpResponse:
    return show_people(request, manager_of(request), MemberForm())


def show_people(request: HttpRequest, manager: User, form: MemberForm) -> HttpResponse:
    asked, after = (asked_for(request, name) for name in ("q", "after"))
    found = manager.team.users.annotate(
        working=Count("access_tokens", filter=Q(access_tokens__enabled=True, access_tokens__playground=None))
    ).order_by("username")
    if asked:
        found = found.filter(Q(username__icontains=asked) | Q(first_name__icontains=asked))
    if after:
        found = found.filter(username__gt=after)
    rows = list(found[: PEOPLE_ON_A_PAGE + 1])
    used = {share.id: share for share in reports.by_user(month_of(manager.team), most=MOST_PEOPLE)}
    page = rows[:PEOPLE_ON_A_PAGE]
    context = {
        "team": manager.team,
        "people": [(each, used.get(each.pk), manager.may_manage(each)) for each in page],
        "next": page[-1].username if len(rows) > len(page) else "",
        "asked": asked,
        "is_whole": not asked and not after and len(rows) == len(page),
        "form": form,
        "limits": [form[name] for name in form.LIMITS],
    }
    return render(request, "portal/team.html", context)


@never_cache
@login_required
@require_safe
def used(request: HttpRequest) -> HttpResponse:
    manager = manager_of(request)
    team = manager.team
    is_today = request.GET.get("of") == "today"
    scope = today_of(team) if is_today else month_of(team)
    days = reports.by_day(usage.last_days(team_id=team.pk), team.time_zone)
    tables = [
        (_("By member"), reports.by_user(scope)),
        (_("By model"), reports.by_model(scope)),
        (_("By token"), reports.by_token(scope)),
    ]
    context = {
        "team": team,
        "budgets": usage.budgets(f"team:{team.pk}", team, team),
        "rates": usage.rates(team),
        "days": days,
        "bars": usage.bars(days),
        "chart_width": len(days) * usage.BAR_WIDTH,
        "has_use": any(day.use.requests for day in days),
        "is_today": is_today,
        "total": reports.totals(scope),
        "tables": tables,
    }
    return render(request, "portal/team_usage.html", context)


@never_cache
@login_required
@require_safe
def requests(request: HttpRequest) -> HttpResponse:
    """Of all its people, or of one. What was said is stored nowhere, and the house's Poe keys are not named."""
    manager = manager_of(request)
    records = within = UsageRecord.objects.filter(team_id=manager.team_id)
    chosen = None
    if asked := request.GET.get("member", ""):
        chosen = _teammate(manager, asked)
        within = UsageRecord.objects.filter(user_id=chosen.pk)
        records = records.filter(user_id=chosen.pk)
    page, is_first = usage.older_records(request, records, within if chosen else None)
    context = {
        "team": manager.team,
        "page": page,
        "is_first": is_first,
        "chosen": chosen,
        "people": manager.team.users.order_by("username")[:MOST_PEOPLE],
    }
    return render(request, "portal/team_requests.html", context)


def _teammate(manager: User, pk: str) -> User:
    """Also whom they do not manage: what is asked is of the team."""
    return get_object_or_404(User, pk=int(pk) if pk.isdecimal() else 0, team=manager.team_id)


def month_of(team: Team) -> reports.Scope:
    return _since(team, _midnight(team).replace(day=1))


def today_of(team: Team) -> reports.Scope:
    return _since(team, _midnight(team))


def _midnight(team: Team) -> datetime:
    """By the calendar that its budgets go by."""
    here = timezone.now().astimezone(ZoneInfo(team.time_zone))
    return here.replace(hour=0, minute=0, second=0, microsecond=0)


def _since(team: Team, moment: datetime) -> reports.Scope:
    return reports.Scope(moment, timezone.now() + timedelta(hours=1), team_id=team.pk)
