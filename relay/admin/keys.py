"""The panel's page for Poe keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordToggleWidget, UnfoldAdminSelectWidget

from accounts.exporting import Exported
from relay import reasons, standings
from relay.admin import standings as shown
from relay.admin.messages import told
from relay.errors import RelayError
from relay.models import PoeAccount, PoeKey
from relay.pool import keeping


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
            "poe_name",
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
class PoeKeyAdmin(Exported):
    form = PoeKeyForm
    list_display = (
        "named",
        "state",
        "account_for",
        "balance",
        "priority",
        "weight",
    )
    list_filter = (shown.StateFilter, "enabled", "account", "account__team")
    list_select_related = ("health", "account__team", "account__user", "account__health__same_as")
    search_fields = ("name", "last_four", "account__name", "account__team__name")
    list_after_template = "panel/events.html"
    change_form_outer_before_template = "admin/relay/poekey/standing.html"
    change_form_outer_after_template = "admin/relay/poekey/events.html"
    actions = ("enable", "disable")
    actions_row = ("usage",)
    csv_columns = (
        "name",
        "last_four",
        "account__name",
        "account__team__name",
        "enabled",
        "health__state",
        "health__reason",
        "health__until",
        "account__health__balance",
        "priority",
        "weight",
        "requests_per_minute",
        "requests_in_flight",
    )
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
        (_("Accounting"), {"fields": ("poe_name",)}),
    )

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["fields"] = PoeKeyForm.Meta.fields
        return super().get_form(request, obj, change=change, **kwargs)

    @display(description=_("name"), ordering="name")
    def named(self, key: PoeKey) -> str:
        return format_html('{}<br><code class="font-normal text-xs">{}</code>', key.name, self.ends_with(key))

    @display(description=_("ends with"))
    def ends_with(self, key: PoeKey) -> str:
        return f"…{key.last_four}" if key.last_four else "-"

    @display(description=_("Poe account"), ordering="account__name")
    def account_for(self, key: PoeKey) -> str:
        whose = key.account.user or key.account.team or _("shared")
        return format_html('{}<br><span class="text-xs">{}</span>', key.account.name, whose)

    @display(description=_("state"))
    def state(self, key: PoeKey) -> SafeString:
        return shown.shown(standings.of_key(key), key.account)

    @display(description=_("balance"), ordering="account__health__balance")
    def balance(self, key: PoeKey) -> SafeString:
        return shown.balance(key.account)

    @admin.action(description=_("Disable"))
    def disable(self, request: HttpRequest, queryset: QuerySet[PoeKey]) -> None:
        told(self, request, queryset.update(enabled=False))

    @admin.action(description=_("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[PoeKey]) -> None:
        told(self, request, queryset.update(enabled=True))

    def save_model(self, request: HttpRequest, obj: PoeKey, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change and form.cleaned_data["new_secret"]:
            # After the form's own transaction: it takes the ledger's turn on SQLite.
            transaction.on_commit(lambda: keeping.revive("key", obj.pk, "a new secret was stored"))

    @action(description=_("Usage records"), url_path="usage")
    def usage(self, request: HttpRequest, object_id: str) -> HttpResponse:
        address = reverse("admin:relay_usagerecord_changelist")
        return redirect(f"{address}?{urlencode({'key': unquote(object_id)})}")

    # How it fares.

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [
            path("<int:pk>/test/", view(require_POST(self.test)), name="relay_poekey_test"),
            path("<int:pk>/revive/", view(self.revive), name="relay_poekey_revive"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        events = {
            "events": shown.last_events(key__isnull=False),
            "events_link": reverse("admin:relay_poolevent_changelist"),
        }
        found: HttpResponse = super().changelist_view(request, {**events, **(extra_context or {})})
        return found

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if (key := context.get("original")) is not None:
            key = self._found(key.pk)
            context |= {
                "key": key,
                "health": getattr(key.account, "health", None),
                "standing": standings.of_key(key),
                "events": shown.last_events(key=key),
                "events_link": f"{reverse('admin:relay_poolevent_changelist')}?key={key.pk}",
            }
        found: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return found

    def _found(self, pk: int) -> PoeKey:
        return get_object_or_404(
            PoeKey.objects.select_related("health", "account__health__same_as", "account__team"), pk=pk
        )

    def _to_be_changed(self, request: HttpRequest, pk: int) -> PoeKey:
        key = self._found(pk)
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        return key

    def test(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Asks Poe for the balance with this very key, which costs nothing."""
        from relay import balances

        key = self._to_be_changed(request, pk)
        try:
            balance = async_to_sync(balances.test)(key.account, key)
        except RelayError as exc:
            said = gettext("%(key)s does not work: %(reason)s") % {
                "key": key.name,
                "reason": reasons.told(exc.message),
            }
            self.message_user(request, said, messages.ERROR)
        else:
            said = gettext("%(key)s works: %(points)s points are left.")
            self.message_user(
                request, said % {"key": key.name, "points": f"{balance.points:,}"}, messages.SUCCESS
            )
        return redirect("admin:relay_poekey_change", pk)

    def revive(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Asks (GET), then puts the key, and its account if that is out too, back into service (POST)."""
        key = self._to_be_changed(request, pk)
        if request.method == "POST":
            reason = f"put back into service by {request.user}"
            keeping.revive("key", key.pk, reason)
            keeping.revive("account", key.account_id, reason)
            self.log_change(request, key, reason)
            said = gettext("%(name)s is asked again.") % {"name": key.name}
            self.message_user(request, said, messages.SUCCESS)
            return redirect("admin:relay_poekey_change", pk)
        own = standings.of_health(getattr(key, "health", None))
        its = standings.of_health(getattr(key.account, "health", None))
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Put back into service"),
            "name": key.name,
            "standings": [each for each in (own, replace(its, of_account=True)) if each.is_out],
            "opts": self.model._meta,
            "original": key,
            "back_url": reverse("admin:relay_poekey_change", args=[pk]),
        }
        return render(request, "panel/revive.html", context)
