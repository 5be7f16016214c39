"""System checks: combinations of settings that work, yet not as their owner expects."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register


@register()
def plain_http_beyond_this_machine(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    config = settings.CONFIG
    loopback = config.server.host in ("127.0.0.1", "::1", "localhost")
    if loopback or config.public_url.startswith("https://"):
        return []
    return [
        Warning(
            f"Listening on {config.server.host} without https: passwords and tokens can be read on the way.",
            hint="Put a reverse proxy with https before it and set server.public_url to its https address.",
            id="relay.W001",
        )
    ]
