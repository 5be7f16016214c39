"""Keeps connections open between two questions, apart for each target and proxy."""

from __future__ import annotations

import asyncio
from functools import partial

from .connection import Connection
from .dialing import Dialer
from .targets import Target

_LONGEST_IDLE = 30.0
_DOUBTFUL_AFTER = 1.0  # seconds of idleness, from which on asking the system costs nothing that matters


class Pool:
    """Takes back each connection by itself, once its answer has been read to the end."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._all: set[Connection] = set()
        # The one that was used last stands last and is taken first, so that the others can grow old.
        self._free: dict[Target, dict[Connection, float]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, target: Target) -> Connection | None:
        """A free connection that is open as far as anybody can know."""
        free = self._free.get(target)
        now = asyncio.get_running_loop().time()
        while free:
            connection, since = free.popitem()
            idle = now - since
            if idle < _LONGEST_IDLE and connection.is_alive(ask_system=idle > _DOUBTFUL_AFTER):
                return connection
            connection.close()
        return None

    async def open(self, target: Target) -> Connection:
        """A new connection. Raises what the dialer raises."""
        return await self._dialer.connect(target, partial(self._make, target))

    def close(self) -> None:
        """Closes every connection, used or free."""
        for connection in tuple(self._all):
            connection.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _make(self, target: Target) -> Connection:
        connection = Connection(partial(self._put_back, target), partial(self._forget, target))
        self._all.add(connection)
        return connection

    def _put_back(self, target: Target, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._free.setdefault(target, {})[connection] = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(_LONGEST_IDLE, self._close_the_old)

    def _forget(self, target: Target, connection: Connection) -> None:
        self._all.discard(connection)
        if free := self._free.get(target):
            free.pop(connection, None)

    def _close_the_old(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        oldest = loop.time() - _LONGEST_IDLE
        for target, free in tuple(self._free.items()):
            for connection, since in tuple(free.items()):
                if since <= oldest:
                    connection.close()
            if not free:
                del self._free[target]
        if times := [since for free in self._free.values() for since in free.values()]:
            self._sweep = loop.call_at(min(times) + _LONGEST_IDLE, self._close_the_old)
