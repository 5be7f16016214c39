"""The panel's pages for people and their access tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import display_for_value
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from accounts import tokens
from accounts.models import AccessToken, Team, User, token_digest

admin.site.unregister(Group)

LIMIT_FIELDS = (
    ("requests_per_minute", "tokens_per_minute", "requests_in_flight"),
    ("points_per_day", "points_per_month"),
)
LIMITS = (
    _("Limits"),
    {
        "fields": LIMIT_FIELDS,
        "description": _("Those of the token, its owner and the team hold all at once: the tightest wins."),
    },
)


@admin.register(Team)
class TeamAdmin(ModelAdmin):
    list_display = ("name", "people", "time_zone", "enabled", "created_at")
    list_filter = ("enabled",)
    search_fields = ("name",)
    fieldsets = ((None, {"fields": ("name", "time_zone", "enabled")}), LIMITS)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        found: QuerySet[Team] = super().get_queryset(request).annotate(people=Count("users"))
        return found

    @display(description=_("people"), ordering="people")
    def people(self, team: Any) -> int:
        return int(team.people)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "team", "role", "is_superuser", "is_active", "last_login")
    list_filter = ("team", "role", "is_superuser", "is_active")
    list_select_related = ("team",)
    search_fields = ("username", "first_name", "last_name", "email")
    ordering = ("username",)
    filter_horizontal = ()
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("username", "password")}),
        (_("Person"), {"fields": ("first_name", "last_name", "email", "team", "role")}),
        (
            _("Rights"),
            {
                "fields": ("is_active", "is_staff", "is_superuser"),
                "description": _(
                    "An administrator needs both: staff status to sign in here, superuser to see everything."
                ),
            },
        ),
        LIMITS,
        (_("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")
    add_fieldsets = (
        (
            None,
            {
                "classes": ("wide",),
                "fields": ("username", "team", "role", "usable_password", "password1", "password2"),
            },
        ),
    )


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("usable", _("usable")), ("expired", _("expired")), ("disabled", _("disabled"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AccessToken]) -> QuerySet[AccessToken]:
        expired = Q(expires_at__lte=timezone.now())
        match self.value():
            case "usable":
                return queryset.filter(enabled=True).exclude(expired)
            case "expired":
                return queryset.filter(expired)
            case "disabled":
                return queryset.filter(enabled=False)
        return queryset


@admin.register(AccessToken)
class AccessTokenAdmin(ModelAdmin):
    list_display = ("name", "owner", "team", "begins_with", "state", "expires_at", "last_used", "created_at")
    list_filter = (StateFilter, "owner__team")
    list_select_related = ("owner__team", "activity")
    search_fields = ("name", "prefix", "owner__username", "owner__team__name")
    autocomplete_fields = ("owner",)
    actions = ("disable", "enable")
    actions_detail = ("rotate",)
    readonly_fields = ("begins_with", "created_at", "last_used")
    fieldsets = (
        (None, {"fields": ("name", "owner", "expires_at")}),
        (_("Rights"), {"fields": ("allowed_models", "allowed_networks")}),
        LIMITS,
    )
    change_fieldsets = (
        (None, {"fields": ("begins_with", "name", "owner", "expires_at")}),
        (_("State"), {"fields": ("enabled", "disabled_reason", "created_at", "last_used")}),
        *fieldsets[1:],
    )

    def get_fieldsets(self, request: HttpRequest, obj: AccessToken | None = None) -> Any:
        return self.fieldsets if obj is None else self.change_fieldsets

    @display(description=_("begins with"), ordering="prefix")
    def begins_with(self, token: AccessToken) -> str:
        return format_html("<code>{}…</code>", token.prefix)

    @display(description=_("team"), ordering="owner__team__name")
    def team(self, token: AccessToken) -> Team:
        return token.team

    @display(description=_("state"), label={"usable": "success", "expired": "warning", "disabled": "danger"})
    def state(self, token: AccessToken) -> tuple[str, Any]:
        if not token.enabled:
            return "disabled", _("disabled")
        return ("expired", _("expired")) if token.is_expired() else ("usable", _("usable"))

    @display(description=_("last used"), ordering="activity__last_used_at")
    def last_used(self, token: AccessToken) -> Any:
        activity = getattr(token, "activity", None)
        # As text: a form shows a date that is no field of its own as the computer writes it.
        return display_for_value(activity.last_used_at, "-") if activity else _("never")

    # A token is shown once: in the answer to the form that made it, which nothing stores.

    def save_model(self, request: HttpRequest, obj: AccessToken, form: Any, change: bool) -> None:
        if not change:
            plain = tokens.make()
            obj.digest, obj.prefix = token_digest(plain), tokens.shown_prefix(plain)
            request.issued_token = plain  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(
        self, request: HttpRequest, obj: AccessToken, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self._show_once(request, obj, request.issued_token)  # type: ignore[attr-defined]

    def _show_once(self, request: HttpRequest, token: AccessToken, plain: str) -> HttpResponse:
        base = settings.CONFIG.server.public_url or request.build_absolute_uri("/").rstrip("/")
        context = {
            **self.admin_site.each_context(request),
            "title": _("Access token for %(user)s") % {"user": token.owner},
            "token": token,
            "plain": plain,
            "api_base": f"{base}/v1",
            "opts": self.model._meta,
            "list_url": reverse("admin:accounts_accesstoken_changelist"),
        }
        response = render(request, "admin/accounts/accesstoken/issued.html", context)
        response["Cache-Control"] = "no-store"
        # Not no-referrer: browsers then send `Origin: null`, and signing out from this page would be refused.
        response["Referrer-Policy"] = "same-origin"
        return response

    @action(description=_("Rotate"), url_path="rotate")
    def rotate(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """A page that asks (GET) and shows the successor once (POST)."""
        token = get_object_or_404(AccessToken.objects.select_related("owner__team"), pk=object_id)
        if not (self.has_change_permission(request, token) and self.has_add_permission(request)):
            return redirect("admin:index")
        hours = settings.CONFIG.relay.token_overlap_hours
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "title": _("Rotate %(token)s") % {"token": token},
                "token": token,
                "hours": f"{hours:g}",
                "opts": self.model._meta,
                "back_url": reverse("admin:accounts_accesstoken_change", args=[token.pk]),
            }
            return render(request, "admin/accounts/accesstoken/rotate.html", context)
        successor, plain = token.rotate(timedelta(hours=hours))
        self.log_change(request, token, [{"changed": {"fields": ["Expires"]}}])
        return self._show_once(request, successor, plain)

    @admin.action(description=_("Disable"))
    def disable(self, request: HttpRequest, queryset: QuerySet[AccessToken]) -> None:
        self._told(request, queryset.update(enabled=False), disabled=True)

    @admin.action(description=_("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[AccessToken]) -> None:
        self._told(request, queryset.update(enabled=True, disabled_reason=""), disabled=False)

    def _told(self, request: HttpRequest, count: int, *, disabled: bool) -> None:
        said = (
            ngettext("%(n)d access token disabled.", "%(n)d access tokens disabled.", count)
            if disabled
            else ngettext("%(n)d access token enabled.", "%(n)d access tokens enabled.", count)
        )
        self.message_user(request, said % {"n": count}, messages.SUCCESS)
