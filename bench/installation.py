"""A relay's database for the bench: one person, one Poe key, mappings to the mock upstream's bots, no limits.

Runs as a process of its own (`python -m bench.installation ...`), since Django's settings belong to one data directory.
"""

from __future__ import annotations

import json
import os
import sys

# Poe's own limits must not be what is measured.
UNLIMITED = 1_000_000_000


def store(base_url: str, bots: list[str]) -> str:
    """Fill a migrated database; the access token."""
    from accounts.models import AccessToken, User
    from relay.models import BotMapping, PoeAccount, PoeKey

    user = User.objects.create_user("bench")
    _token, plain = AccessToken.objects.issue(user, "bench")
    account = PoeAccount.objects.create(name="mock", base_url=base_url, requests_per_minute=UNLIMITED)
    key = PoeKey(account=account, name="mock", requests_in_flight=UNLIMITED)
    key.store("mock-0123456789abcdef0123456789")
    key.save()
    for bot in bots:
        BotMapping.objects.create(model=bot, bot=bot)
    return plain


def outcomes() -> dict[str, int]:
    """How many usage records there are of each outcome; the error is named with it."""
    from django.db.models import Count

    from relay.models import UsageRecord

    rows = UsageRecord.objects.order_by().values_list("outcome", "error_code").annotate(Count("id"))
    return {f"{outcome} ({error})" if error else str(outcome): int(number) for outcome, error, number in rows}


def main(arguments: list[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    import django
    from django.core.management import call_command

    django.setup()
    if arguments == ["outcomes"]:
        print(json.dumps(outcomes()))
        return
    base_url, *bots = arguments
    call_command("migrate", interactive=False, verbosity=0)
    print(json.dumps(store(base_url, bots)))


if __name__ == "__main__":
    main(sys.argv[1:])
