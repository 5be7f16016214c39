"""Conditions under which tokens are given: limits, models and days, chosen once and kept under a name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.limits import Limits, validate_patterns

LONGEST_DAYS = 36500


class Conditions(Limits):
    """What a token will be bounded by that is not issued yet."""

    allowed_models = models.JSONField(
        _("allowed models"), default=list, blank=True, validators=[validate_patterns]
    )
    days = models.PositiveIntegerField(
        _("days"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_DAYS)],
        help_text=_("After so many days the token expires. Empty: it does not."),
    )

    class Meta:
        abstract = True

    def clean(self) -> None:
        # A field that was cleared in a form.
        self.allowed_models = self.allowed_models or []

    def for_a_token(self) -> dict[str, Any]:
        """As AccessToken has them, if its days begin now."""
        ends = None if self.days is None else timezone.now() + timedelta(days=self.days)
        return {
            **{name: getattr(self, name) for name in self.names()},
            "allowed_models": list(self.allowed_models),
            "expires_at": ends,
        }

    def fill_from(self, preset: Conditions) -> None:
        """What was left empty is as the preset has it."""
        for name in (*self.names(), "days"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(preset, name))
        self.allowed_models = self.allowed_models or list(preset.allowed_models)


class LimitPreset(Conditions):
    """A named choice of conditions. They are copied when it is used: a later edit changes no token."""

    name = models.CharField(_("name"), max_length=100, unique=True)

    class Meta:
        verbose_name = _("limit preset")
        verbose_name_plural = _("limit presets")
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name
