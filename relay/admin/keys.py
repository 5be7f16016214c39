"""The panel's page for Poe keys."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordToggleWidget, UnfoldAdminSelectWidget

from relay.admin.messages import told
from relay.models import PoeAccount, PoeKey


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
        told(self, request, queryset.update(enabled=False))

    @admin.action(description=_("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[PoeKey]) -> None:
        told(self, request, queryset.update(enabled=True))
