"""The directory's version, and what changed at which."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class DirectoryVersion(models.Model):
    """A single row, counted up by triggers on every table that the directory reads. Its row lock gives commit order."""

    id = models.PositiveSmallIntegerField(primary_key=True)
    n = models.BigIntegerField(default=0)

    class Meta:
        verbose_name = _("directory version")
        verbose_name_plural = _("directory version")

    def __str__(self) -> str:
        return str(self.n)


class DirectoryChange(models.Model):
    """What changed at which version: a table and a row of it; row 0 means many of that table."""

    n = models.BigIntegerField()
    kind = models.CharField(max_length=40)
    row = models.BigIntegerField()

    class Meta:
        verbose_name = _("directory change")
        verbose_name_plural = _("directory changes")
        indexes: ClassVar = [models.Index(fields=["n"], name="relay_directory_change_n")]

    def __str__(self) -> str:
        return f"{self.n}: {self.kind} {self.row}"
