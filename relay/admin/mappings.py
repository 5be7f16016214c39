"""The panel's page for mappings."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display

from accounts.exporting import Exported
from relay import catalogue
from relay.admin.messages import told
from relay.admin.parameter_fields import BotMappingForm, form_for, names_of
from relay.admin.syncing import TITLE, sync
from relay.models import BotMapping
from relay.turn import transaction_in_turn

LABELS = {"listed": "success", "unlisted": "warning", "gone": "danger"}
FOUND = {"listed": _("listed"), "unlisted": _("not listed"), "gone": _("gone")}

FIELDSETS: tuple[tuple[Any, dict[str, Any]], ...] = (
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
    (_("Translation"), {"fields": ("replace_policy", "simulate_roles", "writes_calls")}),
)


@admin.register(BotMapping)
class BotMappingAdmin(Exported):
    form = BotMappingForm
    list_display = ("model", "asked_bot", "at_poe", "account", "replace_policy", "hidden", "enabled")
    list_display_links = ("model",)
    list_editable = ("enabled",)
    list_filter = ("enabled", "hidden", "found", "account", "replace_policy", "teams")
    list_select_related = ("account",)
    search_fields = ("model", "bot")
    autocomplete_fields = ("teams", "account")
    actions = ("enable", "disable", "hide", "show", "use_suggested_bot")
    actions_list = ("sync_from_poe", "add_from_list")
    actions_row = ("explain", "usage")
    csv_columns = (
        "model",
        "bot",
        "enabled",
        "hidden",
        "found",
        "suggested_bot",
        "account__name",
        "fallback_models",
        "parameters",
        "default_output_tokens",
        "points_per_request",
        "points_per_image",
        "points_per_1000_input_tokens",
        "points_per_1000_output_tokens",
        "replace_policy",
    )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Where the bot declares its parameters, a field for each instead of raw JSON."""
        names = names_of(obj) if obj and obj.parameters_of_bot else []
        if not names:
            return FIELDSETS
        found = []
        for title, options in FIELDSETS:
            if "parameters" not in options["fields"]:
                found.append((title, options))
                continue
            rest = tuple(name for name in options["fields"] if name != "parameters")
            description = _(
                "Sent to the bot unless the client says otherwise. These are what it declares in Poe's list."
            )
            found.append((_("Default parameters"), {"fields": names, "description": description}))
            found.append((title, {**options, "fields": rest}))
        return tuple(found)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None:
            kwargs["form"] = form_for(obj)
        return super().get_form(request, obj, change=change, **kwargs)

    def save_model(self, request: HttpRequest, obj: BotMapping, form: Any, change: bool) -> None:
        # Another bot has other prices and parameters, as far as nobody entered any.
        catalogue.fill(obj)
        super().save_model(request, obj, form, change)

    @display(description=_("at Poe"), ordering="found", label=LABELS)
    def at_poe(self, mapping: BotMapping) -> Any:
        return (mapping.found, FOUND[mapping.found]) if mapping.found else None

    @display(description=_("bot"), ordering="bot")
    def asked_bot(self, mapping: BotMapping) -> str:
        if not mapping.suggested_bot:
            return mapping.bot
        return format_html(
            '{}<br><span class="text-xs text-font-subtle-light dark:text-font-subtle-dark">{} {}</span>',
            mapping.bot,
            _("nearest:"),
            mapping.suggested_bot,
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

    @admin.action(description=_("Use the suggested bot"), permissions=["change"])
    def use_suggested_bot(self, request: HttpRequest, queryset: QuerySet[BotMapping]) -> None:
        ids = list(queryset.exclude(suggested_bot="").values_list("pk", flat=True))
        for pk in ids:
            with transaction_in_turn():
                mapping = BotMapping.objects.select_for_update().get(pk=pk)
                mapping.bot = mapping.suggested_bot or mapping.bot
                catalogue.fill(mapping)
                mapping.save()
        if ids:
            told(self, request, len(ids))
        else:
            self.message_user(request, _("None of these has a suggested bot."), messages.WARNING)

    @action(description=_("Explain"), url_path="explain-model")
    def explain(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _about(reverse("relay-explain"), object_id)

    @action(description=_("Usage records"), url_path="usage")
    def usage(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _about(reverse("admin:relay_usagerecord_changelist"), object_id)

    @action(description=TITLE, url_path="sync", permissions=["change"])
    def sync_from_poe(self, request: HttpRequest) -> HttpResponse:
        return sync(self, request, reverse("admin:relay_botmapping_changelist"))

    @action(description=_("Add from Poe's list"), url_path="add-from-list", permissions=["add"])
    def add_from_list(self, request: HttpRequest) -> HttpResponse:
        return redirect(reverse("admin:relay_bot_changelist") + "?mapped=no&gone_at__isempty=1")


def _about(address: str, object_id: str) -> HttpResponse:
    mapping = get_object_or_404(BotMapping, pk=unquote(object_id))
    return redirect(f"{address}?{urlencode({'model': mapping.model})}")
