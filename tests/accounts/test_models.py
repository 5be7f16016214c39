"""Access tokens in the database: issued, adopted, rotated; and what their settings may hold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from accounts import tokens
from accounts.models import (
    AccessToken,
    Team,
    User,
    token_digest,
    validate_networks,
    validate_patterns,
    validate_time_zone,
)
from proxy_site.keys import derived

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
RIGHTS: dict[str, Any] = {
    "requests_per_minute": 1,
    "tokens_per_minute": 2,
    "requests_in_flight": 3,
    "points_per_day": 4,
    "points_per_month": 5,
    "allowed_models": ["gpt-4o", "claude-*"],
    "allowed_networks": ["10.0.0.0/8"],
}


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob", team=Team.objects.create(name="Physics"))


def rights(token: AccessToken) -> dict[str, Any]:
    return {name: getattr(token, name) for name in RIGHTS}


def fresh(token: AccessToken) -> AccessToken:
    return AccessToken.objects.get(pk=token.pk)


# Issuing and adopting.


def test_an_issued_token_is_stored_as_a_digest_alone(bob: User) -> None:
    token, plain = AccessToken.objects.issue(bob, "phone", allowed_models=["gpt-*"])

    row = AccessToken.objects.filter(pk=token.pk).values().get()
    assert tokens.is_well_formed(plain)
    assert row["digest"] == token_digest(plain) == tokens.digest(plain, derived("access tokens"))
    assert row["prefix"] == plain[:13] and plain[13:] not in str(row)
    assert row["enabled"] and row["expires_at"] is None and row["replaced_by_id"] is None
    assert row["allowed_models"] == ["gpt-*"] and token.team == bob.team


def test_an_adopted_token_is_found_by_its_digest(bob: User) -> None:
    AccessToken.objects.adopt("old-secret", bob, "imported")

    assert AccessToken.objects.get(digest=token_digest("old-secret")).prefix == "old"
    assert not AccessToken.objects.filter(digest=token_digest("old-secret ")).exists()


def test_the_same_token_is_not_adopted_twice(bob: User) -> None:
    AccessToken.objects.adopt("old-secret", bob, "imported")

    with pytest.raises(IntegrityError), transaction.atomic():
        AccessToken.objects.adopt("old-secret", bob, "again")
    assert AccessToken.objects.count() == 1


def test_the_digest_key_is_for_nothing_else() -> None:
    purposes = ["access tokens", "vault", "demo", ""]

    assert len({derived(purpose) for purpose in purposes}) == len(purposes)
    assert derived("vault") == derived("vault") and len(derived("vault")) == 32


# Rotating.


def test_a_successor_has_the_same_rights_and_the_old_one_an_end(bob: User) -> None:
    old, old_plain = AccessToken.objects.issue(bob, "phone", **RIGHTS)
    before = timezone.now()

    successor, plain = old.rotate(DAY)

    assert plain != old_plain and fresh(successor).digest == token_digest(plain)
    assert rights(fresh(successor)) == RIGHTS
    assert (successor.owner, successor.name, successor.enabled) == (bob, "phone", True)
    assert successor.expires_at is None and successor.replaced_by is None
    stored = fresh(old)
    assert stored.replaced_by == successor and stored.digest == token_digest(old_plain)
    assert stored.expires_at is not None and before + DAY <= stored.expires_at <= timezone.now() + DAY
    assert old.expires_at == stored.expires_at and not stored.is_expired()


def test_without_an_overlap_the_old_one_ends_at_once(bob: User) -> None:
    old, _plain = AccessToken.objects.issue(bob, "phone")

    old.rotate(timedelta(0))

    assert fresh(old).is_expired()


@pytest.mark.parametrize("left", [timedelta(hours=1), timedelta(days=30)])
def test_rotating_prolongs_nothing(bob: User, left: timedelta) -> None:
    end = timezone.now() + left
    old, _plain = AccessToken.objects.issue(bob, "phone", expires_at=end)

    successor, _plain = old.rotate(DAY)

    assert fresh(successor).expires_at == end
    stored = fresh(old).expires_at
    assert stored is not None and stored <= end and stored <= timezone.now() + DAY


def test_the_successor_can_be_rotated_in_turn(bob: User) -> None:
    end = timezone.now() + 90 * DAY
    first, _plain = AccessToken.objects.issue(bob, "phone", expires_at=end, **RIGHTS)

    second, _plain = first.rotate(DAY)
    third, _plain = second.rotate(DAY)

    assert fresh(first).replaced_by == second and fresh(second).replaced_by == third
    assert rights(fresh(third)) == RIGHTS and fresh(third).expires_at == end


def test_rotating_an_expired_token_does_not_bring_it_back(bob: User) -> None:
    end = timezone.now() - DAY
    old, _plain = AccessToken.objects.issue(bob, "phone", expires_at=end)

    successor, _plain = old.rotate(DAY)

    assert fresh(old).expires_at == end
    assert fresh(successor).expires_at == end


def test_rotating_a_disabled_token_does_not_bring_it_back(bob: User) -> None:
    old, _plain = AccessToken.objects.issue(bob, "phone", enabled=False, disabled_reason="lost")

    successor, _plain = old.rotate(DAY)

    assert not fresh(successor).enabled and not fresh(old).enabled


@pytest.mark.parametrize("end", [None, 90 * DAY])
def test_rotating_the_same_token_again_gives_as_long_a_life(bob: User, end: timedelta | None) -> None:
    """Whoever lost the successor rotates again: the overlap of the first time is no end for the second."""
    expires_at = timezone.now() + end if end else None
    old, _plain = AccessToken.objects.issue(bob, "phone", expires_at=expires_at)
    old.rotate(timedelta(hours=2))
    ends = fresh(old).expires_at

    second, _plain = old.rotate(DAY)

    assert fresh(old).expires_at == ends, "the second time prolongs nothing"
    assert fresh(old).replaced_by == second
    assert fresh(second).expires_at == expires_at


def test_rotating_the_first_of_many_again_gives_as_long_a_life(bob: User) -> None:
    end = timezone.now() + 90 * DAY
    first, _plain = AccessToken.objects.issue(bob, "phone", expires_at=end)
    second, _plain = first.rotate(DAY)
    second.rotate(DAY)

    again, _plain = first.rotate(DAY)

    assert fresh(again).expires_at == end


def test_rotating_reads_the_row_and_not_an_old_copy_of_it(bob: User) -> None:
    old, _plain = AccessToken.objects.issue(bob, "phone")
    AccessToken.objects.filter(pk=old.pk).update(allowed_models=["gpt-4o"], name="tablet")

    successor, _plain = old.rotate(DAY)

    assert (successor.allowed_models, successor.name) == (["gpt-4o"], "tablet")


def test_a_rotated_token_may_be_deleted_in_any_order(bob: User) -> None:
    old, _plain = AccessToken.objects.issue(bob, "phone")
    successor, _plain = old.rotate(DAY)

    successor.delete()

    assert fresh(old).replaced_by is None


def test_expiry_is_a_moment() -> None:
    now = timezone.now()
    second = timedelta(seconds=1)

    assert AccessToken(expires_at=now).is_expired(now)
    assert AccessToken(expires_at=now - second).is_expired(now)
    assert not AccessToken(expires_at=now + second).is_expired(now)
    assert not AccessToken(expires_at=None).is_expired(now)


# Teams and users.


def test_the_default_team_is_the_oldest() -> None:
    oldest = Team.objects.create(name="Zoology")
    Team.objects.create(name="Default")

    assert Team.objects.default() == oldest
    assert User.objects.create_user("ann").team == oldest


def test_the_default_team_is_made_once() -> None:
    made = Team.objects.default()

    assert (made.name, made.enabled) == ("Default", True)
    assert Team.objects.default() == made and Team.objects.count() == 1


def test_a_user_may_be_given_a_team_by_number() -> None:
    Team.objects.create(name="Physics")
    chemistry = Team.objects.create(name="Chemistry")

    assert User.objects.create_user("ann", team_id=chemistry.pk).team == chemistry
    assert User.objects.create_superuser("root", team=chemistry).team == chemistry


def test_a_team_with_people_is_not_deleted(bob: User) -> None:
    with pytest.raises(ProtectedError), transaction.atomic():
        bob.team.delete()
    assert User.objects.filter(pk=bob.pk).exists()


def test_a_role_is_one_of_two(bob: User) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=bob.pk).update(role="king")


# What their settings may hold.

LIMITS = [
    "requests_per_minute",
    "tokens_per_minute",
    "requests_in_flight",
    "points_per_day",
    "points_per_month",
]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("model", [Team, User, AccessToken])
@pytest.mark.parametrize(
    ("value", "valid"), [(None, True), (1, True), (2**62, True), (0, False), (-1, False), ("many", False)]
)
def test_a_limit_is_at_least_one(model: Any, name: str, value: Any, valid: bool) -> None:
    field = model._meta.get_field(name)

    if valid:
        assert field.clean(value, None) == value
        return
    with pytest.raises(ValidationError):
        field.clean(value, None)


@pytest.mark.parametrize("value", [[], ["gpt-4o"], ["claude-*", "*"], ["模型"]])
def test_patterns_are_names(value: Any) -> None:
    validate_patterns(value)


@pytest.mark.parametrize("value", [None, "gpt-4o", {}, {"a": 1}, [""], [" "], [5], [None], [["a"]], ("a",)])
def test_it_refuses_other_patterns(value: Any) -> None:
    with pytest.raises(ValidationError):
        validate_patterns(value)


@pytest.mark.parametrize(
    "value", [[], ["10.0.0.0/8"], ["192.168.1.7"], ["192.168.1.7/24"], ["::1", "2001:db8::/32"]]
)
def test_networks_are_addresses_and_networks(value: Any) -> None:
    validate_networks(value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            "10.0.0.0/8",
            {},
            [""],
            ["localhost"],
            ["10.0.0.0/33"],
            ["10.0.0"],
            [None],
            [["10.0.0.0", 8]],
        ),
        *([{}], [1.5], ["10.0.0.0/8", "x"], [" 10.0.0.1"], [7], [True]),
    ],
)
def test_it_refuses_other_networks(value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        validate_networks(value)
    assert refused.value.messages[0]


@pytest.mark.parametrize(
    ("zone", "valid"), [("Asia/Shanghai", True), ("UTC", True), ("Mars", False), ("", False)]
)
def test_a_time_zone_exists(zone: str, valid: bool) -> None:
    if valid:
        return validate_time_zone(zone)
    with pytest.raises(ValidationError):
        validate_time_zone(zone)
