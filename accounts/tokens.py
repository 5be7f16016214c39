"""Access tokens as text: make, recognise, digest. Pure functions; the digest key is handed in.

A token is `sk-poe-` and 40 base62 characters, the last 6 of which are a CRC-32 of those before. The checksum lets a
mistyped token be refused without a look-up and lets secret scanners be sure; it proves nothing else.
"""

from __future__ import annotations

import hmac
import secrets
import string
import zlib
from functools import lru_cache

PREFIX = "sk-poe-"
BODY_LENGTH = 34
CHECKSUM_LENGTH = 6
SHOWN_LENGTH = len(PREFIX) + 6
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase


def make() -> str:
    body = "".join(secrets.choice(ALPHABET) for _ in range(BODY_LENGTH))
    return PREFIX + body + checksum(body)


def make_again(of: str, key: bytes) -> str:
    """The token that this key makes of this text: the same each time, and nobody without the key can tell it."""
    body = _base62(int.from_bytes(hmac.digest(key, of.encode(), "sha256")), BODY_LENGTH)
    return PREFIX + body + checksum(body)


def checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    """Its last digits."""
    digits = []
    for _ in range(length):
        number, rest = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[rest])
    return "".join(reversed(digits))


def is_well_formed(token: str) -> bool:
    """Whether this may be a token at all. Imported tokens have no prefix of ours and no checksum."""
    if not token or len(token) > 500 or not token.isprintable():
        return False
    if not token.startswith(PREFIX):
        return True
    body = token[len(PREFIX) :]
    if len(body) != BODY_LENGTH + CHECKSUM_LENGTH or not (body.isascii() and body.isalnum()):
        return False
    return checksum(body[:BODY_LENGTH]) == body[BODY_LENGTH:]


def digest(token: str, key: bytes) -> str:
    """HMAC-SHA256 in hex: what the database holds instead of the token."""
    # Not `hmac.digest`, which lets go of the GIL: the event loop would wait for it with each request.
    begun = _keyed(key).copy()
    begun.update(token.encode("utf-8", "surrogatepass"))
    return begun.hexdigest()


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def shown_prefix(token: str) -> str:
    """The characters by which a person recognises a token; an imported short one shows less."""
    return token[:SHOWN_LENGTH] if token.startswith(PREFIX) else token[: min(6, len(token) // 3)]
