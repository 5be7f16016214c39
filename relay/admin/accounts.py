"""The panel's page for Poe accounts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display

from accounts.exporting import Exported
from relay import balances, standings
from relay.admin import standings as shown
from relay.admin.messages import told
from relay.models import BalanceReading, BotMapping, PoeAccount, PoeCharge, PoeKey
from relay.panel import chart
from relay.pool import keeping
from relay.turn import transaction_in_turn

CHART_DAYS = 30
EVENTS, CHARGES = 20, 20


class PoeAccountForm(forms.ModelForm):  # type: ignore[type-arg]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # It has a default, and says nothing of an account that counts in budgets.
        self.fields["own_use"].required = False

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("user") is not None and cleaned.get("counts_in_budgets"):
            self.add_error(
                "counts_in_budgets", _("The account of one person never counts in budgets: switch this off.")
            )
        return cleaned


@admin.register(PoeAccount)
class PoeAccountAdmin(Exported):
    form = PoeAccountForm
    list_display = (
        "name",
        "state",
        "balance",
        "serves",
        "stored_keys",
        "requests_per_minute",
        "is_demo",
    )
    list_filter = (shown.StateFilter, "enabled", "counts_in_budgets", "is_demo", "team")
    list_select_related = ("team", "user", "health__same_as")
    search_fields = ("name", "user__username", "team__name")
    list_after_template = "panel/events.html"
    change_form_outer_before_template = "admin/relay/poeaccount/standing.html"
    change_form_outer_after_template = "admin/relay/poeaccount/history.html"
    autocomplete_fields = ("team", "user")
    actions = ("enable", "disable")
    actions_list = ("remove_demo",)
    actions_row = ("charges",)
    csv_columns = (
        "name",
        "enabled",
        "health__state",
        "health__reason",
        "health__balance",
        "health__balance_at",
        "health__grant_at",
        "health__grant_points",
        "low_balance",
        "team__name",
        "user__username",
        "counts_in_budgets",
        "own_use",
        "requests_per_minute",
        "is_demo",
        "created_at",
    )
    fieldsets = (
        (None, {"fields": ("name", "enabled", "requests_per_minute", "low_balance")}),
        (
            _("For whom"),
            {
                "fields": ("team", "user", "counts_in_budgets", "own_use"),
                "description": _(
                    "“Use” holds for an account that a user or a team brought along: one that does not count in budgets."
                ),
            },
        ),
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

    @display(description=_("for whom"))
    def serves(self, account: PoeAccount) -> Any:
        return account.user or account.team or _("shared")

    @display(description=_("state"))
    def state(self, account: PoeAccount) -> SafeString:
        return shown.shown(standings.of_account(account), account)

    @display(description=_("balance"), ordering="health__balance")
    def balance(self, account: PoeAccount) -> SafeString:
        return shown.balance(account)

    @action(description=_("Charges"), url_path="charges")
    def charges(self, request: HttpRequest, object_id: str) -> HttpResponse:
        address = reverse("admin:relay_poecharge_changelist")
        return redirect(f"{address}?{urlencode({'account': unquote(object_id)})}")

    @admin.action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[PoeAccount]) -> None:
        told(self, request, queryset.update(enabled=False))

    @admin.action(description=_("Enable"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[PoeAccount]) -> None:
        told(self, request, queryset.update(enabled=True))

    # How it fares.

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [
            path("<int:pk>/merge/", view(self.merge), name="relay_poeaccount_merge"),
            path("<int:pk>/revive/", view(self.revive), name="relay_poeaccount_revive"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        events = {
            "events": shown.last_events(key__isnull=True),
            "events_link": reverse("admin:relay_poolevent_changelist"),
        }
        found: HttpResponse = super().changelist_view(request, {**events, **(extra_context or {})})
        return found

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if (account := context.get("original")) is not None:
            context |= _history(self._found(account.pk))
        found: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return found

    def _found(self, pk: int) -> PoeAccount:
        return get_object_or_404(PoeAccount.objects.select_related("health__same_as"), pk=pk)

    def _to_be_changed(self, request: HttpRequest, pk: int) -> PoeAccount:
        account = self._found(pk)
        if not self.has_change_permission(request, account):
            raise PermissionDenied
        return account

    def revive(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Asks (GET), then puts the account back into service (POST)."""
        account = self._to_be_changed(request, pk)
        back = reverse("admin:relay_poeaccount_change", args=[pk])
        if request.method == "POST":
            reason = f"put back into service by {request.user}"
            keeping.revive("account", pk, reason)
            self.log_change(request, account, reason)
            said = gettext("%(name)s is asked again.") % {"name": account.name}
            self.message_user(request, said, messages.SUCCESS)
            return redirect(back)
        standing = standings.of_health(getattr(account, "health", None))
        return self._question(
            request,
            "panel/revive.html",
            gettext("Put back into service"),
            back,
            {"name": account.name, "standings": [standing] if standing.is_out else [], "original": account},
        )

    def merge(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Asks (GET), then moves everything to the account that this one was found to be (POST)."""
        account = self._to_be_changed(request, pk)
        health = getattr(account, "health", None)
        other = health.same_as if health is not None else None
        back = reverse("admin:relay_poeaccount_change", args=[pk])
        if other is None:
            self.message_user(
                request, gettext("Nothing says that this account is the same as another one."), messages.ERROR
            )
            return redirect(back)
        if request.method != "POST":
            context = {"account": account, "other": other, "original": account}
            return self._question(
                request, "admin/relay/poeaccount/merge.html", gettext("Merge"), back, context
            )
        if not self.has_delete_permission(request, account):
            raise PermissionDenied
        try:
            balances.merge(account)
        except ValidationError as exc:
            self.message_user(request, " ".join(exc.messages), messages.ERROR)
            return redirect(back)
        self.log_change(request, other, f"merged with {account.name}")
        said = gettext("%(name)s is now part of %(other)s.") % {"name": account.name, "other": other.name}
        self.message_user(request, said, messages.SUCCESS)
        return redirect("admin:relay_poeaccount_change", other.pk)

    def _question(
        self, request: HttpRequest, template: str, title: str, back: str, context: dict[str, Any]
    ) -> HttpResponse:
        context |= {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.model._meta,
            "back_url": back,
        }
        return render(request, template, context)

    # Deleting: what was read of an account may be a hundred thousand rows.

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        balances.forget(obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[PoeAccount]) -> None:
        for account in queryset:
            balances.forget(account)
        super().delete_queryset(request, queryset)

    # The demo.

    def has_remove_demo_permission(self, request: HttpRequest) -> bool:
        return self.has_delete_permission(request) and PoeAccount.objects.filter(is_demo=True).exists()

    @action(description=_("Remove the demo"), url_path="remove-demo", permissions=["remove_demo"])
    def remove_demo(self, request: HttpRequest) -> HttpResponse:
        """Asks (GET), then removes the demo account with its key and its mappings (POST)."""
        back = reverse("admin:relay_poeaccount_changelist")
        if request.method != "POST":
            demo = {"mappings": BotMapping.objects.filter(account__is_demo=True)}
            return self._question(
                request, "admin/relay/poeaccount/remove_demo.html", gettext("Remove the demo"), back, demo
            )
        for account in PoeAccount.objects.filter(is_demo=True):
            balances.forget(account)
            with transaction_in_turn():
                account.delete()
        self.message_user(request, _("The demo is removed."), messages.SUCCESS)
        return redirect(back)


def _history(account: PoeAccount) -> dict[str, Any]:
    """What its page shows besides the form."""
    now = timezone.now()
    keys = PoeKey.objects.filter(account=account).select_related("health", "account__health")
    readings = BalanceReading.objects.filter(account=account, at__gte=now - timedelta(days=CHART_DAYS))
    charges = PoeCharge.objects.filter(account=account, at__gte=now - timedelta(days=1))
    sums = charges.order_by().values("match").annotate(number=Count("pk"), all_points=Sum("points"))
    return {
        "account": account,
        "health": getattr(account, "health", None),
        "standing": standings.of_account(account),
        "keys": [(key, standings.of_key(key)) for key in keys],
        "line": chart.line(readings.order_by("at").values_list("at", "points"), now),
        "events": shown.last_events(EVENTS, account=account),
        "events_link": f"{reverse('admin:relay_poolevent_changelist')}?account={account.pk}",
        "charges": list(charges[:CHARGES]),
        "charge_sums": [
            (PoeCharge.Match(row["match"]).label, row["number"], row["all_points"])
            for row in sums.order_by("match")
        ],
        "charges_link": f"{reverse('admin:relay_poecharge_changelist')}?account={account.pk}",
    }
