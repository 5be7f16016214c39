"""Writes down how Poe keys and accounts fare, with the block on their meter that every process holds to.

In a thread of its own: no request waits for it. What was found out is also known to the others with their next admission.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, connection

from relay.directory import KeyEntry
from relay.errors import (
    RelayError,
    UpstreamError,
    UpstreamUnauthorized,
    UpstreamUnknownBot,
    UpstreamUnreachable,
)
from relay.limits import NEVER
from relay.models import AccountHealth, KeyHealth, Meter, PoeAccount, PoeKey, PoolEvent
from relay.pool import health
from relay.pool.health import Standing, Verdict, Whose
from relay.turn import transaction_in_turn

log = logging.getLogger(__name__)

# A failing key is news when pauses did not help; of the others the first time is.
FAILURES_THAT_ARE_NEWS = 4
# So long a key that failed is asked after others.
SUSPICION = timedelta(seconds=30)
# So long it is taken for good that a key has answered.
LATELY = timedelta(minutes=10)
# So long a balance that was read says more than a bot's word.
BALANCE_COUNTS = timedelta(minutes=15)
BALANCE_READ_AT_MOST = timedelta(seconds=20)

Rule = Callable[[Standing, datetime], Standing | None]
# What a key was asked before another one answered, and when.
Failure = tuple[KeyEntry, RelayError, datetime]


class Keeper:
    """What one process finds out about Poe keys while it asks with them. Returns at once from everything."""

    def __init__(
        self,
        apply: Callable[[Whose, int, Rule], Any] | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._unreachable: dict[int, int] = defaultdict(int)
        # Until when they are asked after others.
        self._suspects: dict[int, datetime] = {}
        self._answered_at: dict[int, datetime] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._apply = apply or self._apply_in_thread

    def now(self) -> datetime:
        return self._clock()

    def suspects(self) -> Collection[int]:
        """Keys that just failed in this process, though it may have been the bot: the next question begins elsewhere."""
        if self._suspects:
            now = self._clock()
            self._suspects = {id_: until for id_, until in self._suspects.items() if until > now}
        return self._suspects

    def works(self, key_id: int) -> bool:
        """Whether it has answered lately, and not failed since."""
        at = self._answered_at.get(key_id)
        return at is not None and self._clock() - at < LATELY and key_id not in self.suspects()

    def failed(
        self,
        key: KeyEntry,
        exc: RelayError,
        asked_at: datetime,
        *,
        is_probe: bool = False,
        before: Iterable[Failure] = (),
    ) -> None:
        """This key was asked and this came of it; `before`: what came of the same question to others."""
        verdict = health.verdict_of(exc)
        if isinstance(exc, UpstreamUnauthorized) and any(
            isinstance(other, UpstreamUnauthorized) for _key, other, _at in before
        ):
            verdict = None  # one question retires no two keys: it may be the question
        if verdict is None and (suspicion := health.suspicion_of(exc)) is not None:
            self._suspects[key.id] = self._clock() + SUSPICION
            self._unreachable[key.id] += isinstance(exc, UpstreamUnreachable)
            if is_probe or self._unreachable[key.id] >= health.UNREACHABLE:
                verdict = suspicion
        if verdict is not None:
            self._blame(key, verdict, asked_at)
        if is_probe:
            self.let_go(key)

    def answered(self, key: KeyEntry, *, is_probe: bool, instead_of: Iterable[Failure] = ()) -> None:
        """This key answered what those before it could not: it was not the bot."""
        self._unreachable.pop(key.id, None)
        self._answered_at[key.id] = self._clock()
        if self._suspects:
            self._suspects.pop(key.id, None)
        for other, exc, asked_at in instead_of:
            if (suspicion := health.suspicion_of(exc)) is not None:
                self._blame(other, suspicion, asked_at)
        if is_probe:
            self._restore(key, "a request was answered")

    def let_go(self, key: KeyEntry) -> None:
        """Whoever tried it found nothing out, at least about one of the two: the next one may."""

        def free(standing: Standing, now: datetime) -> Standing | None:
            if standing.state == "ok" or standing.until is None or standing.until > now:
                return None
            return standing

        self._apply("key", key.id, free)
        self._apply("account", key.account_id, free)

    def _blame(self, key: KeyEntry, verdict: Verdict, asked_at: datetime) -> None:
        self._unreachable.pop(key.id, None)
        self._suspects.pop(key.id, None)  # from now on its state says when it is asked

        def rule(standing: Standing, now: datetime) -> Standing | None:
            return health.after(standing, verdict, asked_at=asked_at, now=now, chance=self._chance)

        self._apply(verdict.whose, key.id if verdict.whose == "key" else key.account_id, rule)

    def _restore(self, key: KeyEntry, reason: str) -> None:
        """Not what somebody else found out since: only what may be tried again."""

        def rule(standing: Standing, now: datetime) -> Standing | None:
            is_due = standing.until is not None and standing.until <= now
            return health.well(standing, reason, now) if is_due else None

        self._apply("key", key.id, rule)
        self._apply("account", key.account_id, rule)

    # The database.

    def _apply_in_thread(self, whose: Whose, id_: int, rule: Rule) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="keeper")
        self._thread.submit(self._write, whose, id_, rule)

    def _write(self, whose: Whose, id_: int, rule: Rule) -> None:
        for _try in range(2):
            try:
                change(whose, id_, rule, self._clock())
                if whose == "account":
                    _read_balance_soon(id_, self._clock())
                return
            except (DatabaseError, InterfaceError, OSError) as exc:
                # Once more on a new connection: the old one may have died with a restarted database.
                log.warning("how the Poe %s %d fares is not written: %s", whose, id_, type(exc).__name__)
                connection.close()
            except Exception as exc:
                log.exception("how the Poe %s %d fares cannot be written", whose, id_, exc_info=exc)
                return

    def close(self) -> None:
        """Write what is to be written."""
        if self._thread is not None:
            self._thread.submit(lambda: connection.close())
            self._thread.shutdown()
            self._thread = None


class Trial:
    """One question to one key: how it ends says how the key fares. Only the first that is told of it counts."""

    __slots__ = ("_instead_of", "_is_over", "_is_probe", "_keeper", "asked_at", "key")

    def __init__(self, keeper: Keeper, key: KeyEntry, *, is_probe: bool, instead_of: list[Failure]) -> None:
        self.key = key
        self.asked_at = keeper.now()
        self._keeper = keeper
        self._is_probe = is_probe
        self._instead_of = instead_of
        self._is_over = False

    def answered(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._keeper.answered(self.key, is_probe=self._is_probe, instead_of=self._instead_of)

    def ended(self, exc: BaseException) -> None:
        """Without an answer, or in the middle of one. Who answers with the user's own mistake works."""
        if self._is_over:
            return
        if isinstance(exc, RelayError) and (
            isinstance(exc, UpstreamUnknownBot) or not isinstance(exc, UpstreamError)
        ):
            return self.answered()
        self._is_over = True
        if isinstance(exc, UpstreamError):
            self._keeper.failed(
                self.key, exc, self.asked_at, is_probe=self._is_probe, before=self._instead_of
            )
        elif self._is_probe:
            self._keeper.let_go(self.key)


# On the database, for whoever knows better than traffic.


def change(whose: Whose, id_: int, rule: Rule, now: datetime) -> Standing | None:
    """Apply this rule to how a key or an account fares: what it became, or None if nothing changed."""
    with transaction_in_turn():
        # In the ledger's order: the meter first.
        Meter.objects.get_or_create(pk=f"{whose}:{id_}")
        meter = Meter.objects.select_for_update().get(pk=f"{whose}:{id_}")
        row = _row(whose, id_, now)
        if row is None:
            return None
        was = Standing(row.state, row.reason, row.since, row.until, row.failures, _known_points(row, now))
        became = rule(was, now)
        if became is None:
            return None
        row.state, row.reason, row.since = became.state, became.reason, became.since
        row.until, row.failures = became.until, became.failures
        row.save(update_fields=["state", "reason", "since", "until", "failures"])
        Meter.objects.filter(pk=meter.pk).update(blocked_until=block_of(became))
        if became != was:
            _note(whose, id_, was, became)
    return became


def _read_balance_soon(account_id: int, now: datetime) -> None:
    """Something was said about an account: its own page at Poe knows better. Not again and again."""
    late = AccountHealth.objects.filter(pk=account_id, balance_at__lt=now - BALANCE_READ_AT_MOST)
    if late.exists():
        late.update(due_at=now)


def revive(whose: Whose, id_: int, reason: str) -> bool:
    """Somebody acted: a new secret, a working test, points in the account. Whether it was not well before."""
    return change(whose, id_, lambda was, now: health.well(was, reason, now), datetime.now(UTC)) is not None


def block_of(standing: Standing) -> int:
    """Until when the ledger passes it over, in microseconds."""
    if standing.state == "ok":
        return 0
    return NEVER if standing.until is None else int(standing.until.timestamp() * 1_000_000)


def _known_points(row: KeyHealth | AccountHealth, now: datetime) -> int | None:
    if isinstance(row, KeyHealth) or row.balance_at is None or now - row.balance_at > BALANCE_COUNTS:
        return None
    return row.balance


def _row(whose: Whose, id_: int, now: datetime) -> KeyHealth | AccountHealth | None:
    """None if the key or account is gone."""
    if whose == "key":
        if not PoeKey.objects.filter(pk=id_).exists():
            return None
        return KeyHealth.objects.select_for_update().get_or_create(pk=id_, defaults={"since": now})[0]
    if not PoeAccount.objects.filter(pk=id_).exists():
        return None
    return AccountHealth.objects.select_for_update().get_or_create(pk=id_, defaults={"since": now})[0]


def _note(whose: Whose, id_: int, was: Standing, became: Standing) -> None:
    key = PoeKey.objects.get(pk=id_) if whose == "key" else None
    account = key.account if key else PoeAccount.objects.get(pk=id_)
    is_bad = became.state in ("resting", "retired") or became.failures == FAILURES_THAT_ARE_NEWS
    # What becomes of a key that somebody brought along is that person's own business.
    is_news = is_bad and account.counts_in_budgets
    PoolEvent.objects.create(
        at=became.since,
        account=account,
        key=key,
        was=was.state,
        became=became.state,
        reason=became.reason,
        until=became.until,
        is_news=is_news,
    )
    log.log(
        logging.INFO if became.state == "ok" else logging.WARNING,
        "the Poe %s %d is %s: %s",
        whose,
        id_,
        became.state,
        became.reason,
    )
