"""What people did about tokens themselves: made them in the portal, took them back.

Without it, whoever holds a token with limits, or had one taken away, could make one without.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class SelfService(models.Model):
    """Of a token. Apart from AccessToken, whose every change reloads the directory."""

    class Made(models.TextChoices):
        FOR_THEM = "", _("by somebody else")
        PORTAL = "portal", _("in the portal")

    token = models.OneToOneField(
        "accounts.AccessToken", models.CASCADE, primary_key=True, related_name="self_service"
    )
    made = models.CharField(_("made"), max_length=10, blank=True, choices=Made, default=Made.FOR_THEM)
    revoked_at = models.DateTimeField(_("revoked"), null=True)

    class Meta:
        verbose_name = _("self-service")
        verbose_name_plural = _("self-service")
        ordering: ClassVar = ["pk"]

    def __str__(self) -> str:
        return f"{self.token_id}: {self.made or '-'}"
