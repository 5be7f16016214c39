"""The panel's page that says what would become of a request: which mapping, bot and keys, what is left, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import AccessToken, TokenActivity
from relay.explaining import explain

# In the words of the panel's own lists.
VERDICTS = {
    "fits": _("fits"),
    "disabled": _("disabled"),
    "other_team": _("not for this team"),
    "not_allowed": _("not among the models of this token"),
}
TIERS = {"own": _("own"), "team": _("the team's"), "shared": _("shared")}
NOT_ASKED = {
    "disabled": _("disabled"),
    "secret": _("its secret does not open with this encryption key"),
    "other_team": _("another team's"),
    "other_user": _("another person's"),
    "never": _("its owner wants it not to be used"),
    "bound": _("the mapping is bound to another account"),
    "demo": _("the demo's serves only what is bound to it"),
    "own_key_only": _("the caller's own key is to be used alone"),
}
WHOSE = {"token": _("access token"), "user": _("user"), "team": _("team")}
LIMITS = {
    "requests_per_minute": _("requests per minute"),
    "tokens_per_minute": _("tokens per minute"),
    "requests_in_flight": _("requests in flight"),
    "points_per_day": _("points per day"),
    "points_per_month": _("points per month"),
}


class TokenSelect(AutocompleteSelect):
    """Looked up while somebody types: there may be very many. Django asks for a field that refers to them."""

    def __init__(self) -> None:
        super().__init__(TokenActivity._meta.get_field("token"), admin.site)

    def optgroups(self, name: str, value: Sequence[str], attr: Any = None) -> Any:
        # An address that somebody typed may hold anything.
        return super().optgroups(name, [each for each in value if each.isdecimal()], attr)


class Question(forms.Form):
    model = forms.CharField(label=_("Model"), max_length=200, widget=UnfoldAdminTextInputWidget)
    token = forms.ModelChoiceField(
        label=_("Access token"),
        queryset=AccessToken.objects.held().select_related("owner__team"),
        required=False,
        widget=TokenSelect,
        help_text=_("Empty: one without limits."),
    )


def page(request: HttpRequest) -> HttpResponse:
    if not request.user.is_superuser:
        raise PermissionDenied
    form = Question(request.GET if "model" in request.GET else None)
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": _("Explain a model"),
        "content_title": _("Explain a model"),
        "form": form,
    }
    if form.is_bound and form.is_valid():
        told = explain(settings.CONFIG, form.cleaned_data["model"].strip(), form.cleaned_data["token"])
        context |= {
            "told": told,
            "looks": [(look, VERDICTS[look.verdict]) for look in told.looks],
            "keys": [(key, TIERS[key.tier]) for key in told.keys],
            "passed_over": [(key, NOT_ASKED[key.why]) for key in told.passed_over],
            "limits": [(limit, WHOSE[limit.whose], LIMITS[limit.limit]) for limit in told.limits],
        }
    return render(request, "panel/explain.html", context)
