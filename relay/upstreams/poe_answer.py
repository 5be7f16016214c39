"""Reads the answer of a Poe bot while it arrives: what its events mean, and when patience with it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from relay.errors import RelayError, UpstreamBroken, UpstreamOutOfTime, UpstreamTimeout
from relay.events import Event

from . import poe_errors, poe_protocol
from .connection import Connection
from .sse import EventTooLarge, SSEReader, end_of_event

_CLOCK_STEP = 0.002  # uvloop's clock has whole milliseconds, so a wait may end a bit early


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
        "_at_once",
        "_begun",
        "_connection",
        "_deadlines",
        "_ended",
        "_failure",
        "_first_at",
        "_kept",
        "_last_read",
        "_loop",
        "_reader",
        "_secret",
        "_told_at",
        "_total_at",
    )

    def __init__(
        self,
        connection: Connection,
        reader: SSEReader,
        deadlines: Deadlines,
        told_at: float,
        first_at: float,
        total_at: float,
        secret: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._reader = reader
        self._deadlines = deadlines
        self._told_at = told_at  # when the caller heard something last
        self._first_at = first_at
        self._total_at = total_at
        self._secret = secret
        self._last_read = 0.0
        self._begun = False  # has the first event come?
        self._ended = False  # has `done` come?
        self._failure: Exception | None = None
        self._at_once: Callable[[list[Event]], bool] | None = None
        # Heard while `read` waited, and not taken at once.
        self._kept: list[Event] | None = None

    async def has_head(self) -> bool:
        """Whether the status has come, for which it waits as long as a heartbeat."""
        connection = self._connection
        if not connection.has_answered():
            due = min(self._first_at, self._total_at)
            await connection.wait(min(self._told_at + self._deadlines.heartbeat, due))
            now = self._loop.time()
            if not connection.has_answered():
                if now + _CLOCK_STEP >= due:
                    raise UpstreamTimeout("Poe did not answer in time")
                self._told_at = now
                return False
        self._last_read = self._loop.time()
        return True

    def tell(self, at_once: Callable[[list[Event]], bool]) -> None:
        """What arrives while `read` waits is given to `at_once` first: if it takes it, `read` waits on.

        A task that sleeps through the words of its answer costs them nothing: 58 us of CPU for each, not 67, with 800
        such streams on a core (measured on 2026-11-29).
        """
        self._at_once = at_once
        self._connection.on_piece = self._hear

    def _hear(self, chunk: bytes) -> bool:
        assert self._at_once is not None
        now = self._last_read = self._loop.time()
        said: list[Event] = []
        had_begun = self._begun
        try:
            said = self._take(chunk)
            if said:
                self._told_at = now
            may_go_on = not self._ended and self._failure is None and now <= self._total_at
            # With the first event another deadline counts: whoever waits sets his alarm by it.
            if may_go_on and (self._at_once(said) if said else had_begun == self._begun):
                return True
        except Exception as exc:  # whose request it is, is told by `read`
            said, self._failure = [], exc
        self._kept = said
        return False

    async def read(self) -> list[Event] | None:
        """What arrives next and is not taken at once; nothing for a heartbeat; None at the end."""
        connection = self._connection
        while not self._ended:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                try:
                    raise failure
                finally:
                    del failure  # its traceback holds this frame
            if self._last_read > self._total_at:  # a bot that never pauses lets no alarm ring
                raise _out_of_time(self._deadlines.total)
            chunk = connection.take()
            if chunk is None:
                await connection.wait(self._due_at())
                if self._kept is not None:
                    said, self._kept = self._kept, None
                    if said:
                        return said
                    continue
                chunk = connection.take()
                if chunk is None:
                    now = self._loop.time()
                    if now + _CLOCK_STEP < self._due_at():
                        continue  # something was taken at once meanwhile
                    return self._nothing(now)
            if not chunk:
                return None
            now = self._last_read = self._loop.time()
            said = self._take(chunk)
            if said:
                self._told_at = now
                return said
        return None

    def _due_at(self) -> float:
        """When it is time for a heartbeat or the end of patience, if nothing comes."""
        return min(self._told_at + self._deadlines.heartbeat, self._silent_at(), self._total_at)

    def _silent_at(self) -> float:
        return self._last_read + self._deadlines.idle if self._begun else self._first_at

    def _nothing(self, now: float) -> list[Event]:
        """A heartbeat, unless patience has ended."""
        self._check(now, self._silent_at())
        self._told_at = now
        return []

    @property
    def has_begun(self) -> bool:
        """Whether anything but pings was said."""
        return self._begun or self._ended

    @property
    def is_complete(self) -> bool:
        return self._ended

    def _take(self, chunk: bytes) -> list[Event]:
        """What the events of one read mean. A failure waits until what came before it has been told."""
        reader = self._reader
        said: list[Event] = []
        if reader.is_in_event and (end := end_of_event(chunk)):
            self._read(chunk[:end], said)
            chunk = chunk[end:]
            if not chunk or self._ended or self._failure is not None:
                return said
        if reader.may_pass_over(chunk) and (found := poe_protocol.words(chunk)) is not None:
            words, length = found
            reader.pass_over()
            self._begun = True
            if words.text:
                said.append(words)
            if length == len(chunk):
                return said
            chunk = chunk[length:]
        self._read(chunk, said)
        return said

    def _read(self, chunk: bytes, said: list[Event]) -> None:
        """Event by event."""
        try:
            events = self._reader.feed(chunk)
        except EventTooLarge as error:
            events = error.events
            self._failure = UpstreamBroken("the bot sent an event that is too large")
        try:
            for name, data in events:
                if name == "done":
                    self._ended = True
                    self._failure = None
                    break
                if name != "ping":
                    self._begun = True
                if name == "error":
                    raise poe_errors.from_event(data, self._secret)
                poe_protocol.read(name, data, said)
        except RelayError as error:
            self._failure = error

    def _check(self, now: float, silent_at: float) -> None:
        """Raises UpstreamTimeout if what ran out while waiting was more than the time for a heartbeat."""
        limits = self._deadlines
        now += _CLOCK_STEP
        if now >= self._total_at:
            raise _out_of_time(limits.total)
        if now >= silent_at and self._begun:
            raise _too_late("the bot fell silent for", limits.idle)
        if now >= silent_at:
            raise _too_late("the bot said nothing for", limits.first_event)


def _out_of_time(seconds: float) -> UpstreamOutOfTime:
    return UpstreamOutOfTime(f"the answer took more than {seconds:g} s")


def _too_late(what: str, seconds: float) -> UpstreamTimeout:
    return UpstreamTimeout(f"{what} {seconds:g} s")
