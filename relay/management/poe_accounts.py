"""Poe accounts as commands are told of them."""

from __future__ import annotations

from django.core.management.base import CommandError

from relay.models import PoeAccount


def account_named(name: str) -> PoeAccount:
    """Or CommandError that names those that there are."""
    account = PoeAccount.objects.filter(name=name).first()
    if account is None:
        names = ", ".join(PoeAccount.objects.values_list("name", flat=True)) or "none"
        raise CommandError(f"there is no Poe account {name!r}; there are: {names}.")
    return account
