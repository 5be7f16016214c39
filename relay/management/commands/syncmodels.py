"""`manage.py syncmodels`: reads Poe's list of bots, fills in mappings from it, and makes new ones when told to."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.management.refusals import require_migrated_database
from relay import catalogue
from relay.catalogue import Reading, Source, Synced
from relay.errors import RelayError
from relay.management.poe_accounts import account_named
from relay.models import Bot

# Whoever sees so many names needs no more to know.
MOST_PRINTED = 20


class Command(BaseCommand):
    help = (
        "Reads Poe's list of bots: prices and parameters of mappings are filled in where nobody edited them, "
        "and mappings whose bot is gone are named. No Poe key is needed, and nothing is charged."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--add", nargs="+", metavar="MODEL", help="make mappings for these bots of the list"
        )
        which.add_argument(
            "--add-all", action="store_true", help="make a mapping for every bot that has none yet"
        )
        parser.add_argument("--account", metavar="NAME", help="read the list at this Poe account's address")
        parser.add_argument("--force", action="store_true", help="believe a list that lost half of its bots")
        parser.add_argument("--dry-run", action="store_true", help="say what would happen, and write nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        require_migrated_database()
        name = options["account"]
        source = catalogue.source_of(None if name is None else account_named(name))
        try:
            reading = catalogue.fetch(source, is_forced=options["force"])
        except RelayError as exc:
            raise CommandError(
                f"the list of bots at {source.address} cannot be read: {exc.message}. Nothing was changed."
            ) from None
        wanted = _wanted(reading, options["add"] or ())
        is_dry: bool = options["dry_run"]
        self._tell(catalogue.store(reading, source, is_dry=is_dry), source, is_dry)
        if options["add"] or options["add_all"]:
            self._add(reading, source, wanted if options["add"] else None, is_dry)

    def _tell(self, synced: Synced, source: Source, is_dry: bool) -> None:
        self.stdout.write(
            f"{source.address} lists {_number(synced.listed, 'bot')}: {len(synced.new):,} new"
            f"{_named(synced.new)}, {len(synced.gone):,} gone{_named(synced.gone)}"
            f"{f', {synced.skipped:,} that nobody can read' if synced.skipped else ''}."
        )
        self.stdout.write(
            f"{_number(len(synced.mappings), 'mapping')} {'would be ' if is_dry else ''}brought up to date"
            f"{_named(synced.mappings)}."
        )
        for model, bot, suggested in synced.lost:
            nearest = f"; the nearest is {suggested}" if suggested else ""
            self.stdout.write(f"{model}: its bot {bot} is not in the list{nearest}.")

    def _add(self, reading: Reading, source: Source, wanted: set[str] | None, is_dry: bool) -> None:
        keys = {bot.key for bot in reading.bots} if wanted is None else wanted
        if is_dry:
            taken = catalogue.taken(keys, by_bot=wanted is None)
            made = [bot.handle for bot in reading.bots if bot.key in keys - taken]
        else:
            free = catalogue.unmapped() if wanted is None else Bot.objects.filter(gone_at=None)
            bots = free.filter(api_url=source.api_url, handle_key__in=keys)
            made = [mapping.model for mapping in catalogue.add(bots)]
        would = "would be made" if is_dry else "made"
        self.stdout.write(f"{_number(len(made), 'mapping')} {would}{_named(made)}.")
        if wanted and len(made) < len(wanted):
            self.stdout.write(f"{_number(len(wanted) - len(made), 'model')} had a mapping already.")


def _wanted(reading: Reading, names: Any) -> set[str]:
    """Refused before anything is written if one of these is not in the list."""
    listed = {bot.key: bot.handle for bot in reading.bots}
    for name in names:
        if name.casefold() not in listed:
            near = catalogue.nearest(name, listed.values())
            hint = f": did you mean {near}?" if near else "."
            raise CommandError(f"Poe's list has no bot {name!r}{hint}")
    return {name.casefold() for name in names}


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _named(names: Any) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MOST_PRINTED:,} more" if len(names) > MOST_PRINTED else ""
    return f" ({', '.join(names[:MOST_PRINTED])}{more})"
