"""The keys derived from the encryption key: one per purpose, so that none can stand in for another."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy_site import config


@cache
def derived(purpose: str) -> bytes:
    """32 bytes for one purpose, the same on every start."""
    return HKDF(SHA256(), 32, salt=None, info=f"poe-relay {purpose}".encode()).derive(
        config.encryption_key(config.get())
    )
