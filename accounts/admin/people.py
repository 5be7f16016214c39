"""The panel's pages for people and their access tokens."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.utils import display_for_value, unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from accounts import second_factor, tokens
from accounts.admin import acting, issuing, many
from accounts.exporting import Exported
from accounts.models import AccessToken, AccessTokenQuerySet, Team, User, token_digest

admin.site.unregister(Group)

ISSUE = _("Issue a token")
USAGE = _("Usage records")
LIMIT_FIELDS = (
    ("requests_per_minute", "tokens_per_minute"),
    ("requests_in_flight",),
    ("points_per_day", "points_per_month"),
)
LIMIT_COLUMNS = tuple(name for row in LIMIT_FIELDS for name in row)
LIMITS = (
    _("Limits"),
    {
        "fields": LIMIT_FIELDS,
        "description": _("Those of the token, its owner and the team hold all at once: the tightest wins."),
    },
)


@admin.register(Team)
class TeamAdmin(Exported):
    list_display = ("name", "people", "time_zone", "enabled", "created_at")
    list_filter = ("enabled",)
    search_fields = ("name",)
    csv_columns = ("name", "time_zone", "enabled", "created_at", *LIMIT_COLUMNS)
    actions_row = ("usage",)
    fieldsets = ((None, {"fields": ("name", "time_zone", "enabled")}), LIMITS)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        found: QuerySet[Team] = super().get_queryset(request).annotate(people=Count("users"))
        return found

    @display(description=_("people"), ordering="people")
    def people(self, team: Any) -> int:
        return int(team.people)

    @action(description=USAGE, url_path="usage")
    def usage(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _usage("team", object_id)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, Exported):  # type: ignore[type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = (
        "username",
        "team",
        "role",
        "is_superuser",
        "is_active",
        "has_second_factor",
        "last_login",
        "issue_link",
    )
    list_filter = ("team", "role", "is_superuser", "is_active")
    list_select_related = ("team", "second_factor")
    actions = ("remove_second_factor",)
    search_fields = ("username", "first_name", "last_name", "email")
    ordering = ("username",)
    csv_columns = (
        "username",
        "team__name",
        "role",
        "first_name",
        "last_name",
        "email",
        "is_active",
        "is_superuser",
        "last_login",
        "date_joined",
        *LIMIT_COLUMNS,
    )
    actions_row = ("issue", "usage")
    actions_detail = ("issue", "usage")
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

    @display(description=_("Access token"))
    def issue_link(self, user: User) -> str:
        if not user.is_active:
            return "-"
        address = reverse("admin:accounts_user_issue", args=[user.pk])
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', address, ISSUE
        )

    @action(description=ISSUE, url_path="issue", icon="key")
    def issue(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return issuing.issue(self, request, object_id)

    @action(description=USAGE, url_path="usage")
    def usage(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _usage("user", object_id)

    @display(description=_("second factor"), boolean=True)
    def has_second_factor(self, user: User) -> bool:
        factor = getattr(user, "second_factor", None)
        return factor is not None and factor.confirmed_at is not None

    @admin.action(description=_("Take the second factor away (the phone is lost)"), permissions=["change"])
    def remove_second_factor(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        by = request.user.get_username()
        removed = [user for user in queryset if second_factor.remove(user, by=by)]
        for user in removed:
            # In English, as the history has it.
            self.log_change(request, user, [{"deleted": {"name": "second factor", "object": str(user)}}])
        said = ngettext("%(n)d second factor taken away.", "%(n)d second factors taken away.", len(removed))
        self.message_user(request, said % {"n": len(removed)}, messages.SUCCESS)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if "is_active" in form.changed_data:
            # A manager who had disabled them has no say in it any more.
            obj.disabled_by = None
        super().save_model(request, obj, form, change)


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
class AccessTokenAdmin(Exported):
    list_display = ("name", "owner", "team", "begins_with", "state", "expires_at", "last_used", "created_at")
    list_filter = (StateFilter, "owner__team")
    list_select_related = ("owner__team", "activity")
    search_fields = ("name", "prefix", "owner__username", "owner__team__name")
    autocomplete_fields = ("owner",)
    actions = ("disable", "enable", "extend", "limit")
    csv_columns = (
        "name",
        "owner__username",
        "owner__team__name",
        "prefix",
        "enabled",
        "disabled_reason",
        "expires_at",
        "activity__last_used_at",
        "created_at",
        "allowed_models",
        "allowed_networks",
        *LIMIT_COLUMNS,
    )
    actions_row = ("rotate", "extend_one", "limit_one", "clone", "disable_one", "usage")
    actions_list = ("issue_many",)
    actions_detail = actions_row
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

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccessToken]:
        found: QuerySet[AccessToken] = super().get_queryset(request).filter(playground=None)
        return found

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
        return issuing.show_once(self, request, obj, request.issued_token)  # type: ignore[attr-defined]

    @action(description=_("Issue to many"), url_path="issue-many", icon="group_add")
    def issue_many(self, request: HttpRequest) -> HttpResponse:
        return many.issue_many(self, request)

    @action(description=_("Rotate"), url_path="rotate")
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return issuing.rotate(self, request, object_id)

    @action(description=_("Copy"), url_path="clone")
    def clone(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return issuing.clone(self, request, object_id)

    @action(description=USAGE, url_path="usage")
    def usage(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _usage("token", object_id)

    # One at a time, or those that were ticked in the list.

    @action(description=_("Extend"), url_path="extend")
    def extend_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acting.on_one(self, request, object_id, acting.EXTEND)

    @action(description=_("Set limits"), url_path="limit")
    def limit_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acting.on_one(self, request, object_id, acting.LIMIT)

    @action(description=_("Disable"), url_path="disable")
    def disable_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acting.on_one(self, request, object_id, acting.DISABLE)

    @admin.action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: AccessTokenQuerySet) -> HttpResponse | None:
        return acting.on_many(self, request, queryset, acting.DISABLE)

    @admin.action(description=_("Extend"), permissions=["change"])
    def extend(self, request: HttpRequest, queryset: AccessTokenQuerySet) -> HttpResponse | None:
        return acting.on_many(self, request, queryset, acting.EXTEND)

    @admin.action(description=_("Set limits"), permissions=["change"])
    def limit(self, request: HttpRequest, queryset: AccessTokenQuerySet) -> HttpResponse | None:
        return acting.on_many(self, request, queryset, acting.LIMIT)

    @admin.action(description=_("Enable"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: AccessTokenQuerySet) -> None:
        count = queryset.update(enabled=True, disabled_reason="")
        said = ngettext("%(n)d access token enabled.", "%(n)d access tokens enabled.", count)
        self.message_user(request, said % {"n": count}, messages.SUCCESS)


def _usage(whose: str, object_id: str) -> HttpResponse:
    """By its number: names come again."""
    address = reverse("admin:relay_usagerecord_changelist")
    return redirect(f"{address}?{urlencode({whose: unquote(object_id)})}")
