"""`manage.py demopoe`: a Poe server for trying the relay without a Poe account. It needs no database."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from proxy_site import config
from relay.demo.account import read_catalogue
from relay.demo.server import CannotListen, serve


def catalogue(path: str) -> list[dict[str, Any]]:
    try:
        return read_catalogue(Path(path))
    except (OSError, ValueError, KeyError, TypeError):
        raise ArgumentTypeError(f'{path!r} is no catalogue: a file of {{"data": [...]}} is wanted') from None


class Command(BaseCommand):
    help = "Serve the demo Poe server: bots that echo, think, paint, call tools and fail on request."
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        parser.add_argument(
            "--port", type=int, help="port to listen on (default: demo.port of the configuration)"
        )
        parser.add_argument(
            "--with-parent", action="store_true", help="stop when the process that started this one is gone"
        )

        parser.add_argument(
            "--catalogue",
            type=catalogue,
            default=(),
            metavar="FILE",
            help="list these models too, of a file as Poe's /v1/models answers",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configuration = config.get()
        port = configuration.demo.port if options["port"] is None else options["port"]
        try:
            serve(
                config.demo_key(configuration),
                host=options["host"],
                port=port,
                ready=self._tell,
                with_parent=options["with_parent"],
                catalogue=options["catalogue"],
            )
        except CannotListen as exc:
            raise CommandError(str(exc)) from None

    def _tell(self, url: str) -> None:
        self.stdout.write(f"The demo Poe server listens on {url}")
        self.stdout.flush()
