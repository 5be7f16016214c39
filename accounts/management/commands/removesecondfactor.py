"""`manage.py removesecondfactor USER`: for an administrator who lost the phone and the recovery codes."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import second_factor
from accounts.management.refusals import require_migrated_database
from accounts.models import User


class Command(BaseCommand):
    help = "Takes somebody's second factor away, when the phone is lost and the recovery codes are too."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", metavar="USER")

    def handle(self, *args: Any, **options: Any) -> None:
        require_migrated_database()
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f'there is no user "{options["user"]}".')
        if not second_factor.remove(user, by="a command"):
            raise CommandError(f"{user} has no second factor.")
        self.stdout.write(f"{user} signs in with the password alone now.")
