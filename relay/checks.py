"""System checks: combinations of settings that work, yet not as their owner expects."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register

HINT = "Put a reverse proxy with https before it and set server.public_url to its https address."


def plain_http_warning(host: str, public_url: str) -> str:
    """What to tell whoever listens there without https; empty if there is nothing to tell."""
    if host in ("127.0.0.1", "::1", "localhost") or public_url.startswith("https://"):
        return ""
    return f"Listening on {host} without https: passwords and tokens can be read on the way. {HINT}"


@register()
def plain_http_beyond_this_machine(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    config = settings.CONFIG
    warning = plain_http_warning(config.server.host, config.public_url)
    return [Warning(warning.removesuffix(f" {HINT}"), hint=HINT, id="relay.W001")] if warning else []
