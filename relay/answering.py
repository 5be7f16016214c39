"""A bot's answer while it is relayed: read, shaped, counted, paid for as it grows, and settled once however it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Protocol

from msgspec.structs import replace

from proxy_site.config import Config
from relay.cancelling import Cancelling
from relay.directory import Directory, Mapping
from relay.errors import (
    GivenUp,
    RelayError,
    Stopped,
    Unavailable,
    UnfitAnswer,
    UpstreamError,
    UpstreamOutOfTime,
)
from relay.events import Event, Finish, FinishReason, Text, Usage, one_by_one
from relay.ledger import Admission, Admitted, Candidate, Change, Ledger, Reservation, Settlement, reserve
from relay.limits import RateCard
from relay.output_meter import OutputMeter, count, count_images
from relay.pool import Trial
from relay.shaping import Shape
from relay.transcript import Transcript
from relay.visit import Visit

# A reservation grows by at least so many tokens, and by at least this share of it.
EXTENSION_TOKENS, EXTENSION_SHARE = 512, 4
# Where that is refused, by so many: less is left unused.
LEAST_TOKENS = 64
# So far an answer goes beyond its reservation while the database cannot be asked.
MOST_BEYOND_TOKENS = 4096
# Poe lets no bot say more.
MOST_CHARACTERS = 100_000


class Relaying(Protocol):
    """What of the relay this needs."""

    config: Config
    directory: Directory
    cancelling: Cancelling

    @property
    def ledger(self) -> Ledger: ...


class Outlet(Protocol):
    """Where events leave for the client at once, past whoever iterates."""

    def is_open(self) -> bool:
        """Whether the client takes more now."""

    def say(self, events: list[Event]) -> None: ...


class Answer:
    """A bot's answer as it comes, in events that never have to be unsaid, one list per read of the upstream, but for what
    leaves through an outlet.

    Iterating ends with a Finish. An empty list is a heartbeat: nothing was said for a while. However it ends, `end` or
    `close` settles it, once.
    """

    # Python keeps up to 30 attributes of an object in 300 bytes, and a few more in 1,600.
    __slots__ = (
        "_ask_again",
        "_began",
        "_bot",
        "_cancelling",
        "_directory",
        "_finish",
        "_first",
        "_first_byte_ms",
        "_go_on",
        "_has_ended",
        "_has_said",
        "_heard_at",
        "_heartbeat",
        "_is_at_its_end",
        "_is_bounded",
        "_is_stopped",
        "_ledger",
        "_max_tokens",
        "_meter",
        "_noted",
        "_outlet",
        "_rates",
        "_reserved",
        "_second",
        "_settled",
        "_room_is_scarce",
        "_stream",
        "_task",
        "_transcript",
        "_trial",
        "_unfit",
        "_visit",
        "admission",
        "fallback_model",
        "ignored",
        "is_probe",
        "key_id",
        "rate_limits",
        "shape",
        "usage",
    )

    def __init__(
        self,
        relay: Relaying,
        admission: Admission,
        admitted: Admitted,
        rates: RateCard,
        *,
        max_tokens: int | None,
        began: float,
        visit: Visit,
    ) -> None:
        """`began`: when the request came, by `time.perf_counter`."""
        self.admission = admission
        self._visit = visit
        self.rate_limits = admitted.rate_limits
        self._room_is_scarce = admitted.room_is_scarce
        self.key_id, self.is_probe = admitted.key_id, admitted.is_probe
        # The fallback model that answers instead of the one asked for, if any.
        self.fallback_model: str | None = None
        # What was asked and the bot that answers cannot be told, by name.
        self.ignored: tuple[str, ...] = ()
        # Makes the answer what the client asked for, where the bot itself cannot be asked for it.
        self.shape: Shape | None = None
        self._ask_again: Callable[[UnfitAnswer], Awaitable[Answer]] | None = None
        self._unfit: UnfitAnswer | None = None
        # The answer in its place.
        self._second: Answer | None = None
        self._outlet: Outlet | None = None
        self._heartbeat = relay.config.relay.keep_alive_seconds
        self._heard_at = began
        self.usage = Usage(admitted.reservation.prompt_tokens, 0)
        self._ledger = relay.ledger
        self._directory = relay.directory
        self._bot = admission.bot
        self._rates = rates
        self._reserved = admitted.reservation
        self._max_tokens = max_tokens
        self._began = began
        self._first_byte_ms: int | None = None
        # Whether the client was told anything of what came.
        self._has_said = False
        self._transcript = Transcript()
        # Where no limit depends on how long the answer is, nothing but `max_tokens` ends it.
        self._is_bounded = any(limits.depend_on_the_answer for limits in admission.limits)
        self._meter = OutputMeter(max_tokens)
        self._bound_by(self._reserved)
        self._stream: AsyncGenerator[list[Event], None] | None = None
        self._trial: Trial | None = None
        # Begins another answer instead of one that fails before it has said a word.
        self._go_on: Callable[[UpstreamError], Awaitable[None]] | None = None
        self._noted: BaseException | None = None
        self._first: list[Event] | None = None
        self._finish: Finish | None = None
        self._has_ended = False
        self._settled = False
        # A larger reservation was refused: the answer ends with the one it has.
        self._is_at_its_end = False
        self._cancelling = relay.cancelling
        self._task = asyncio.current_task()
        self._is_stopped = False
        self._cancelling.begins(admission.id, self)

    async def move(
        self, candidates: tuple[Candidate, ...], bot: str, rates: RateCard, accounting: str
    ) -> None:
        """Claim another Poe key's slot and let go of the one it has, or raise a RelayError."""
        wanted = reserve(
            rates, self._reserved.prompt_tokens, self._reserved.output_tokens, 1 if rates.image else 0
        )
        admitted = await self._change(wanted, candidates, bot, accounting)
        self.key_id, self.is_probe = admitted.key_id, admitted.is_probe
        self._bot, self._rates, self._reserved = bot, rates, wanted
        self._bound_by(self._reserved)

    async def _change(
        self,
        wanted: Reservation,
        candidates: tuple[Candidate, ...] = (),
        bot: str = "",
        accounting: str = "",
    ) -> Admitted:
        asked = self.admission
        limits = self._directory.limits_of(asked.token_id, asked.user_id, asked.team_id)
        time_zone = self._directory.time_zone_of(asked.team_id)
        return await self._ledger.change(
            Change(asked, self.key_id, wanted, candidates, bot, limits, accounting, time_zone)
        )

    def _bound_by(self, reservation: Reservation) -> None:
        if self._is_bounded:
            self._meter.limit = reservation.output_tokens
            self._meter.images_limit = reservation.images if self._rates.image else None

    async def begin(
        self,
        stream: AsyncGenerator[list[Event], None],
        mapping: Mapping,
        fallback: str | None,
        trial: Trial,
    ) -> None:
        """Await the first events of this stream; on failure another stream may be begun.

        Where the client is sent nothing before the end, a heartbeat is no event. A streamed answer begins with it: after
        so long a silence a true status later is worth less than a connection that no proxy cuts.
        """
        self._stream, self._trial = stream, trial
        self._transcript = Transcript(mapping.replace_policy)
        self.fallback_model = fallback
        try:
            self._first = await anext(stream)
            while not self._first and not self.admission.streamed:
                self._first = await anext(stream)
        except StopAsyncIteration:
            self._first, self._has_ended = [], True
        except BaseException as exc:
            self._note(exc)
            await self._close_stream()
            raise
        if self._first or self._has_ended:
            trial.answered()

    def leaves_through(self, outlet: Outlet) -> None:
        """Whoever iterates has said all that came so far: what comes while he waits may leave without waking him."""
        if self.shape is None and self._ask_again is None:
            self._outlet = outlet

    def say_at_once(self, events: list[Event]) -> bool:
        """Whether these have left, which nothing had to be waited for: they are mere text, and the reservation covers them."""
        outlet = self._outlet
        if outlet is None or self._first_byte_ms is None:
            return False
        if not (self._transcript.lets_through(events) and outlet.is_open() and self._meter.take(events)):
            return False
        self._transcript.let_through(events)
        self._has_said = True
        outlet.say(events)
        return True

    def may_ask_again(self, ask_again: Callable[[UnfitAnswer], Awaitable[Answer]]) -> None:
        """Once, if the answer turns out to be unfit."""
        self._ask_again = ask_again

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        return self._events() if self._ask_again is None else self._fitting_events()

    async def _fitting_events(self) -> AsyncIterator[list[Event]]:
        """Of this answer, or of a second one, which has a record of its own: both are paid for."""
        async for said in self._events():
            yield said
        if self._unfit is None:
            return
        assert self._ask_again is not None
        try:
            second = self._second = await self._ask_again(self._unfit)
        except RelayError:
            raise self._unfit from None
        async with second:
            async for said in second:
                yield said
        self.usage = self.usage + second.usage

    async def _events(self) -> AsyncIterator[list[Event]]:
        """Raises the UpstreamError with which a stream broke off; settled in every case."""
        assert self._stream is not None and self._first is not None
        failure: BaseException | None = None
        try:
            said = await self._take(self._first)
            if said or not (self._first or self._has_ended):
                yield said
            while not self._meter.is_full and not self._has_ended:
                try:
                    batch = await self._next()
                except StopAsyncIteration:
                    break
                except RelayError as exc:
                    reason = self._ended_by(exc)
                    if reason is None:
                        raise
                    self._finish = Finish(reason)
                    break
                said = await self._take(batch)
                if said or not batch or self._is_held_long():
                    yield said
            last = await self._last()
            self._has_said = self._has_said or bool(last)
            yield last
        except BaseException as exc:
            self._note(exc)
            failure = self.cause(exc)
            if failure is exc:
                raise
            raise failure from None
        finally:
            # Settled after the upstream is let go of: a slot is free when nothing is asked with it any more.
            try:
                await self._close_stream()
            finally:
                self.end(failure)
                # Its traceback holds this frame: nothing is left for the garbage collector.
                failure = self._noted = None

    def _ended_by(self, exc: RelayError) -> FinishReason | None:
        """What the client has so far is an answer, if this is no failure but an end that Poe sets."""
        characters = self._meter.characters
        if not characters:
            return None
        if exc.code == "content_filter":
            return "content_filter"
        is_at_limit = isinstance(exc, UpstreamError) and characters >= MOST_CHARACTERS
        return "length" if is_at_limit or isinstance(exc, UpstreamOutOfTime) else None

    def _is_held_long(self) -> bool:
        """The bot speaks, but the client has heard nothing for so long that a heartbeat is due."""
        now = time.perf_counter()
        if self.shape is None or now - self._heard_at < self._heartbeat:
            return False
        self._heard_at = now
        return True

    def may_go_on(self, go_on: Callable[[UpstreamError], Awaitable[None]]) -> None:
        """A streamed answer that began with a heartbeat may still be begun anew: the client has heard nothing of it."""
        if not (self._first or self._has_ended):
            self._go_on = go_on

    async def _next(self) -> list[Event]:
        """Raises StopAsyncIteration at the end."""
        assert self._stream is not None
        try:
            return await anext(self._stream)
        except UpstreamError as exc:
            if self._go_on is None:
                raise
            self._note(exc)
            await self._close_stream()
            await self._go_on(exc)
        return self._first or []

    def _note(self, exc: BaseException) -> None:
        if exc is self._noted:
            return
        self._noted = exc
        if self._trial is not None:
            self._trial.ended(exc)
        if isinstance(exc, UpstreamError):
            self._visit.upstream_errors += (exc.code,)

    async def _take(self, batch: list[Event]) -> list[Event]:
        """What of this is new to the client. A Finish is kept back: it is said last, once the upstream has ended."""
        if batch and self._first_byte_ms is None:
            self._first_byte_ms = self._elapsed()
            self._go_on = None  # and what it holds: the question may be long
            if self._trial is not None:
                self._trial.answered()
        heard: list[Event] = []
        for event in batch:
            if isinstance(event, Finish):
                self._finish = event
            else:
                heard.append(event)
        if not self.admission.streamed:
            heard = _joined(heard)
        elif self.shape is not None:
            heard = one_by_one(heard)
        said = await self._paid(self._transcript.feed(heard))
        if self.shape is not None:
            said = self.shape.feed(said)
            self._has_ended = self._has_ended or self.shape.is_over
        if said:
            self._has_said = True
        return said

    async def _paid(self, events: list[Event]) -> list[Event]:
        """As much of these as the reservation covers, after it has grown if it may."""
        if self._meter.take(events):
            return events
        if self._is_bounded:
            while self._meter.is_near_its_limit(events) and await self._extend(events):
                pass
        return self._meter.cut(events)

    async def _extend(self, events: list[Event]) -> bool:
        """Reserve more: room for these and some to come, or else a small step. Refused, the answer ends with what it has.

        While the database is away an answer goes on for a while: what it used beyond is charged when it has ended.
        """
        if self._is_at_its_end:
            return False
        reserved = self._reserved
        may_say = max(reserved.output_tokens, self._meter.limit or 0)
        may_show = max(reserved.images, self._meter.images_limit or 0)
        images = max(may_show, self._meter.images + count_images(events))
        is_away = False
        ample = max(EXTENSION_TOKENS, may_say // EXTENSION_SHARE, count(events))
        for step in sorted({ample, EXTENSION_TOKENS, LEAST_TOKENS}, reverse=True):
            tokens = may_say + step
            if self._max_tokens is not None:
                tokens = min(tokens, self._max_tokens)
            if (tokens, images) == (may_say, may_show):
                break
            wanted = reserve(self._rates, reserved.prompt_tokens, tokens, images)
            try:
                await self._change(wanted)
                self._reserved = wanted
            except GivenUp:
                break
            except Unavailable:
                is_away = True
                if tokens - reserved.output_tokens > MOST_BEYOND_TOKENS:
                    continue
            except RelayError:
                continue
            self._bound_by(wanted)
            return True
        self._is_at_its_end = not is_away
        return False

    async def _last(self) -> list[Event]:
        said = await self._paid(self._transcript.end())
        if self._meter.is_full:
            self._finish = Finish("length")
        elif self._finish is None:
            self._finish = Finish(self._reason())
        self.usage = replace(self.usage, **(await self._meter.usage()))
        if self.shape is not None:
            return await self._shaped(self.shape, said, self._finish)
        return [*said, self._finish]

    def _reason(self) -> FinishReason:
        """Why a bot ended that does not say so."""
        if self._meter.has_tool_calls:
            return "tool_calls"
        return "length" if self._meter.characters >= MOST_CHARACTERS else "stop"

    async def _shaped(self, shape: Shape, said: list[Event], finish: Finish) -> list[Event]:
        """The end of an answer that fits. One that does not ends with nothing, if the bot may be asked again."""
        try:
            said, finish = await asyncio.to_thread(shape.end, said, finish)
        except UnfitAnswer as exc:
            self._unfit = exc
            if self._ask_again is None:
                raise
            return []
        self._finish = finish
        return [*said, finish]

    async def _close_stream(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()

    def _elapsed(self) -> int:
        return round((time.perf_counter() - self._began) * 1000)

    # Stopping.

    def stop(self) -> None:
        """An administrator wants it to end: who asked is told, and what was relayed is charged."""
        if self._task is not None and not (self._settled or self._is_stopped):
            self._is_stopped = True
            self._task.cancel()

    def cause(self, exc: BaseException) -> BaseException:
        """What this means: a cancelled task is a client that left, unless it was stopped."""
        if not (self._is_stopped and isinstance(exc, asyncio.CancelledError)):
            return exc
        assert self._task is not None
        self._task.uncancel()
        return Stopped("An administrator stopped this answer.")

    # Settling.

    def end(self, exc: BaseException | None) -> None:
        if exc is None:
            self._settle("done", "")
        elif isinstance(exc, RelayError):
            self._settle("failed", exc.code)
        elif isinstance(exc, (asyncio.CancelledError, GeneratorExit)):
            self._settle("disconnected", "")
        else:
            self._settle("failed", "internal_error")

    def close(self) -> None:
        """Nobody reads on. Settles an answer that was not read to its end."""
        self._settle("disconnected", "")

    def _settle(self, outcome: str, error_code: str) -> None:
        if self._settled:
            return
        self._settled = True
        self._outlet = None  # which holds this object: nothing is left for the garbage collector
        self._cancelling.ends(self.admission.id)
        if self._is_stopped and outcome == "disconnected":  # it was stopped while the client did not read
            outcome, error_code = "failed", Stopped.code
        self._visit.outcome, self._visit.error_code = outcome, error_code
        # Its own: what the client is told may grow by that of a second answer, which has a record of its own.
        usage, total_ms = self.usage, self._elapsed()
        # Made in the ledger's thread: counting a long text would hold up the loop.
        self._ledger.settle(
            lambda: self._settlement(outcome, error_code, usage, total_ms),
            self._lost,
            may_wait=not self._room_is_scarce,
        )

    def _lost(self) -> Settlement:
        """If it cannot be said how it ended, it counts as reserved."""
        asked = self.admission
        return Settlement(
            asked.id, asked.token_id, asked.user_id, asked.team_id, self.key_id, "lost", "internal_error"
        )

    def _settlement(self, outcome: str, error_code: str, usage: Usage, total_ms: int) -> Settlement:
        """What was relayed is charged for. Where nothing was, nothing is, unless the bot ended well and said nothing."""
        tokens = images = points = 0
        first_byte_ms = None
        if self._is_charged(outcome):
            tokens, images = usage.completion_tokens or self._meter.counted(), self._meter.images
            points = self._rates.points(usage.prompt_tokens, tokens, images)
            first_byte_ms = self._first_byte_ms
        return Settlement(
            id=self.admission.id,
            token_id=self.admission.token_id,
            user_id=self.admission.user_id,
            team_id=self.admission.team_id,
            key_id=self.key_id,
            outcome=outcome,
            error_code=error_code[:50],
            finish_reason=self._finish.reason if self._finish else "",
            completion_tokens=tokens,
            images=images,
            points=points,
            bot=self._bot,
            first_byte_ms=first_byte_ms,
            total_ms=total_ms,
            counts_tokens=self.admission.counts_tokens,
        )

    def _is_charged(self, outcome: str) -> bool:
        if outcome == "done":
            return True
        if outcome == "failed" and self._unfit is None:
            # Told of it as a status, the client was told nothing else.
            return self.admission.streamed and self._has_said
        # The bot was at work: or whoever hung up before it said a word would have that for nothing.
        return self._first_byte_ms is not None

    async def whole(self) -> list[Event]:
        """All of its events, settled; or the RelayError with which it broke off."""
        events: list[Event] = []
        async with self:
            async for batch in self:
                events += batch
        return events

    async def leave(self) -> None:
        """Nobody reads on. The bot is let go of first: a slot is free when nothing is asked with it any more."""
        try:
            await self._close_stream()
            if self._second is not None:
                await self._second.leave()
        finally:
            self.close()

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()


def _joined(events: list[Event]) -> list[Event]:
    """Texts that follow each other as one: for whoever gets the answer as a whole."""
    joined: list[Event] = []
    texts: list[str] = []
    for event in events:
        if isinstance(event, Text):
            texts.append(event.text)
            continue
        if texts:
            joined.append(Text("".join(texts)))
            texts = []
        joined.append(event)
    return [*joined, Text("".join(texts))] if texts else joined
