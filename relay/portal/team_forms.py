"""The forms of managers. Whether limits are too wide, and whose they may be, is for the models to say."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts.models import AccessToken, Invitation, Limits, User


class WithLimits(forms.ModelForm):  # type: ignore[type-arg]
    LIMITS: ClassVar = Limits.names()

    @property
    def chosen(self) -> dict[str, int | None]:
        """As the verbs of the models take them."""
        return {name: self.cleaned_data[name] for name in self.LIMITS}


class MemberForm(WithLimits):
    class Meta:
        model = User
        fields = ("username", *Limits.names())


class MemberLimitsForm(WithLimits):
    class Meta:
        model = User
        fields = Limits.names()


class TokenLimitsForm(WithLimits):
    class Meta:
        model = AccessToken
        fields = Limits.names()


class InvitationForm(WithLimits):
    """The limits are those of the token that each who joins is given."""

    class Meta:
        model = Invitation
        fields = ("note", "uses", *Limits.names())


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=200, required=False)

    def clean_reason(self) -> Any:
        reason = self.cleaned_data["reason"]
        if not reason.isprintable():
            raise forms.ValidationError(_("A reason holds a control character."))
        return reason
