"""The panel's pages for Poe accounts and keys, mappings, and usage records."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordToggleWidget, UnfoldAdminSelectWidget

from relay.models import BotMapping, PoeAccount, PoeKey, UsageRecord
from relay.panel import filters
from relay.panel.paging import Narrowing, RecentFirst


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


class PoeKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    """The secret goes in and never comes out: left empty, the stored one stays."""

    new_secret = forms.CharField(
        label=_("Secret"),
        required=False,
        strip=True,
        max_length=500,
        widget=UnfoldAdminPasswordToggleWidget(attrs={"autocomplete": "new-password"}),
        help_text=_("From poe.com/api/keys. It is stored encrypted and never shown again."),
    )

    account = forms.ModelChoiceField(
        label=_("Poe account"),
        queryset=PoeAccount.objects.filter(is_demo=False),
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text=_("Whose points are spent. Empty: a new account with the name of the key."),
    )

    class Meta:
        model = PoeKey
        fields = (
            "account",
            "name",
            "enabled",
            "priority",
            "weight",
            "requests_per_minute",
            "requests_in_flight",
            "proxy",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and self.instance.account.is_demo:
            # The demo's key stays with the demo's server.
            account: Any = self.fields["account"]
            account.queryset = PoeAccount.objects.filter(pk=self.instance.account_id)
            account.required = True

    def clean_new_secret(self) -> str:
        secret: str = self.cleaned_data["new_secret"]
        if not secret and not self.instance.secret:
            raise forms.ValidationError(_("Paste the key."))
        if secret and (not secret.isascii() or not secret.isprintable() or " " in secret):
            raise forms.ValidationError(_("A Poe key has no spaces and no special characters."))
        return secret

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        name = cleaned.get("name")
        if name and not cleaned.get("account") and PoeAccount.objects.filter(name=name).exists():
            self.add_error(
                "account", _("There is a Poe account with this name: choose it, or name the key otherwise.")
            )
        return cleaned

    def save(self, commit: bool = True) -> PoeKey:
        if not self.cleaned_data["account"]:
            self.instance.account = PoeAccount.objects.create(name=self.cleaned_data["name"])
        if self.cleaned_data["new_secret"]:
            self.instance.store(self.cleaned_data["new_secret"])
        key: PoeKey = super().save(commit)
        return key


@admin.register(PoeKey)
class PoeKeyAdmin(ModelAdmin):
    form = PoeKeyForm
    list_display = (
        "name",
        "account",
        "for_team",
        "ends_with",
        "priority",
        "weight",
        "requests_in_flight",
        "enabled",
    )
    list_filter = ("enabled", "account", "account__team")
    list_select_related = ("account__team",)
    search_fields = ("name", "last_four", "account__name", "account__team__name")
    actions = ("enable", "disable")
    readonly_fields = ("ends_with",)
    fieldsets = (
        (None, {"fields": ("name", "account", "new_secret", "ends_with", "enabled")}),
        (_("Choice"), {"fields": (("priority", "weight"),)}),
        (
            _("Limits"),
            {
                "fields": (("requests_per_minute", "requests_in_flight"),),
                "description": _("A key that has reached one is passed over; the next one is asked."),
            },
        ),
        (_("Network"), {"fields": ("proxy",)}),
    )

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["fields"] = PoeKeyForm.Meta.fields
        return super().get_form(request, obj, change=change, **kwargs)

    @display(description=_("ends with"))
    def ends_with(self, key: PoeKey) -> str:
        return format_html("<code>…{}</code>", key.last_four) if key.last_four else "-"

    @display(description=_("team"), ordering="account__team__name")
    def for_team(self, key: PoeKey) -> Any:
        return key.account.team or _("shared")

    @admin.action(description=_("Disable"))
    def disable(self, request: HttpRequest, queryset: QuerySet[PoeKey]) -> None:
        _told(self, request, queryset.update(enabled=False))

    @admin.action(description=_("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[PoeKey]) -> None:
        _told(self, request, queryset.update(enabled=True))


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
        _told(self, request, queryset.update(enabled=False))

    @admin.action(description=_("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[BotMapping]) -> None:
        _told(self, request, queryset.update(enabled=True))

    @admin.action(description=_("Hide from the list of models"))
    def hide(self, request: HttpRequest, queryset: QuerySet[BotMapping]) -> None:
        _told(self, request, queryset.update(hidden=True))

    @admin.action(description=_("Show in the list of models"))
    def show(self, request: HttpRequest, queryset: QuerySet[BotMapping]) -> None:
        _told(self, request, queryset.update(hidden=False))


def _told(page: Any, request: HttpRequest, count: int) -> None:
    said = ngettext("%(n)d row changed.", "%(n)d rows changed.", count) % {"n": count}
    page.message_user(request, said, messages.SUCCESS)


@admin.register(UsageRecord)
class UsageRecordAdmin(ModelAdmin):
    """Millions of rows: nothing here may count them, sort them anew or look for what is different among them."""

    list_display = (
        "started_at",
        "who",
        "team",
        "token",
        "model",
        "state",
        "tokens",
        "points_used",
        "first_byte",
        "total",
        "key_name",
    )
    list_filter = filters.FILTERS
    list_filter_submit = True
    # What is searched is decided by filters.searched; this makes Django show the box.
    search_fields = filters.SEARCHED
    sortable_by = ()
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RecentFirst]:
        return RecentFirst

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        self.search_help_text = filters.search_help()
        return super().get_changelist_instance(request)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """The list itself asks `searched`: it has to know what index serves it."""
        return queryset, False

    def searched(self, text: str) -> Narrowing | None:
        return filters.searched(text)

    @display(description=_("user"))
    def who(self, record: UsageRecord) -> str:
        return format_html('<a href="?user={}">{}</a>', record.user_id, record.user_name)

    @display(description=_("team"))
    def team(self, record: UsageRecord) -> str:
        return format_html('<a href="?team={}">{}</a>', record.team_id, record.team_name)

    @display(description=_("access token"))
    def token(self, record: UsageRecord) -> str:
        return format_html('<a href="?token={}">{}…</a>', record.token_id, record.token_prefix)

    @display(description=_("tokens in + out"))
    def tokens(self, record: UsageRecord) -> str:
        return f"{record.prompt_tokens:,} + {_measured(record, record.completion_tokens)}"

    @display(description=_("points"))
    def points_used(self, record: UsageRecord) -> str:
        return _measured(record, record.points)

    @display(description=_("first byte"))
    def first_byte(self, record: UsageRecord) -> str:
        return f"{record.first_byte_ms:,} ms" if record.first_byte_ms is not None else "-"

    @display(description=_("total"))
    def total(self, record: UsageRecord) -> str:
        return f"{record.total_ms / 1000:,.1f} s" if record.total_ms is not None else "-"

    @display(
        description=_("outcome"),
        label={
            "done": "success",
            "open": "info",
            "failed": "danger",
            "disconnected": "warning",
            "lost": "warning",
        },
    )
    def state(self, record: UsageRecord) -> tuple[str, str]:
        said = record.get_outcome_display()
        return record.outcome, f"{said}: {record.error_code}" if record.error_code else said

    # A record is what happened: nobody adds, changes or removes one by hand.

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _measured(record: UsageRecord, number: int) -> str:
    """While a record is open, and if it is lost, this is what was reserved for it and not what it used."""
    if record.outcome in (UsageRecord.Outcome.OPEN, UsageRecord.Outcome.LOST):
        return _("%(number)s reserved") % {"number": f"{number:,}"}
    return f"{number:,}"
