"""The cast: Alice manages the physicists, Bob is one of them, Charlie must see nothing of it, Root administers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils import timezone

from accounts.models import AccessToken, Team, User
from relay.models import BotMapping, PoeAccount, PoeKey, UsageHour

PASSWORD = "correct horse battery staple"


@dataclass
class Person:
    user: User
    token: AccessToken
    plain: str


@dataclass
class Cast:
    physics: Team
    chemistry: Team
    alice: Person
    bob: Person
    charlie: Person
    root: Person


def person(username: str, team: Team, **fields: Any) -> Person:
    user = User.objects.create_user(username, password=PASSWORD, team=team, **fields)
    token, plain = AccessToken.objects.issue(user, f"{username}'s phone")
    return Person(user, token, plain)


def make() -> Cast:
    physics = Team.objects.create(name="Physics")
    chemistry = Team.objects.create(name="Chemistry")
    return Cast(
        physics=physics,
        chemistry=chemistry,
        alice=person("alice", physics, role=User.Role.MANAGER),
        bob=person("bob", physics),
        charlie=person("charlie", chemistry),
        root=person("root", physics, is_staff=True, is_superuser=True),
    )


def poe_key(secret: str = "poe-secret-0123456789", *, name: str = "key", **account: Any) -> PoeKey:
    # Poe's own limit is not what most tests are about.
    account = {"requests_per_minute": 1_000_000, **account}
    owner = PoeAccount.objects.create(name=account.pop("account_name", name), **account)
    key = PoeKey(account=owner, name=name, requests_in_flight=10_000)
    key.store(secret)
    key.save()
    return key


def mapping(model: str, bot: str, **fields: Any) -> BotMapping:
    return BotMapping.objects.create(model=model, bot=bot, **fields)


def used(who: Person, model: str, **sums: int) -> UsageHour:
    """An hour of the rollup in which this person asked this model."""
    named = ("id", "hour", "model", "bot")
    nothing = {column.name: 0 for column in UsageHour._meta.fields if column.name not in named}
    whose = {"team_id": who.user.team_id, "user_id": who.user.pk, "token_id": who.token.pk}
    return UsageHour.objects.create(
        **{**nothing, **whose, "requests": 1, **sums}, hour=timezone.now(), model=model, bot="GPT"
    )
