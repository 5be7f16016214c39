"""What people said, where it is kept for them: encrypted, for a time, and for the token that it came with."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import AccessToken


class StoredResponse(models.Model):
    """One answer of the responses API and what was asked for it; another one may go on from there."""

    id = models.CharField(primary_key=True, max_length=64)
    token = models.ForeignKey(AccessToken, models.CASCADE, related_name="stored_responses")
    # The ids of those that it goes on from, the first one first.
    before = models.JSONField(default=list)
    # Compressed and encrypted.
    content = models.BinaryField()
    size = models.PositiveIntegerField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = _("stored response")
        verbose_name_plural = _("stored responses")
        indexes: ClassVar = [
            models.Index(fields=["expires_at"], name="relay_storedresponse_expires"),
            models.Index(fields=["token", "-created_at"], name="relay_storedresponse_recent"),
        ]

    def __str__(self) -> str:
        return self.id
