"""How much the requests of this process may bring along, each of them and all together. Knows nothing of connections.

Until it is known who sends it a body is a stranger's: then little of it is taken, and strangers together may not fill the
memory that everybody shares.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from django.conf import settings

from proxy_site.config import Server
from relay.api.urls import is_api

# Credential and address to whoever that is, or a RelayError.
Authenticate = Callable[[str, str], Awaitable[object]]

MEGABYTE = 1_000_000
# So much of a body is taken before anybody asks whose it is.
STRANGERS_BYTES = MEGABYTE
# Pages have no token; what is shorter than this is taken as long as there is any room.
SMALL_PAGE_BYTES = 65_536
# Above this share of the memory strangers are asked at once who they are.
STRANGERS_SHARE = 0.25


class Bodies:
    """The limits in bytes, and what is held now: from its arrival until its request has been answered."""

    def __init__(self, *, api: int, page: int, together: int, authenticate: Authenticate) -> None:
        self.api = api
        self.page = min(page, api)
        # A body that may be sent must have a chance.
        self.together = max(together, api)
        self.authenticate = authenticate
        self.held = 0
        self.held_for_strangers = 0

    @classmethod
    def of(cls, server: Server, authenticate: Authenticate) -> Bodies:
        return cls(
            api=int(server.max_body_mb * MEGABYTE),
            page=settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
            together=int(server.body_memory_mb * MEGABYTE),
            authenticate=authenticate,
        )

    def most(self, path: str) -> int:
        """The longest body that may be sent there, whoever sends it."""
        return self.api if is_api(path) else self.page

    def free_of_questions(self) -> int:
        """So much a stranger may send now."""
        return STRANGERS_BYTES if self.held_for_strangers <= self.together * STRANGERS_SHARE else 0

    def has_room(self, size: int) -> bool:
        return self.held + size <= self.together


class Share:
    """What one request holds of it."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size = 0
        self.is_strangers = True

    def take(self, size: int) -> bool:
        """False: there is no room, and nothing was taken."""
        if not self._bodies.has_room(size):
            return False
        self.size += size
        self._bodies.held += size
        if self.is_strangers:
            self._bodies.held_for_strangers += size
        return True

    def is_introduced(self) -> None:
        """Its sender is known from now on."""
        if self.is_strangers:
            self.is_strangers = False
            self._bodies.held_for_strangers -= self.size

    def give_back(self) -> None:
        """May be called twice."""
        self._bodies.held -= self.size
        if self.is_strangers:
            self._bodies.held_for_strangers -= self.size
        self.size = 0
