"""A manager's pages: the own team's people, tokens, usage and requests; and what no manager may."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import PermissionDenied, ValidationError
from django.test import Client
from django.utils import timezone

from accounts.models import AccessToken, Invitation, User, token_digest
from relay.models import UsageHour, UsageRecord
from tests import cast as people
from tests.cast import Cast, Person
from tests.conftest import Api, in_database
from tests.test_portal import PLAIN, signed_in
from tests.test_translations import english


@pytest.fixture
def dora(cast: Cast) -> Person:
    """Who manages the other team."""
    return people.person("dora", cast.chemistry, role=User.Role.MANAGER)


def fresh(person: Person) -> User:
    return User.objects.get(pk=person.user.pk)


# Who may look after whom.


def test_managers_look_after_their_teams_members_and_other_managers(cast: Cast, dora: Person) -> None:
    second = people.person("second", cast.physics, role=User.Role.MANAGER)
    alice = cast.alice.user

    managed = [each for each in User.objects.all() if alice.may_manage(each)]

    assert managed == [cast.bob.user, second.user]
    assert not any(cast.bob.user.may_manage(each) for each in User.objects.all())
    assert not dora.user.may_manage(cast.bob.user)


ACTS: dict[str, Callable[[Cast, User], Any]] = {
    "disable": lambda cast, by: cast.bob.user.disable(by),
    "enable": lambda cast, by: cast.bob.user.enable(by),
    "appoint": lambda cast, by: cast.bob.user.appoint(User.Role.MANAGER, by),
    "limit": lambda cast, by: cast.bob.user.limit(by, points_per_day=5),
    "issue": lambda cast, by: AccessToken.objects.issue_to_member(by, cast.bob.user, "x"),
    "limit a token": lambda cast, by: cast.bob.token.limit(by, points_per_day=5),
    "rotate": lambda cast, by: cast.bob.token.rotate_by(by, timedelta(hours=1)),
    "revoke": lambda cast, by: cast.bob.token.revoke(by, "because"),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    "who", ["another member", "the other team's manager", "a manager who is one no more"]
)
def test_nobody_else_may(cast: Cast, dora: Person, act: str, who: str) -> None:
    by = {
        "another member": people.person("carol", cast.physics).user,
        "the other team's manager": dora.user,
        "a manager who is one no more": cast.alice.user,
    }[who]
    User.objects.filter(pk=cast.alice.user.pk).update(role=User.Role.MEMBER)
    before = list(AccessToken.objects.values()), list(User.objects.values())

    with pytest.raises(PermissionDenied):
        ACTS[act](cast, by)

    assert (list(AccessToken.objects.values()), list(User.objects.values())) == before


@pytest.mark.parametrize("whom", ["alice", "root", "charlie"])
def test_a_manager_may_not_with_themselves_administrators_and_strangers(cast: Cast, whom: str) -> None:
    other, alice = getattr(cast, whom), cast.alice.user
    before = list(AccessToken.objects.values()), list(User.objects.values())

    for act in (
        lambda: other.user.disable(alice),
        lambda: other.user.appoint(User.Role.MEMBER, alice),
        lambda: other.user.limit(alice, points_per_day=None),
        lambda: other.token.limit(alice, points_per_day=None),
        lambda: AccessToken.objects.issue_to_member(alice, other.user, "x"),
    ):
        with pytest.raises(PermissionDenied):
            act()

    assert (list(AccessToken.objects.values()), list(User.objects.values())) == before


@pytest.mark.parametrize("whom", ["alice", "root", "charlie"])
def test_nor_do_the_pages_find_them(cast: Cast, whom: str) -> None:
    other, alice = getattr(cast, whom), signed_in(cast.alice)
    member, token = f"/team/members/{other.user.pk}/", f"/team/tokens/{other.token.pk}/"

    assert alice.get(member).status_code == alice.get(token).status_code == 404
    for page in ("limits/", "disable/", "enable/", "manager/", "member/", "tokens/"):
        assert alice.post(member + page).status_code == 404
    for page in ("", "rotate/", "revoke/"):
        assert alice.post(token + page).status_code == 404
    other.token.refresh_from_db()
    assert other.token.enabled and other.token.replaced_by is None


# People.


def test_a_new_member_signs_in_with_the_first_password(cast: Cast) -> None:
    response = signed_in(cast.alice).post("/team/members/add/", {"username": "Marie", "points_per_day": "7"})

    shown = re.findall(r"<code>([^<]+)</code>", response.content.decode())
    assert "no-store" in response.headers["Cache-Control"]
    marie = User.objects.get(username="Marie")
    assert (marie.team, marie.role, marie.points_per_day) == (cast.physics, User.Role.MEMBER, 7)
    assert Client(SERVER_NAME="127.0.0.1").login(username=shown[1], password=shown[2])
    assert LogEntry.objects.get(object_id=str(marie.pk)).user == cast.alice.user


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"username": "bob"}, "already exists"),
        ({"username": "charlie"}, "already exists"),
        ({"username": "no spaces"}, "Enter a valid username"),
        ({"username": ""}, "required"),
        ({"username": "x" * 10_000}, "at most 150"),
        ({"username": "marie", "points_per_day": "1001"}, "At most 1,000."),
        ({"username": "marie", "points_per_day": "0"}, "greater than or equal to 1"),
        ({"username": "marie", "points_per_day": "-5"}, "greater than or equal to"),
        ({"username": "marie", "points_per_day": "9" * 30}, "less than or equal to"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_refused_member_is_not_made(cast: Cast, given: dict[str, str], said: str) -> None:
    cast.physics.points_per_day = 1000
    cast.physics.save()
    before = User.objects.count()

    response = signed_in(cast.alice).post("/team/members/add/", given)

    assert response.status_code == 200 and said in response.content.decode()
    assert User.objects.count() == before


def test_nothing_but_name_and_limits_is_taken_from_the_form(cast: Cast) -> None:
    wished = {"is_superuser": "on", "is_staff": "on", "role": "manager", "team": str(cast.chemistry.pk)}

    signed_in(cast.alice).post("/team/members/add/", {"username": "marie", **wished})

    marie = User.objects.get(username="marie")
    assert (marie.is_superuser, marie.is_staff, marie.role, marie.team) == (
        False,
        False,
        "member",
        cast.physics,
    )


def test_limits_are_within_the_teams(cast: Cast) -> None:
    cast.physics.points_per_day = 1000
    cast.physics.save()
    alice, page = signed_in(cast.alice), f"/team/members/{cast.bob.user.pk}/limits/"

    saved = alice.post(page, {"points_per_day": "900", "requests_per_minute": "30"}, follow=True)
    refused = alice.post(page, {"points_per_day": "1001"})

    assert "Saved" in saved.content.decode() and "At most 1,000." in refused.content.decode()
    bob = fresh(cast.bob)
    assert (bob.points_per_day, bob.requests_per_minute) == (900, 30)
    # What the team may is an administrator's to say.
    cast.physics.refresh_from_db()
    assert cast.physics.points_per_day == 1000


def test_a_manager_is_made_and_unmade(cast: Cast) -> None:
    alice, page = signed_in(cast.alice), f"/team/members/{cast.bob.user.pk}/"

    alice.post(f"{page}manager/")
    assert fresh(cast.bob).is_manager and signed_in(cast.bob).get("/team/").status_code == 200

    alice.post(f"{page}member/")
    assert not fresh(cast.bob).is_manager and signed_in(cast.bob).get("/team/").status_code == 404


@pytest.mark.asyncio
async def test_who_is_disabled_is_out_at_once_and_let_in_again(api: Api, cast: Cast) -> None:
    headers = {"Authorization": f"Bearer {cast.bob.plain}"}
    bob, alice = await in_database(signed_in, cast.bob), await in_database(signed_in, cast.alice)
    page = f"/team/members/{cast.bob.user.pk}/"

    async def statuses() -> tuple[int, int]:
        asked = await api.http.get("/v1/models", headers=headers)
        return asked.status_code, (await in_database(bob.get, "/me/tokens/")).status_code

    assert await statuses() == (200, 200)
    await in_database(alice.post, f"{page}disable/")
    assert await statuses() == (403, 302)
    await in_database(alice.post, f"{page}enable/")
    assert (await statuses())[0] == 200


def test_whom_an_administrator_disabled_no_manager_lets_in(cast: Cast) -> None:
    root, alice = signed_in(cast.root), signed_in(cast.alice)
    page, panel = f"/team/members/{cast.bob.user.pk}/", f"/admin/accounts/user/{cast.bob.user.pk}/change/"
    form = {"username": "bob", "team": cast.physics.pk, "role": "member"}

    alice.post(f"{page}disable/")
    assert root.post(panel, {**form, "is_active": "on"}).status_code == 302
    assert root.post(panel, form).status_code == 302
    response = alice.post(f"{page}enable/", follow=True)

    assert "Only an administrator" in response.content.decode() and not fresh(cast.bob).is_active


def test_an_administrator_of_the_team_is_shown_and_not_a_link(cast: Cast) -> None:
    page = signed_in(cast.alice).get("/team/").content.decode()

    assert "administrator" in page and f"/team/members/{cast.root.user.pk}/" not in page
    assert f"/team/members/{cast.bob.user.pk}/" in page and "charlie" not in page


def test_many_people_are_on_several_pages_and_found_by_name(cast: Cast) -> None:
    User.objects.bulk_create(User(username=f"m{number:03}", team=cast.physics) for number in range(120))
    alice = signed_in(cast.alice)

    first = alice.get("/team/").content.decode()
    more = re.search(r'href="(\?after=[^"]+)"', first)

    assert more is not None and "m119" not in first
    assert "m119" in alice.get(f"/team/{more[1]}").content.decode()
    found = alice.get("/team/?q=M11").content.decode()
    assert "m110" in found and "m109" not in found
    assert "Nobody is named like this" in alice.get("/team/?q=charlie").content.decode()
    assert alice.get("/team/", {"q": "\0"}).status_code == 200


# Inviting.


def test_a_manager_invites_by_a_link_that_is_shown_once(cast: Cast) -> None:
    alice = signed_in(cast.alice)

    page = alice.post("/team/invitations/", {"note": "Marie", "uses": "1", "points_per_day": "7"})

    found = re.search(r"http://127\.0\.0\.1(?::\d+)?(/join/[^<]+)<", page.content.decode())
    assert found is not None and "no-store" in page.headers["Cache-Control"]
    assert found[1] not in alice.get("/team/invitations/").content.decode()
    newcomer, password = Client(SERVER_NAME="127.0.0.1"), "a long and quiet evening"
    newcomer.get(found[1])
    newcomer.post("/join/", {"username": "marie", "password1": password, "password2": password})
    marie = User.objects.get(username="marie")
    assert (marie.team, marie.role) == (cast.physics, User.Role.MEMBER)
    assert marie.access_tokens.get().points_per_day == 7
    assert LogEntry.objects.filter(user=cast.alice.user, content_type__model="invitation").exists()


@pytest.mark.parametrize(
    "given", [{"points_per_day": "1001"}, {"uses": "0"}, {"uses": "1001"}, {"note": "x" * 101}], ids=str
)
def test_a_refused_invitation_is_not_made(cast: Cast, given: dict[str, str]) -> None:
    cast.physics.points_per_day = 1000
    cast.physics.save()

    response = signed_in(cast.alice).post("/team/invitations/", {"uses": "1", **given})

    assert response.status_code == 200 and 'class="bad"' in response.content.decode()
    assert not Invitation.objects.exists()


def test_a_manager_takes_the_own_teams_invitations_back(cast: Cast, dora: Person) -> None:
    invitation, _secret = Invitation.objects.make(cast.alice.user, cast.physics, note="for Marie")
    page = f"/team/invitations/{invitation.pk}/take-back/"

    assert signed_in(dora).post(page).status_code == signed_in(cast.bob).post(page).status_code == 404
    assert "for Marie" not in signed_in(dora).get("/team/invitations/").content.decode()
    assert Invitation.objects.get().is_open
    signed_in(cast.alice).post(page)
    assert not Invitation.objects.get().is_open


# Their tokens.


@pytest.mark.asyncio
async def test_a_token_for_a_member_is_shown_once_and_works(api: Api, cast: Cast) -> None:
    alice = await in_database(signed_in, cast.alice)
    given = {"token-name": "Bob's new laptop", "token-points_per_day": "50"}

    response = await in_database(alice.post, f"/team/members/{cast.bob.user.pk}/tokens/", given)

    found = PLAIN.search(response.content.decode())
    assert found is not None and "no-store" in response.headers["Cache-Control"]
    token = await in_database(AccessToken.objects.get, digest=token_digest(found[0]))
    assert (token.owner_id, token.points_per_day) == (cast.bob.user.pk, 50)
    asked = await api.http.get("/v1/models", headers={"Authorization": f"Bearer {found[0]}"})
    assert asked.status_code == 200
    page = await in_database(alice.get, f"/team/members/{cast.bob.user.pk}/")
    assert PLAIN.search(page.content.decode()) is None


def test_a_token_has_no_more_than_the_member_and_the_team(cast: Cast) -> None:
    cast.bob.user.limit(cast.alice.user, points_per_day=100)
    alice, bob = signed_in(cast.alice), cast.bob.user

    issued = alice.post(
        f"/team/members/{bob.pk}/tokens/", {"token-name": "Laptop", "token-points_per_day": "101"}
    )
    limited = alice.post(f"/team/tokens/{cast.bob.token.pk}/", {"points_per_day": "101"})

    assert all("At most 100." in each.content.decode() for each in (issued, limited))
    assert bob.access_tokens.get().points_per_day is None


def test_what_a_manager_limits_binds_its_owner(cast: Cast) -> None:
    own, _plain = AccessToken.objects.issue_to_self(cast.bob.user, "My own")

    signed_in(cast.alice).post(f"/team/tokens/{own.pk}/", {"points_per_day": "5"})

    own.refresh_from_db()
    assert own.points_per_day == 5
    with pytest.raises(PermissionDenied):
        AccessToken.objects.issue_to_self(cast.bob.user, "Without")


@pytest.mark.asyncio
async def test_whoever_holds_a_revoked_token_is_told_the_reason(api: Api, cast: Cast) -> None:
    alice, pk = await in_database(signed_in, cast.alice), cast.bob.token.pk

    await in_database(alice.post, f"/team/tokens/{pk}/revoke/", {"reason": "left in a taxi"})

    refused = await api.http.get("/v1/models", headers={"Authorization": f"Bearer {cast.bob.plain}"})
    assert refused.status_code == 403 and "left in a taxi" in refused.text
    again = {"reason": "something else"}
    await in_database(alice.post, f"/team/tokens/{pk}/revoke/", again)
    assert (await in_database(AccessToken.objects.get, pk=pk)).disabled_reason == "left in a taxi"


@pytest.mark.parametrize("reason", ["line\nbreak", "x" * 201])
def test_a_reason_is_a_line(cast: Cast, reason: str) -> None:
    signed_in(cast.alice).post(f"/team/tokens/{cast.bob.token.pk}/revoke/", {"reason": reason})

    cast.bob.token.refresh_from_db()
    assert cast.bob.token.enabled


def test_a_members_token_is_rotated_and_a_revoked_one_not(cast: Cast) -> None:
    alice, page = signed_in(cast.alice), f"/team/tokens/{cast.bob.token.pk}/"

    rotated = alice.post(f"{page}rotate/").content.decode()
    alice.post(f"{page}revoke/")
    refused = alice.post(f"{page}rotate/", follow=True).content.decode()

    assert PLAIN.search(rotated) is not None and f"/team/members/{cast.bob.user.pk}/" in rotated
    assert PLAIN.search(refused) is None and "cannot be rotated" in refused
    assert cast.bob.user.access_tokens.count() == 2


# What the team used.


def use(person: Person, model: str, days_ago: int = 0, **sums: int) -> None:
    zero = {field.name: 0 for field in UsageHour._meta.fields if field.name not in ("id", "hour")}
    ids = {"team_id": person.user.team_id, "user_id": person.user.pk, "token_id": person.token.pk}
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(days=days_ago)
    UsageHour.objects.create(**{**zero, **ids, **sums, "hour": hour, "model": model, "bot": "GPT"})


def test_usage_is_the_teams_by_member_model_and_token(cast: Cast) -> None:
    use(cast.bob, "gpt-of-bob", requests=2, points=700)
    use(cast.root, "gpt-of-root", requests=1, points=77)
    use(cast.charlie, "gpt-of-charlie", requests=1, points=5555)
    alice = signed_in(cast.alice)

    pages = [alice.get(page).content.decode() for page in ("/team/usage/", "/team/usage/?of=today")]

    for page in pages:
        assert "777" in page and "gpt-of-bob" in page and "bob&#x27;s phone" in page
        assert "charlie" not in page and "5555" not in page
    assert "700" in alice.get("/team/").content.decode()
    assert "gpt-of-bob" in alice.get(f"/team/members/{cast.bob.user.pk}/").content.decode()


def test_today_ends_at_the_teams_midnight(cast: Cast) -> None:
    use(cast.bob, "gpt-of-yesterday", days_ago=1, requests=1, points=5)

    assert "gpt-of-yesterday" not in signed_in(cast.alice).get("/team/usage/?of=today").content.decode()


def record(person: Person, model: str, minutes_ago: int) -> UsageRecord:
    return UsageRecord(
        id=uuid.uuid4(),
        started_at=timezone.now() - timedelta(minutes=minutes_ago),
        token_id=person.token.pk,
        user_id=person.user.pk,
        team_id=person.user.team_id,
        user_name=person.user.username,
        key_name="a-key-of-the-house",
        model=model,
        streamed=False,
    )


def test_requests_are_the_teams_and_page_by_place(cast: Cast) -> None:
    UsageRecord.objects.bulk_create(record(cast.bob, f"bob-{number}", number) for number in range(51))
    UsageRecord.objects.bulk_create([record(cast.charlie, "charlie-0", 1), record(cast.alice, "alice-0", 1)])
    alice = signed_in(cast.alice)

    first = alice.get("/team/requests/").content.decode()
    ones = alice.get(f"/team/requests/?member={cast.bob.user.pk}").content.decode()
    older = re.search(r'href="(\?member=[^"]+older=[^"]+)"', ones)

    assert "alice-0" in first and "bob-48" in first and "charlie" not in first
    assert "alice-0" not in ones and "a-key-of-the-house" not in first
    assert older is not None
    rest = alice.get("/team/requests/" + older[1].replace("&amp;", "&")).content.decode()
    assert "bob-50<" in rest and "bob-49<" not in rest


def test_what_somebody_asked_in_another_team_stays_there(cast: Cast) -> None:
    UsageRecord.objects.bulk_create([record(cast.charlie, "asked-as-a-chemist", 5)])
    User.objects.filter(pk=cast.charlie.user.pk).update(team=cast.physics)
    alice = signed_in(cast.alice)

    assert "asked-as-a-chemist" not in alice.get("/team/requests/").content.decode()
    assert "chemist" not in alice.get(f"/team/requests/?member={cast.charlie.user.pk}").content.decode()


@pytest.mark.parametrize("asked", ["member=999999", "member=x", "member=-1", "member=" + "9" * 40, "older=x"])
def test_whom_and_where_there_is_nothing(cast: Cast, asked: str) -> None:
    assert signed_in(cast.alice).get(f"/team/requests/?{asked}").status_code == 404


def test_a_stranger_is_nobody_to_ask_about(cast: Cast) -> None:
    assert signed_in(cast.alice).get(f"/team/requests/?member={cast.charlie.user.pk}").status_code == 404


# Languages and looks.


def test_the_pages_are_in_chinese(cast: Cast) -> None:
    alice, bob = signed_in(cast.alice, "zh-CN"), f"/team/members/{cast.bob.user.pk}/"
    Invitation.objects.make(cast.alice.user, cast.physics)
    pages = [
        "/team/",
        "/team/invitations/",
        "/team/usage/",
        "/team/requests/",
        bob,
        f"/team/tokens/{cast.bob.token.pk}/",
    ]

    assert {page: english(alice.get(page)) for page in pages} == dict.fromkeys(pages, [])
    assert english(alice.post("/team/members/add/", {"username": "no spaces"})) == []
    assert english(alice.post("/team/members/add/", {"username": "marie"})) == []
    assert english(alice.post("/team/invitations/", {"uses": "1"})) == []
    for act in ("manager/", "member/", "disable/", "enable/"):
        assert english(alice.post(bob + act, follow=True)) == []


def test_names_are_only_text(cast: Cast) -> None:
    hostile = "<script>alert(1)</script>"
    User.objects.filter(pk=cast.bob.user.pk).update(username=hostile)
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(name=hostile)
    use(cast.bob, hostile, requests=1)
    UsageRecord.objects.bulk_create([record(fresh_person(cast), hostile, 1)])
    pages = ("", "usage/", "requests/", f"members/{cast.bob.user.pk}/", f"tokens/{cast.bob.token.pk}/")

    for page in pages:
        said = signed_in(cast.alice).get(f"/team/{page}").content.decode()
        assert hostile not in said and "&lt;script&gt;" in said


def fresh_person(cast: Cast) -> Person:
    return Person(fresh(cast.bob), cast.bob.token, cast.bob.plain)


def test_limits_that_were_taken_away_meanwhile_are_told(cast: Cast) -> None:
    cast.physics.points_per_day = 10
    cast.physics.save()

    with pytest.raises(ValidationError):
        cast.bob.user.limit(cast.alice.user, points_per_day=11)
