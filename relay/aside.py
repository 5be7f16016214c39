"""ORM work beside an event loop: one thread, with a database connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from django.db import DatabaseError, DataError, InterfaceError, connection

from relay.errors import Unavailable

log = logging.getLogger(__name__)
# A database that takes longer does not answer.
PATIENCE_SECONDS = 10.0

P = ParamSpec("P")
T = TypeVar("T")


class Aside:
    """Does one thing after the other. Nothing is done twice: whoever asked hears that the database failed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        work = partial(function, *args, **kwargs)
        return await asyncio.wrap_future(self._thread.submit(_on_own_connection, work))

    async def ask(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for a request that waits for it: Unavailable where the database does not answer in time."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self.run(function, *args, **kwargs)
        except DataError:  # it does answer: that it cannot store this is a bug of ours
            raise
        except (DatabaseError, InterfaceError, OSError) as exc:  # a TimeoutError is an OSError
            log.warning("%s: %s", self._name, type(exc).__name__)
            raise Unavailable("The relay's database does not answer. Try again.", retry_after=5) from None

    async def let_go(self) -> None:
        """Of the connection: the next work opens another."""
        if self._thread is not None:
            # There: `connection` stands for another connection in each thread.
            await asyncio.wrap_future(self._thread.submit(lambda: connection.close()))

    async def close(self) -> None:
        """Let go of the connection and of the thread, after what was begun."""
        if self._thread is not None:
            await self.let_go()
            self._thread.shutdown(wait=False)
            self._thread = None


def _on_own_connection(work: Callable[[], T]) -> T:
    try:
        return work()
    except (DatabaseError, InterfaceError):
        # It may have died with a restarted database.
        connection.close()
        raise
