"""Mappings from models to bots, and Poe's own list of bots."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Team, validate_patterns
from relay.models.fields import points, validate_object
from relay.models.poe import PoeAccount


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

    class Found(models.TextChoices):
        UNKNOWN = "", _("not looked for yet")
        LISTED = "listed", _("in Poe's list")
        UNLISTED = "unlisted", _("not in Poe's list: private, or it does not exist")
        GONE = "gone", _("gone from Poe's list")

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
    writes_calls = models.BooleanField(
        _("write tool calls"),
        default=False,
        db_default=False,
        help_text=_(
            "For a bot that calls no tools by itself: it is told to write its calls as text, and they are read from there. "
            "Poe's list of bots says which have tools."
        ),
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
    points_per_request = points(_("points per request"), _("Poe points, as Poe sells the bot."))
    points_per_1000_input_tokens = points(_("points per 1,000 input tokens"))
    points_per_1000_output_tokens = points(_("points per 1,000 output tokens"))
    points_per_image = points(_("points per image"), _("For each image in an answer."))
    # From Poe's catalogue. What an administrator edited is told from what was filled in by its values: see catalogue.py.
    synced = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()), editable=False)
    declared_parameters = models.JSONField(
        default=list, db_default=models.Value([], models.JSONField()), editable=False
    )
    found = models.CharField(
        _("at Poe"),
        max_length=10,
        choices=Found,
        default=Found.UNKNOWN,
        db_default=Found.UNKNOWN,
        editable=False,
    )
    suggested_bot = models.CharField(
        _("nearest bot"), max_length=200, blank=True, db_default="", editable=False
    )
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

    @property
    def parameters_of_bot(self) -> list[dict[str, Any]]:
        """Those that its bot declares; none if it was given another bot since the catalogue was looked at."""
        is_same = self.synced.get("bot") == self.bot.casefold()
        return self.declared_parameters if is_same else []

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


class Bot(models.Model):
    """A bot in Poe's catalogue, as it was read last. Rates in points; None where Poe names no price."""

    handle = models.CharField(_("bot"), max_length=200)
    handle_key = models.CharField(max_length=200, editable=False)
    # Whose list it is in: a server of our own, such as the demo, has one beside Poe's.
    api_url = models.CharField(max_length=300, blank=True, editable=False)
    display_name = models.CharField(_("name"), max_length=200, blank=True)
    description = models.TextField(_("description"), blank=True)
    owner = models.CharField(_("owner"), max_length=200, blank=True)
    input_modalities = models.JSONField(_("takes"), default=list)
    output_modalities = models.JSONField(_("gives"), default=list)
    features = models.JSONField(_("features"), default=list)
    parameters = models.JSONField(_("parameters"), default=list)
    context_length = models.BigIntegerField(_("context length"), null=True)
    max_output_tokens = models.BigIntegerField(_("longest answer"), null=True)
    points_per_request = points(_("points per request"))
    points_per_1000_input_tokens = points(_("points per 1,000 input tokens"))
    points_per_1000_output_tokens = points(_("points per 1,000 output tokens"))
    points_per_image = points(_("points per image"))
    first_seen_at = models.DateTimeField(_("first seen"))
    last_seen_at = models.DateTimeField(_("last seen"))
    gone_at = models.DateTimeField(_("gone"), null=True)

    class Meta:
        verbose_name = _("bot at Poe")
        verbose_name_plural = _("bots at Poe")
        ordering: ClassVar = ["handle_key"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["handle_key", "api_url"], name="relay_bot_once")
        ]

    def __str__(self) -> str:
        return self.handle
