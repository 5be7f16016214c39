"""What was used in an hour or a day: what every chart and summary reads. Nothing refers to a row of another table."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class Sums(models.Model):
    """What settled usage records add up to. The columns `first_byte_*` are a histogram of the time to the first byte:
    each counts the answers up to so many milliseconds that no smaller one counts.
    """

    requests = models.BigIntegerField(_("requests"))
    failed = models.BigIntegerField(_("failed"))
    disconnected = models.BigIntegerField(_("disconnected"))
    lost = models.BigIntegerField(_("lost"))
    prompt_tokens = models.BigIntegerField(_("prompt tokens"))
    completion_tokens = models.BigIntegerField(_("answer tokens"))
    images = models.BigIntegerField(_("images"))
    points = models.BigIntegerField(_("points"))
    total_ms = models.BigIntegerField()
    first_byte_250 = models.BigIntegerField()
    first_byte_500 = models.BigIntegerField()
    first_byte_1000 = models.BigIntegerField()
    first_byte_2000 = models.BigIntegerField()
    first_byte_5000 = models.BigIntegerField()
    first_byte_10000 = models.BigIntegerField()
    first_byte_30000 = models.BigIntegerField()
    first_byte_more = models.BigIntegerField()

    class Meta:
        abstract = True


class ShareSums(models.Model):
    """The sums that a table of shares shows."""

    requests = models.BigIntegerField(_("requests"))
    failed = models.BigIntegerField(_("failed"))
    prompt_tokens = models.BigIntegerField(_("prompt tokens"))
    completion_tokens = models.BigIntegerField(_("answer tokens"))
    points = models.BigIntegerField(_("points"))

    class Meta:
        abstract = True


class UsageHour(Sums):
    """What was used in an hour, by whom and of what: the sum of the settled usage records that started in it.

    Charts read these and what is added up of them, never the records.
    """

    hour = models.DateTimeField(_("hour"))
    team_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    token_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    model = models.CharField(_("model"), max_length=200)
    bot = models.CharField(_("bot"), max_length=200)

    class Meta:
        verbose_name = _("hour of use")
        verbose_name_plural = _("hours of use")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["hour", "team_id", "user_id", "token_id", "key_id", "model", "bot"],
                name="relay_usagehour_once",
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["team_id", "hour"], name="relay_usagehour_team"),
            models.Index(fields=["user_id", "hour"], name="relay_usagehour_user"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.model}: {self.requests}"


class TeamHour(Sums):
    """An hour of a day that is added up, by team; team 0 is all of them together."""

    hour = models.DateTimeField(_("hour"))
    team_id = models.BigIntegerField()

    class Meta:
        verbose_name = _("hour of a team")
        verbose_name_plural = _("hours of teams")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team_id", "hour"], name="relay_teamhour_once")
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h team {self.team_id}: {self.requests}"


class TokenDay(ShareSums):
    """A day (of UTC) that is added up, by who used it."""

    day = models.DateField(_("day"))
    team_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    token_id = models.BigIntegerField()

    class Meta:
        verbose_name = _("day of a token")
        verbose_name_plural = _("days of tokens")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["day", "team_id", "user_id", "token_id"], name="relay_tokenday_once"
            )
        ]
        indexes: ClassVar = [models.Index(fields=["team_id", "day"], name="relay_tokenday_team")]

    def __str__(self) -> str:
        return f"{self.day} token {self.token_id}: {self.requests}"


class ModelDay(ShareSums):
    """A day (of UTC) that is added up, by what was used."""

    day = models.DateField(_("day"))
    team_id = models.BigIntegerField()
    model = models.CharField(_("model"), max_length=200)

    class Meta:
        verbose_name = _("day of a model")
        verbose_name_plural = _("days of models")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["day", "team_id", "model"], name="relay_modelday_once")
        ]
        indexes: ClassVar = [models.Index(fields=["team_id", "day"], name="relay_modelday_team")]

    def __str__(self) -> str:
        return f"{self.day} {self.model}: {self.requests}"


class AddedUp(models.Model):
    """A single row: all that was used before `until`, a midnight of UTC, is added up by day."""

    id = models.PositiveSmallIntegerField(primary_key=True)
    until = models.DateTimeField()
    # Counts the changes: whoever adds up finds out that another process has done so meanwhile.
    changes = models.BigIntegerField(default=0)

    class Meta:
        verbose_name = _("adding up")
        verbose_name_plural = _("addings up")

    def __str__(self) -> str:
        return f"{self.until:%Y-%m-%d}"


class LateHour(models.Model):
    """An hour of use changed when its day may have been added up. A trigger notes it, in the transaction of the change."""

    hour = models.DateTimeField()

    class Meta:
        verbose_name = _("late hour")
        verbose_name_plural = _("late hours")

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h"


class RefusalHour(models.Model):
    """How often a limit refused a token's requests in an hour. Added up by each process every few seconds."""

    hour = models.DateTimeField(_("hour"))
    team_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    token_id = models.BigIntegerField()
    limit = models.CharField(_("limit"), max_length=40)
    refusals = models.BigIntegerField(_("refusals"))

    class Meta:
        verbose_name = _("hour of refusals")
        verbose_name_plural = _("hours of refusals")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["hour", "team_id", "user_id", "token_id", "limit"], name="relay_refusalhour_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.limit}: {self.refusals}"
