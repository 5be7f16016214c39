"""Poe accounts and their keys: what an administrator stores, and how they fare."""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Team, User
from relay import vault
from relay.models.fields import validate_http_url, validate_proxy


class PoeAccount(models.Model):
    """Whose points are spent. Balance, points history and Poe's 500 requests a minute belong to it, not to its keys."""

    class OwnUse(models.TextChoices):
        FIRST = "first", _("first, then the shared ones")
        ONLY = "only", _("no other")
        NEVER = "never", _("not at all")

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
    user = models.ForeignKey(
        User,
        models.CASCADE,
        null=True,
        blank=True,
        verbose_name=_("user"),
        related_name="poe_accounts",
        help_text=_("Whose own it is: it serves this person alone. Empty: a team's or shared."),
    )
    counts_in_budgets = models.BooleanField(
        _("counts in budgets"),
        default=True,
        db_default=True,
        help_text=_("Off for an account that a user or a team brought along: its points are theirs alone."),
    )
    own_use = models.CharField(
        _("use"),
        max_length=5,
        choices=OwnUse,
        default=OwnUse.FIRST,
        db_default=OwnUse.FIRST,
        help_text=_("When an account that a user or a team brought along is asked."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    low_balance = models.PositiveBigIntegerField(
        _("low balance"),
        null=True,
        blank=True,
        default=10_000,
        help_text=_("Administrators are told when fewer points are left. Empty: never."),
    )
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
    poe_name = models.CharField(
        _("name at Poe"),
        max_length=100,
        blank=True,
        db_default="",
        help_text=_(
            "What poe.com/api/keys calls it: it tells what was asked with it from the owner's own use. "
            "Empty: found out by itself."
        ),
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


class State(models.TextChoices):
    """How a Poe key or account fares, from the best to the worst."""

    OK = "ok", _("ok")
    FAILING = "failing", _("failing")
    COOLING = "cooling", _("cooling down")
    RESTING = "resting", _("out of points")
    RETIRED = "retired", _("retired")


class Health(models.Model):
    """What traffic found out about a Poe key or account. Apart from them: traffic must not reload the directory.

    Whether it is asked is decided by `blocked_until` of its meter, which changes in the same transaction.
    """

    state = models.CharField(_("state"), max_length=10, choices=State, default=State.OK)
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    since = models.DateTimeField(_("since"))
    until = models.DateTimeField(_("until"), null=True)
    # In a row, each with a longer pause after it.
    failures = models.PositiveIntegerField(default=0)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.pk}: {self.state}"


class KeyHealth(Health):
    key = models.OneToOneField(PoeKey, models.CASCADE, primary_key=True, related_name="health")

    class Meta:
        verbose_name = _("health of a Poe key")
        verbose_name_plural = _("health of Poe keys")


class AccountHealth(Health):
    """Also what its own pages at Poe said last, and when they are due to be read again."""

    account = models.OneToOneField(PoeAccount, models.CASCADE, primary_key=True, related_name="health")
    balance = models.BigIntegerField(_("balance"), null=True)
    balance_at = models.DateTimeField(_("balance read"), null=True)
    # Poe's words or ours, if the last try to read it failed.
    balance_error = models.CharField(_("balance error"), max_length=300, blank=True)
    grant_at = models.DateTimeField(_("next grant"), null=True)
    grant_points = models.BigIntegerField(_("points of the next grant"), null=True)
    is_low = models.BooleanField(_("low balance"), default=False)
    due_at = models.DateTimeField(null=True)
    # Everything that Poe's history told up to here is stored.
    charges_until = models.DateTimeField(null=True)
    # The account that this one was found to be: another name for the same at Poe.
    same_as = models.ForeignKey(
        PoeAccount, models.SET_NULL, null=True, related_name="twins", verbose_name=_("same as")
    )

    class Meta:
        verbose_name = _("health of a Poe account")
        verbose_name_plural = _("health of Poe accounts")


class PoolEvent(models.Model):
    """A change of state of a Poe account, or of one of its keys; administrators are told of those for the worse."""

    at = models.DateTimeField(_("at"))
    account = models.ForeignKey(
        PoeAccount, models.CASCADE, related_name="events", verbose_name=_("Poe account")
    )
    key = models.ForeignKey(
        PoeKey, models.CASCADE, null=True, related_name="events", verbose_name=_("Poe key")
    )
    # A State, or what else happened: low_balance, leak, same_account.
    was = models.CharField(_("was"), max_length=20, blank=True)
    became = models.CharField(_("became"), max_length=20)
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    until = models.DateTimeField(_("until"), null=True)
    # When administrators were told of it, by webhook and e-mail; of what is no bad news they are not.
    told_at = models.DateTimeField(_("told"), null=True)
    is_news = models.BooleanField(default=False)

    class Meta:
        verbose_name = _("pool event")
        verbose_name_plural = _("pool events")
        ordering: ClassVar = ["-at", "-pk"]
        indexes: ClassVar = [
            models.Index(fields=["-at"], name="relay_poolevent_recent"),
            models.Index(
                fields=["at"],
                name="relay_poolevent_untold",
                condition=models.Q(is_news=True, told_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.key_id or self.account_id}"


class BalanceReading(models.Model):
    """What was left of a Poe account's points at a moment. Kept for 30 days."""

    account = models.ForeignKey(PoeAccount, models.CASCADE, related_name="readings")
    at = models.DateTimeField(_("at"))
    points = models.BigIntegerField(_("points"))

    class Meta:
        verbose_name = _("balance reading")
        verbose_name_plural = _("balance readings")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["account", "at"], name="relay_balancereading_once")
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.points}"


class PoeCharge(models.Model):
    """One row of a Poe account's points history: what Poe took, and which usage record it was for."""

    class Match(models.TextChoices):
        WAITING = "waiting", _("waiting for its request")
        MATCHED = "matched", _("matched")
        OWN = "own", _("owner's own use")
        LEAK = "leak", _("possible leak")

    query_id = models.CharField(_("Poe's number"), max_length=200, unique=True)
    account = models.ForeignKey(
        PoeAccount, models.CASCADE, related_name="charges", verbose_name=_("Poe account")
    )
    at = models.DateTimeField(_("at"))
    bot = models.CharField(_("bot"), max_length=200)
    points = models.BigIntegerField(_("points"))
    usage_type = models.CharField(_("kind of use"), max_length=50, blank=True)
    api_key_name = models.CharField(_("key at Poe"), max_length=100, blank=True)
    input_tokens = models.BigIntegerField(_("input tokens"), null=True)
    output_tokens = models.BigIntegerField(_("output tokens"), null=True)
    # Poe may show 0 before it knows: read again until so long after `at`.
    read_at = models.DateTimeField(_("read"))
    match = models.CharField(_("match"), max_length=10, choices=Match, default=Match.WAITING)
    # Another request would have fitted almost as well.
    is_ambiguous = models.BooleanField(_("ambiguous"), default=False)
    record_id = models.UUIDField(null=True, unique=True)
    # What we had reckoned before.
    estimated_points = models.BigIntegerField(_("estimate"), null=True)

    class Meta:
        verbose_name = _("Poe charge")
        verbose_name_plural = _("Poe charges")
        ordering: ClassVar = ["-at", "-pk"]
        indexes: ClassVar = [
            models.Index(fields=["account", "-at"], name="relay_poecharge_recent"),
            models.Index(fields=["at"], name="relay_poecharge_at"),
            # All that the figures of the last days are made of: the rows themselves are not read.
            models.Index(
                fields=["match", "bot", "at", "is_ambiguous", "estimated_points", "points"],
                name="relay_poecharge_figures",
            ),
            models.Index(
                fields=["account", "at"],
                name="relay_poecharge_waiting",
                condition=models.Q(match="waiting"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.bot}: {self.points}"


class Upload(models.Model):
    """Where Poe keeps a file that was uploaded to an account, so that it goes there once. Not the file itself."""

    account = models.ForeignKey(PoeAccount, models.CASCADE, related_name="uploads")
    # SHA-256 of name, content type and bytes.
    digest = models.CharField(max_length=64)
    # Encrypted.
    url = models.TextField()
    content_type = models.CharField(max_length=200)
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = _("upload")
        verbose_name_plural = _("uploads")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["account", "digest"], name="relay_upload_once")
        ]
        indexes: ClassVar = [models.Index(fields=["expires_at"], name="relay_upload_expires")]

    def __str__(self) -> str:
        return self.digest


class Lease(models.Model):
    """Who does a job that one process at a time does, and until when it is taken to be alive."""

    name = models.CharField(primary_key=True, max_length=50)
    holder = models.CharField(max_length=64)
    # Microseconds since 1970, by the database's clock.
    until = models.BigIntegerField()

    class Meta:
        verbose_name = _("lease")
        verbose_name_plural = _("leases")

    def __str__(self) -> str:
        return f"{self.name}: {self.holder}"
