"""Who waits when all Poe keys are busy: first come, first served among the requests of this process that want the same keys."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from relay.errors import AllKeysBusy

T = TypeVar("T")
POLL_SECONDS = 0.1
# Asked with: for how many seconds is there time to ask again?
Ask = Callable[[float], Awaitable[T]]


@dataclass(slots=True, eq=False)
class _Place:
    """In a line. `is_first` is set when those before it have left."""

    is_first: asyncio.Event = field(default_factory=asyncio.Event)


class Queue:
    """Whoever waits holds nothing: no record, no slot, no reservation. Only the first of a line asks, ten times a second."""

    def __init__(self, seconds: float, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._seconds = seconds
        self._sleep = sleep
        self._lines: dict[frozenset[int], deque[_Place]] = {}

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    async def admit(self, which: Callable[[], frozenset[int]], ask: Ask[T]) -> T:
        """What `ask` returns, once one of these keys is free. Raises AllKeysBusy when that takes too long, or is known to."""
        keys = which() if self._lines else None
        if keys is None or keys not in self._lines:
            try:
                return await ask(self._seconds)
            except AllKeysBusy as exc:
                if not exc.may_pass_within(self._seconds):
                    raise
            keys = which()
        return await self._wait_in(self._lines.setdefault(keys, deque()), keys, ask)

    async def _wait_in(self, line: deque[_Place], keys: frozenset[int], ask: Ask[T]) -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        place = _Place()
        line.append(place)
        try:
            if line[0] is not place:
                await self._move_up(place, deadline)
            else:
                await self._sleep(min(POLL_SECONDS, self._seconds))
            while True:
                left = deadline - loop.time()
                try:
                    return await ask(max(0.0, left))
                except AllKeysBusy as exc:
                    if not exc.may_pass_within(left):
                        raise
                await self._sleep(min(POLL_SECONDS, left))
        finally:
            self._leave(line, place, keys)

    async def _move_up(self, place: _Place, deadline: float) -> None:
        """Until it is first, or until its time is over: then it asks once more and is told why not."""
        try:
            async with asyncio.timeout_at(deadline):
                await place.is_first.wait()
        except TimeoutError:
            pass

    def _leave(self, line: deque[_Place], place: _Place, keys: frozenset[int]) -> None:
        line.remove(place)
        if line:
            line[0].is_first.set()
        elif self._lines.get(keys) is line:
            del self._lines[keys]
