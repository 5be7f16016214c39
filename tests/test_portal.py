"""The portal: one's own tokens, usage, requests and models; and that nobody sees anybody else's."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied, ValidationError
from django.test import Client
from django.utils import timezone

from accounts.models import AccessToken, Team, User, token_digest
from relay.models import UsageRecord
from tests import cast as people
from tests.cast import Cast, Person
from tests.test_translations import english

PAGES = ["/me/tokens/", "/me/usage/", "/me/requests/", "/me/models/"]
PLAIN = re.compile(r"sk-poe-[0-9A-Za-z]{40}")


def signed_in(person: Person, language: str = "en") -> Client:
    client = Client(SERVER_NAME="127.0.0.1", headers={"accept-language": language})
    client.force_login(person.user)
    return client


@pytest.mark.parametrize("page", PAGES)
def test_nobody_is_sent_to_sign_in(db: None, client: Client, page: str) -> None:
    assert client.get(page).headers["Location"] == f"/?next={page}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_without_anything_says_so_in_chinese(cast: Cast, page: str) -> None:
    AccessToken.objects.all().delete()

    assert english(signed_in(cast.bob, "zh-CN").get(page)) == []


def test_a_token_of_ones_own_is_shown_once_and_works(cast: Cast) -> None:
    bob = signed_in(cast.bob)

    response = bob.post(
        "/me/tokens/", {"name": "Laptop", "points_per_day": "50", "models": "gpt-*, claude-*"}
    )

    found = PLAIN.search(response.content.decode())
    assert found is not None and "no-store" in response.headers["Cache-Control"]
    token = AccessToken.objects.get(digest=token_digest(found[0]))
    assert (token.owner, token.points_per_day) == (cast.bob.user, 50)
    assert token.allowed_models == ["gpt-*", "claude-*"]
    assert PLAIN.search(bob.get("/me/tokens/").content.decode()) is None


@pytest.mark.parametrize("holder", ["user", "team"])
def test_a_token_has_no_more_than_its_owner_and_the_team(cast: Cast, holder: str) -> None:
    bounded: User | Team = cast.bob.user if holder == "user" else cast.physics
    bounded.points_per_day = 1000
    bounded.save()

    response = signed_in(cast.bob).post("/me/tokens/", {"name": "Laptop", "points_per_day": "1001"})

    assert "At most 1,000." in response.content.decode()
    assert cast.bob.user.access_tokens.count() == 1


@pytest.mark.parametrize(
    "given",
    [
        {"points_per_day": 5},
        {"allowed_models": ["gpt-4o"]},
        {"allowed_networks": ["10.0.0.0/8"]},
        {"expires_at": timezone.now() + timedelta(days=1)},
        {"enabled": False},
    ],
    ids=lambda given: next(iter(given)),
)
def test_who_was_given_conditions_cannot_shed_them(cast: Cast, given: dict[str, object]) -> None:
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(**given)

    response = signed_in(cast.bob).post("/me/tokens/", {"name": "Without"})

    assert "for your manager or administrator to issue" in response.content.decode()
    assert cast.bob.user.access_tokens.count() == 1


def test_ones_own_conditions_bind_nobody(cast: Cast) -> None:
    mine, _plain = AccessToken.objects.issue_to_self(cast.bob.user, "Narrow", points_per_day=5)
    mine.rotate_by(cast.bob.user, timedelta(hours=1))
    mine.revoke(cast.bob.user)

    assert cast.bob.user.may_issue_tokens


def test_a_token_of_ones_own_that_was_disabled_by_others_binds(cast: Cast) -> None:
    mine, _plain = AccessToken.objects.issue_to_self(cast.bob.user, "Leaked")
    AccessToken.objects.filter(pk=mine.pk).update(enabled=False)

    with pytest.raises(PermissionDenied):
        AccessToken.objects.issue_to_self(cast.bob.user, "Again")


def test_a_limit_is_held_against_the_tightest(cast: Cast) -> None:
    cast.physics.points_per_day, cast.bob.user.points_per_day = 10, 20

    with pytest.raises(ValidationError):
        AccessToken(points_per_day=11).check_within(cast.bob.user, cast.physics)
    AccessToken(points_per_day=10).check_within(cast.bob.user, cast.physics)


def test_rotating_leaves_time_and_revoking_does_not(cast: Cast) -> None:
    bob, pk = signed_in(cast.bob), cast.bob.token.pk

    successor = PLAIN.search(bob.post(f"/me/tokens/{pk}/rotate/").content.decode())
    bob.post(f"/me/tokens/{pk}/revoke/")

    old = AccessToken.objects.get(pk=pk)
    assert successor is not None and old.expires_at is not None and not old.enabled
    again = bob.post(f"/me/tokens/{pk}/rotate/", follow=True)
    assert "cannot be rotated" in again.content.decode() and PLAIN.search(again.content.decode()) is None


@pytest.mark.parametrize("whose", ["alice", "charlie", "root"])
@pytest.mark.parametrize("act", ["rotate", "revoke"])
def test_somebody_elses_token_cannot_be_found(cast: Cast, whose: str, act: str) -> None:
    token = getattr(cast, whose).token

    response = signed_in(cast.bob).post(f"/me/tokens/{token.pk}/{act}/")

    token.refresh_from_db()
    assert response.status_code == 404 and token.enabled and token.replaced_by is None
    with pytest.raises(PermissionDenied):
        token.revoke(cast.bob.user)


def test_usage_and_models_are_ones_own(cast: Cast) -> None:
    for who, model in ((cast.bob, "gpt-for-bob"), (cast.charlie, "gpt-for-charlie")):
        people.used(who, model, requests=3, points=777)
        people.mapping(model, "GPT", points_per_request=5).teams.add(who.user.team)
    bob = signed_in(cast.bob)

    shown = [bob.get(page).content.decode() for page in ("/me/usage/", "/me/models/")]

    assert all("gpt-for-bob" in page and "gpt-for-charlie" not in page for page in shown)
    assert "777" in shown[0] and "phone" in shown[0]


def test_requests_are_ones_own_and_page_by_place(cast: Cast) -> None:
    for who, count in ((cast.bob, 51), (cast.charlie, 1)):
        UsageRecord.objects.bulk_create(
            UsageRecord(
                id=uuid.uuid4(),
                request_id=f"req_{number}",
                started_at=timezone.now() - timedelta(minutes=number),
                token_id=who.token.pk,
                user_id=who.user.pk,
                team_id=who.user.team_id,
                model=f"{who.user.username}-{number}",
                streamed=False,
            )
            for number in range(count)
        )
    bob = signed_in(cast.bob)

    first = bob.get("/me/requests/").content.decode()
    older = re.search(r'href="(\?older=[^"]+)"', first)

    assert older is not None and "bob-49<" in first and "bob-50<" not in first and "charlie" not in first
    rest = bob.get(f"/me/requests/{older[1]}").content.decode()
    assert "bob-50<" in rest and "bob-49<" not in rest and "?older=" not in rest


def test_a_made_up_place_in_the_list_is_not_found(cast: Cast) -> None:
    assert signed_in(cast.bob).get("/me/requests/?older=nonsense").status_code == 404


def test_a_name_is_only_text(cast: Cast) -> None:
    hostile = "<script>alert(1)</script>=1+1"

    bob = signed_in(cast.bob)
    bob.post("/me/tokens/", {"name": hostile})

    assert hostile not in bob.get("/me/tokens/").content.decode()
    assert bob.post("/me/tokens/", {"name": "x" * 10_000}).status_code == 200
