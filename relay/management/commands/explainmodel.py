"""`manage.py explainmodel MODEL [--token-prefix P]`: which mapping, bot and keys answer, and why not."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.management.refusals import require_migrated_database
from relay import mappings, pool
from relay.directory import Caller, Directory, matches
from relay.errors import Forbidden, RelayError, Unauthenticated
from relay.events import ChatRequest
from relay.limits import UNLIMITED


class Command(BaseCommand):
    help = "Say which mapping, bot and Poe keys answer a model for a token, and why not."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model")
        parser.add_argument(
            "--token-prefix", default="", help="as shown in the panel; empty: a token without limits"
        )

    def handle(self, *args: Any, model: str, token_prefix: str, **options: Any) -> None:
        require_migrated_database()
        directory = Directory()
        asyncio.run(directory.load())
        try:
            self.stdout.write("\n".join(explain(directory, model, token_prefix)))
        finally:
            directory.close()


def explain(directory: Directory, model: str, token_prefix: str) -> list[str]:
    """The steps of a request, in words; the last line says what would happen."""
    caller, lines = _caller(directory, token_prefix)
    if caller is None:
        return lines
    exact = directory.find_exact(model)
    for mapping in [exact] if exact else directory.find_wildcards(model):
        if mapping.team_ids and caller.team_id not in mapping.team_ids:
            lines.append(f"mapping {mapping.model!r} -> {mapping.bot!r}: not for team {caller.team_name!r}")
        elif caller.allowed_models and not matches(model, caller.allowed_models):
            lines.append(
                f"mapping {mapping.model!r}: the token allows only {', '.join(caller.allowed_models)}"
            )
        else:
            lines.append(f"mapping {mapping.model!r}: fits")
    lines += [
        f"mapping {m.model!r}: disabled"
        for m in directory.mappings.values()
        if not m.enabled and matches(model, [m.model])
    ]
    try:
        found = mappings.resolve(directory, model, caller)
        lines.append(f"bot: {found.bot}")
        if found.parameters:
            lines.append(f"default parameters: {found.parameters}")
        chat = ChatRequest(model=model, messages=())
        keys = pool.order(directory, found, caller, pool.conversation_of(caller, chat))
        for place, key in enumerate(keys, 1):
            account = directory.accounts[key.account_id]
            lines.append(
                f"Poe key {place}: {key.name} of {account.name}, priority {key.priority}, weight {key.weight}"
            )
        lines.append("answer: would be asked")
    except RelayError as exc:
        lines.append(f"answer: {exc.status} {exc.code}: {exc.message}")
    return lines


def _caller(directory: Directory, token_prefix: str) -> tuple[Caller | None, list[str]]:
    if not token_prefix:
        nobody = Caller(
            version=directory.version,
            token_id=0,
            token_prefix="",
            user_id=0,
            user_name="",
            team_id=0,
            team_name="(none)",
            time_zone="UTC",
            is_superuser=True,
            allowed_models=(),
            limits=(UNLIMITED, UNLIMITED, UNLIMITED),
        )
        return nobody, ["token: none named, taken as one without limits"]
    prefix = token_prefix.rstrip("…")
    found = [token for token in directory.tokens.values() if token.prefix.startswith(prefix)]
    if len(found) != 1:
        raise CommandError(
            f"{len(found)} access tokens begin with {prefix}: name one by its first characters."
        )
    token = found[0]
    user = directory.users[token.owner_id]
    line = f"token: {token.prefix}… of {user.name}, team {directory.teams[user.team_id].name}"
    try:
        caller = directory.caller_of(token, address=None)
    except (Unauthenticated, Forbidden) as exc:
        return None, [line, f"answer: {exc.status} {exc.code}: {exc.message}"]
    return caller, [line]
