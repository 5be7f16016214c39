"""The form for a Poe key of one's own."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from relay.models import PoeAccount


class OwnKeyForm(forms.Form):
    """The secret goes in and never comes out: left empty, the stored one stays."""

    secret = forms.CharField(
        required=False,
        strip=True,
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    own_use = forms.ChoiceField(
        choices=[
            (PoeAccount.OwnUse.FIRST, _("This key first, then the shared ones")),
            (PoeAccount.OwnUse.ONLY, _("This key and no other")),
            (PoeAccount.OwnUse.NEVER, _("Not this key for now")),
        ],
        initial=PoeAccount.OwnUse.FIRST,
        widget=forms.RadioSelect,
    )

    def __init__(self, *args: Any, is_stored: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_stored = is_stored

    def clean_secret(self) -> str:
        secret: str = self.cleaned_data["secret"]
        if not secret and not self._is_stored:
            raise forms.ValidationError(_("Paste the key."))
        if secret and (not secret.isascii() or not secret.isprintable() or " " in secret):
            raise forms.ValidationError(_("A Poe key has no spaces and no special characters."))
        return secret
