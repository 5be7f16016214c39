"""The panel's pages of the relay's tables, a module for each kind."""

from __future__ import annotations

from relay.admin import accounts, bots, events, keys, mappings, usage

__all__ = ["accounts", "bots", "events", "keys", "mappings", "usage"]
