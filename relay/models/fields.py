"""Checks of single fields, and the columns that several tables share."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

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


def validate_object(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValidationError(_('An object such as {"reasoning_effort": "high"}.'))


def points(name: Any, help_text: Any = "") -> Any:
    return models.DecimalField(
        name,
        max_digits=14,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=help_text,
    )
