"""The panel's page for limit presets."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from accounts.admin.forms import PresetForm
from accounts.admin.people import LIMIT_COLUMNS, LIMIT_FIELDS
from accounts.exporting import Exported
from accounts.models import LimitPreset


@admin.register(LimitPreset)
class LimitPresetAdmin(Exported):
    form = PresetForm
    list_display = ("name", "points_per_day", "points_per_month", "requests_per_minute", "days")
    search_fields = ("name",)
    list_filter = ("days",)
    csv_columns = ("name", "days", "allowed_models", *LIMIT_COLUMNS)
    fieldsets = (
        (
            None,
            {
                "fields": ("name", "days", "allowed_models"),
                "description": _(
                    "Chosen when tokens are issued or people invited. What it says is copied: a later edit changes no token."
                ),
            },
        ),
        (_("Limits"), {"fields": LIMIT_FIELDS}),
    )
