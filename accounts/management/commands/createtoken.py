"""`manage.py createtoken USER`: an access token for a person, who is made if new."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.management.refusals import require_migrated_database, sentence
from accounts.models import AccessToken, Team, User
from accounts.presets import LONGEST_DAYS

# The fields of a token and the options that fill them.
LIMITS = {
    "requests_per_minute": "rpm",
    "tokens_per_minute": "tpm",
    "requests_in_flight": "concurrency",
    "points_per_day": "points_per_day",
    "points_per_month": "points_per_month",
}
NAMES = {field: "--" + option.replace("_", "-") for field, option in LIMITS.items()}
NAMES |= {"allowed_models": "--models", "name": "--name"}


class Command(BaseCommand):
    help = (
        "Makes an access token and prints it once. Standard output holds the token alone, "
        "so that TOKEN=$(manage.py createtoken bob) works. The user is made if new."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", metavar="USER")
        parser.add_argument("--team", help="the user's team, made if new; for a new user: the default team")
        parser.add_argument("--name", default="default", help="where the token is used (default: default)")
        parser.add_argument("--rpm", type=int, metavar="N", help="requests per minute")
        parser.add_argument("--tpm", type=int, metavar="N", help="tokens per minute, prompt and answer")
        parser.add_argument("--concurrency", type=int, metavar="N", help="requests at the same time")
        parser.add_argument("--points-per-day", type=int, metavar="N", help="Poe points per day")
        parser.add_argument("--points-per-month", type=int, metavar="N", help="Poe points per month")
        parser.add_argument(
            "--models", metavar="a,b", help="only these models; wildcards such as claude-* count"
        )
        parser.add_argument("--expires-days", type=int, metavar="N", help="the token ends after so many days")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of the token")

    def handle(self, *args: Any, **options: Any) -> None:
        require_migrated_database()
        fields = _fields(options)
        try:
            with transaction.atomic():
                owner = _owner(options["user"], options["team"])
                token, plain = _issue(owner, options["name"], fields)
        except IntegrityError:
            raise CommandError(
                "somebody else made the same user or team at this moment: run it again."
            ) from None
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(token, plain), ensure_ascii=False))
            return
        self.stderr.write(
            f"Access token {token.name!r} of {owner} (team {owner.team}). It is shown only now: keep it."
        )
        self.stdout.write(plain)


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {field: options[option] for field, option in LIMITS.items()}
    fields["allowed_models"] = _models(options["models"])
    fields["expires_at"] = _expiry(options["expires_days"])
    return fields


def _models(value: str | None) -> list[str]:
    if value is None:
        return []
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        # An empty list would mean all models, the opposite of what was typed.
        raise CommandError(f"--models: {value!r} names no model; leave it out to allow all.")
    return names


def _expiry(days: int | None) -> datetime | None:
    if days is None:
        return None
    if not 1 <= days <= LONGEST_DAYS:
        raise CommandError(f"--expires-days: {days} is not from 1 to {LONGEST_DAYS}.")
    return timezone.now() + timedelta(days=days)


def _owner(username: str, team_name: str | None) -> User:
    username = User.normalize_username(username)
    user = User.objects.select_related("team").filter(username=username).first()
    if user is None:
        return _new_user(username, _team(team_name))
    if team_name is not None and user.team.name != team_name:
        raise CommandError(f"{username} is in the team {user.team} already, and nobody is in two teams.")
    if not user.is_active:
        raise CommandError(f"{username} is not active: a token of this user would be refused.")
    return user


def _team(name: str | None) -> Team:
    if name is None:
        return Team.objects.default()
    team = Team.objects.filter(name=name).first() or Team(name=name)
    if team._state.adding:
        try:
            team.full_clean()
        except ValidationError as exc:
            raise CommandError(sentence(exc, {"name": "--team"})) from None
        team.save()
    return team


def _new_user(username: str, team: Team) -> User:
    try:
        User(username=username, team=team).full_clean(exclude=["password"])
    except ValidationError as exc:
        raise CommandError(sentence(exc, {"username": "USER"})) from None
    # No password: this user cannot sign in to the portal until an administrator gives one.
    return User.objects.create_user(username, team=team)


def _issue(owner: User, name: str, fields: dict[str, Any]) -> tuple[AccessToken, str]:
    try:
        AccessToken(owner=owner, name=name, **fields).full_clean(exclude=["digest", "prefix"])
    except ValidationError as exc:
        raise CommandError(sentence(exc, NAMES)) from None
    return AccessToken.objects.issue(owner, name, **fields)


def _as_json(token: AccessToken, plain: str) -> dict[str, Any]:
    return {
        "token": plain,
        "prefix": token.prefix,
        "user": token.owner.username,
        "team": token.team.name,
        "id": token.pk,
        "expires_at": token.expires_at.isoformat() if token.expires_at else None,
    }
