"""What was used: usage records, meters, and who writes them."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class UsageRecord(models.Model):
    """One accepted request. It names who and what in words of its own, so that it outlives what it refers to.

    Tokens are counted by us (an estimate: each bot has a tokenizer of its own). Times are in milliseconds. While it is
    open, `points` and `completion_tokens` are what is reserved for it; a lost record keeps them.
    """

    class Outcome(models.TextChoices):
        OPEN = "open", _("open")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        DISCONNECTED = "disconnected", _("disconnected")
        LOST = "lost", _("lost")

    class Accounting(models.TextChoices):
        ESTIMATED = "estimated", _("estimated")
        RECONCILED = "reconciled", _("as Poe charged")
        OWN = "own", _("on an own Poe key")

    id = models.UUIDField(primary_key=True, editable=False)
    request_id = models.CharField(_("request id"), max_length=64)
    started_at = models.DateTimeField(_("started"))
    # Numbers without foreign keys: no join for the list, no lock on the referred row, and nothing is lost with it.
    token_id = models.BigIntegerField(_("token number"))
    user_id = models.BigIntegerField(_("user number"))
    team_id = models.BigIntegerField(_("team number"))
    key_id = models.BigIntegerField(_("Poe key number"), null=True)
    token_prefix = models.CharField(_("access token"), max_length=20)
    user_name = models.CharField(_("user"), max_length=150)
    team_name = models.CharField(_("team"), max_length=100)
    key_name = models.CharField(_("Poe key"), max_length=100, blank=True)
    model = models.CharField(_("model"), max_length=200)
    bot = models.CharField(_("bot"), max_length=200)
    wire = models.CharField(_("wire format"), max_length=20)
    streamed = models.BooleanField(_("streamed"))
    outcome = models.CharField(_("outcome"), max_length=12, choices=Outcome, default=Outcome.OPEN)
    error_code = models.CharField(_("error"), max_length=50, blank=True)
    finish_reason = models.CharField(_("finish reason"), max_length=20, blank=True)
    prompt_tokens = models.PositiveIntegerField(_("prompt tokens"), default=0)
    completion_tokens = models.PositiveIntegerField(_("answer tokens"), default=0)
    tokens_estimated = models.BooleanField(_("tokens are an estimate"), default=True)
    images = models.PositiveIntegerField(_("images"), default=0, db_default=0)
    points = models.BigIntegerField(_("points"), default=0, db_default=0)
    # The day and the month that it counts in, by the second (since 1970) at which each ends: the team's, and those of its
    # user and token, which differ only where a user came from a team of another calendar. No label would do: when a
    # time zone changes, two days in a row may have the same date.
    day_ends = models.BigIntegerField(default=0, db_default=0, editable=False)
    month_ends = models.BigIntegerField(default=0, db_default=0, editable=False)
    own_day_ends = models.BigIntegerField(default=0, db_default=0, editable=False)
    own_month_ends = models.BigIntegerField(default=0, db_default=0, editable=False)
    first_byte_ms = models.PositiveIntegerField(_("first byte, ms"), null=True)
    total_ms = models.PositiveIntegerField(_("total, ms"), null=True)
    process = models.CharField(max_length=64, editable=False)
    accounting = models.CharField(
        _("accounting"),
        max_length=10,
        choices=Accounting,
        default=Accounting.ESTIMATED,
        db_default=Accounting.ESTIMATED,
    )

    class Meta:
        verbose_name = _("usage record")
        verbose_name_plural = _("usage records")
        ordering: ClassVar = ["-started_at", "-id"]
        # Ascending, and read backwards: both databases are quick to add what comes last, and slow to add what comes first.
        indexes: ClassVar = [
            models.Index(fields=["started_at", "id"], name="relay_usage_recent"),
            models.Index(fields=["token_id", "started_at"], name="relay_usage_by_token"),
            models.Index(fields=["user_id", "started_at"], name="relay_usage_by_user"),
            models.Index(fields=["team_id", "started_at"], name="relay_usage_by_team"),
            models.Index(fields=["process"], name="relay_usage_open", condition=models.Q(outcome="open")),
            # The few that did not go well. An OR and no IN: SQLite sees only so that one of them is among these.
            models.Index(
                fields=["outcome", "started_at"],
                name="relay_usage_trouble",
                condition=models.Q(outcome="failed")
                | models.Q(outcome="disconnected")
                | models.Q(outcome="lost"),
            ),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(outcome__in=["open", "done", "failed", "disconnected", "lost"]),
                name="relay_usage_outcome_known",
            )
        ]

    def __str__(self) -> str:
        return f"{self.started_at:%Y-%m-%d %H:%M:%S} {self.user_name} {self.model}"


class Meter(models.Model):
    """What a token, user or team has used, and what a Poe key or account carries. Changed by the ledger alone.

    A level is a bucket that the requests (or tokens) fill and time drains, in units of a sixty-millionth: a limit of N
    a minute drains N units each microsecond, so that all of it is exact in whole numbers.
    """

    id = models.CharField(primary_key=True, max_length=30)
    # Microseconds since 1970, by the database's clock: when the levels were as they are here.
    at = models.BigIntegerField(default=0)
    requests_level = models.BigIntegerField(default=0)
    tokens_level = models.BigIntegerField(default=0)
    in_flight = models.IntegerField(_("requests in flight"), default=0)
    # Of a Poe key or account: it is not asked before (microseconds since 1970); then one request at a time tries it.
    blocked_until = models.BigIntegerField(default=0, db_default=0)
    # Reservations of open records included. The periods are those of UsageRecord.
    day_ends = models.BigIntegerField(default=0)
    day_points = models.BigIntegerField(_("points today"), default=0)
    month_ends = models.BigIntegerField(default=0)
    month_points = models.BigIntegerField(_("points this month"), default=0)

    class Meta:
        verbose_name = _("meter")
        verbose_name_plural = _("meters")

    def __str__(self) -> str:
        return self.id


class Process(models.Model):
    """A process that writes to the ledger. Without a heartbeat for a while it is dead, and its open records are lost."""

    name = models.CharField(primary_key=True, max_length=64)
    # Microseconds since 1970, by the database's clock.
    heartbeat_at = models.BigIntegerField()

    class Meta:
        verbose_name = _("process")
        verbose_name_plural = _("processes")

    def __str__(self) -> str:
        return self.name


class CancellationManager(models.Manager["Cancellation"]):
    def wish(self, record_id: uuid.UUID, *, by: str) -> bool:
        """Have a request stopped; False if there is no such request any more. It ends within a second or two."""
        if not UsageRecord.objects.filter(id=record_id, outcome=UsageRecord.Outcome.OPEN).exists():
            return False
        self.update_or_create(record_id=record_id, defaults={"at": timezone.now(), "by": by})
        return True


class Cancellation(models.Model):
    """A request that an administrator wants stopped. The process that relays it looks here once a second."""

    record_id = models.UUIDField(primary_key=True, editable=False)
    at = models.DateTimeField()
    by = models.CharField(max_length=150)

    objects: ClassVar[CancellationManager] = CancellationManager()

    class Meta:
        verbose_name = _("cancellation")
        verbose_name_plural = _("cancellations")

    def __str__(self) -> str:
        return f"{self.record_id} ({self.by})"


class Pruning(models.Model):
    """A single row: usage records that started before this are gone, so that nothing older can be verified."""

    id = models.PositiveSmallIntegerField(primary_key=True)
    pruned_before = models.DateTimeField()

    class Meta:
        verbose_name = _("pruning")
        verbose_name_plural = _("prunings")

    def __str__(self) -> str:
        return f"{self.pruned_before:%Y-%m-%d %H:%M}"
