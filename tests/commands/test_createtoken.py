from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management.base import CommandError
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from accounts import tokens
from accounts.models import AccessToken, Team, User, token_digest
from tests.commands import run

pytestmark = pytest.mark.django_db


def test_standard_output_is_the_token_alone() -> None:
    stderr = StringIO()

    out = run("createtoken", "bob", stderr=stderr)

    assert out.endswith("\n")
    plain = out.removesuffix("\n")
    assert tokens.is_well_formed(plain)
    assert AccessToken.objects.get(digest=token_digest(plain)).owner.username == "bob"
    assert "bob" in stderr.getvalue()
    assert plain not in stderr.getvalue()


def test_a_new_user_is_in_the_default_team_and_has_no_password() -> None:
    run("createtoken", "bob")

    bob = User.objects.get(username="bob")
    assert bob.team == Team.objects.default()
    assert not bob.has_usable_password()
    assert not bob.is_superuser
    assert [token.name for token in AccessToken.objects.filter(owner=bob)] == ["default"]


def test_a_team_is_made_if_new_and_used_if_not() -> None:
    run("createtoken", "alice", "--team", "Physics")
    run("createtoken", "bob", "--team", "Physics")
    run("createtoken", "bob", "--team", "Physics", "--name", "phone")

    assert Team.objects.filter(name="Physics").count() == 1
    assert {user.username for user in User.objects.filter(team__name="Physics")} == {"alice", "bob"}
    assert AccessToken.objects.filter(owner__username="bob").count() == 2


def test_options_become_the_token_s_limits() -> None:
    run(
        *(
            "createtoken",
            "bob",
            "--name",
            "phone",
            "--rpm",
            "5",
            "--concurrency",
            "2",
            "--points-per-day",
            "1000",
        ),
        *("--points-per-month", "20000", "--models", "gpt-4o, claude-*", "--expires-days", "3"),
    )

    token = AccessToken.objects.get()
    assert token.name == "phone"
    assert token.requests_per_minute == 5
    assert token.requests_in_flight == 2
    assert token.points_per_day == 1000
    assert token.points_per_month == 20000
    assert token.allowed_models == ["gpt-4o", "claude-*"]
    assert token.expires_at is not None
    assert abs(token.expires_at - timezone.now() - timedelta(days=3)) < timedelta(minutes=1)


def test_without_options_nothing_is_limited() -> None:
    run("createtoken", "bob")

    token = AccessToken.objects.get()
    assert token.requests_per_minute is None
    assert token.points_per_day is None
    assert token.allowed_models == []
    assert token.expires_at is None


def test_json_holds_everything_and_standard_error_nothing() -> None:
    stderr = StringIO()

    said = json.loads(
        run("createtoken", "bob", "--team", "物理", "--expires-days", "1", "--json", stderr=stderr)
    )

    token = AccessToken.objects.get()
    assert token.expires_at is not None
    assert said == {
        "token": said["token"],
        "prefix": said["token"][:13],
        "user": "bob",
        "team": "物理",
        "id": token.pk,
        "expires_at": token.expires_at.isoformat(),
    }
    assert token.digest == token_digest(said["token"])
    assert stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rpm": 0}, "--rpm: .*1"),
        ({"concurrency": -1}, "--concurrency: "),
        ({"points_per_day": 0}, "--points-per-day: "),
        ({"points_per_month": 2**64}, "--points-per-month: "),
        ({"models": ""}, "--models: '' names no model"),
        ({"models": " , "}, "--models: .* names no model"),
        ({"expires_days": 0}, "--expires-days: 0 is not from 1 to 36500"),
        ({"expires_days": 10**9}, "--expires-days: "),
        ({"name": ""}, "--name: "),
        ({"name": "n" * 101}, "--name: .*100"),
        ({"team": ""}, "--team: "),
        ({"team": "t" * 101}, "--team: .*100"),
    ],
)
def test_it_refuses_a_bad_value_and_leaves_nothing_behind(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        run("createtoken", "bob", **options)

    assert not User.objects.exists()
    assert not AccessToken.objects.exists()


def test_it_refuses_a_limit_that_is_no_number() -> None:
    with pytest.raises(CommandError, match="--rpm"):
        run("createtoken", "bob", "--rpm", "many")


@pytest.mark.parametrize("username", ["", "two words", "b" * 151])
def test_it_refuses_a_user_name_that_is_none(username: str) -> None:
    with pytest.raises(CommandError, match="USER: "):
        run("createtoken", username)

    assert not User.objects.exists()


def test_it_refuses_a_second_team_for_a_user() -> None:
    run("createtoken", "bob", "--team", "Physics")

    with pytest.raises(CommandError, match="bob is in the team Physics"):
        run("createtoken", "bob", "--team", "Chemistry")

    assert not Team.objects.filter(name="Chemistry").exists()
    assert AccessToken.objects.count() == 1


def test_it_refuses_a_user_whose_tokens_would_be_refused() -> None:
    run("createtoken", "bob")
    User.objects.update(is_active=False)

    with pytest.raises(CommandError, match="not active"):
        run("createtoken", "bob")


def test_before_migrations_it_says_what_to_run() -> None:
    MigrationRecorder(connection).migration_qs.filter(app="accounts").delete()

    with pytest.raises(CommandError, match="manage.py setup"):
        run("createtoken", "bob")
