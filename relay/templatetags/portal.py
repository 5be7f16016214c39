"""What the portal's first page shows of the relay: its view belongs to accounts, which does not know of it."""

from __future__ import annotations

from django import template

from accounts.models import User
from relay.portal import overview

register = template.Library()


@register.simple_tag
def overview_of(user: User) -> overview.Overview:
    return overview.of(user)
