"""What an upstream needs of a Poe key; it knows neither its name nor its limits."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Key:
    """The two URLs end in a slash; `proxy` is an address or empty. Keys of one account share what was uploaded to it."""

    secret: str = field(repr=False)
    base_url: str
    upload_url: str
    account_id: int
    proxy: str = field(default="", repr=False)  # its address may hold a password
