"""Filters and the search of the list of usage records. Their choices come from small tables, never from the records."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_time
from django.utils.functional import cached_property
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.forms import DropdownForm, RangeDateTimeForm, SearchForm

from accounts.models import AccessToken, Team, User
from accounts.tokens import SHOWN_LENGTH, shown_prefix
from relay.models import BotMapping, PoeKey, UsageHour, UsageRecord
from relay.panel.paging import Narrowing
from relay.visit import request_began

# Which index is looked into when a list is narrowed by several: the lowest.
BY_ID, BY_TOKEN, BY_USER, BY_TROUBLE, BY_TEAM = range(5)
# Models that answered by a wildcard are offered for as long as they are in use.
MODELS_SEEN = timedelta(days=7)
LONGEST_NUMBER = 18
NOBODY = -1
MOST_OPEN = 20_000
CLOCKS_DIFFER, LONGEST_QUEUE = timedelta(minutes=2), timedelta(minutes=15)

TROUBLE = (UsageRecord.Outcome.FAILED, UsageRecord.Outcome.DISCONNECTED, UsageRecord.Outcome.LOST)


class Narrows(admin.SimpleListFilter):
    """A filter with one value."""

    template = "unfold/filters/filters_field.html"
    parameter_name: str

    def has_output(self) -> bool:
        return True

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return []

    def narrowing(self) -> Narrowing | None:
        return self._narrowing

    @cached_property
    def _narrowing(self) -> Narrowing | None:
        value = _plain(self.value() or "")
        return self.narrowed(value) if value else None

    def narrowed(self, value: str) -> Narrowing:
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        found = self.narrowing()
        return queryset.filter(found.condition) if found else queryset

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield {
            "form": self.form(self.parameter_name, _("By %(title)s") % {"title": self.title}, self.value())
        }

    def form(self, name: str, label: str, value: str | None) -> forms.Form:
        raise NotImplementedError


class Chosen(Narrows):
    """One of a list; a value that is not of it (from a link) is offered too."""

    def offered(self) -> list[tuple[str, Any]]:
        raise NotImplementedError

    def form(self, name: str, label: str, value: str | None) -> forms.Form:
        offered = self.offered()
        if value and value not in {each for each, _said in offered}:
            offered.append((value, value))
        form: forms.Form = DropdownForm(
            name=name, label=label, choices=[("", _("All")), *offered], data={name: value}
        )
        return form


class Typed(Narrows):
    def form(self, name: str, label: str, value: str | None) -> forms.Form:
        form: forms.Form = SearchForm(name=name, label=label, data={name: value})
        return form


class ByOutcome(Chosen):
    title: Any = _("outcome")
    parameter_name = "outcome"

    def offered(self) -> list[tuple[str, Any]]:
        return list(UsageRecord.Outcome.choices)

    def narrowed(self, value: str) -> Narrowing:
        condition = Q(outcome=value)
        if value == UsageRecord.Outcome.OPEN:
            # Few; but asked for by time, SQLite would look through all records for them.
            open_ = UsageRecord.objects.filter(condition).order_by().values_list("pk", flat=True)
            return Narrowing(condition & Q(pk__in=list(open_[:MOST_OPEN])), BY_ID)
        return Narrowing(condition, BY_TROUBLE if value in TROUBLE else None)


class ByTeam(Chosen):
    title: Any = _("team")
    parameter_name = "team"

    def offered(self) -> list[tuple[str, Any]]:
        return [(str(pk), name) for pk, name in Team.objects.values_list("pk", "name")]

    def narrowed(self, value: str) -> Narrowing:
        return Narrowing(Q(team_id=_number(value) or NOBODY), BY_TEAM)


class ByUser(Typed):
    """A user name, or the number of somebody who is gone."""

    title: Any = _("user")
    parameter_name = "user"

    def narrowed(self, value: str) -> Narrowing:
        user = _user(value)
        if user is None and _number(value) is None:
            return Narrowing(Q(user_name=value))
        return Narrowing(Q(user_id=user if user is not None else _number(value)), BY_USER)


class ByToken(Typed):
    """What a token begins with, or its number."""

    title: Any = _("access token")
    parameter_name = "token"

    def narrowed(self, value: str) -> Narrowing:
        number = _number(value)
        return Narrowing(Q(token_id=number), BY_TOKEN) if number is not None else _by_prefix(value)


class ByModel(Chosen):
    title: Any = _("model")
    parameter_name = "model"

    def offered(self) -> list[tuple[str, Any]]:
        mapped = BotMapping.objects.exclude(model__contains="*").values_list("model", flat=True)
        seen = UsageHour.objects.filter(hour__gte=timezone.now() - MODELS_SEEN).order_by()
        names = {*mapped, *seen.values_list("model", flat=True).distinct()}
        return [(name, name) for name in sorted(names, key=str.casefold)]

    def narrowed(self, value: str) -> Narrowing:
        return Narrowing(Q(model=value))


class ByKey(Chosen):
    title: Any = _("Poe key")
    parameter_name = "key"

    def offered(self) -> list[tuple[str, Any]]:
        return [(str(pk), name) for pk, name in PoeKey.objects.values_list("pk", "name")]

    def narrowed(self, value: str) -> Narrowing:
        return Narrowing(Q(key_id=_number(value) or NOBODY))


class ByStreamed(Chosen):
    title: Any = _("streamed")
    parameter_name = "streamed"

    def offered(self) -> list[tuple[str, Any]]:
        return [("1", _("Yes")), ("0", _("No"))]

    def narrowed(self, value: str) -> Narrowing:
        return Narrowing(Q(streamed=value == "1"))


class ByStart(admin.SimpleListFilter):
    """From a moment, to a moment, or both; each a date and, if wanted, a time."""

    title: Any = _("start")
    parameter_name = "started_at"
    template = "unfold/filters/filters_datetime_range.html"
    form_class = RangeDateTimeForm

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        for name in self.expected_parameters():
            if name in params:
                self.used_parameters[name] = params.pop(name)[-1]

    def expected_parameters(self) -> list[Any]:
        return [f"{self.parameter_name}_{end}_{part}" for end in ("from", "to") for part in (0, 1)]

    def has_output(self) -> bool:
        return True

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return []

    def narrowing(self) -> Narrowing | None:
        since, until = self._moment("from", "00:00"), self._moment("to", "23:59:59.999999")
        condition = Q()
        if since is not None:
            condition &= Q(started_at__gte=since)
        if until is not None:
            condition &= Q(started_at__lte=until)
        return Narrowing(condition, is_of_time=True) if condition else None

    def _moment(self, end: str, otherwise: str) -> datetime | None:
        """In the time zone of the panel. What is no date narrows nothing."""
        day = str(self.used_parameters.get(f"{self.parameter_name}_{end}_0") or "").strip()
        moment = str(self.used_parameters.get(f"{self.parameter_name}_{end}_1") or "").strip() or otherwise
        try:
            date_, time_ = parse_date(day), parse_time(moment)
            return timezone.make_aware(datetime.combine(date_, time_)) if date_ and time_ else None
        except (ValueError, OverflowError):
            return None

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        found = self.narrowing()
        return queryset.filter(found.condition) if found else queryset

    def choices(self, changelist: Any) -> Iterator[Any]:
        form = RangeDateTimeForm(name=self.parameter_name, data=self.used_parameters)
        yield {"form": form, "parameter_name": self.parameter_name}


FILTERS = (ByStart, ByOutcome, ByTeam, ByUser, ByToken, ByModel, ByKey, ByStreamed)
SEARCHED = ("user_name", "team_name", "model", "bot", "key_name", "request_id", "error_code")


def searched(text: str) -> Narrowing | None:
    """What somebody most probably means by it: a record, a token, a user, a team; else it is looked for in all of these."""
    text = _plain(text)
    if not text:
        return None
    if (id_ := _uuid(text)) is not None:
        return Narrowing(Q(pk=id_), BY_ID)
    if text.startswith("sk-"):
        return _by_prefix(text)
    if (user := _user(text)) is not None:
        return Narrowing(Q(user_id=user), BY_USER)
    team = Team.objects.filter(name__iexact=text).values_list("pk", flat=True).first()
    if team is not None:
        return Narrowing(Q(team_id=team), BY_TEAM)
    if text.startswith("req_"):
        return _by_request_id(text)
    condition = Q()
    for column in SEARCHED:
        condition |= Q(**{f"{column}__icontains": text})
    return Narrowing(condition)


def search_help() -> str:
    return gettext("User, token, team, model, bot, key, request or error")


def _by_prefix(text: str) -> Narrowing:
    """Of a whole token only what is shown of it is looked for."""
    prefix = shown_prefix(text) if len(text) > SHOWN_LENGTH else text
    ids = list(AccessToken.objects.filter(prefix__startswith=prefix).values_list("pk", flat=True)[:2])
    if len(ids) == 1:
        return Narrowing(Q(token_id=ids[0]), BY_TOKEN)
    return Narrowing(Q(token_prefix__startswith=prefix))


def _by_request_id(text: str) -> Narrowing:
    """It tells when the request came; its record began soon after."""
    came = request_began(text)
    if came is None:
        return Narrowing(Q(request_id=text))
    around = Q(started_at__gte=came - CLOCKS_DIFFER, started_at__lte=came + LONGEST_QUEUE)
    return Narrowing(Q(request_id=text) & around, BY_ID)


def _user(name: str) -> int | None:
    users = User.objects.filter(username__iexact=name).values_list("pk", "username")[:2]
    found = sorted(users, key=lambda each: each[1] != name)
    return found[0][0] if found else None


def _plain(text: str) -> str:
    """PostgreSQL takes no NUL."""
    return text.replace("\0", "").strip()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER else None


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if len(text) in (32, 36) else None
    except ValueError:
        return None
