"""Encrypts stored Poe keys; with the upstreams the only code that sees a plain one.

AES-256-GCM. The stored text is `v1.` and the URL-safe base64 of a 12-byte nonce and the ciphertext; what the secret is
for is authenticated with it, so that a secret of one kind does not open as another kind.
"""

from __future__ import annotations

import base64
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy_site.keys import derived

VERSION = "v1."


class VaultError(Exception):
    """A stored secret does not open: the encryption key is not the one it was stored with."""


def seal(plain: str, *, purpose: str = "poe key") -> str:
    nonce = os.urandom(12)
    sealed = AESGCM(derived("vault")).encrypt(nonce, plain.encode(), purpose.encode())
    return VERSION + base64.urlsafe_b64encode(nonce + sealed).decode()


def unseal(stored: str, *, purpose: str = "poe key") -> str:
    """The plain secret, or VaultError."""
    if not stored.startswith(VERSION):
        raise VaultError("not a sealed secret")
    try:
        raw = base64.urlsafe_b64decode(stored.removeprefix(VERSION))
        return AESGCM(derived("vault")).decrypt(raw[:12], raw[12:], purpose.encode()).decode()
    except InvalidTag:
        raise VaultError("this secret was stored with another encryption key") from None
    except ValueError:
        raise VaultError("this secret is damaged") from None
