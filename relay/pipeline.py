"""The story of a request, top to bottom; the only module that knows all steps.

A wire format parses the body into a `ChatRequest`. Then: who asks (directory), what answers (mappings), with which Poe
keys (pool), written down first (ledger.admit), asked (upstreams), and written down again however it ends (ledger.settle).
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from proxy_site.config import Config
from relay import admitting, counting, mappings, parameters, pool, shaping
from relay.answering import Answer
from relay.budgets import Budgets
from relay.cancelling import Cancelling
from relay.directory import AccountEntry, Caller, Directory, KeyEntry, Mapping
from relay.errors import (
    AllKeysBusy,
    BadRequest,
    NoKeyAvailable,
    RelayError,
    Unavailable,
    UnfitAnswer,
    UnknownModel,
    UpstreamBroken,
)
from relay.events import ChatRequest, Message, TextPart
from relay.failover import Failover
from relay.ledger import Admission, Admitted, Ledger, Stale
from relay.ledger.opening import open_ledger
from relay.limits import RateCard
from relay.pool import Keeper, Queue, Tier
from relay.stored_files import StoredFiles
from relay.stored_responses import StoredResponses
from relay.uploads import KeptUploads
from relay.upstreams.downloads import Downloads
from relay.upstreams.poe import Deadlines, Key, Poe, refuse_too_large
from relay.video_jobs import VideoJobs
from relay.visit import Asking

# A directory that changes faster than a request can be admitted is not a directory: 503.
ADMIT_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A request with its record written: by whom, of what, and with which keys it may be asked."""

    admission: Admission
    admitted: Admitted
    rates: RateCard
    caller: Caller
    mapping: Mapping
    tiers: list[Tier]


class Relay:
    """What one process relays with: its directory, its ledger, its connections to Poe. Started on first use."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory = Directory()
        self._starting = asyncio.Lock()
        self._ledger: Ledger | None = None
        self.queue = Queue(config.pool.queue_seconds)
        self.keeper = Keeper()
        self.budgets = Budgets()
        self.cancelling = Cancelling()
        hours = config.pool.upload_cache_hours
        self.uploads = KeptUploads(hours) if hours else None
        self.responses = StoredResponses(config.responses)
        self.files = StoredFiles(config.files, int(config.server.body_memory_mb * 1_000_000))
        self.videos = VideoJobs(self)
        self.downloads = Downloads(config.poe.connect_seconds, config.poe.file_hosts)
        self.poe = Poe(
            Deadlines(
                connect=config.poe.connect_seconds,
                first_event=config.poe.first_event_seconds,
                idle=config.poe.idle_seconds,
                total=config.poe.total_seconds,
                heartbeat=config.relay.keep_alive_seconds,
            ),
            kept=self.uploads,
        )

    async def start(self) -> None:
        """Load the directory, or raise Unavailable; does nothing the second time."""
        if self.directory.version >= 0:
            return
        async with self._starting:
            if self.directory.version < 0:
                await self.directory.load()

    def open(self) -> None:
        """Open the ledger, which begins at once with what dead processes left; does nothing the second time."""
        if self._ledger is None:
            self._ledger = open_ledger()

    @property
    def spool_bytes(self) -> int:
        """What waits on this process's disk for the database."""
        return 0 if self._ledger is None else self._ledger.spool_bytes

    @property
    def ledger_work(self) -> tuple[int, int]:
        """How many transactions this process's ledger has committed, and how much was in them."""
        return (0, 0) if self._ledger is None else (self._ledger.transactions, self._ledger.written)

    @property
    def ledger(self) -> Ledger:
        self.open()
        assert self._ledger is not None
        return self._ledger

    async def stop(self) -> None:
        """Close what is open; what is to be settled is written first."""
        await self.videos.close()
        await self.poe.close()
        self.downloads.close()
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger.close)
            self._ledger = None
        await self.cancelling.close()
        await asyncio.to_thread(self.keeper.close)
        await self.budgets.close()
        if self.uploads is not None:
            await asyncio.to_thread(self.uploads.close)
        await self.responses.close()
        await self.files.close()
        self.directory.close()

    # The story.

    async def caller(self, asking: Asking) -> Caller:
        await self.start()
        if asking.token_id is not None:
            caller = await self.directory.holder_of(asking.token_id, asking.address)
        else:
            caller = await self.directory.authenticate(asking.credential, asking.address)
        asking.visit.token_prefix = caller.token_prefix
        return caller

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
        await shaping.check(chat)
        if not (ids := chat.file_ids):
            return await self._ask_fitting(asking, caller, chat)
        async with self.files.lent(caller.token_id, ids) as files:
            return await self._ask_fitting(asking, caller, chat.with_files(files))

    async def _ask_fitting(self, asking: Asking, caller: Caller, chat: ChatRequest) -> Answer:
        answer = await self._ask(asking, caller, chat)
        if shaping.must_fit(chat):
            answer.may_ask_again(lambda unfit: self._ask(asking, caller, _amended(chat, unfit)))
        return answer

    async def _ask(self, asking: Asking, caller: Caller, chat: ChatRequest) -> Answer:
        began = time.perf_counter()
        asking.visit.model, asking.visit.streamed = chat.model, chat.stream
        refuse_too_large(chat)
        prompt_tokens = await counting.count_prompt(chat)

        async def admit(queue_seconds: float) -> _Accepted:
            return await self._admit(asking, caller, chat, prompt_tokens, queue_seconds)

        accepted = await self.queue.admit(lambda: self._keys_of(caller, chat), admit)
        answer = Answer(
            self,
            accepted.admission,
            accepted.admitted,
            accepted.rates,
            max_tokens=chat.max_tokens,
            began=began,
            visit=asking.visit,
        )
        try:
            failover = Failover(self, answer, chat, accepted.caller, accepted.mapping, accepted.tiers)
            await failover.ask()
            answer.may_go_on(failover.go_on)
        except BaseException as exc:
            cause = answer.cause(exc)
            answer.end(cause)
            if cause is exc:
                raise
            raise cause from None
        return answer

    def _keys_of(self, caller: Caller, chat: ChatRequest) -> frozenset[int]:
        try:
            mapping = mappings.resolve(self.directory, chat.model, caller)
            return frozenset(key.id for key in pool.order(self.directory, mapping, caller, bytes))
        except RelayError:
            return frozenset()  # it will be told when it asks

    async def _admit(
        self, asking: Asking, caller: Caller, chat: ChatRequest, prompt_tokens: int, queue_seconds: float
    ) -> _Accepted:
        """Look up and write down. The look-up counts only if the directory did not change until it was written."""
        for _try in range(ADMIT_TRIES):
            try:
                mapping = mappings.resolve(self.directory, chat.model, caller)
                parameters.for_bot(chat, mapping)
                tiers = pool.tiers(
                    self.directory,
                    mapping,
                    caller,
                    partial(pool.conversation_of, caller, chat),
                    self.keeper.suspects(),
                )
            except (UnknownModel, NoKeyAvailable, BadRequest):
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
            asked_at = time.perf_counter()
            try:
                return await self._admit_with(
                    tiers, asking, caller, chat, mapping, prompt_tokens, queue_seconds
                )
            except Stale:
                await self.directory.refresh()
                caller = await self.caller(asking)
                continue
            finally:
                asking.visit.admit_seconds = time.perf_counter() - asked_at
        raise Unavailable("The relay's settings are changing right now. Try again.", retry_after=1)

    async def _admit_with(
        self,
        tiers: list[Tier],
        asking: Asking,
        caller: Caller,
        chat: ChatRequest,
        mapping: Mapping,
        prompt_tokens: int,
        queue_seconds: float,
    ) -> _Accepted:
        """With a key of the first tier that has one free."""
        failure: RelayError | None = None
        for number, tier in enumerate(tiers):
            rates = admitting.rates(self.config, mapping, tier)
            admission = admitting.admission(
                self.config,
                self.directory,
                caller,
                chat,
                mapping,
                tier,
                prompt_tokens=prompt_tokens,
                request_id=asking.request_id,
                wire=asking.wire,
                queue_seconds=math.inf if number + 1 < len(tiers) else queue_seconds,
            )
            try:
                admitted = await self.ledger.admit(admission)
                return _Accepted(admission, admitted, rates, caller, mapping, tiers)
            except (AllKeysBusy, NoKeyAvailable) as exc:
                if not isinstance(failure, AllKeysBusy):
                    failure = exc
        assert failure is not None
        if isinstance(failure, NoKeyAvailable) and not any(tier.counts_in_budgets for tier in tiers):
            raise NoKeyAvailable(
                "Your own Poe key, or your team's, cannot be asked: it is refused by Poe, out of points or failing, and "
                "you chose to ask no other. See /me/poe-key/ and /team/poe-key/.",
                retry_after=failure.retry_after,
            )
        raise failure

    async def download(self, url: str, answer: Answer) -> bytes:
        """A file that the bot of this answer made, as the Poe key that it was asked with reaches it; or UpstreamError."""
        key = self.directory.keys.get(answer.key_id)
        account = self.directory.accounts.get(key.account_id) if key is not None else None
        if key is None or account is None:
            raise UpstreamBroken("the Poe key that made the bot's file was just removed")
        return await self.downloads.fetch(url, self.credential(key, account))

    def credential(self, key: KeyEntry, account: AccountEntry) -> Key:
        return Key(
            secret=key.secret,
            base_url=account.base_url or self.config.poe.base_url,
            upload_url=account.upload_url or self.config.poe.upload_url,
            account_id=account.id,
            proxy=key.proxy or ("" if account.is_demo else self.config.poe.proxy),
        )


def _amended(chat: ChatRequest, unfit: UnfitAnswer) -> ChatRequest:
    """The question with the answer that did not fit, and what is wrong with it."""
    said = (Message("assistant", (TextPart(unfit.said),)),) if unfit.said else ()
    return replace(chat, messages=(*chat.messages, *said, Message("user", (TextPart(unfit.again),))))
