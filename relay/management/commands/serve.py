"""`manage.py serve`: the relay under the hardened Daphne."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from accounts.management.refusals import require_migrated_database
from proxy_site.config import Workers, number_of_workers
from proxy_site.memory import settle_memory
from proxy_site.workers import Seat, become_supervisor
from relay import counting
from relay.checks import plain_http_warning


def prepare_for_daphne() -> None:
    """Before Daphne is imported: it makes its event loop then, and loads TLS that nothing here uses (6 MB)."""
    sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]
    try:
        import uvloop
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def listen(host: str, port: int) -> socket.socket:
    """An open socket, or CommandError with one sentence that says what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except PermissionError:
        raise CommandError(f"port {port} needs root: choose one above 1023 with --port.") from None
    except OSError as exc:
        if isinstance(exc, socket.gaierror) or exc.errno == 99:
            raise CommandError(
                f"this machine has no address {host}: see `ip addr` and choose one with --host."
            ) from None
        raise CommandError(
            f"port {port} on {host} is in use: stop what listens there (`ss -ltnp sport = :{port}`) "
            "or choose another with --port."
        ) from None
    # Several workers wake up for one connection, and one of them gets it.
    listening.setblocking(False)
    return listening


def address_of(host: str, port: int) -> str:
    """What to open in a browser on this machine."""
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{here}:{port}"


def serve(listening: socket.socket, ready: Callable[[], None], seat: Seat | None = None) -> None:
    """Serve in this process until a signal; returns after the last request is settled."""
    prepare_for_daphne()
    # First: what loading it takes for a moment is used again by what is imported after it.
    counting.load()
    from proxy_site.asgi import application, metrics, relay
    from proxy_site.bodies import Bodies
    from proxy_site.server import RelayServer
    from relay.background import Background

    config = settings.CONFIG
    # Now, not with the first request: what a process left that died is put right first.
    try:
        relay.open()
    except OSError as exc:
        raise CommandError(
            f"{config.data_dir / 'spool'} cannot be written ({(exc.strerror or '').lower()}): what requests used is kept "
            "there while the database is away."
        ) from None
    background = Background(config, relay.videos.adopt)

    def begin() -> None:
        background.start()
        ready()

    async def end() -> None:
        try:
            await background.stop()
        finally:
            await relay.stop()
        metrics.sample()

    settle_memory()
    RelayServer(
        application,
        listening,
        bodies=Bodies.of(config.server, relay.directory.authenticate),
        drain_seconds=config.server.drain_seconds,
        drain_notice_seconds=config.server.drain_notice_seconds,
        seat=seat,
        at_exit=end,
        ready=begin,
    ).run()


def add_address(parser: ArgumentParser) -> None:
    """The options of every command that serves."""
    server = settings.CONFIG.server
    parser.add_argument("--host", default=server.host, help=f"address to listen on (default {server.host})")
    parser.add_argument(
        "--port", type=int, default=server.port, help=f"port to listen on (default {server.port})"
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        default=server.workers,
        metavar="N",
        help=f"how many processes serve; auto: one for each core (default {server.workers})",
    )


def _workers(written: str) -> Workers:
    try:
        return number_of_workers(written)
    except ValueError as exc:
        raise ArgumentTypeError(str(exc)) from None


def supervised(workers: Workers) -> int:
    """How many workers a supervisor runs; 0: this process serves by itself."""
    if workers == "auto":
        return len(os.sched_getaffinity(0))
    return workers if workers > 1 else 0


def worker_command() -> list[str]:
    return [sys.executable, str(settings.BASE_DIR / "manage.py"), "serve"]


class Command(BaseCommand):
    help = "Serve the relay, its panel and its portal."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_address(parser)
        # A worker's own, written by its supervisor.
        parser.add_argument("--seat", type=Seat.of, help=SUPPRESS)

    def handle(
        self, *args: Any, host: str, port: int, workers: Workers, seat: Seat | None, **options: Any
    ) -> None:
        # Until it is known what it means, and through exec: it would end the process, and asks for the opposite.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        listening = listen(host, port) if seat is None else seat.listening
        require_migrated_database()
        connection.close()
        if seat is not None:
            serve(listening, seat.is_ready, seat)
            return
        if warning := plain_http_warning(host, settings.CONFIG.public_url):
            self.stderr.write(warning)
        ready = f"poe-relay listens on {address_of(host, listening.getsockname()[1])}"
        if number := supervised(workers):
            become_supervisor(
                worker_command(), listening, number, text=ready, metrics=settings.CONFIG.data_dir / "metrics"
            )
        serve(listening, lambda: self.stdout.write(ready))
