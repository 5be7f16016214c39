"""The panel's pages of people and of what lets them in, a module for each kind."""

from __future__ import annotations

from accounts.admin import invitations, people, presets

__all__ = ["invitations", "people", "presets"]
