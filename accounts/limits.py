"""What anybody and anything may be bounded by: the five limits, and lists of models and networks."""

from __future__ import annotations

import ipaddress
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _


def validate_patterns(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValidationError(_('A list of names such as ["gpt-4o", "claude-*"].'))


def validate_networks(value: Any) -> None:
    if not isinstance(value, list):
        raise ValidationError(_('A list of networks such as ["192.168.1.0/24"].'))
    for item in value:
        try:
            # A number would be an address too.
            ipaddress.ip_network(item if isinstance(item, str) else "", strict=False)
        except ValueError:
            raise ValidationError(_("Not a network: %(value)s"), params={"value": item}) from None


def _limit(name: Any, help_text: Any) -> Any:
    return models.PositiveBigIntegerField(
        name, null=True, blank=True, validators=[MinValueValidator(1)], help_text=help_text
    )


class Limits(models.Model):
    """What a team, a user or a token may use. Empty means: no limit of its own."""

    requests_per_minute = _limit(_("requests per minute"), _("Empty: no limit."))
    tokens_per_minute = _limit(_("tokens per minute"), _("Prompt and answer together."))
    requests_in_flight = _limit(_("requests in flight"), _("At the same time."))
    points_per_day = _limit(_("points per day"), _("Poe points, by the team's calendar."))
    points_per_month = _limit(_("points per month"), _("Poe points, by the team's calendar."))

    class Meta:
        abstract = True

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in Limits._meta.get_fields()]

    @property
    def has_limits(self) -> bool:
        return any(getattr(self, name) is not None for name in self.names())

    def check_within(self, *wider: Limits) -> None:
        """Raises ValidationError for each limit that is beyond one of these, which would hold all the same."""
        errors = {}
        for name in self.names():
            bounds = [bound for each in wider if (bound := getattr(each, name)) is not None]
            own = getattr(self, name)
            if own is not None and bounds and own > min(bounds):
                errors[name] = _("At most %(limit)s.") % {"limit": f"{min(bounds):,}"}
        if errors:
            raise ValidationError(errors)
