"""The panel's page for Poe's list of bots: looked at, searched, and taken over as mappings."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import OuterRef, QuerySet, Subquery, TextField
from django.db.models.functions import Cast, Lower
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.decorators import action, display

from accounts.exporting import Exported
from relay import catalogue
from relay.admin.reading import ReadOnly
from relay.admin.syncing import TITLE, sync
from relay.models import Bot, BotMapping

MOST_ADDED = 500


class MappedFilter(admin.SimpleListFilter):
    title = _("mapping")
    parameter_name = "mapped"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("no", _("none yet")), ("yes", _("has one"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Bot]) -> QuerySet[Bot]:
        if self.value() == "no":
            return queryset.filter(pk__in=catalogue.unmapped().values("pk"))
        return (
            queryset.exclude(pk__in=catalogue.unmapped().values("pk")).filter(gone_at=None)
            if self.value() == "yes"
            else queryset
        )


class ModalityFilter(admin.SimpleListFilter):
    column: ClassVar[str]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("text", _("text")), ("image", _("images")), ("audio", _("audio")), ("video", _("video"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Bot]) -> QuerySet[Bot]:
        if self.value() not in ("text", "image", "audio", "video"):
            return queryset
        # As text: SQLite cannot look into a list.
        said = Cast(self.column, TextField())
        return queryset.annotate(**{f"{self.column}_said": said}).filter(
            **{f"{self.column}_said__contains": f'"{self.value()}"'}
        )


class TakesFilter(ModalityFilter):
    title = _("takes")
    parameter_name = "takes"
    column = "input_modalities"


class GivesFilter(ModalityFilter):
    title = _("gives")
    parameter_name = "gives"
    column = "output_modalities"


@admin.register(Bot)
class BotAdmin(ReadOnly, Exported):
    list_display = ("handle", "owner", "kinds", "context_length", "price", "mapped_to", "gone_at")
    list_filter = (MappedFilter, GivesFilter, TakesFilter, ("gone_at", admin.EmptyFieldListFilter))
    search_fields = ("handle", "display_name", "owner", "description")
    actions = ("add_mappings",)
    actions_list = ("sync_from_poe",)
    actions_row = ("mappings",)
    csv_columns = (
        "handle",
        "display_name",
        "owner",
        "input_modalities",
        "output_modalities",
        "features",
        "context_length",
        "max_output_tokens",
        "points_per_request",
        "points_per_image",
        "points_per_1000_input_tokens",
        "points_per_1000_output_tokens",
        "first_seen_at",
        "last_seen_at",
        "gone_at",
    )
    readonly_fields = ("kinds",)
    fieldsets = (
        (None, {"fields": ("handle", "display_name", "owner", "description")}),
        (
            _("The bot"),
            {
                "fields": (
                    "kinds",
                    "features",
                    ("context_length", "max_output_tokens"),
                    "parameters",
                )
            },
        ),
        (
            _("Price"),
            {
                "fields": (
                    ("points_per_request", "points_per_image"),
                    ("points_per_1000_input_tokens", "points_per_1000_output_tokens"),
                )
            },
        ),
        (_("In Poe's list"), {"fields": ("first_seen_at", "last_seen_at", "gone_at")}),
    )

    def has_map_permission(self, request: HttpRequest) -> bool:
        return bool(
            request.user.has_perm("relay.add_botmapping") and request.user.has_perm("relay.change_botmapping")
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Bot]:
        mappings = BotMapping.objects.annotate(asked=Lower("bot")).filter(asked=OuterRef("handle_key"))
        found: QuerySet[Bot] = (
            super()
            .get_queryset(request)
            .annotate(mapped_model=Subquery(mappings.order_by("pk").values("model")[:1]))
        )
        return found

    @display(description=_("takes and gives"))
    def kinds(self, bot: Bot) -> str:
        if not bot.input_modalities and not bot.output_modalities:
            return "-"
        return f"{', '.join(bot.input_modalities)} → {', '.join(bot.output_modalities)}"

    @display(description=_("points"))
    def price(self, bot: Bot) -> str:
        """By request, by a thousand tokens in and out, by image; what has no price is left out."""
        prices = (
            (_("%(points)s a request"), bot.points_per_request),
            (_("%(points)s in"), bot.points_per_1000_input_tokens),
            (_("%(points)s out"), bot.points_per_1000_output_tokens),
            (_("%(points)s an image"), bot.points_per_image),
        )
        told = [str(words) % {"points": f"{points:.2f}"} for words, points in prices if points is not None]
        return " · ".join(told) or "-"

    @display(description=_("model"), ordering="mapped_model")
    def mapped_to(self, bot: Any) -> str:
        return bot.mapped_model or "-"

    @admin.action(description=_("Add as models"), permissions=["map"])
    def add_mappings(self, request: HttpRequest, queryset: QuerySet[Bot]) -> None:
        wanted = queryset.filter(gone_at=None)[:MOST_ADDED]
        count = len(catalogue.add(wanted))
        said = ngettext("%(n)d mapping made.", "%(n)d mappings made.", count) % {"n": count}
        self.message_user(request, said, messages.SUCCESS if count else messages.WARNING)

    @action(description=_("Mappings"), url_path="mappings")
    def mappings(self, request: HttpRequest, object_id: str) -> HttpResponse:
        bot = get_object_or_404(Bot, pk=unquote(object_id))
        return redirect(f"{reverse('admin:relay_botmapping_changelist')}?{urlencode({'q': bot.handle})}")

    @action(description=TITLE, url_path="sync", permissions=["map"])
    def sync_from_poe(self, request: HttpRequest) -> HttpResponse:
        return sync(self, request, reverse("admin:relay_bot_changelist"))
