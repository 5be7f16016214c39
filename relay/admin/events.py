"""The panel's lists of what happened to Poe accounts and keys, and of what Poe charged. Nobody edits them by hand."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import BooleanRadioFilter, ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from accounts.exporting import Exported
from relay import reasons, standings
from relay.admin.reading import ReadOnly
from relay.models import BotMapping, PoeAccount, PoeCharge, PoeKey, PoolEvent
from relay.templatetags.panel import moment


class AccountFilter(DropdownFilter):
    title = _("Poe account")
    parameter_name = "account"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return list(PoeAccount.objects.values_list("pk", "name"))

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return _narrowed(queryset, "account_id", self.value())


class KeyFilter(DropdownFilter):
    title = _("Poe key")
    parameter_name = "key"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return list(PoeKey.objects.order_by("name").values_list("pk", "name"))

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return _narrowed(queryset, "key_id", self.value())


class BecameFilter(DropdownFilter):
    title = _("state")
    parameter_name = "became"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(state, name) for state, name in standings.NAMES.items() if state != standings.DISABLED]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(became=self.value()) if self.value() else queryset


class BotFilter(DropdownFilter):
    """Bots that some mapping names: to look for all that were ever charged would read all charges."""

    title = _("bot")
    parameter_name = "bot"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        bots = BotMapping.objects.exclude(bot="*").order_by("bot").values_list("bot", flat=True).distinct()
        return [(bot, bot) for bot in bots]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(bot__iexact=self.value()) if self.value() else queryset


def _narrowed(queryset: QuerySet[Any], column: str, value: str | None) -> QuerySet[Any]:
    """A number that is none, from an address somebody typed, finds nothing."""
    if not value:
        return queryset
    return queryset.filter(**{column: int(value)}) if value.isdecimal() else queryset.none()


class NewestFirst(ReadOnly, Exported):
    """Nothing here counts rows or sorts them anew."""

    actions: ClassVar[Any] = None
    list_display_links = None
    sortable_by = ()
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = InfinitePaginator
    list_filter_submit = True


@admin.register(PoolEvent)
class PoolEventAdmin(NewestFirst):
    list_display = ("when", "account_link", "key_link", "state", "because", "ends", "told")
    fields = list_display
    readonly_fields = list_display
    list_filter = (AccountFilter, KeyFilter, BecameFilter)
    search_fields = ("reason",)
    csv_columns = ("at", "account__name", "key__name", "was", "became", "reason", "until", "told_at")
    list_select_related = ("account", "key")

    @display(description=_("at"))
    def when(self, event: PoolEvent) -> str:
        return moment(event.at)

    @display(description=_("Poe account"))
    def account_link(self, event: PoolEvent) -> str:
        return _link("poeaccount", event.account)

    @display(description=_("Poe key"))
    def key_link(self, event: PoolEvent) -> str:
        return _link("poekey", event.key) if event.key else "-"

    @display(description=_("became"), label=standings.COLOURS)
    def state(self, event: PoolEvent) -> tuple[str, str]:
        return event.became, standings.name_of(event.became)

    @display(description=_("reason"))
    def because(self, event: PoolEvent) -> str:
        return reasons.told(event.reason)

    @display(description=_("until"))
    def ends(self, event: PoolEvent) -> str:
        return moment(event.until)

    @display(description=_("told"))
    def told(self, event: PoolEvent) -> str:
        return moment(event.told_at)


@admin.register(PoeCharge)
class PoeChargeAdmin(NewestFirst):
    list_display = (
        "when",
        "account_link",
        "bot",
        "charged",
        "estimated",
        "tokens",
        "matched",
        "asked_with",
        "record",
    )
    fields = list_display
    readonly_fields = (
        "when",
        "account_link",
        "charged",
        "estimated",
        "tokens",
        "matched",
        "asked_with",
        "record",
    )
    list_filter = (
        ("match", ChoicesDropdownFilter),
        AccountFilter,
        BotFilter,
        ("is_ambiguous", BooleanRadioFilter),
    )
    list_select_related = ("account",)
    search_fields = ("bot", "query_id", "api_key_name")
    csv_columns = (
        "at",
        "account__name",
        "bot",
        "points",
        "estimated_points",
        "input_tokens",
        "output_tokens",
        "match",
        "is_ambiguous",
        "usage_type",
        "api_key_name",
        "query_id",
        "record_id",
    )

    @display(description=_("at"))
    def when(self, charge: PoeCharge) -> str:
        return moment(charge.at)

    @display(description=_("Poe account"))
    def account_link(self, charge: PoeCharge) -> str:
        return _link("poeaccount", charge.account)

    @display(description=_("points"))
    def charged(self, charge: PoeCharge) -> str:
        return f"{charge.points:,}"

    @display(description=_("estimate"))
    def estimated(self, charge: PoeCharge) -> str:
        return "-" if charge.estimated_points is None else f"{charge.estimated_points:,}"

    @display(description=_("tokens in + out"))
    def tokens(self, charge: PoeCharge) -> str:
        if charge.input_tokens is None and charge.output_tokens is None:
            return "-"
        return f"{charge.input_tokens or 0:,} + {charge.output_tokens or 0:,}"

    @display(
        description=_("match"),
        label={"waiting": "info", "matched": "success", "own": "", "leak": "danger"},
    )
    def matched(self, charge: PoeCharge) -> tuple[str, str]:
        said = charge.get_match_display()
        return charge.match, _("%(match)s, ambiguous") % {"match": said} if charge.is_ambiguous else said

    @display(description=_("key at Poe"))
    def asked_with(self, charge: PoeCharge) -> str:
        return " · ".join(filter(None, (charge.usage_type, charge.api_key_name))) or "-"

    @display(description=_("usage record"))
    def record(self, charge: PoeCharge) -> str:
        if charge.record_id is None:
            return "-"
        address = f"{reverse('admin:relay_usagerecord_changelist')}?q={charge.record_id}"
        return format_html('<a href="{}"><code>{}</code></a>', address, str(charge.record_id)[-12:])


def _link(model: str, row: PoeAccount | PoeKey) -> str:
    return format_html('<a href="{}">{}</a>', reverse(f"admin:relay_{model}_change", args=[row.pk]), row.name)
