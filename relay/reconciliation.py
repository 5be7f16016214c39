"""What becomes of the charges that wait: matched to usage records, found to be the owner's own use, or a leak; and figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Sum

from relay import matching
from relay.ledger.correcting import Correction
from relay.models import AccountHealth, PoeCharge, PoeKey, PoolEvent, Pruning, UsageRecord
from relay.turn import now as moment
from relay.turn import transaction_in_turn

# Poe may not have told yet of another charge that fits the record better.
SETTLING = timedelta(seconds=60)
# Poe is done with a charge after so long; then it reads what it will read, and whoever caused it is known.
FINAL = timedelta(minutes=15)
# Poe ends an answer after this; a lost record does not say when it ended.
USUAL_ANSWER = timedelta(minutes=10)
LONGEST_ANSWER = timedelta(hours=1)
# Of one account, in one round; the others wait for the next. In a serving process fewer: matching holds up its streams.
# At Poe's 500 a minute 2,500 come in five minutes.
MOST_WAITING, MOST_BESIDE_STREAMS = 30_000, 4_000
ROWS_AT_ONCE = 200
# A key's name at Poe is learned from its last matches: from so many, of which nine in ten bear it.
MATCHES_TO_LEARN_FROM, FEWEST_MATCHES, SAME_NAME = 500, 5, 0.9
LEAK = "leak"
TOLD_AGAIN = timedelta(hours=1)
# So late a record that was given up for lost may yet tell how it ended: its process comes back with its spool.
LATE_SETTLEMENT = timedelta(hours=1)

Match = PoeCharge.Match


def groups() -> dict[int, int]:
    """Of the accounts that were found to be another one: which."""
    same = dict(AccountHealth.objects.filter(same_as__isnull=False).values_list("account_id", "same_as_id"))

    def first(account_id: int) -> int:
        seen = set()
        while account_id in same and account_id not in seen:
            seen.add(account_id)
            account_id = same[account_id] or account_id
        return account_id

    return {account_id: first(account_id) for account_id in same}


def group_of(account_id: int) -> set[int]:
    """All that are one account at Poe."""
    found = groups()
    one = found.get(account_id, account_id)
    return {one, *(other for other, first in found.items() if first == one)}


# Matching.


@dataclass(slots=True)
class Found:
    """What belongs together. `kept`: charges that may be those of records which are still open."""

    corrections: list[Correction] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    ambiguous: int = 0


def match(
    group: Collection[int], now: datetime, *, force: bool = False, at_most: int = MOST_WAITING
) -> Found:
    """What of the waiting charges belongs to which record. Writes nothing."""
    charges = [
        each for each in _waiting(group, at_most) if _is_ready(each, now, force) and _is_ours(each.usage_type)
    ]
    found = Found()
    if not charges:
        return found
    keys = {key.pk: key for key in PoeKey.objects.filter(account__in=group)}
    names = names_at_poe(group, keys)
    records = [_record(row, names, now) for row in _records(keys, charges[0].at, charges[-1].at)]
    for pair in matching.match(map(_charge, charges), records):
        if pair.record.is_open:
            found.kept.add(pair.charge.id)
            continue
        found.corrections.append(Correction(pair.charge.id, pair.record.id, pair.is_ambiguous))
        found.ambiguous += pair.is_ambiguous
    return found


def again(group: Collection[int], now: datetime) -> list[Correction]:
    """Matches whose record says something else by now: a record that was lost has told how it ended after all."""
    differs = UsageRecord.objects.filter(
        pk=OuterRef("record_id"), accounting=UsageRecord.Accounting.RECONCILED
    ).exclude(points=OuterRef("points"))
    recent = PoeCharge.objects.filter(account__in=group, at__gte=now - LATE_SETTLEMENT, match=Match.MATCHED)
    found = recent.filter(Exists(differs)).values_list("pk", "record_id")
    return [Correction(pk, record_id) for pk, record_id in found if record_id is not None]


def _waiting(group: Collection[int], at_most: int) -> list[PoeCharge]:
    waiting = PoeCharge.objects.filter(account__in=group, match=Match.WAITING)
    return list(waiting.order_by("at")[:at_most])


def _is_ready(charge: PoeCharge, now: datetime, force: bool) -> bool:
    return is_final(charge) and (force or charge.at <= now - SETTLING)


def is_final(charge: PoeCharge) -> bool:
    """Poe may show 0 before it knows."""
    return charge.points != 0 or charge.read_at - charge.at >= FINAL


def _is_ours(usage_type: str) -> bool:
    """What is asked with a key; a chat on Poe's own pages is not."""
    return usage_type.casefold() in ("", "api")


RECORD_FIELDS = (
    *("id", "bot", "started_at", "total_ms", "token_id", "key_id", "points", "outcome", "accounting"),
    *("prompt_tokens", "completion_tokens"),
)


def _records(keys: Collection[int], first: datetime, last: datetime) -> QuerySet[Any, Any]:
    """Those of these keys that one of the charges between these moments may be for."""
    earliest = first - timedelta(seconds=matching.AFTER)
    may_last_long = Q(total_ms__gt=USUAL_ANSWER.total_seconds() * 1000) | Q(outcome=UsageRecord.Outcome.OPEN)
    return (
        UsageRecord.objects.filter(
            Q(started_at__gte=earliest - USUAL_ANSWER) | may_last_long,
            ~Exists(PoeCharge.objects.filter(record_id=OuterRef("pk"))),
            started_at__gte=earliest - LONGEST_ANSWER,
            started_at__lte=last + timedelta(seconds=matching.BEFORE),
            key_id__in=keys,
        )
        .order_by()
        .values_list(*RECORD_FIELDS)
    )


def _record(row: tuple[Any, ...], names: Mapping[int, str], now: datetime) -> matching.Record:
    id_, bot, started_at, total_ms, token_id, key_id, points, outcome, accounting, prompt, completion = row
    started, is_open = started_at.timestamp(), outcome == UsageRecord.Outcome.OPEN
    if is_open:
        ended = max(started, now.timestamp())
    else:
        ended = started + (USUAL_ANSWER.total_seconds() if total_ms is None else total_ms / 1000)
    return matching.Record(
        id=id_,
        account=0,
        bot=bot,
        started=started,
        ended=ended,
        token_id=token_id,
        key_id=key_id,
        points=None if accounting == UsageRecord.Accounting.OWN else points,
        input_tokens=prompt,
        output_tokens=completion,
        key_name=names.get(key_id, ""),
        is_open=is_open,
    )


def _charge(charge: PoeCharge) -> matching.Charge:
    return matching.Charge(
        id=charge.pk,
        account=0,
        bot=charge.bot,
        at=charge.at.timestamp(),
        points=charge.points,
        key_name=charge.api_key_name,
        input_tokens=charge.input_tokens,
        output_tokens=charge.output_tokens,
    )


def names_at_poe(group: Collection[int], keys: Mapping[int, PoeKey]) -> dict[int, str]:
    """What Poe calls these keys: as an administrator said, or as their last matches show."""
    names = _learned(group) if any(not key.poe_name for key in keys.values()) else {}
    return names | {key.pk: key.poe_name for key in keys.values() if key.poe_name}


def _learned(group: Collection[int]) -> dict[int, str]:
    sure = PoeCharge.objects.filter(account__in=group, match=Match.MATCHED, is_ambiguous=False)
    named = sure.exclude(api_key_name="").order_by("-at")
    last = named.values_list("record_id", "api_key_name")[:MATCHES_TO_LEARN_FROM]
    names = {record_id: name for record_id, name in last if record_id is not None}
    seen: dict[int, Counter[str]] = defaultdict(Counter)
    for record_id, key_id in UsageRecord.objects.filter(pk__in=names).values_list("pk", "key_id"):
        if key_id is not None:
            seen[key_id][names[record_id]] += 1
    learned = {}
    for key_id, counted in seen.items():
        name, times = counted.most_common(1)[0]
        if times >= FEWEST_MATCHES and times >= SAME_NAME * counted.total():
            learned[key_id] = name
    return learned


# What has no partner.


@dataclass(frozen=True, slots=True)
class Judged:
    own: int
    leaks: int
    waiting: int


def judge(
    group: Collection[int], now: datetime, kept: Collection[int], at_most: int = MOST_WAITING
) -> Judged:
    """Charges without a partner after so long: the owner's own use, or that of somebody else who has one of our keys."""
    keys = {key.pk: key for key in PoeKey.objects.filter(account__in=group)}
    ours = _since_when(keys, names_at_poe(group, keys))
    waiting = _waiting(group, at_most)
    due = [each for each in waiting if each.at <= now - FINAL and is_final(each) and each.pk not in kept]
    leaks = [each for each in due if _is_leak(each, ours)]
    leaked = {each.pk for each in leaks}
    own = [each for each in due if each.pk not in leaked]
    for verdict, some in ((Match.OWN, own), (Match.LEAK, leaks)):
        for start in range(0, len(some), ROWS_AT_ONCE):
            _mark([each.pk for each in some[start : start + ROWS_AT_ONCE]], verdict)
    if leaks:
        _tell(leaks, ours, now)
    return Judged(len(own), len(leaks), len(waiting) - len(due))


@dataclass(frozen=True, slots=True)
class _Ours:
    key: PoeKey
    # Before it, charges of this name are none of ours, or their records are gone.
    since: datetime


def _since_when(keys: Mapping[int, PoeKey], names: Mapping[int, str]) -> dict[str, _Ours]:
    pruned_before = Pruning.objects.values_list("pruned_before", flat=True).first()
    return {
        name: _Ours(keys[pk], max(keys[pk].created_at, pruned_before or keys[pk].created_at))
        for pk, name in names.items()
        if pk in keys
    }


def _is_leak(charge: PoeCharge, ours: Mapping[str, _Ours]) -> bool:
    named = ours.get(charge.api_key_name)
    return named is not None and charge.usage_type.casefold() == "api" and charge.at > named.since


def _mark(ids: Sequence[int], verdict: str) -> None:
    with transaction_in_turn():
        PoeCharge.objects.filter(pk__in=ids, match=Match.WAITING).update(match=verdict)


def _tell(leaks: Sequence[PoeCharge], ours: Mapping[str, _Ours], now: datetime) -> None:
    """Once an hour for each account, however many there are."""
    by_account: dict[int, list[PoeCharge]] = defaultdict(list)
    for each in leaks:
        by_account[each.account_id].append(each)
    for account_id, some in by_account.items():
        named = some[-1].api_key_name
        count = "1 charge" if len(some) == 1 else f"{len(some):,} charges"
        points = sum(each.points for each in some)
        with transaction_in_turn():
            told = PoolEvent.objects.filter(account=account_id, became=LEAK, at__gt=now - TOLD_AGAIN)
            if told.exists():
                continue
            key = ours[named].key
            PoolEvent.objects.create(
                at=now,
                account_id=account_id,
                key=key if key.account_id == account_id else None,
                became=LEAK,
                reason=f"{count} of {points:,} points as {named!r} that no request of ours explains"[:300],
                is_news=True,
            )


# Figures.


def drift(estimated: int, charged: int) -> float | None:
    """In percent of what was reckoned: how much more Poe took. None where nothing was reckoned."""
    return None if not estimated else 100 * (charged - estimated) / estimated


@dataclass(frozen=True, slots=True)
class BotFigures:
    """Of the requests to a bot that are matched, without those on own Poe keys."""

    bot: str
    matched: int
    ambiguous: int
    estimated: int
    charged: int

    @property
    def drift(self) -> float | None:
        return drift(self.estimated, self.charged)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the last `days`. `charged` and `estimated` are of the matched ones; the bots that cost most come first."""

    days: int
    bots: tuple[BotFigures, ...]
    # All charges; those on own Poe keys are in no bot's row.
    matched: int
    ambiguous: int
    waiting: int
    leaks: int
    leaked_points: int
    own: int
    own_points: int
    estimated: int
    charged: int

    @property
    def unmatched(self) -> int:
        return self.waiting + self.leaks + self.own

    @property
    def drift(self) -> float | None:
        return drift(self.estimated, self.charged)


def figures(days: int) -> Figures:
    since = datetime.fromtimestamp(moment(), tz=UTC) - timedelta(days=days)
    rows = (
        # Every one there is: so that it is read from the index that begins with it.
        PoeCharge.objects.filter(match__in=Match.values, at__gte=since)
        .order_by()
        .values("match", "bot")
        .annotate(
            count=Count("points"),
            doubtful=Count("points", filter=Q(is_ambiguous=True)),
            reckoned=Count("estimated_points"),
            estimate=Sum("estimated_points"),
            all_points=Sum("points"),
            compared_points=Sum("points", filter=Q(estimated_points__isnull=False)),
        )
    )
    counts: Counter[str] = Counter()
    points: Counter[str] = Counter()
    ambiguous = 0
    bots = []
    for row in rows:
        counts[row["match"]] += row["count"]
        points[row["match"]] += row["all_points"] or 0
        if row["match"] == Match.MATCHED:
            ambiguous += row["doubtful"]
            if row["reckoned"]:
                bots.append(
                    BotFigures(
                        row["bot"],
                        row["reckoned"],
                        row["doubtful"],
                        row["estimate"] or 0,
                        row["compared_points"] or 0,
                    )
                )
    bots.sort(key=lambda each: (-each.charged, each.bot))
    return Figures(
        days=days,
        bots=tuple(bots),
        matched=counts[Match.MATCHED],
        ambiguous=ambiguous,
        waiting=counts[Match.WAITING],
        leaks=counts[Match.LEAK],
        leaked_points=points[Match.LEAK],
        own=counts[Match.OWN],
        own_points=points[Match.OWN],
        estimated=sum(each.estimated for each in bots),
        charged=sum(each.charged for each in bots),
    )
