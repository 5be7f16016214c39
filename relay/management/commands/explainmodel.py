"""`manage.py explainmodel MODEL [--token-prefix P]`: which mapping, bot and keys answer, and why not."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from accounts.management.refusals import require_migrated_database
from accounts.models import AccessToken
from relay.explaining import explain, lines


class Command(BaseCommand):
    help = "Say which mapping, bot and Poe keys answer a model for a token, and why not."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model")
        parser.add_argument(
            "--token-prefix", default="", help="as shown in the panel; empty: a token without limits"
        )

    def handle(self, *args: Any, model: str, token_prefix: str, **options: Any) -> None:
        require_migrated_database()
        token = _token(token_prefix.rstrip("…")) if token_prefix else None
        self.stdout.write("\n".join(lines(explain(settings.CONFIG, model, token))))


def _token(prefix: str) -> AccessToken:
    # SQLite takes upper and lower case for the same.
    likely = AccessToken.objects.filter(prefix__startswith=prefix)
    found = [token for token in likely if token.prefix.startswith(prefix)]
    if len(found) != 1:
        raise CommandError(
            f"{len(found)} access tokens begin with {prefix}: name one by its first characters."
        )
    return found[0]
