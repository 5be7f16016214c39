"""The form for a new token: whether its limits are too wide is for the model to say."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import AccessToken, Limits, validate_patterns

LIMITS = Limits.names()


class TokenForm(forms.ModelForm):  # type: ignore[type-arg]
    last_day = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))
    models = forms.CharField(required=False, max_length=2000)

    class Meta:
        model = AccessToken
        fields = ("name", *LIMITS)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not name.isprintable():
            raise forms.ValidationError(_("A name holds a control character."))
        return name

    def clean_last_day(self) -> datetime | None:
        """The moment at which that day ends, by the calendar of whoever chose it."""
        day = self.cleaned_data["last_day"]
        if day is None:
            return None
        if not timezone.localdate() <= day <= timezone.localdate() + timedelta(days=36500):
            raise forms.ValidationError(_("This day is over, or very far away."))
        return timezone.make_aware(datetime.combine(day + timedelta(days=1), time.min))

    def clean_models(self) -> list[str]:
        patterns = [each.strip() for each in self.cleaned_data["models"].split(",") if each.strip()]
        validate_patterns(patterns)
        return patterns

    @property
    def chosen(self) -> dict[str, Any]:
        """As the verbs of the models take it."""
        given = self.cleaned_data
        return {
            "name": given["name"],
            "expires_at": given["last_day"],
            "allowed_models": given["models"],
            **{limit: given[limit] for limit in LIMITS},
        }
