"""`manage.py addpoekey NAME`: stores a Poe key, which comes on standard input, never on the command line."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError, transaction

from accounts.management.refusals import require_migrated_database, sentence
from accounts.models import Team
from relay.importing import proxy_url, why_not_a_poe_key
from relay.management.poe_keys import by_secret
from relay.models import PoeAccount, PoeKey
from relay.pool import keeping

LONGEST_SECRET = 1000
NAMES = {"name": "NAME", "priority": "--priority", "weight": "--weight", "proxy": "--proxy"}


class Command(BaseCommand):
    help = "Stores a Poe key under a name. Its secret is read from standard input: addpoekey main < key.txt"
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument(
            "--account", help="the Poe account that it belongs to, made if new (default: NAME)"
        )
        parser.add_argument("--team", help="a new account's team; without it all teams share the account")
        parser.add_argument(
            "--priority", type=int, metavar="N", help="keys of a higher priority are asked first"
        )
        parser.add_argument(
            "--weight", type=int, metavar="N", help="its share among keys of the same priority"
        )
        parser.add_argument("--proxy", metavar="URL", help="outbound proxy, such as socks5://127.0.0.1:1080")
        parser.add_argument(
            "--replace", action="store_true", help="put a new secret into the key of this name"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        require_migrated_database()
        old = PoeKey.objects.select_related("account").filter(name=options["name"]).first()
        if old and not options["replace"]:
            raise CommandError(
                f"a Poe key named {old.name} exists already: --replace puts a new secret into it."
            )
        secret = _read_secret()
        twin = by_secret().get(secret)
        if twin and twin.name != options["name"]:
            raise CommandError(f"this Poe key is stored already, as {twin.name}.")
        try:
            with transaction.atomic():
                key = _store(old or PoeKey(name=options["name"]), secret, options)
        except IntegrityError:
            raise CommandError(
                "somebody else stored that key or account at this moment: run it again."
            ) from None
        if old:
            keeping.revive("key", key.pk, "a new secret was stored")
        did = "replaced in" if old else "added to"
        asleep = "" if key.enabled and key.account.enabled else " It is disabled: nobody is served by it yet."
        self.stdout.write(f"{key} {did} the account {key.account}.{asleep}")


def _read_secret() -> str:
    try:
        if sys.stdin.isatty():
            secret = getpass.getpass("Poe key (it is not shown): ")
        else:
            secret = sys.stdin.read(LONGEST_SECRET + 1)
    except UnicodeDecodeError:
        raise CommandError("standard input is not text.") from None
    secret = secret.strip()
    if not secret:
        raise CommandError(
            "the Poe key is read from standard input, and there was none: addpoekey NAME < key.txt"
        )
    reason = "it is too long" if len(secret) > LONGEST_SECRET else why_not_a_poe_key(secret)
    if reason:
        raise CommandError(f"this is no Poe key: {reason}.")
    return secret


def _store(key: PoeKey, secret: str, options: dict[str, Any]) -> PoeKey:
    if key._state.adding or options["account"] is not None:
        key.account = _account(options["account"] or options["name"], options["team"])
    elif options["team"] is not None:
        _same_team(key.account, options["team"])
    for field in ("priority", "weight"):
        if options[field] is not None:
            setattr(key, field, options[field])
    if options["proxy"] is not None:
        key.proxy = proxy_url(options["proxy"])
    key.store(secret)
    try:
        key.full_clean()
    except ValidationError as exc:
        raise CommandError(sentence(exc, NAMES)) from None
    except ValueError as exc:
        # What urlsplit says of an address such as http://[
        raise CommandError(f"--proxy: {exc}.") from None
    key.save()
    return key


def _account(name: str, team: str | None) -> PoeAccount:
    account = PoeAccount.objects.filter(name=name).first()
    if account is None:
        return _new_account(name, team)
    if account.is_demo:
        raise CommandError(f"the account {name} is the demo server's: name another one with --account.")
    if team is not None:
        _same_team(account, team)
    return account


def _same_team(account: PoeAccount, team: str) -> None:
    if account.team is None or account.team.name != team:
        owner = f"the team {account.team}" if account.team else "all teams"
        raise CommandError(
            f"the account {account} belongs to {owner} already; change it in the administration."
        )


def _new_account(name: str, team_name: str | None) -> PoeAccount:
    team = Team.objects.filter(name=team_name).first() if team_name is not None else None
    if team_name is not None and team is None:
        raise CommandError(f"there is no team {team_name!r}; `createtoken USER --team NAME` makes one.")
    account = PoeAccount(name=name, team=team)
    try:
        account.full_clean()
    except ValidationError as exc:
        raise CommandError(sentence(exc, {"name": "--account"})) from None
    account.save()
    return account
