"""`manage.py reconcile`: reads what Poe charged, beside running servers, and corrects the usage records by it."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.management.refusals import require_migrated_database
from relay import charges
from relay.charges import BotFigures, Figures, Round

DAYS = 30


class Command(BaseCommand):
    help = (
        "Reads the points history of every Poe account once, and gives each usage record the points that Poe took for "
        "it. A running server does so by itself every few minutes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--force",
            action="store_true",
            help="match what is younger than a minute too: it may still be told better",
        )

    def handle(self, *args: Any, force: bool, **options: Any) -> None:
        require_migrated_database()
        done = asyncio.run(charges.reconcile(force=force))
        self.stdout.write(_said(done))
        self.stdout.write(_table(charges.figures(DAYS)))
        if done.failures:
            raise CommandError(
                " ".join(
                    f"The points history of {name!r} could not be read: {reason}."
                    for name, reason in done.failures.items()
                )
            )


def _said(done: Round) -> str:
    return (
        f"Read {done.stored:,} new charges. Matched {done.matched:,} ({done.ambiguous:,} ambiguous). "
        f"Unmatched: {done.waiting:,} waiting, {done.leaks:,} possible leaks, {done.own:,} of the owner's own use."
    )


def _table(figures: Figures) -> str:
    titles = ("bot", "matched", "ambiguous", "estimated", "charged", "drift")
    rows = [titles, *map(_row, figures.bots)]
    rows.append(("all", "", "", f"{figures.estimated:,}", f"{figures.charged:,}", _percent(figures.drift)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    summary = (
        f"The last {figures.days} days: {figures.matched:,} charges matched ({figures.ambiguous:,} ambiguous), "
        f"{figures.waiting:,} waiting, {figures.leaks:,} possible leaks ({figures.leaked_points:,} points), "
        f"{figures.own:,} of the owner's own use ({figures.own_points:,} points)."
    )
    return "\n".join([summary, *(lines if figures.bots else ())])


def _row(bot: BotFigures) -> tuple[str, ...]:
    counts = (bot.matched, bot.ambiguous, bot.estimated, bot.charged)
    return (bot.bot, *(f"{count:,}" for count in counts), _percent(bot.drift))


def _percent(drift: float | None) -> str:
    return "-" if drift is None else f"{drift:+.1f} %"
