"""The story of a request, top to bottom; the only module that knows all steps.

A wire format parses the body into a `ChatRequest`. Then: who asks (directory), what answers (mappings), with which Poe
keys (pool), written down first (ledger.admit), asked (upstreams), and written down again however it ends (ledger.settle).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from types import TracebackType

from proxy_site.config import Config
from relay import counting, mappings, pool, prompting
from relay.directory import AccountEntry, Caller, Directory, KeyEntry, Mapping
from relay.errors import (
    NoKeyAvailable,
    RelayError,
    Unavailable,
    UnknownModel,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnknownBot,
)
from relay.events import ChatRequest, Event, Finish, Reasoning, Text, ToolCall, Usage
from relay.ledger import Admission, Ledger, Settlement, Stale
from relay.ledger.opening import open_ledger
from relay.transcript import Transcript
from relay.upstreams.poe import Deadlines, Key, Poe

log = logging.getLogger(__name__)

# A directory that changes faster than a request can be admitted is not a directory: 503.
ADMIT_TRIES = 3
# What follows may split the last word that was counted otherwise: "import" is one token, "importr" three.
SEAM_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks and how, apart from what."""

    credential: str
    address: str
    request_id: str
    wire: str


class Relay:
    """What one process relays with: its directory, its ledger, its connections to Poe. Started on first use."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory = Directory()
        self._starting = asyncio.Lock()
        self._ledger: Ledger | None = None
        self.poe = Poe(
            Deadlines(
                connect=config.poe.connect_seconds,
                first_event=config.poe.first_event_seconds,
                idle=config.poe.idle_seconds,
                total=config.poe.total_seconds,
                heartbeat=config.relay.keep_alive_seconds,
            )
        )

    async def start(self) -> None:
        """Load the directory and open the ledger, or raise Unavailable; does nothing the second time."""
        if self.directory.version >= 0:
            return
        async with self._starting:
            if self.directory.version < 0:
                await self.directory.load()

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            self._ledger = open_ledger()
        return self._ledger

    async def stop(self) -> None:
        """Close what is open; what is to be settled is written first."""
        await self.poe.close()
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger.close)
            self._ledger = None
        self.directory.close()

    # The story.

    async def caller(self, asking: Asking) -> Caller:
        await self.start()
        return await self.directory.authenticate(asking.credential, asking.address)

    async def models(self, asking: Asking) -> list[Mapping]:
        """What this caller may ask for, never from an old snapshot."""
        await self.start()
        await self.directory.refresh()
        return mappings.listed(self.directory, await self.caller(asking))

    async def model(self, asking: Asking, name: str) -> Mapping:
        """The mapping that answers this name, or UnknownModel."""
        try:
            return mappings.resolve(self.directory, name, await self.caller(asking))
        except UnknownModel:
            await self.directory.refresh()
        return mappings.resolve(self.directory, name, await self.caller(asking))

    async def ask(self, asking: Asking, caller: Caller, chat: ChatRequest) -> Answer:
        """An answer whose first events are there, or a RelayError: then nothing was sent and all else was tried."""
        began = time.perf_counter()
        prompt_tokens = await counting.count_prompt(chat)
        admission, caller, mapping, keys = await self._admit(asking, caller, chat, prompt_tokens)
        answer = Answer(self.ledger, admission, chat.max_tokens, began)
        try:
            await self._open(answer, chat, caller, mapping, keys)
        except BaseException as exc:
            answer.end(exc)
            raise
        return answer

    async def _admit(
        self, asking: Asking, caller: Caller, chat: ChatRequest, prompt_tokens: int
    ) -> tuple[Admission, Caller, Mapping, list[KeyEntry]]:
        """Look up and write down. The look-up counts only if the directory did not change until it was written."""
        for _try in range(ADMIT_TRIES):
            try:
                mapping = mappings.resolve(self.directory, chat.model, caller)
                keys = pool.order(self.directory, mapping, caller, pool.conversation_of(caller, chat))
            except (UnknownModel, NoKeyAvailable):
                # Never refused from an old snapshot, nor for what the caller might not do as of an old one.
                await self.directory.refresh()
                if caller.version == self.directory.version:
                    raise
                caller = await self.caller(asking)
                continue
            if caller.version != self.directory.version:
                # The directory moved on while the body was read: who asks is looked up again, and what answers.
                caller = await self.caller(asking)
                continue
            admission = _admission(asking, caller, chat, mapping, keys[0], prompt_tokens)
            try:
                await self.ledger.admit(admission)
            except Stale:
                await self.directory.refresh()
                caller = await self.caller(asking)
                continue
            return admission, caller, mapping, keys
        raise Unavailable("The relay's settings are changing right now. Try again.", retry_after=1)

    async def _open(
        self, answer: Answer, chat: ChatRequest, caller: Caller, mapping: Mapping, keys: list[KeyEntry]
    ) -> None:
        """Await the first events: from the next key if one fails, then from the mapping's fallback models.

        Nothing has been sent to the client yet. What the user caused is no UpstreamError and is tried once.
        """
        try:
            return await self._open_one(answer, chat, mapping, keys)
        except UpstreamError as exc:
            failure = exc
        for model in mapping.fallback_models:
            try:
                other = mappings.resolve(self.directory, model, caller)
                keys = pool.order(self.directory, other, caller, pool.conversation_of(caller, chat))
                return await self._open_one(answer, chat, other, keys, fallback=model)
            except RelayError as exc:
                log.warning("request %s: fallback %r: %s", answer.admission.request_id, model, exc.code)
        raise failure

    async def _open_one(
        self,
        answer: Answer,
        chat: ChatRequest,
        mapping: Mapping,
        keys: list[KeyEntry],
        fallback: str | None = None,
    ) -> None:
        failure: UpstreamError | None = None
        prompt = prompting.for_bot(chat, mapping)
        for key in keys[: self.config.relay.tries]:
            account = self.directory.accounts.get(key.account_id)
            if account is None:  # removed since this request was admitted
                continue
            stream = self.poe.stream(prompt, bot=mapping.bot, key=self._credential(key, account))
            try:
                return await answer.begin(stream, mapping, key, fallback)
            except (UpstreamUnknownBot, UpstreamTimeout):
                raise  # another key asks the same bot, and waits as long
            except UpstreamError as exc:
                log.warning("request %s: Poe key %r: %s", answer.admission.request_id, key.name, exc.code)
                failure = exc
        raise failure or NoKeyAvailable(f"The Poe keys of the model {mapping.model!r} were just removed.")

    def _credential(self, key: KeyEntry, account: AccountEntry) -> Key:
        return Key(
            secret=key.secret,
            base_url=account.base_url or self.config.poe.base_url,
            upload_url=account.upload_url or self.config.poe.upload_url,
            proxy=key.proxy or ("" if account.is_demo else self.config.poe.proxy),
        )


def _admission(
    asking: Asking,
    caller: Caller,
    chat: ChatRequest,
    mapping: Mapping,
    key: KeyEntry,
    prompt_tokens: int,
) -> Admission:
    return Admission(
        version=caller.version,
        request_id=asking.request_id,
        token_id=caller.token_id,
        token_prefix=caller.token_prefix,
        user_id=caller.user_id,
        user_name=caller.user_name,
        team_id=caller.team_id,
        team_name=caller.team_name,
        model=chat.model,
        bot=mapping.bot,
        wire=asking.wire,
        streamed=chat.stream,
        prompt_tokens=prompt_tokens,
        key_id=key.id,
        key_name=key.name,
    )


class Answer:
    """A bot's answer as it comes, in events that never have to be unsaid, one list per read of the upstream.

    Iterating ends with a Finish. An empty list is a heartbeat: nothing was said for a while. However it ends, `end` or
    `close` settles it, once.
    """

    def __init__(self, ledger: Ledger, admission: Admission, max_tokens: int | None, began: float) -> None:
        self.admission = admission
        self.bot = admission.bot
        # The fallback model that answers instead of the one asked for, if any.
        self.fallback_model: str | None = None
        self.usage = Usage(admission.prompt_tokens, 0)
        self._ledger = ledger
        self._began = began
        self._first_byte_ms: int | None = None
        self._transcript = Transcript()
        self._meter = OutputMeter(max_tokens)
        self._key: KeyEntry | None = None
        self._stream: AsyncGenerator[list[Event], None] | None = None
        self._first: list[Event] | None = None
        self._finish: Finish | None = None
        self._has_ended = False
        self._settled = False

    async def begin(
        self, stream: AsyncGenerator[list[Event], None], mapping: Mapping, key: KeyEntry, fallback: str | None
    ) -> None:
        """Await the first events of this stream; on failure another stream may be begun.

        Where the client is sent nothing before the end, a heartbeat is no event. A streamed answer begins with it: after
        so long a silence a true status later is worth less than a connection that no proxy cuts.
        """
        self._stream, self._key, self.bot = stream, key, mapping.bot
        self._transcript = Transcript(mapping.replace_policy)
        self.fallback_model = fallback
        try:
            self._first = await anext(stream)
            while not self._first and not self.admission.streamed:
                self._first = await anext(stream)
        except StopAsyncIteration:
            self._first, self._has_ended = [], True
        except BaseException:
            await self._close_stream()
            raise

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        return self._events()

    async def _events(self) -> AsyncIterator[list[Event]]:
        """Raises the UpstreamError with which a stream broke off; settled in every case."""
        assert self._stream is not None and self._first is not None
        try:
            said = self._take(self._first)
            if said or not (self._first or self._has_ended):
                yield said
            while not self._meter.is_full and not self._has_ended:
                try:
                    batch = await anext(self._stream)
                except StopAsyncIteration:
                    break
                said = self._take(batch)
                if said or not batch:
                    yield said
            yield await self._last()
        except BaseException as exc:
            self.end(exc)
            raise
        finally:
            await self._close_stream()
        self.end(None)

    def _take(self, batch: list[Event]) -> list[Event]:
        """What of this is new to the client. A Finish is kept back: it is said last, once the upstream has ended."""
        if batch and self._first_byte_ms is None:
            self._first_byte_ms = self._elapsed()
        heard: list[Event] = []
        for event in batch:
            if isinstance(event, Finish):
                self._finish = event
            else:
                heard.append(event)
        return self._meter.cut(self._transcript.feed(heard))

    async def _last(self) -> list[Event]:
        said = self._meter.cut(self._transcript.end())
        if self._meter.is_full:
            self._finish = Finish("length")
        elif self._finish is None:
            self._finish = Finish("tool_calls" if self._meter.has_tool_calls else "stop")
        self.usage = replace(self.usage, **(await self._meter.usage()))
        return [*said, self._finish]

    async def _close_stream(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()

    def _elapsed(self) -> int:
        return round((time.perf_counter() - self._began) * 1000)

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
        self._ledger.settle(
            Settlement(
                id=self.admission.id,
                outcome=outcome,
                error_code=error_code[:50],
                finish_reason=self._finish.reason if self._finish else "",
                # Counted in the ledger's thread when nobody has counted yet: a long text would hold up the loop.
                completion_tokens=self.usage.completion_tokens or self._meter.counted,
                bot=self.bot,
                key_id=self._key.id if self._key else self.admission.key_id,
                key_name=self._key.name if self._key else self.admission.key_name,
                first_byte_ms=self._first_byte_ms,
                total_ms=self._elapsed(),
            )
        )

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close_stream()
        self.close()


class OutputMeter:
    """Counts what an answer says, and cuts it at `max_tokens`.

    A text has at most as many tokens as UTF-8 bytes, and pieces have, but for the seams, at least as many tokens as the
    whole: so almost always a cheap upper bound tells that the limit is still far.
    """

    def __init__(self, max_tokens: int | None) -> None:
        self._max_tokens = max_tokens
        self._said: list[str] = []
        self._thought: list[str] = []
        self._upper_bound = 0
        self.has_tool_calls = False
        self.is_full = False

    def cut(self, events: list[Event]) -> list[Event]:
        """The events up to the limit; nothing once it is reached."""
        kept: list[Event] = []
        for event in events:
            if self.is_full:
                break
            match event:
                case Text(text) | Reasoning(text):
                    said = self._room(text, self._said if isinstance(event, Text) else self._thought)
                    self.is_full = said != text
                    if said:
                        kept.append(replace(event, text=said) if self.is_full else event)
                case ToolCall(name=name, arguments=arguments):
                    self.has_tool_calls = True
                    piece = name + arguments
                    # Half a piece is no use to anybody: it is kept whole or not at all.
                    self.is_full = not self._fits(piece, self._said)
                    if not self.is_full:
                        self._said.append(piece)
                        kept.append(event)
                case _:
                    kept.append(event)
        return kept

    def _room(self, text: str, said: list[str]) -> str:
        """How much of the text still fits."""
        if self._max_tokens is not None and not self._fits(text, said):
            before = "".join(said)
            whole = counting.head(before + text, max(0, self._max_tokens - self._count_others(said)))
            text = whole[len(before) :]
        said.append(text)
        return text

    def _fits(self, text: str, said: list[str]) -> bool:
        if self._max_tokens is None:
            return True
        self._upper_bound += len(text.encode("utf-8", "surrogatepass"))
        if self._upper_bound <= self._max_tokens:
            return True
        counted = self._count_others(said) + counting.count("".join([*said, text]))
        self._upper_bound = counted + SEAM_TOKENS
        return counted <= self._max_tokens

    def _count_others(self, said: list[str]) -> int:
        return counting.count("".join(self._said if said is self._thought else self._thought))

    def counted(self) -> int:
        return counting.count("".join(self._said)) + counting.count("".join(self._thought))

    async def usage(self) -> dict[str, int]:
        thought = await counting.count_off_loop("".join(self._thought))
        said = await counting.count_off_loop("".join(self._said))
        return {"completion_tokens": said + thought, "reasoning_tokens": thought}
