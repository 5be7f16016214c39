"""The Poe key that a user or a team brought along: in a Poe account of its own, whose points count in no budget."""

from __future__ import annotations

from itertools import count

from accounts.models import Team, User
from relay import balances
from relay.management.poe_keys import by_secret
from relay.models import DirectoryVersion, PoeAccount, PoeKey
from relay.pool import keeping
from relay.turn import transaction_in_turn

Owner = User | Team


class StoredAlready(Exception):
    """Somebody has stored this very key; whose it is, is nobody's business."""


def account_of(owner: Owner) -> PoeAccount | None:
    """The one that they brought along themselves; what an administrator set up for them is another matter."""
    own = PoeAccount.objects.filter(counts_in_budgets=False).select_related("health")
    if isinstance(owner, User):
        return own.filter(user=owner).order_by("pk").first()
    return own.filter(team=owner, user=None).order_by("pk").first()


def key_of(account: PoeAccount | None) -> PoeKey | None:
    if account is None:
        return None
    return account.keys.select_related("health", "account__health").order_by("pk").first()


def store(owner: Owner, secret: str, own_use: str) -> PoeKey:
    """Their first key, or another secret for it. Raises StoredAlready."""
    with transaction_in_turn():
        _be_alone()
        account = account_of(owner)
        key = key_of(account)
        other = by_secret().get(secret)
        if other is not None and other != key:
            raise StoredAlready
        name = _free_name(owner)
        if account is None:
            account = PoeAccount(name=name, counts_in_budgets=False, low_balance=None)
            if isinstance(owner, User):
                account.user = owner
            else:
                account.team = owner
        account.own_use = own_use
        account.save()
        if key is None:
            key = PoeKey(account=account, name=name)
        key.store(secret)
        key.save()
    # What was found out about the old one says nothing about the new one.
    keeping.revive("key", key.pk, "a new secret")
    keeping.revive("account", account.pk, "a new secret")
    return key


def choose(account: PoeAccount, own_use: str) -> None:
    """When it is asked: first, alone or not at all."""
    with transaction_in_turn():
        PoeAccount.objects.filter(pk=account.pk).update(own_use=own_use)


def remove(account: PoeAccount) -> None:
    """With all that is known of it. Where an administrator has bound mappings to the account, it stays without a key."""
    if not account.mappings.exists():
        balances.forget(account)
    with transaction_in_turn():
        _be_alone()
        if account.mappings.exists():
            account.keys.all().delete()
        else:
            account.delete()


def _be_alone() -> None:
    """Two at once would each find no key there. The row of which the ledger's lock order begins."""
    list(DirectoryVersion.objects.select_for_update())


def _free_name(owner: Owner) -> str:
    """Of both account and key: each is unique among its own kind, and an administrator may have taken it."""
    whose = owner.username if isinstance(owner, User) else f"team {owner.name}"
    stem = f"{whose[:80]}'s own"
    for number in count(1):
        name = stem if number == 1 else f"{stem} {number}"
        if not (PoeAccount.objects.filter(name=name).exists() or PoeKey.objects.filter(name=name).exists()):
            return name
    raise AssertionError("numbers do not end")
