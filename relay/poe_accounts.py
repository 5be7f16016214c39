"""What the account client needs of a stored Poe account and one of its keys."""

from __future__ import annotations

from django.conf import settings

from relay import vault
from relay.errors import UpstreamUnauthorized
from relay.models import PoeAccount, PoeKey
from relay.upstreams.poe_account import AccountKey


def account_key(account: PoeAccount, key: PoeKey) -> AccountKey:
    """Raises UpstreamUnauthorized for a secret that does not open."""
    config = settings.CONFIG.poe
    try:
        secret = vault.unseal(key.secret)
    except vault.VaultError as exc:
        raise UpstreamUnauthorized(str(exc)) from None
    return AccountKey(
        secret=secret,
        api_url=account.api_url or config.api_url,
        proxy=key.proxy or ("" if account.is_demo else config.proxy),
    )
