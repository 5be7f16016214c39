"""The panel's page for mappings."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin

from relay.admin.messages import told
from relay.models import BotMapping


@admin.register(BotMapping)
class BotMappingAdmin(ModelAdmin):
    list_display = ("model", "bot", "account", "replace_policy", "hidden", "enabled")
    list_display_links = ("model",)
    list_editable = ("enabled",)
    list_filter = ("enabled", "hidden", "account", "replace_policy", "teams")
    list_select_related = ("account",)
    search_fields = ("model", "bot")
    autocomplete_fields = ("teams", "account")
    actions = ("enable", "disable", "hide", "show")
    fieldsets = (
        (None, {"fields": ("model", "bot", "enabled", "hidden")}),
        (_("Who and with what"), {"fields": ("teams", "account")}),
        (_("The bot"), {"fields": ("parameters", "default_output_tokens", "fallback_models")}),
        (
            _("Price"),
            {
                "fields": (
                    ("points_per_request", "points_per_image"),
                    ("points_per_1000_input_tokens", "points_per_1000_output_tokens"),
                ),
                "description": _(
                    "In Poe points, as the bot's page on Poe says. All empty: the default in config.toml is charged for each request."
                ),
            },
        ),
        (_("Translation"), {"fields": ("replace_policy", "simulate_roles")}),
    )

    @admin.action(description=_("Disable"))
    def disable(self, request: HttpRequest, queryset: QuerySet[BotMapping]) -> None:
        told(self, request, queryset.update(enabled=False))

    @admin.action(description=_("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[BotMapping]) -> None:
        told(self, request, queryset.update(enabled=True))

    @admin.action(description=_("Hide from the list of models"))
    def hide(self, request: HttpRequest, queryset: QuerySet[BotMapping]) -> None:
        told(self, request, queryset.update(hidden=True))

    @admin.action(description=_("Show in the list of models"))
    def show(self, request: HttpRequest, queryset: QuerySet[BotMapping]) -> None:
        told(self, request, queryset.update(hidden=False))
