"""Poe's list of bots: reading it, keeping it, and what of it mappings take over. Never overwrites an administrator."""

from __future__ import annotations

from relay.catalogue.nearest import nearest
from relay.catalogue.reading import Listed, Reading, read
from relay.catalogue.syncing import (
    NothingListed,
    Source,
    Synced,
    add,
    default_source,
    fetch,
    fill,
    source_of,
    sources,
    store,
    taken,
    unmapped,
)

__all__ = [
    "Listed",
    "NothingListed",
    "Reading",
    "Source",
    "Synced",
    "add",
    "default_source",
    "fetch",
    "fill",
    "nearest",
    "read",
    "source_of",
    "sources",
    "store",
    "taken",
    "unmapped",
]
