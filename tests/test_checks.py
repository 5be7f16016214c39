"""System checks: settings that work, yet not as their owner expects."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import WARNING, run_checks

from relay.checks import plain_http_beyond_this_machine


@pytest.mark.parametrize(
    ("host", "public_url", "warned"),
    [
        ("127.0.0.1", "", False),
        ("::1", "", False),
        ("localhost", "", False),
        ("127.0.0.1", "http://relay.example.org", False),
        ("0.0.0.0", "", True),  # noqa: S104  (what the check is about)
        ("0.0.0.0", "http://relay.example.org", True),  # noqa: S104
        ("::", "", True),
        ("192.168.1.7", "", True),
        ("0.0.0.0", "https://relay.example.org", False),  # noqa: S104
        ("192.168.1.7", "https://relay.example.org", False),
    ],
)
def test_plain_http_beyond_this_machine_is_warned_of(
    settings: Any, host: str, public_url: str, warned: bool
) -> None:
    server = settings.CONFIG.server.model_copy(update={"host": host, "public_url": public_url})
    settings.CONFIG = settings.CONFIG.model_copy(update={"server": server})

    messages = plain_http_beyond_this_machine(None)

    assert bool(messages) is warned
    for message in messages:
        assert (message.id, message.level) == ("relay.W001", WARNING)
        assert host in message.msg and "server.public_url" in str(message.hint)
    assert [message.id for message in run_checks() if message.id == "relay.W001"] == ["relay.W001"] * warned
