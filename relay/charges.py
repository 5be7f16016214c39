"""Reads each Poe account's points history, keeps every charge once, and has our records say what Poe charged.

A round of an account is read, match, correct, judge: each in small steps, so that it may be stopped anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db.models import F, Max

from relay import balances, reconciliation
from relay.aside import Aside
from relay.errors import RelayError, UpstreamRateLimited, UpstreamTimeout, UpstreamUnauthorized
from relay.ledger.correcting import MOST, Correction, correct
from relay.models import AccountHealth, PoeAccount, PoeCharge, PoeKey, State
from relay.poe_accounts import account_key
from relay.reconciliation import FINAL, BotFigures, Figures, figures, group_of, is_final
from relay.turn import transaction_in_turn
from relay.upstreams.poe_account import AccountKey, Charge, ChargePage, PoeAccounts

__all__ = ["BotFigures", "Figures", "Round", "figures", "poll", "reconcile"]

# As far as Poe tells; and what is not read in one round is read in the next.
HISTORY = timedelta(days=30)
MOST_PAGES = 300
PAGE = 100
# A charge may turn up late, among those that are stored already.
OVERLAP = timedelta(minutes=2)
# While a few are corrected, servers wait; then it rests for as long.
GOAL_SECONDS = 0.03
FIRST_CORRECTIONS, FEWEST_CORRECTIONS = 10, 3

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Round:
    """What a round has done. `failures`: accounts whose history could not be read, and why."""

    stored: int = 0
    matched: int = 0
    ambiguous: int = 0
    waiting: int = 0
    leaks: int = 0
    own: int = 0
    failures: dict[str, str] = field(default_factory=dict)


async def poll(account_id: int, accounts: PoeAccounts, *, force: bool = False, clock: Clock = _now) -> Round:
    """A round of one account. Raises RelayError if none of its keys can read the history."""
    aside, done = Aside("charges"), Round()
    try:
        await _read(account_id, accounts, aside, done, clock)
        await _settle(account_id, aside, done, clock, force, reconciliation.MOST_BESIDE_STREAMS)
    finally:
        await aside.close()
    return done


async def reconcile(
    *, force: bool = False, accounts: PoeAccounts | None = None, clock: Clock = _now
) -> Round:
    """A round of all accounts. `force`: what is younger than a minute is matched too."""
    reading = accounts or PoeAccounts(settings.CONFIG.poe.connect_seconds)
    aside, done = Aside("charges"), Round()
    try:
        names = await aside.run(_all_accounts)
        for account_id, name in names.items():
            try:
                await _read(account_id, reading, aside, done, clock)
            except RelayError as exc:
                done.failures[name] = exc.message
        settled: set[int] = set()
        for account_id in names:
            if account_id not in settled:
                settled |= await _settle(account_id, aside, done, clock, force)
    finally:
        await aside.close()
        if accounts is None:
            await reading.close()
    return done


def _all_accounts() -> dict[int, str]:
    enabled = PoeAccount.objects.filter(enabled=True, keys__enabled=True).distinct()
    return dict(enabled.order_by("pk").values_list("pk", "name"))


# Reading.


@dataclass(slots=True)
class _Walk:
    """How far back the history is to be read.

    `until`: everything up to there is stored. `low`: the oldest charge that is stored above it, where a round before
    this one did not come so far down. `back_to`: so far it is read in any case, for what may have changed.
    """

    account_id: int
    group: set[int]
    until: datetime | None = None
    low: str | None = None
    back_to: datetime | None = None
    changed: list[Correction] = field(default_factory=list)


async def _read(account_id: int, accounts: PoeAccounts, aside: Aside, done: Round, clock: Clock) -> None:
    walk = await aside.run(_plan, account_id, clock())
    page, key = await _first_page(accounts, await aside.run(_keys, account_id))
    newest = page.charges[0].at if page.charges else None
    pages, has_jumped, is_whole = 1, False, False
    while True:
        now = clock()
        await aside.run(_store, walk, page.charges, now, done)
        if not page.charges:
            is_whole = True
            break
        last = page.charges[-1]
        goal = walk.until if has_jumped else walk.back_to
        is_there = goal is not None and last.at < goal
        after: str | None = last.query_id
        if is_there and walk.low is not None and not has_jumped:
            has_jumped, after = True, walk.low
        elif is_there or not page.has_more or last.at < now - HISTORY:
            is_whole = True
            break
        if pages >= MOST_PAGES:
            break
        page = await accounts.charges(key, after=after, limit=PAGE)
        pages += 1
    await _correct(walk.changed, aside)
    if is_whole and newest is not None:
        await aside.run(_note_whole, account_id, newest, clock())


async def _first_page(accounts: PoeAccounts, keys: Sequence[AccountKey]) -> tuple[ChargePage, AccountKey]:
    """With the first key that may read it."""
    failure: RelayError | None = None
    for key in keys:
        try:
            return await accounts.charges(key, limit=PAGE), key
        except RelayError as exc:
            failure = exc
            if isinstance(exc, UpstreamRateLimited | UpstreamTimeout):
                break  # another key of this account would fare no better
    raise failure or UpstreamUnauthorized("every key of the account is retired")


def _keys(account_id: int) -> list[AccountKey]:
    keys = PoeKey.objects.filter(account=account_id, enabled=True).exclude(health__state=State.RETIRED)
    found = []
    for key in keys.select_related("account"):
        with suppress(RelayError):
            found.append(account_key(key.account, key))
    return found


def _plan(account_id: int, now: datetime) -> _Walk:
    walk = _Walk(account_id, group_of(account_id))
    _look_how_far(walk, now)
    return walk


def _look_how_far(walk: _Walk, now: datetime) -> None:
    stored = PoeCharge.objects.filter(account__in=walk.group)
    # Nothing older can be pointed at, when the last page is asked for.
    told = stored.filter(at__gte=now - HISTORY + timedelta(days=1))
    health = AccountHealth.objects.filter(account__in=walk.group)
    walk.until = health.aggregate(until=Max("charges_until"))["until"]
    above = told.filter(at__gt=walk.until) if walk.until else told
    walk.low = above.order_by("at").values_list("query_id", flat=True).first()
    newest = stored.order_by("-at").values_list("at", flat=True).first()
    unsettled = told.filter(match=PoeCharge.Match.WAITING, points=0, read_at__lt=F("at") + FINAL)
    oldest = unsettled.order_by("at").values_list("at", flat=True).first()
    goals = [each for each in (newest and newest - OVERLAP, oldest) if each is not None]
    walk.back_to = min(goals, default=None)


def _store(walk: _Walk, charges: Sequence[Charge], now: datetime, done: Round) -> None:
    """Each once. Who finds a charge that is another account's has found that the two are one."""
    by_id = {each.query_id: each for each in charges}
    known = {each.query_id: each for each in PoeCharge.objects.filter(query_id__in=by_id)}
    others = {each.account_id for each in known.values()} - walk.group
    for other in others:
        balances.same_account(walk.account_id, other)
        walk.group |= {other, *group_of(other)}
    read_again = [
        each for each in known.values() if _has_changed(each, by_id[each.query_id]) or not is_final(each)
    ]
    new = [_charge(walk.account_id, each, now) for id_, each in by_id.items() if id_ not in known]
    for each in read_again:
        _take_over(each, by_id[each.query_id], now)
        if each.match == PoeCharge.Match.MATCHED and each.record_id is not None:
            walk.changed.append(Correction(each.pk, each.record_id))
    if new or read_again:
        with transaction_in_turn():
            PoeCharge.objects.bulk_create(new, ignore_conflicts=True)
            PoeCharge.objects.bulk_update(read_again, ["points", "input_tokens", "output_tokens", "read_at"])
    done.stored += len(new)
    if others:
        _look_how_far(walk, now)


def _charge(account_id: int, said: Charge, now: datetime) -> PoeCharge:
    return PoeCharge(
        query_id=said.query_id,
        account_id=account_id,
        at=said.at,
        bot=said.bot,
        points=said.points,
        usage_type=said.usage_type,
        api_key_name=said.api_key_name,
        input_tokens=said.input_tokens,
        output_tokens=said.output_tokens,
        read_at=now,
    )


def _has_changed(stored: PoeCharge, said: Charge) -> bool:
    return (stored.points, stored.input_tokens, stored.output_tokens) != (
        said.points,
        said.input_tokens,
        said.output_tokens,
    )


def _take_over(stored: PoeCharge, said: Charge, now: datetime) -> None:
    stored.points, stored.read_at = said.points, now
    stored.input_tokens, stored.output_tokens = said.input_tokens, said.output_tokens


def _note_whole(account_id: int, newest: datetime, now: datetime) -> None:
    """Everything up to the newest is stored."""
    if not PoeAccount.objects.filter(pk=account_id).exists():
        return
    with transaction_in_turn():
        health = AccountHealth.objects.get_or_create(pk=account_id, defaults={"since": now})[0]
        if health.charges_until is None or health.charges_until < newest:
            health.charges_until = newest
            health.save(update_fields=["charges_until"])


# Matching and correcting.


async def _settle(
    account_id: int,
    aside: Aside,
    done: Round,
    clock: Clock,
    force: bool,
    at_most: int = reconciliation.MOST_WAITING,
) -> set[int]:
    """Of all that are one account with this one; which these are."""
    group = await aside.run(group_of, account_id)
    now = clock()
    found = await aside.run(reconciliation.match, group, now, force=force, at_most=at_most)
    done.matched += await _correct(found.corrections, aside)
    done.ambiguous += found.ambiguous
    await _correct(await aside.run(reconciliation.again, group, now), aside)
    judged = await aside.run(reconciliation.judge, group, now, found.kept, at_most)
    done.own += judged.own
    done.leaks += judged.leaks
    done.waiting += judged.waiting
    return group


async def _correct(corrections: Sequence[Correction], aside: Aside) -> int:
    """A few at a time; what fits is found out while it goes on."""
    # In the order in which they began: neighbours share meters and hours.
    left = sorted(corrections, key=lambda each: each.record_id)
    size, done = FIRST_CORRECTIONS, 0
    while left:
        some, left = left[:size], left[size:]
        corrected = await aside.run(correct, some)
        done += corrected.records
        fits = len(some) * GOAL_SECONDS / max(corrected.seconds, 0.0001)
        size = int(max(FEWEST_CORRECTIONS, min(MOST, fits, size * 2)))
        await asyncio.sleep(corrected.seconds)
    return done
