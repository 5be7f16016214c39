"""`manage.py ledger verify`: whether meters and rollups are what the usage records say."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.management.refusals import require_migrated_database
from relay.ledger.verify import Verified, verify

# Whoever sees so many needs no more to know what is wrong.
MOST_PRINTED = 200


class Command(BaseCommand):
    help = "Recomputes points, slots and hourly rollups from the usage records and prints what differs. Servers may run."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        actions.add_parser("verify", help="exit status 0: everything agrees; 1: something differs")

    def handle(self, *args: Any, **options: Any) -> None:
        require_migrated_database()
        verified = verify()
        if not verified.differences:
            self.stdout.write(f"The ledger is right: {_compared(verified)} agree.")
            return
        for difference in verified.differences[:MOST_PRINTED]:
            self.stdout.write(difference)
        if len(verified.differences) > MOST_PRINTED:
            self.stdout.write(f"and {len(verified.differences) - MOST_PRINTED:,} more")
        count = len(verified.differences)
        raise CommandError(
            f"the ledger is wrong: {count:,} {'difference' if count == 1 else 'differences'} "
            f"in {_compared(verified)}."
        )


def _compared(verified: Verified) -> str:
    said = f"{verified.meters:,} meters, {verified.hours:,} hourly rollups and {verified.records:,} usage records"
    if verified.pruned_before is None:
        return said
    return f"{said} (what is older than {verified.pruned_before:%Y-%m-%d %H:%M} UTC is pruned)"
