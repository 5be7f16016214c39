"""`manage.py pruneusage --older-than 90d`: removes old usage records, beside running servers."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand

from accounts.management.refusals import require_migrated_database
from relay.ledger.prune import Pruned, prune

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
# Longer than any record is kept, and not before the first year there is.
LONGEST = timedelta(days=36500)


def duration(text: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,6})([hdw])", text.strip().lower())
    age = int(found[1]) * UNITS[found[2]] if found else timedelta()
    if not timedelta() < age <= LONGEST:
        raise ArgumentTypeError(f"{text!r} is no age: say 90d, 12h or 2w.")
    return age


class Command(BaseCommand):
    help = (
        "Removes usage records that are older than this. Those of budget periods that are not over stay, "
        "and so do the hourly rollups that charts read."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--older-than", type=duration, required=True, metavar="AGE", help="such as 90d, 12h or 2w"
        )

    def handle(self, *args: Any, older_than: timedelta, **options: Any) -> None:
        require_migrated_database()
        asked = datetime.now(UTC) - older_than
        pruned = prune(asked)
        self.stdout.write(_said(pruned, asked))


def _said(pruned: Pruned, asked: datetime) -> str:
    sentences = [
        f"Removed {_number(pruned.records, 'usage record')} from before {pruned.before:%Y-%m-%d %H:%M} UTC."
    ]
    if pruned.before < asked:
        sentences.append(
            "What began later is kept: a record of then is open, or counts in a budget period that is not over."
        )
    if pruned.meters:
        sentences.append(f"Removed {_number(pruned.meters, 'meter')} of owners that are gone.")
    sentences.append("The hourly rollups stay.")
    return " ".join(sentences)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
