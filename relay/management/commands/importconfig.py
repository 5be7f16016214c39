"""`manage.py importconfig FILE`: takes over an installation of poe-to-gpt or poe-openai-proxy.

First everything is planned, which shows what is there already and what cannot be stored; then one short
transaction stores the plan. What is there already is never changed, so a second run finds nothing to do.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError, transaction

from accounts.management.refusals import require_migrated_database, sentence
from accounts.models import AccessToken, User, token_digest
from proxy_site import config
from relay.importing import FORMER_NAMES, OldConfig, OldConfigError, read, shown, without_password
from relay.management.poe_keys import by_secret
from relay.models import BotMapping, PoeAccount, PoeKey

OWNER = "imported"


@dataclass(slots=True)
class Report:
    """What is told at the end, by section."""

    took: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is new."""

    keys: list[PoeKey]
    mappings: list[BotMapping]
    access_tokens: list[str]

    def __bool__(self) -> bool:
        return bool(self.keys or self.mappings or self.access_tokens)


class Command(BaseCommand):
    help = (
        "Takes over Poe keys, access tokens and mappings from the config.toml or .env of poe-to-gpt or "
        "poe-openai-proxy. The file is only read. Running it twice changes nothing."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="the old config.toml or .env")

    def handle(self, *args: Any, **options: Any) -> None:
        require_migrated_database()
        path = Path(options["file"])
        try:
            old = read(path)
        except OldConfigError as exc:
            raise CommandError(str(exc)) from None
        report = Report(ignored=list(old.ignored))
        proxy = _usable_proxy(old, report)
        plan = Plan(
            _new_keys(old, proxy, report), _new_mappings(old, report), _new_access_tokens(old, report)
        )
        report.by_hand += old.warnings
        # A proxy goes with the keys of the file; without any it is still worth to keep.
        _lines_for_config(old, "" if old.poe_keys else proxy, report)
        if plan:
            try:
                with transaction.atomic():
                    _store(plan, report)
            except IntegrityError:
                raise CommandError(
                    "somebody else changed the same things at this moment: run it again."
                ) from None
        self._tell(path, report)

    def _tell(self, path: Path, report: Report) -> None:
        if not report.took:
            self.stdout.write(f"Nothing changed: {path} has nothing that is new here.")
        for title, lines in (
            ("took", report.took),
            ("kept as it is", report.kept),
            ("ignored", report.ignored),
            ("by hand", report.by_hand),
        ):
            if lines:
                self.stdout.write(f"{title}:")
                for line in lines:
                    self.stdout.write(f"  {line}")


# Poe keys.


def _new_keys(old: OldConfig, proxy: str, report: Report) -> list[PoeKey]:
    stored = by_secret()
    names = _free_names("imported-", PoeKey.objects.values_list("name", flat=True))
    new = []
    for secret in old.poe_keys:
        if secret in stored:
            report.kept.append(f"Poe key {shown(secret)}, stored already as {stored[secret].name}")
            continue
        key = PoeKey(name=next(names), proxy=proxy, requests_per_minute=old.rate_limit)
        key.store(secret)
        report.took.append(f"Poe key {shown(secret)} as {key.name}{_with(key)}")
        new.append(key)
    if not old.poe_keys and old.rate_limit is not None:
        report.ignored.append("rate-limit: it belongs to a Poe key, and no Poe key of the file can be used")
    return new


def _with(key: PoeKey) -> str:
    rate = [f"{key.requests_per_minute} requests per minute"] if key.requests_per_minute else []
    proxy = [f"proxy {without_password(key.proxy)}"] if key.proxy else []
    return f", with {' and '.join(rate + proxy)}" if rate or proxy else ""


def _usable_proxy(old: OldConfig, report: Report) -> str:
    if not old.proxy:
        return ""
    try:
        others = {key_field.name for key_field in PoeKey._meta.fields} - {"proxy"}
        PoeKey(proxy=old.proxy).clean_fields(exclude=others)
    except ValidationError as exc:
        report.ignored.append(sentence(exc))
        return ""
    except ValueError:
        # What urlsplit says of an address such as http://[
        report.ignored.append("proxy: not an address")
        return ""
    return old.proxy


def _free_names(stem: str, taken: Iterable[str]) -> Iterator[str]:
    used = set(taken)
    return (name for name in (f"{stem}{number}" for number in count(1)) if name not in used)


# Mappings.


def _new_mappings(old: OldConfig, report: Report) -> list[BotMapping]:
    stored = {mapping.model_key: mapping for mapping in BotMapping.objects.all()}
    new = []
    for model, bot in old.bots:
        mapping = stored.get(model.casefold())
        if mapping is not None:
            report.kept += _kept_mapping(mapping, model, bot, old.simulate_roles)
            report.by_hand += _former_name(model, mapping.bot)
            continue
        mapping = BotMapping(model=model, bot=bot, simulate_roles=old.simulate_roles or "off")
        try:
            mapping.full_clean()
        except ValidationError as exc:
            report.ignored.append(f"{model[:60]!r} -> {bot[:60]!r}: {sentence(exc)}")
            continue
        report.took.append(f"{model} -> {bot}")
        report.by_hand += _former_name(model, bot)
        new.append(mapping)
    if not old.bots and old.simulate_roles:
        report.ignored.append("simulate-roles: it belongs to a mapping, and the file has none")
    elif new and old.simulate_roles:
        report.took.append(f"simulate roles of these mappings: {old.simulate_roles}")
    return new


def _kept_mapping(mapping: BotMapping, model: str, bot: str, simulate_roles: str) -> list[str]:
    if mapping.bot != bot:
        return [f"{model} -> {mapping.bot}, since it exists already (the file says {bot})"]
    if simulate_roles and mapping.simulate_roles != simulate_roles:
        return [f"{model} -> {bot}, since it exists already (the file simulates roles: {simulate_roles})"]
    return [f"{model} -> {bot}"]


def _former_name(model: str, bot: str) -> list[str]:
    if bot not in FORMER_NAMES:
        return []
    return [
        f"{model} -> {bot}: {bot} was the name of {FORMER_NAMES[bot]} inside of Poe's former web site; "
        f"name a bot of today with `manage.py setmapping {model} BOT`"
    ]


# Access tokens.


def _new_access_tokens(old: OldConfig, report: Report) -> list[str]:
    by_digest = {token_digest(token): token for token in old.access_tokens}
    stored = {
        token.digest: token
        for token in AccessToken.objects.filter(digest__in=by_digest).select_related("owner")
    }
    new = []
    for digest, plain in by_digest.items():
        token = stored.get(digest)
        if token is None:
            new.append(plain)
            continue
        dead = (
            ", which is disabled"
            if not token.enabled
            else ", which has expired"
            if token.is_expired()
            else ""
        )
        report.kept.append(
            f"access token {shown(plain)}, stored already as {token.name!r} of {token.owner}{dead}"
        )
    return new


# What belongs into config.toml, which is never edited from here.


def _lines_for_config(old: OldConfig, proxy: str, report: Report) -> None:
    poe = {
        "proxy": proxy or None,
        "idle_seconds": old.idle_seconds,
        "first_event_seconds": old.first_event_seconds,
    }
    lines = []
    for section, wanted in (("server", {"port": old.port}), ("poe", poe)):
        now = getattr(config.get(), section)
        given = {key: value for key, value in wanted.items() if value is not None}
        report.kept += [
            _line(f"{section}.{key}", value) for key, value in given.items() if value == getattr(now, key)
        ]
        missing = [_line(key, value) for key, value in given.items() if value != getattr(now, key)]
        lines += [f"  [{section}]", *(f"  {line}" for line in missing)] if missing else []
    if lines:
        report.by_hand += ["add to config.toml:", *lines]
    if config.get().server.host in ("127.0.0.1", "::1", "localhost"):
        report.by_hand.append(
            "the old program listened on every address and the relay listens on this machine's own: "
            'if other machines ask it, add host = "0.0.0.0" under [server]'
        )


def _line(key: str, value: str | float) -> str:
    if not isinstance(value, str):
        return f"{key} = {value:g}"
    told = without_password(value)
    return f'{key} = "{told}"' + ("" if told == value else "  # with its password, which is not shown here")


# The one transaction.


def _store(plan: Plan, report: Report) -> None:
    if plan.keys:
        account, _ = PoeAccount.objects.get_or_create(name=OWNER)
        for key in plan.keys:
            key.account = account
            key.save()
    for mapping in plan.mappings:
        mapping.save()
    if plan.access_tokens:
        _store_access_tokens(plan.access_tokens, report)


def _store_access_tokens(access_tokens: list[str], report: Report) -> None:
    owner = User.objects.filter(username=OWNER).first() or User.objects.create_user(OWNER)
    names = _free_names("imported ", AccessToken.objects.filter(owner=owner).values_list("name", flat=True))
    for plain in access_tokens:
        token = AccessToken.objects.adopt(plain, owner, next(names))
        report.took.append(f"access token {shown(plain)} as {token.name!r} of {owner}")
