"""`manage.py run`, which `make run` calls: sets up what is missing, starts the demo Poe server, serves."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection

from accounts.management.refusals import first_line, lacks_migrations
from accounts.models import User
from proxy_site import metrics
from proxy_site.config import Workers
from proxy_site.workers import Supervisor
from relay.checks import plain_http_warning
from relay.management.commands.serve import (
    add_address,
    address_of,
    listen,
    serve,
    supervised,
    worker_command,
)
from relay.management.commands.setup import FirstSetup, prepare
from relay.models import PoeAccount

DEMO_START_SECONDS = 20


class Command(BaseCommand):
    help = "Set up what is missing and serve, with the demo Poe server beside it."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_address(parser)

    def handle(self, *args: Any, host: str, port: int, workers: Workers, **options: Any) -> None:
        listening = listen(host, port)
        if warning := plain_http_warning(host, settings.CONFIG.public_url):
            self.stderr.write(warning)
        # Before anything is made: what stops the start later must not lose the secrets of a first setup.
        refuse_busy_demo_port()
        first = prepare(demo=True)
        has_demo = PoeAccount.objects.filter(is_demo=True, enabled=True).exists()
        demo = _start_demo() if has_demo else None
        address = settings.CONFIG.server.public_url or address_of(host, port)

        def ready() -> None:
            self._ready(address, first, demo)

        try:
            if number := supervised(workers):
                connection.close()
                metrics.prepare(settings.CONFIG.data_dir / "metrics")
                command = worker_command()
                sys.exit(Supervisor(command, listening, number, ready=ready, gone=metrics.forget).run())
            serve(listening, ready)
        finally:
            if demo is not None:
                demo.kill()
                demo.wait()
            if first is not None and not self._has_said:
                self._say(address, first, demo)

    def _ready(self, address: str, first: FirstSetup | None, demo: subprocess.Popen[bytes] | None) -> None:
        if demo is not None and not _accepts(demo):
            self.stderr.write("The demo Poe server did not start: `manage.py demopoe` says why.")
        self._say(address, first, demo)

    _has_said = False

    def _say(self, address: str, first: FirstSetup | None, demo: subprocess.Popen[bytes] | None) -> None:
        self._has_said = True
        say = self.stdout.write
        say(f"\npoe-relay is running on {address}  (Ctrl-C stops it)\n")
        say(f"  Panel         {address}/admin/")
        if first is None:
            say(f"  Apps connect  {address}/v1\n")
            return
        model = "demo-echo" if demo is not None else "gpt-4o"
        say(f"  Sign in as    {first.username}")
        say(f"  Password      {first.password}")
        say(f"  Access token  {first.token}")
        say("                Both are shown this once: keep them.\n")
        say("Try it:\n")
        say(
            f"  curl {address}/v1/chat/completions -H 'Authorization: Bearer {first.token}' "
            f"-H 'Content-Type: application/json' "
            f'-d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello there"}}]}}\'\n'
        )
        say(f"Next: store your Poe key (from poe.com/api/keys) at {address}/admin/relay/poekey/add/")
        say(f"and put {address}/v1 with the access token into Chatbox, LobeChat or any OpenAI client.\n")


def refuse_busy_demo_port() -> None:
    port = settings.CONFIG.demo.port
    try:
        accounts = PoeAccount.objects.filter(is_demo=True)
        wanted = (
            lacks_migrations() or accounts.exists() or not User.objects.filter(is_superuser=True).exists()
        )
    except DatabaseError as exc:
        raise CommandError(f"the database cannot be used: {first_line(exc)}.") from None
    if not wanted:
        return
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        raise CommandError(
            f"port {port} is in use, which the demo Poe server needs: stop what listens there "
            f"(`ss -ltnp sport = :{port}`) or set demo.port (POE_RELAY_DEMO__PORT) to another."
        ) from None


def _start_demo() -> subprocess.Popen[bytes]:
    """The demo server as a child of this process; it starts while the relay does."""
    port = settings.CONFIG.demo.port
    manage = str(settings.BASE_DIR / "manage.py")
    command = [sys.executable, manage, "demopoe", "--port", str(port), "--with-parent"]
    # A session of its own: Ctrl-C reaches this process alone, which stops the child when it is done with it.
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def _accepts(demo: subprocess.Popen[bytes]) -> bool:
    """Whether the demo server accepts connections, once it does or has given up."""
    deadline = time.monotonic() + DEMO_START_SECONDS
    while time.monotonic() < deadline and demo.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", settings.CONFIG.demo.port)) == 0:
                return True
        time.sleep(0.02)
    return False
