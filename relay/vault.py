"""Encrypts stored Poe keys and what people said where it is kept; with the upstreams the only code that sees a plain key.

AES-256-GCM: a 12-byte nonce and the ciphertext, of a text as `v1.` and their URL-safe base64. What the secret is for is
authenticated with it, so that a secret of one kind does not open as another kind.
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
    return VERSION + base64.urlsafe_b64encode(seal_bytes(plain.encode(), purpose=purpose)).decode()


def unseal(stored: str, *, purpose: str = "poe key") -> str:
    """The plain secret, or VaultError."""
    if not stored.startswith(VERSION):
        raise VaultError("not a sealed secret")
    try:
        raw = base64.urlsafe_b64decode(stored.removeprefix(VERSION))
    except ValueError:
        raise VaultError("this secret is damaged") from None
    return unseal_bytes(raw, purpose=purpose).decode()


def seal_bytes(plain: bytes, *, purpose: str) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(derived("vault")).encrypt(nonce, plain, purpose.encode())


def unseal_bytes(stored: bytes, *, purpose: str) -> bytes:
    """The plain bytes, or VaultError."""
    try:
        return AESGCM(derived("vault")).decrypt(stored[:12], stored[12:], purpose.encode())
    except InvalidTag:
        raise VaultError("this secret was stored with another encryption key") from None
    except ValueError:
        raise VaultError("this secret is damaged") from None
