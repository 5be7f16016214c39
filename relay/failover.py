"""The questions of one request, one after the other until a bot answers: the next Poe key, then the fallback models.

Only while nothing was said to the client but that we are still there. What the user caused is asked once.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

from proxy_site.config import Config
from relay import admitting, mappings, pool, prompting, shaping
from relay.answering import Answer
from relay.directory import AccountEntry, Caller, Directory, KeyEntry, Mapping
from relay.errors import (
    AllKeysBusy,
    NoKeyAvailable,
    RelayError,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnknownBot,
)
from relay.events import ChatRequest
from relay.pool import Failure, Keeper, Tier, Trial
from relay.upstreams.poe import Key, Poe

log = logging.getLogger(__name__)


class Relaying(Protocol):
    """What of the relay this needs."""

    config: Config
    directory: Directory
    keeper: Keeper
    poe: Poe

    def credential(self, key: KeyEntry, account: AccountEntry) -> Key: ...


class Failover:
    """The admission claimed a slot for the first question; each further one claims another before it is asked."""

    def __init__(
        self,
        relay: Relaying,
        answer: Answer,
        chat: ChatRequest,
        caller: Caller,
        mapping: Mapping,
        tiers: list[Tier],
    ) -> None:
        self._relay = relay
        self._answer = answer
        self._chat = chat
        self._caller = caller
        self._models = list(mapping.fallback_models)
        # Why the model that was asked for does not answer.
        self._failure: RelayError | None = None
        self._has_slot = True
        self._turn_to(mapping, tiers, None)

    def _turn_to(self, mapping: Mapping, tiers: list[Tier], fallback: str | None) -> None:
        self._mapping, self._tiers, self._fallback = mapping, tiers, fallback
        self._prompt = prompting.for_bot(self._chat, mapping)
        self._answer.ignored = self._prompt.ignored
        self._answer.shape = shaping.shape_of(self._chat, writes_calls=mapping.writes_calls)
        self._left = {key.id: key for tier in tiers for key in tier.keys}
        self._tries = self._relay.config.pool.tries
        self._failures: list[Failure] = []
        self._trial: Trial | None = None

    async def ask(self) -> None:
        """Begin an answer, or raise why the model that was asked for gives none; all else was tried then."""
        while True:
            try:
                return await self._ask_next()
            except RelayError as exc:
                self._turn_to_fallback(exc)

    async def go_on(self, exc: UpstreamError) -> None:
        """The answer that had begun with silence has failed: begin another, or raise. The head has left, and it named no
        fallback model.
        """
        self._models.clear()
        self._note(exc)
        await self.ask()

    async def _ask_next(self) -> None:
        while self._tries and self._left:
            if not self._has_slot:
                try:
                    await self._move()
                except AllKeysBusy:
                    raise  # trying again will help
                except RelayError as exc:
                    raise self._failures[-1][1] if self._failures else exc from None
            self._has_slot = False
            key = self._left.pop(self._answer.key_id)
            account = self._relay.directory.accounts.get(key.account_id)
            if account is None:  # removed since this request was admitted
                continue
            self._tries -= 1
            self._trial = Trial(
                self._relay.keeper, key, is_probe=self._answer.is_probe, instead_of=self._failures
            )
            stream = self._relay.poe.stream(
                self._prompt,
                bot=self._mapping.bot,
                key=self._relay.credential(key, account),
                at_once=self._answer.say_at_once if self._answer.admission.streamed else None,
            )
            try:
                return await self._answer.begin(stream, self._mapping, self._fallback, self._trial)
            except UpstreamError as exc:
                self._note(exc)
        raise self._failures[-1][1] if self._failures else self._removed()

    def _note(self, exc: UpstreamError) -> None:
        trial = self._trial
        assert trial is not None
        request_id = self._answer.admission.request_id
        log.warning("request %s: Poe key %r: %s", request_id, trial.key.name, exc.code)
        if isinstance(exc, UpstreamUnknownBot):
            # A private bot is known to its owner's account alone.
            account_id = trial.key.account_id
            self._left = {id_: key for id_, key in self._left.items() if key.account_id != account_id}
        self._failures.append((trial.key, exc, trial.asked_at))
        if isinstance(exc, UpstreamTimeout):
            self._note_silence()

    def _note_silence(self) -> None:
        """Two keys in vain: it is rather the bot, and each question may cost points. One that is known to work is asked yet."""
        silences = sum(isinstance(exc, UpstreamTimeout) for _key, exc, _at in self._failures)
        if silences == 2:
            works = self._relay.keeper.works
            self._left = {id_: key for id_, key in self._left.items() if works(id_)}
        elif silences > 2:
            self._left.clear()

    async def _move(self) -> None:
        """To a key of the first tier that has one left and free, or raise a RelayError."""
        failure: RelayError | None = None
        for tier in self._tiers:
            keys: list[KeyEntry] = [key for key in tier.keys if key.id in self._left]
            if not keys:
                continue
            try:
                return await self._answer.move(
                    admitting.candidates(self._relay.directory, keys),
                    self._mapping.bot,
                    admitting.rates(self._relay.config, self._mapping, tier),
                    admitting.accounting(tier),
                )
            except (AllKeysBusy, NoKeyAvailable) as exc:
                failure = exc
        raise failure or self._removed()

    def _removed(self) -> NoKeyAvailable:
        return NoKeyAvailable(f"The Poe keys of the model {self._mapping.model!r} were just removed.")

    def _turn_to_fallback(self, exc: RelayError) -> None:
        """Raises why the model that was asked for does not answer, if no other is left."""
        request_id = self._answer.admission.request_id
        if self._fallback is None:
            if not isinstance(exc, UpstreamError):
                raise exc
            self._failure = exc
        else:
            log.warning("request %s: fallback %r: %s", request_id, self._fallback, exc.code)
        while self._models:
            model = self._models.pop(0)
            try:
                mapping = mappings.resolve(self._relay.directory, model, self._caller)
                tiers = pool.tiers(
                    self._relay.directory,
                    mapping,
                    self._caller,
                    partial(pool.conversation_of, self._caller, self._chat),
                    self._relay.keeper.suspects(),
                )
            except RelayError as other:
                log.warning("request %s: fallback %r: %s", request_id, model, other.code)
                continue
            return self._turn_to(mapping, tiers, model)
        assert self._failure is not None
        raise self._failure
