"""Finds the stored Poe key that holds a given secret, so that none is stored twice."""

from __future__ import annotations

from relay import vault
from relay.models import PoeKey


def by_secret() -> dict[str, PoeKey]:
    """Every stored Poe key by its plain secret, without those that another encryption key has sealed."""
    found: dict[str, PoeKey] = {}
    for key in PoeKey.objects.select_related("account").order_by("pk"):
        try:
            found.setdefault(vault.unseal(key.secret), key)
        except vault.VaultError:
            continue
    return found
