"""What we relay with: Poe accounts and their keys, mappings from models to bots, and the usage records."""

from __future__ import annotations

import re
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Team, validate_patterns
from relay import vault

PROXY_SCHEMES = ("http", "https", "socks4", "socks5", "socks5h")


def _is_address(value: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def validate_proxy(value: str) -> None:
    if not _is_address(value, PROXY_SCHEMES):
        raise ValidationError(_("A proxy such as http://127.0.0.1:7890 or socks5://127.0.0.1:1080."))


def validate_http_url(value: str) -> None:
    if not _is_address(value, ("http", "https")):
        raise ValidationError(_("An address such as https://api.poe.com/"))


def _points(name: Any, help_text: Any = "") -> Any:
    return models.DecimalField(
        name,
        max_digits=14,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=help_text,
    )


def validate_object(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValidationError(_('An object such as {"reasoning_effort": "high"}.'))


class PoeAccount(models.Model):
    """Whose points are spent. Balance, points history and Poe's 500 requests a minute belong to it, not to its keys."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    team = models.ForeignKey(
        Team,
        models.CASCADE,
        null=True,
        blank=True,
        verbose_name=_("team"),
        related_name="poe_accounts",
        help_text=_("Empty: shared by all teams."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    requests_per_minute = models.PositiveIntegerField(
        _("requests per minute"),
        default=500,
        validators=[MinValueValidator(1)],
        help_text=_("Poe allows 500."),
    )
    is_demo = models.BooleanField(
        _("demo"),
        default=False,
        editable=False,
        help_text=_(
            "Serves only the mappings bound to it, so that no other key ever goes to the demo server."
        ),
    )
    base_url = models.CharField(
        _("bot address"),
        max_length=200,
        blank=True,
        validators=[validate_http_url],
        help_text=_("Empty: Poe's own."),
    )
    upload_url = models.CharField(
        _("upload address"),
        max_length=200,
        blank=True,
        validators=[validate_http_url],
        help_text=_("Empty: Poe's own."),
    )
    api_url = models.CharField(
        _("account address"),
        max_length=200,
        blank=True,
        validators=[validate_http_url],
        help_text=_("Empty: Poe's own."),
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("Poe account")
        verbose_name_plural = _("Poe accounts")
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Bot names and upload routes are appended to these."""
        for name in ("base_url", "upload_url"):
            address = getattr(self, name).rstrip("/")
            setattr(self, name, f"{address}/" if address else "")
        self.api_url = self.api_url.rstrip("/")


class PoeKey(models.Model):
    """A credential of a Poe account. The secret is encrypted and never shown again."""

    account = models.ForeignKey(
        PoeAccount, models.CASCADE, verbose_name=_("Poe account"), related_name="keys"
    )
    name = models.CharField(_("name"), max_length=100, unique=True)
    secret = models.TextField(_("secret"), editable=False)
    last_four = models.CharField(_("ends with"), max_length=4, editable=False)
    enabled = models.BooleanField(_("enabled"), default=True)
    priority = models.SmallIntegerField(
        _("priority"), default=0, help_text=_("Keys of a higher priority are asked first.")
    )
    weight = models.PositiveSmallIntegerField(
        _("weight"),
        default=100,
        validators=[MinValueValidator(1), MaxValueValidator(10000)],
        help_text=_("The share of conversations among keys of the same priority."),
    )
    requests_per_minute = models.PositiveIntegerField(
        _("requests per minute"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("Empty: the account's."),
    )
    requests_in_flight = models.PositiveIntegerField(
        _("requests in flight"),
        default=50,
        validators=[MinValueValidator(1)],
        help_text=_("At the same time."),
    )
    proxy = models.CharField(
        _("outbound proxy"),
        max_length=200,
        blank=True,
        validators=[validate_proxy],
        help_text=_("Empty: the one in config.toml. Example: socks5://127.0.0.1:1080"),
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("Poe key")
        verbose_name_plural = _("Poe keys")
        ordering: ClassVar = ["-priority", "name"]

    def __str__(self) -> str:
        return f"{self.name} (…{self.last_four})"

    def store(self, plain: str) -> None:
        """Put a new secret in; the caller saves."""
        self.secret = vault.seal(plain)
        self.last_four = plain[-4:] if len(plain) >= 12 else ""


class BotMapping(models.Model):
    """Model -> bot: what a client may ask for, and which Poe bot answers."""

    class ReplacePolicy(models.TextChoices):
        REASONING = "reasoning", _("status as reasoning")
        DROP = "drop", _("drop the status")
        BUFFER = "buffer", _("hold until done")
        SHOW = "show", _("show everything")

    class SimulateRoles(models.TextChoices):
        OFF = "off", _("off")
        ON = "on", _("on")
        AUTO = "auto", _("when a conversation has more than one message")

    model = models.CharField(
        _("model"), max_length=200, help_text=_("The name that a client asks for. Wildcards: gpt-4*")
    )
    model_key = models.CharField(max_length=200, unique=True, editable=False)
    bot = models.CharField(_("bot"), max_length=200, help_text=_("The handle of the bot on Poe."))
    enabled = models.BooleanField(_("enabled"), default=True)
    hidden = models.BooleanField(_("hidden"), default=False, help_text=_("Answers, but is not listed."))
    account = models.ForeignKey(
        PoeAccount,
        models.CASCADE,
        null=True,
        blank=True,
        verbose_name=_("bound to account"),
        related_name="mappings",
        help_text=_("Only keys of this account are used. Empty: any."),
    )
    teams = models.ManyToManyField(
        Team,
        blank=True,
        verbose_name=_("teams"),
        related_name="mappings",
        help_text=_("Who may see it. Empty: everybody."),
    )
    parameters = models.JSONField(
        _("default parameters"),
        default=dict,
        blank=True,
        validators=[validate_object],
        help_text=_('Sent to the bot unless the client says otherwise: {"reasoning_effort": "high"}'),
    )
    fallback_models = models.JSONField(
        _("fallback models"),
        default=list,
        blank=True,
        validators=[validate_patterns],
        help_text=_('Asked in this order when the bot fails: ["gpt-4o-mini"]'),
    )
    replace_policy = models.CharField(
        _("replaced text"),
        max_length=10,
        choices=ReplacePolicy,
        default=ReplacePolicy.REASONING,
        help_text=_("What becomes of status lines that a bot replaces later, such as “Generating image…”."),
    )
    simulate_roles = models.CharField(
        _("simulate roles"),
        max_length=5,
        choices=SimulateRoles,
        default=SimulateRoles.OFF,
        help_text=_("Send the conversation as one message with the roles written out."),
    )
    default_output_tokens = models.PositiveIntegerField(
        _("default output tokens"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_(
            "How long an answer is taken to be when the client does not say. Empty: the one in config.toml."
        ),
    )
    points_per_request = _points(_("points per request"), _("Poe points, as Poe sells the bot."))
    points_per_1000_input_tokens = _points(_("points per 1,000 input tokens"))
    points_per_1000_output_tokens = _points(_("points per 1,000 output tokens"))
    points_per_image = _points(_("points per image"), _("For each image in an answer."))
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("mapping")
        verbose_name_plural = _("mappings")
        ordering: ClassVar = ["model"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(replace_policy__in=["reasoning", "drop", "buffer", "show"]),
                name="relay_mapping_replace_policy_known",
            ),
            models.CheckConstraint(
                condition=models.Q(simulate_roles__in=["off", "on", "auto"]),
                name="relay_mapping_simulate_roles_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} → {self.bot}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.model_key = self.model.casefold()
        if kwargs.get("update_fields") is not None and "model" in kwargs["update_fields"]:
            kwargs["update_fields"] = {*kwargs["update_fields"], "model_key"}
        super().save(*args, **kwargs)

    def clean(self) -> None:
        # Fields that were cleared in a form.
        self.parameters = self.parameters or {}
        self.fallback_models = self.fallback_models or []
        self.model = self.model.strip()
        self.bot = self.bot.strip()
        if not self.model or not self.bot:
            raise ValidationError(_("Model and bot both need a name."))
        if re.search(r"[\x00-\x1f\x7f]", self.model + self.bot):
            raise ValidationError(_("A name holds a control character."))
        twin = BotMapping.objects.filter(model_key=self.model.casefold()).exclude(pk=self.pk)
        if twin.exists():
            raise ValidationError({"model": _("This model has a mapping already (case does not matter).")})


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

    class Meta:
        verbose_name = _("usage record")
        verbose_name_plural = _("usage records")
        ordering: ClassVar = ["-started_at", "-id"]
        indexes: ClassVar = [
            models.Index(fields=["-started_at", "-id"], name="relay_usage_recent"),
            models.Index(fields=["token_id", "-started_at"], name="relay_usage_by_token"),
            models.Index(fields=["user_id", "-started_at"], name="relay_usage_by_user"),
            models.Index(fields=["team_id", "-started_at"], name="relay_usage_by_team"),
            models.Index(fields=["process"], name="relay_usage_open", condition=models.Q(outcome="open")),
            # The few that did not go well. An OR and no IN: SQLite sees only so that one of them is among these.
            models.Index(
                fields=["outcome", "-started_at"],
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


class UsageHour(models.Model):
    """What was used in an hour, by whom and of what: the sum of the settled usage records that started in it.

    Charts read these, never the records. The columns `first_byte_*` are a histogram of the time to the first byte:
    each counts the answers up to so many milliseconds that no smaller one counts.
    """

    hour = models.DateTimeField(_("hour"))
    team_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    token_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    model = models.CharField(_("model"), max_length=200)
    bot = models.CharField(_("bot"), max_length=200)
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


class Pruning(models.Model):
    """A single row: usage records that started before this are gone, so that nothing older can be verified."""

    id = models.PositiveSmallIntegerField(primary_key=True)
    pruned_before = models.DateTimeField()

    class Meta:
        verbose_name = _("pruning")
        verbose_name_plural = _("prunings")

    def __str__(self) -> str:
        return f"{self.pruned_before:%Y-%m-%d %H:%M}"


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
