"""Keeps Poe's list in `Bot`, and what mappings take over of it; on a database that servers write to at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from django.conf import settings
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Lower
from django.utils import timezone

from relay.catalogue.nearest import nearest
from relay.catalogue.reading import Listed, Reading, read
from relay.errors import UpstreamBroken
from relay.models import Bot, BotMapping, PoeAccount
from relay.turn import transaction_in_turn
from relay.upstreams.poe_account import PoeAccounts

T = TypeVar("T")
# Rows in a transaction: it must be over within 50 ms on a slow disk.
BOTS_AT_ONCE, MAPPINGS_AT_ONCE = 50, 20

PRICES = (
    "points_per_request",
    "points_per_1000_input_tokens",
    "points_per_1000_output_tokens",
    "points_per_image",
)
# What of a mapping is filled in, beside what only a sync ever writes.
FILLED = (*PRICES, "default_output_tokens")
WRITTEN = (*FILLED, "declared_parameters", "synced", "found", "suggested_bot")
LISTED = tuple(each.name for each in fields(Listed))


# A list that lost more than this at once is rather broken. Short ones may change as they like.
LEAST_LEFT, FEW = 0.5, 20


class NothingListed(UpstreamBroken):
    """A list without a single bot is a mistake, not the end of Poe."""


@dataclass(frozen=True, slots=True)
class Source:
    """Whose list: Poe's own has no address of its own here, so that another one in config.toml means the same bots."""

    api_url: str
    address: str
    proxy: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync found. `mappings` changed; the bots of `lost` are gone or were never listed, with the nearest one."""

    listed: int
    skipped: int
    new: tuple[str, ...]
    gone: tuple[str, ...]
    mappings: tuple[str, ...]
    lost: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The bots of one source by handle in small letters, those that are gone among them."""

    bots: dict[str, Bot]

    @property
    def living(self) -> list[str]:
        return [bot.handle for bot in self.bots.values() if bot.gone_at is None]


# Where lists come from.


def default_source() -> Source:
    config = settings.CONFIG.poe
    return Source("", config.api_url, config.proxy)


def source_of(account: PoeAccount | None) -> Source:
    default = default_source()
    if account is None or not account.api_url or _bare(account.api_url) == _bare(default.address):
        return default
    proxy = "" if account.is_demo else settings.CONFIG.poe.proxy
    return Source(_bare(account.api_url), account.api_url, proxy)


def sources() -> list[Source]:
    """Poe's list, and those of the servers that accounts of their own stand for."""
    accounts = PoeAccount.objects.filter(enabled=True).exclude(api_url="").order_by("pk")
    found = {source.api_url: source for source in map(source_of, accounts)}
    return list({"": default_source(), **found}.values())


def _bare(url: str) -> str:
    return url.rstrip("/").casefold()


def fetch(source: Source, *, is_forced: bool = False) -> Reading:
    """The list as it is now, or a RelayError; also for a list that lost half of its bots, unless `is_forced`."""
    reading = read(asyncio.run(_entries(source)), settings.CONFIG.pool.points_per_usd)
    if not reading.bots:
        raise NothingListed("Poe's list of bots is empty, or nobody can read it")
    known = {key for key, bot in _catalogue(source).bots.items() if bot.gone_at is None}
    left = len(known & {bot.key for bot in reading.bots})
    if not is_forced and len(known) >= FEW and left < len(known) * LEAST_LEFT:
        raise NothingListed(
            f"Poe's list has {left} of the {len(known)} bots that it had: it is not believed. "
            "If it is right, run `manage.py syncmodels --force`"
        )
    return reading


async def _entries(source: Source) -> list[Any]:
    poe = PoeAccounts(settings.CONFIG.poe.connect_seconds)
    try:
        return await poe.catalogue(source.address, source.proxy)
    finally:
        await poe.close()


# Keeping it.


def store(reading: Reading, source: Source, *, is_dry: bool = False) -> Synced:
    """Write what was read, then fill in the mappings of this source. `is_dry`: only say what that would be."""
    now = timezone.now()
    before = _catalogue(source).bots
    after = {**before, **{bot.key: _row(bot, source, now) for bot in reading.bots}}
    listed = {bot.key for bot in reading.bots}
    gone = [bot for key, bot in before.items() if key not in listed and bot.gone_at is None]
    if not is_dry:
        for batch in _batches([after[key] for key in listed], BOTS_AT_ONCE):
            with transaction_in_turn():
                _write(batch)
        with transaction_in_turn():
            Bot.objects.filter(pk__in=[bot.pk for bot in gone], last_seen_at__lt=now).update(gone_at=now)
    for bot in gone:
        bot.gone_at = now
    mappings, lost = _fill_all(Catalogue(after), source, is_dry)
    return Synced(
        listed=len(listed),
        skipped=reading.skipped,
        new=tuple(bot.handle for bot in reading.bots if bot.key not in before),
        gone=tuple(bot.handle for bot in gone),
        mappings=tuple(mappings),
        lost=tuple(lost),
    )


def _catalogue(source: Source) -> Catalogue:
    return Catalogue({bot.handle_key: bot for bot in Bot.objects.filter(api_url=source.api_url)})


def _row(bot: Listed, source: Source, now: datetime) -> Bot:
    return Bot(
        handle_key=bot.key,
        api_url=source.api_url,
        first_seen_at=now,
        last_seen_at=now,
        **{name: getattr(bot, name) for name in LISTED},
    )


def _write(bots: Sequence[Bot]) -> None:
    Bot.objects.bulk_create(
        bots,
        update_conflicts=True,
        unique_fields=["handle_key", "api_url"],
        update_fields=[*LISTED, "last_seen_at", "gone_at"],
    )


def _batches(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


# What mappings take over.


def _fill_all(
    catalogue: Catalogue, source: Source, is_dry: bool
) -> tuple[list[str], list[tuple[str, str, str]]]:
    changed: list[str] = []
    lost: list[tuple[str, str, str]] = []
    candidates = BotMapping.objects.select_related("account").order_by("pk")
    ids = [each.pk for each in candidates if source_of(each.account).api_url == source.api_url]
    for batch in _batches(ids, MAPPINGS_AT_ONCE):
        with transaction_in_turn():
            # Read again, and held: an administrator may be editing right now.
            for mapping in BotMapping.objects.select_for_update().filter(pk__in=batch).order_by("pk"):
                written = _fill(mapping, catalogue)
                if written and not is_dry:
                    mapping.save(update_fields=written)
                if written:
                    changed.append(mapping.model)
                if mapping.found in (BotMapping.Found.GONE, BotMapping.Found.UNLISTED):
                    lost.append((mapping.model, mapping.bot, mapping.suggested_bot))
    return changed, lost


def fill(mapping: BotMapping) -> list[str]:
    """Fill in, from the list as it is stored, what nobody edited; the names of the fields that it changed. Unsaved."""
    return _fill(mapping, _catalogue(source_of(mapping.account)))


def _fill(mapping: BotMapping, catalogue: Catalogue) -> list[str]:
    before = {name: getattr(mapping, name) for name in WRITTEN}
    mapping.synced = dict(mapping.synced)
    key = mapping.bot.casefold()
    bot = None if mapping.bot == "*" else catalogue.bots.get(key)
    if bot is not None and bot.gone_at is None:
        _take_over(mapping, bot)
    elif mapping.synced.get("bot", key) != key:
        # What is filled in is another bot's.
        _take_over(mapping, Bot(handle_key=key))
    mapping.found = _found(mapping, bot, catalogue)
    is_lost = mapping.found in (BotMapping.Found.GONE, BotMapping.Found.UNLISTED)
    mapping.suggested_bot = nearest(mapping.bot, catalogue.living) if is_lost else ""
    return [name for name in WRITTEN if getattr(mapping, name) != before[name]]


def _found(mapping: BotMapping, bot: Bot | None, catalogue: Catalogue) -> BotMapping.Found:
    if mapping.bot == "*" or not catalogue.bots:
        return BotMapping.Found.UNKNOWN
    if bot is None:
        return BotMapping.Found.UNLISTED
    return BotMapping.Found.LISTED if bot.gone_at is None else BotMapping.Found.GONE


def _take_over(mapping: BotMapping, bot: Bot) -> None:
    mapping.synced["bot"] = bot.handle_key
    mapping.declared_parameters = bot.parameters
    default = settings.CONFIG.relay.default_output_tokens
    longest = bot.max_output_tokens
    _write_field(
        mapping, "default_output_tokens", longest if longest is not None and longest < default else None
    )
    is_own_card = any(getattr(mapping, name) is not None for name in PRICES)
    if is_own_card and not any(name in mapping.synced for name in PRICES):
        # Prices add up: what Poe charges by token is nothing to add to an administrator's price by request.
        return
    for name in PRICES:
        _write_field(mapping, name, getattr(bot, name))


def _write_field(mapping: BotMapping, name: str, value: Decimal | int | None) -> None:
    """Only over nothing, and over what the last sync wrote: a field that was cleared since then was edited."""
    now = getattr(mapping, name)
    if name in mapping.synced:
        if _told(now) != mapping.synced[name]:
            return
    elif now is not None or value is None:
        return
    setattr(mapping, name, value)
    mapping.synced[name] = _told(value)


def _told(value: Decimal | int | None) -> str | int | None:
    """As JSON keeps it exactly; 1.5 and 1.5000 are one price."""
    return str(value.quantize(Decimal("0.0001"))) if isinstance(value, Decimal) else value


# New mappings.


def unmapped() -> QuerySet[Bot]:
    """Bots in the list that no mapping asks, and whose name no mapping has."""
    mappings = BotMapping.objects.annotate(asked=Lower("bot")).filter(
        Q(asked=OuterRef("handle_key")) | Q(model_key=OuterRef("handle_key"))
    )
    return Bot.objects.filter(~Exists(mappings), gone_at=None)


def taken(keys: Iterable[str], *, by_bot: bool) -> set[str]:
    """Those of these handles whose name a mapping has; `by_bot`: or whose bot one asks."""
    wanted = set(keys)
    found: set[str] = set()
    for model_key, bot in BotMapping.objects.values_list("model_key", "bot"):
        found |= {model_key, bot.casefold()} if by_bot else {model_key}
    return found & wanted


def add(bots: Iterable[Bot]) -> list[BotMapping]:
    """A mapping for each whose name is free, with its prices and parameters; asked with the keys of its own server."""
    made: list[BotMapping] = []
    for batch in _batches(list(bots), MAPPINGS_AT_ONCE):
        with transaction_in_turn():
            names = taken((bot.handle_key for bot in batch), by_bot=False)
            made += [_added(bot) for bot in batch if bot.handle_key not in names]
    return made


def _added(bot: Bot) -> BotMapping:
    mapping = BotMapping(model=bot.handle, bot=bot.handle, account=_account(bot.api_url))
    _fill(mapping, Catalogue({bot.handle_key: bot}))
    mapping.save()
    return mapping


def _account(api_url: str) -> PoeAccount | None:
    """Whose keys a server of our own takes; Poe takes everybody's."""
    if not api_url:
        return None
    accounts = PoeAccount.objects.exclude(api_url="").order_by("-enabled", "pk")
    return next((account for account in accounts if source_of(account).api_url == api_url), None)
