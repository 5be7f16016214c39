"""How the panel writes numbers and moments."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.timesince import timesince
from django.utils.translation import ngettext

from relay import reasons, standings

register = template.Library()


@register.filter
def number(value: float | None) -> str:
    """By thousands in both languages; "-" where nothing is known."""
    return "-" if value is None else f"{value:,}"


@register.filter
def percent(value: float | None) -> str:
    """Of a difference, with its sign."""
    return "-" if value is None else f"{value:+.1f} %"


@register.filter
def moment(value: datetime | None) -> str:
    return "-" if value is None else f"{timezone.localtime(value):%Y-%m-%d %H:%M}"


@register.filter
def duration(value: datetime | None) -> str:
    """How far away it is, before or after now."""
    if value is None:
        return "-"
    now = timezone.now()
    seconds = int(abs((value - now).total_seconds()))
    if seconds < 60:
        return ngettext("%(n)d second", "%(n)d seconds", seconds) % {"n": seconds}
    return timesince(min(value, now), max(value, now), depth=1)


@register.filter
def told(reason: str) -> str:
    return reasons.told(reason)


@register.filter
def state_name(value: str) -> str:
    return standings.name_of(value)


@register.filter
def state_colour(value: str) -> str:
    return standings.COLOURS.get(value, "")
