"""The panel's page for invitations. What one says is settled when it is made: another one is quickly there."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import F, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.decorators import action, display

from accounts.admin.forms import InvitationForm
from accounts.admin.issuing import unseen_by_others
from accounts.admin.people import LIMIT_COLUMNS, LIMIT_FIELDS
from accounts.exporting import Exported
from accounts.invitations import STOOD_BY
from accounts.models import Invitation, User
from accounts.views import address

STATES = {"open": _("open"), "used": _("used up"), "expired": _("expired"), "revoked": _("taken back")}


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(STATES.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> QuerySet[Invitation]:
        revoked, used = Q(revoked_at__isnull=False) | ~STOOD_BY, Q(used__gte=F("uses"))
        expired = Q(expires_at__lte=timezone.now())
        match self.value():
            case "open":
                return queryset.exclude(revoked | used | expired)
            case "used":
                return queryset.filter(used).exclude(revoked)
            case "expired":
                return queryset.filter(expired).exclude(revoked | used)
            case "revoked":
                return queryset.filter(revoked)
        return queryset


@admin.register(Invitation)
class InvitationAdmin(Exported):
    form = InvitationForm
    list_display = ("__str__", "team", "state", "taken", "expires_at", "made_by", "created_at")
    list_filter = (StateFilter, "team")
    list_select_related = ("team", "made_by")
    search_fields = ("note", "prefix", "team__name", "made_by__username")
    csv_columns = (
        "note",
        "team__name",
        "uses",
        "used",
        "expires_at",
        "revoked_at",
        "made_by__username",
        "created_at",
        "days",
        "allowed_models",
        *LIMIT_COLUMNS,
    )
    autocomplete_fields = ("team",)
    actions = ("take_back",)
    actions_row = ("take_back_one",)
    actions_detail = actions_row
    fieldsets = (
        (
            None,
            {
                "fields": ("team", "note", "uses", "expires_at"),
                "description": _(
                    "Whoever opens the link chooses a user name and a password, becomes a member of the team, and is shown a token once."
                ),
            },
        ),
        (_("The token"), {"fields": ("preset", "days", "allowed_models")}),
        (_("Limits"), {"fields": LIMIT_FIELDS}),
    )
    seen_fieldsets = (
        (None, {"fields": ("team", "note", "how", "taken", "expires_at", "made_by", "created_at")}),
        (_("The token"), {"fields": ("days", "models")}),
        fieldsets[2],
    )

    def get_fieldsets(self, request: HttpRequest, obj: Invitation | None = None) -> Any:
        return self.fieldsets if obj is None else self.seen_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Invitation | None = None) -> Any:
        return () if obj is None else [name for _title, each in self.seen_fieldsets for name in _flat(each)]

    def has_change_permission(self, request: HttpRequest, obj: Invitation | None = None) -> bool:
        return False

    @display(description=_("state"), label={"open": "success", "expired": "warning", "revoked": "danger"})
    def state(self, invitation: Invitation) -> tuple[str, Any]:
        return invitation.state, STATES[invitation.state]

    @display(description=_("state"))
    def how(self, invitation: Invitation) -> Any:
        return STATES[invitation.state]

    @display(description=_("allowed models"), empty_value="-")
    def models(self, invitation: Invitation) -> str:
        return ", ".join(invitation.allowed_models)

    @display(description=_("joined"), ordering="used")
    def taken(self, invitation: Invitation) -> str:
        return f"{invitation.used} / {invitation.uses}"

    # The link is shown once: in the answer to the form that made it.

    def save_model(self, request: HttpRequest, obj: Invitation, form: Any, change: bool) -> None:
        by = cast(User, request.user)
        if not by.may_invite_into(obj.team):
            raise PermissionDenied
        if preset := form.cleaned_data["preset"]:
            obj.fill_from(preset)
        obj.made_by = by
        request.invitation_secret = obj.seal()  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(
        self, request: HttpRequest, obj: Invitation, post_url_continue: str | None = None
    ) -> HttpResponse:
        path = reverse("join-link", args=[request.invitation_secret])  # type: ignore[attr-defined]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Invitation into %(team)s") % {"team": obj.team},
            "invitation": obj,
            "link": f"{address(request)}{path}",
            "opts": self.model._meta,
            "list_url": reverse("admin:accounts_invitation_changelist"),
        }
        return unseen_by_others(render(request, "admin/accounts/invitation/made.html", context))

    @action(description=_("Take back"), url_path="take-back")
    def take_back_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks (GET), then does (POST)."""
        invitation: Invitation | None = self.get_object(request, unquote(object_id))
        if not self.has_delete_permission(request, invitation):
            raise PermissionDenied
        if invitation is None:
            raise Http404
        if request.method == "POST":
            self.take_back(request, Invitation.objects.filter(pk=invitation.pk))
            return redirect("admin:accounts_invitation_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": _("Take back"),
            "invitation": invitation,
            "opts": self.model._meta,
            "back_url": reverse("admin:accounts_invitation_changelist"),
        }
        return render(request, "admin/accounts/invitation/take_back.html", context)

    @admin.action(description=_("Take back"), permissions=["delete"])
    def take_back(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> None:
        opened = [each for each in queryset.select_related("team") if each.revoked_at is None]
        for each in opened:
            each.revoke(cast(User, request.user))
        count = len(opened)
        said = ngettext("%(n)d invitation taken back.", "%(n)d invitations taken back.", count) % {"n": count}
        self.message_user(request, said, messages.SUCCESS)


def _flat(fieldset: Any) -> list[str]:
    names: list[str] = []
    for each in fieldset["fields"]:
        names += [each] if isinstance(each, str) else each
    return names
