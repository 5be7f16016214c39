"""Reads the answer of a Poe bot while it arrives: what its events mean, and when patience with it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp

from relay.errors import RelayError, UpstreamBroken, UpstreamTimeout
from relay.events import Event

from . import poe_errors, poe_protocol
from .sse import EventTooLarge, SSEReader


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds. `heartbeat` is how long a caller hears nothing before it gets an empty list."""

    connect: float = 10
    first_event: float = 120
    idle: float = 120
    total: float = 600
    heartbeat: float = 15


class Answer:
    """An answer while it is read: what its events mean, and when its patience ends."""

    __slots__ = (
        "_alarm",
        "_beat_at",
        "_begun",
        "_deadlines",
        "_ended",
        "_failure",
        "_first_at",
        "_last_read",
        "_loop",
        "_reader",
        "_response",
        "_secret",
        "_total_at",
    )

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        reader: SSEReader,
        deadlines: Deadlines,
        first_at: float,
        total_at: float,
        secret: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._reader = reader
        self._deadlines = deadlines
        self._first_at = first_at
        self._total_at = total_at
        self._secret = secret
        self._alarm = _Alarm(self._loop)
        self._last_read = self._loop.time()
        self._beat_at = self._last_read + deadlines.heartbeat
        self._begun = False  # has the first event come?
        self._ended = False  # has `done` come?
        self._failure: RelayError | None = None

    async def read(self) -> list[Event] | None:
        """What arrives next; nothing for a heartbeat; None at the end."""
        while not self._ended:
            if self._failure is not None:
                raise self._failure
            if self._last_read > self._total_at:  # a bot that never pauses lets no alarm ring
                raise _too_late("the answer took more than", self._deadlines.total)
            silent_at = self._last_read + self._deadlines.idle if self._begun else self._first_at
            chunk = await self._alarm.read(
                self._response.content, min(self._beat_at, silent_at, self._total_at)
            )
            now = self._loop.time()
            if chunk is None:
                self._check(now, silent_at)
                self._beat_at = now + self._deadlines.heartbeat
                return []
            if not chunk:
                return None
            self._last_read = now
            said = self._take(chunk)
            if said:
                self._beat_at = now + self._deadlines.heartbeat
                return said
        return None

    @property
    def has_begun(self) -> bool:
        """Whether anything but pings was said."""
        return self._begun or self._ended

    @property
    def is_complete(self) -> bool:
        return self._ended

    def stop(self) -> None:
        """Nothing will be read any more."""
        self._alarm.stop()

    def _take(self, chunk: bytes) -> list[Event]:
        """What the events of one read mean. A failure waits until what came before it has been told."""
        try:
            events: Iterable[tuple[str, bytes]] = self._reader.feed(chunk)
        except EventTooLarge as error:
            events = error.events
            self._failure = UpstreamBroken("the bot sent an event that is too large")
        said: list[Event] = []
        for name, data in events:
            if name == "done":
                self._ended = True
                self._failure = None
                break
            if name != "ping":
                self._begun = True
            try:
                if name == "error":
                    raise poe_errors.from_event(data, self._secret)
                poe_protocol.read(name, data, said)
            except RelayError as error:
                self._failure = error
                break
        return said

    def _check(self, now: float, silent_at: float) -> None:
        """Raises UpstreamTimeout if what ran out while waiting was more than the time for a heartbeat."""
        limits = self._deadlines
        slack = 0.002  # uvloop's clock has whole milliseconds, so an alarm may ring a bit early
        if now + slack >= self._total_at:
            raise _too_late("the answer took more than", limits.total)
        if now + slack >= silent_at and self._begun:
            raise _too_late("the bot fell silent for", limits.idle)
        if now + slack >= silent_at:
            raise _too_late("the bot said nothing for", limits.first_event)


class _Alarm:
    """Lets one read at a time wait until a moment.

    Its one timer is moved only when it rings too early, so that a read costs neither a timer nor a task.
    """

    __slots__ = ("_due", "_loop", "_rang", "_task", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._due = 0.0
        self._task: asyncio.Task[Any] | None = None  # who waits now
        self._rang = False

    async def read(self, content: aiohttp.StreamReader, due: float) -> bytes | None:
        """What has arrived (empty at the end of the body), or None if nothing has when the time is up."""
        self._due = due
        if self._timer is None or self._timer_at > due:
            self._set()
        task = self._task = asyncio.current_task()
        cancels_before = task.cancelling() if task is not None else 0
        try:
            return await content.readany()
        except asyncio.CancelledError:
            if not self._rang or task is None or task.uncancel() > cancels_before:
                raise
            # Something may have arrived between the ring and this moment.
            return content.read_nowait() or None
        except RuntimeError:
            # After chunks that it cannot parse, aiohttp closes the connection without a word to who waits.
            # This is how it answers the next wait, which begins after a heartbeat at the latest.
            raise aiohttp.ClientPayloadError from None
        finally:
            self._task = None
            self._rang = False

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        self.stop()
        self._timer = self._loop.call_at(self._due, self._ring)
        self._timer_at = self._due

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return  # nobody waits: the next read sets the timer
        if self._loop.time() + 0.001 < self._due:
            self._set()
            return
        self._rang = True
        self._task.cancel()


def _too_late(what: str, seconds: float) -> UpstreamTimeout:
    return UpstreamTimeout(f"{what} {seconds:g} s")
