"""`manage.py setmapping MODEL BOT`: which Poe bot answers for a model."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError

from accounts.management.refusals import require_migrated_database, sentence
from relay import catalogue
from relay.management.poe_accounts import account_named
from relay.models import BotMapping

NAMES = {"model": "MODEL", "bot": "BOT"}


class Command(BaseCommand):
    help = "Makes or changes the mapping of a model to a Poe bot. It counts from the next request on."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="the name that clients ask for, such as gpt-4o")
        parser.add_argument("bot", metavar="BOT", help="the handle of the bot on Poe, such as GPT-4o")
        parser.add_argument(
            "--hidden",
            action=BooleanOptionalAction,
            default=None,
            help="answers, but is not listed (or is again)",
        )
        parser.add_argument(
            "--disabled", action=BooleanOptionalAction, default=None, help="does not answer (or does again)"
        )
        parser.add_argument(
            "--account", help='asked only with the keys of this Poe account; "" for any account'
        )

    def handle(self, *args: Any, **options: Any) -> None:
        require_migrated_database()
        # Models do not differ by case alone.
        model = options["model"].strip()
        mapping = BotMapping.objects.filter(model_key=model.casefold()).first()
        before = _state(mapping) if mapping else {}
        mapping = mapping or BotMapping(model=model)
        _fill(mapping, options)
        after = _state(mapping)
        if after != before:
            _save(mapping)
        self.stdout.write(f"{mapping.model} -> {mapping.bot} ({_what_happened(before, after)})")


def _fill(mapping: BotMapping, options: dict[str, Any]) -> None:
    mapping.bot = options["bot"].strip()
    if options["hidden"] is not None:
        mapping.hidden = options["hidden"]
    if options["disabled"] is not None:
        mapping.enabled = not options["disabled"]
    if options["account"] is not None:
        mapping.account = account_named(options["account"]) if options["account"] else None


def _save(mapping: BotMapping) -> None:
    try:
        mapping.full_clean()
        catalogue.fill(mapping)
        mapping.save()
    except ValidationError as exc:
        raise CommandError(sentence(exc, NAMES)) from None
    except IntegrityError:
        raise CommandError("somebody else made this mapping at this moment: run it again.") from None


def _state(mapping: BotMapping) -> dict[str, str]:
    return {
        "bot": mapping.bot,
        "hidden": "hidden" if mapping.hidden else "listed",
        "enabled": "enabled" if mapping.enabled else "disabled",
        "account": f"account {mapping.account}" if mapping.account else "any account",
    }


def _what_happened(before: dict[str, str], after: dict[str, str]) -> str:
    if not before:
        return "new"
    if before == after:
        return "unchanged"
    changes = [value for name, value in after.items() if name != "bot" and value != before[name]]
    if before["bot"] != after["bot"]:
        changes.insert(0, f"changed from {before['bot']}")
    else:
        changes[0] = f"changed: {changes[0]}"
    return ", ".join(changes)
