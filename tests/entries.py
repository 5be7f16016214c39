"""Entries of the directory as its readers meet them, for tests without a database."""

from __future__ import annotations

from typing import Any

from relay.directory import Caller, Mapping
from relay.limits import UNLIMITED

PHYSICS, CHEMISTRY = 1, 2


def mapping(**fields: Any) -> Mapping:
    found: dict[str, Any] = {
        "id": 1,
        "model": "gpt-4o",
        "bot": "GPT-4o",
        "enabled": True,
        "hidden": False,
        "account_id": None,
        "team_ids": frozenset(),
        "parameters": {},
        "fallback_models": (),
        "replace_policy": "reasoning",
        "simulate_roles": "off",
        "default_output_tokens": None,
        "rates": None,
        "created": 0,
    }
    return Mapping(**found | fields)


def caller(**fields: Any) -> Caller:
    found: dict[str, Any] = {
        "version": 1,
        "token_id": 1,
        "token_prefix": "sk-poe-abcdef",
        "user_id": 1,
        "user_name": "bob",
        "team_id": PHYSICS,
        "team_name": "Physics",
        "time_zone": "UTC",
        "is_superuser": False,
        "allowed_models": (),
        "limits": (UNLIMITED, UNLIMITED, UNLIMITED),
    }
    return Caller(**found | fields)
