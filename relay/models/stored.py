"""What people said or sent, where it is kept for them: encrypted, for a time, and for the token that it came with."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from django.db import models
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext_lazy as _

from accounts.models import AccessToken

T = TypeVar("T", bound=models.Model)


def _of_a_token(related_name: str) -> Any:
    """A token goes at once, and what was kept for it a little at a time: it may have 200 MB."""
    return models.ForeignKey(AccessToken, models.DO_NOTHING, db_constraint=False, related_name=related_name)


def without_token(rows: QuerySet[T]) -> QuerySet[T]:
    """Those of these whose token is gone."""
    return rows.filter(~Exists(AccessToken.objects.filter(pk=OuterRef("token_id"))))


class StoredResponse(models.Model):
    """One answer of the responses API and what was asked for it; another one may go on from there."""

    id = models.CharField(primary_key=True, max_length=64)
    token = _of_a_token("stored_responses")
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


class StoredFile(models.Model):
    """A file that somebody uploaded or a bot made; its bytes are in pieces, so that none of its transactions is long."""

    id = models.CharField(primary_key=True, max_length=64)
    token = _of_a_token("stored_files")
    # Encrypted.
    name = models.TextField()
    content_type = models.CharField(max_length=100)
    purpose = models.CharField(max_length=30)
    size = models.PositiveBigIntegerField()
    # All its pieces are there: until then, and from its removal on, it is there for nobody.
    is_whole = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = _("stored file")
        verbose_name_plural = _("stored files")
        indexes: ClassVar = [
            models.Index(fields=["expires_at"], name="relay_storedfile_expires"),
            models.Index(fields=["token", "-created_at", "-id"], name="relay_storedfile_recent"),
        ]

    def __str__(self) -> str:
        return self.id


class FilePiece(models.Model):
    file = models.ForeignKey(StoredFile, models.CASCADE, related_name="pieces")
    number = models.PositiveIntegerField()
    # Encrypted.
    content = models.BinaryField()

    class Meta:
        verbose_name = _("piece of a file")
        verbose_name_plural = _("pieces of files")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["file", "number"], name="relay_filepiece_number")
        ]

    def __str__(self) -> str:
        return f"{self.file_id}: {self.number}"


class VideoJob(models.Model):
    """A video that a client was promised. Whichever process makes it, and however often that one dies, it comes to an end."""

    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        IN_PROGRESS = "in_progress", _("in progress")
        COMPLETED = "completed", _("completed")
        FAILED = "failed", _("failed")

    id = models.CharField(primary_key=True, max_length=40)
    token = models.ForeignKey(AccessToken, models.CASCADE, related_name="video_jobs")
    state = models.CharField(max_length=15, choices=State, default=State.QUEUED)
    # What was asked, encrypted.
    asked = models.BinaryField()
    # How often it was begun.
    attempts = models.PositiveSmallIntegerField(default=0)
    error_code = models.CharField(max_length=50, blank=True)
    error_message = models.TextField(blank=True)
    output = models.ForeignKey(StoredFile, models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = _("video job")
        verbose_name_plural = _("video jobs")
        indexes: ClassVar = [
            models.Index(fields=["token", "-created_at", "-id"], name="relay_videojob_recent"),
            models.Index(fields=["expires_at"], name="relay_videojob_expires"),
            models.Index(
                fields=["created_at"],
                name="relay_videojob_unfinished",
                condition=models.Q(state__in=["queued", "in_progress"]),
            ),
        ]

    def __str__(self) -> str:
        return self.id
