"""The panel's page for Poe accounts."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from relay.models import BotMapping, PoeAccount


@admin.register(PoeAccount)
class PoeAccountAdmin(ModelAdmin):
    list_display = ("name", "team", "stored_keys", "requests_per_minute", "enabled", "is_demo")
    list_filter = ("enabled", "is_demo", "team")
    list_select_related = ("team",)
    search_fields = ("name",)
    actions_list = ("remove_demo",)
    fieldsets = (
        (None, {"fields": ("name", "team", "enabled", "requests_per_minute")}),
        (
            _("Addresses"),
            {"fields": ("base_url", "upload_url", "api_url"), "classes": ("collapse",)},
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[PoeAccount]:
        found: QuerySet[PoeAccount] = super().get_queryset(request).annotate(stored_keys=Count("keys"))
        return found

    @display(description=_("keys"), ordering="stored_keys")
    def stored_keys(self, account: Any) -> int:
        return int(account.stored_keys)

    def has_remove_demo_permission(self, request: HttpRequest) -> bool:
        return self.has_delete_permission(request) and PoeAccount.objects.filter(is_demo=True).exists()

    @action(description=_("Remove the demo"), url_path="remove-demo", permissions=["remove_demo"])
    def remove_demo(self, request: HttpRequest) -> HttpResponse:
        """Asks (GET), then removes the demo account with its key and its mappings (POST)."""
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "title": _("Remove the demo"),
                "mappings": BotMapping.objects.filter(account__is_demo=True),
                "opts": self.model._meta,
                "back_url": reverse("admin:relay_poeaccount_changelist"),
            }
            return render(request, "admin/relay/poeaccount/remove_demo.html", context)
        with transaction.atomic():
            PoeAccount.objects.filter(is_demo=True).delete()
        self.message_user(request, _("The demo is removed."), messages.SUCCESS)
        return redirect("admin:relay_poeaccount_changelist")
