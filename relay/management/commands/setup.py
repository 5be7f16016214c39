"""`manage.py setup`: everything a new installation needs before it can serve. Changes nothing the second time."""

from __future__ import annotations

import hashlib
import secrets
from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, transaction

from accounts.management.refusals import first_line, lacks_migrations
from accounts.models import AccessToken, User
from proxy_site import config as configuration
from relay.models import BotMapping, PoeAccount, PoeKey

DEMO_BOTS = (
    "Demo-Echo",
    "Demo-Thinker",
    "Demo-Replacer",
    "Demo-Painter",
    "Demo-Filmer",
    "Demo-Speaker",
    "Demo-Tools",
    "Demo-Faulty",
)
DEMO_NAME = "demo"


@dataclass(frozen=True, slots=True)
class FirstSetup:
    """What is shown once, after the first setup."""

    username: str
    password: str
    token: str


def prepare(*, demo: bool) -> FirstSetup | None:
    """Bring files and database up to date; the secrets of a first setup, or None if there was one before.

    Raises CommandError with one sentence if the database cannot be used.
    """
    try:
        return _prepare(demo=demo)
    except DatabaseError as exc:
        raise CommandError(f"the database cannot be used: {first_line(exc)}.") from None


def _prepare(*, demo: bool) -> FirstSetup | None:
    config = settings.CONFIG
    configuration.encryption_key(config)
    _migrate()
    _collect_static()
    with transaction.atomic():
        first = None if User.objects.filter(is_superuser=True).exists() else _first_setup(demo=demo)
    _keep_demo_address()
    return first


def _migrate() -> None:
    if lacks_migrations():
        call_command("migrate", interactive=False, verbosity=0)


def _collect_static() -> None:
    """Only when the code or its packages have changed: hashing every file takes seconds."""
    stamp = settings.STATIC_ROOT / ".collected"
    requirements = (settings.BASE_DIR / "requirements.txt").read_bytes()
    own = b"".join(
        str(path.stat().st_mtime_ns).encode() for path in sorted(settings.BASE_DIR.glob("*/static/**/*"))
    )
    current = hashlib.sha256(requirements + own).hexdigest()
    if stamp.exists() and stamp.read_text() == current:
        return
    call_command("collectstatic", interactive=False, verbosity=0)
    stamp.write_text(current)


def _first_setup(*, demo: bool) -> FirstSetup:
    password = secrets.token_urlsafe(15)
    admin = User.objects.create_superuser("admin", password=password)
    _token, plain = AccessToken.objects.issue(admin, "first token")
    if not BotMapping.objects.exists():
        for model, bot in (settings.CONFIG.bot or configuration.example_bots()).items():
            BotMapping.objects.get_or_create(
                model_key=model.casefold(), defaults={"model": model, "bot": bot}
            )
    if demo:
        _add_demo()
    return FirstSetup(admin.username, password, plain)


def demo_url() -> str:
    return f"http://127.0.0.1:{settings.CONFIG.demo.port}"


def _add_demo() -> None:
    """The demo Poe server as an account of its own: no real key ever goes to it, and it serves its mappings only."""
    # 500 requests a minute are Poe's limit, and the demo server is not Poe.
    account = PoeAccount.objects.create(
        name=DEMO_NAME, is_demo=True, requests_per_minute=100_000, **_demo_addresses()
    )
    key = PoeKey(account=account, name=DEMO_NAME)
    key.store(configuration.demo_key(settings.CONFIG))
    key.save()
    for bot in DEMO_BOTS:
        BotMapping.objects.create(model=bot.lower(), bot=bot, account=account)


def _demo_addresses() -> dict[str, str]:
    return {"base_url": f"{demo_url()}/bot/", "upload_url": f"{demo_url()}/poe_api/", "api_url": demo_url()}


def _keep_demo_address() -> None:
    """The demo server's port may have changed in config.toml since."""
    addresses = _demo_addresses()
    PoeAccount.objects.filter(is_demo=True).exclude(**addresses).update(**addresses)


class Command(BaseCommand):
    help = "Prepare the data directory, the database, an administrator, a first access token and the default mappings."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--demo", action="store_true", help="with the demo Poe server's account and mappings"
        )

    def handle(self, *args: Any, demo: bool, **options: Any) -> None:
        first = prepare(demo=demo)
        if first is None:
            self.stdout.write("Set up already: nothing changed.")
            return
        self.stdout.write(
            f"Administrator: {first.username}\nPassword: {first.password}\nAccess token: {first.token}"
        )
        self.stdout.write("They are shown this once.")
