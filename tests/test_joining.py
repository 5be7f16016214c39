"""Invitations: who may make one, what its link lets in, how often exactly, and that its secret is told to nobody."""

from __future__ import annotations

import logging
import re
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.core import signing
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connection, connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.invitations import InvitationOver, invitation_digest
from accounts.models import AccessToken, Invitation, LimitPreset, PersonManager, User, token_digest
from proxy_site import access_log, masking
from relay.visit import Visit
from tests.cast import PASSWORD, Cast, Person
from tests.conftest import Api, DemoPoe, in_database
from tests.test_translations import english

SALT = "django.contrib.sessions.SessionStore"
PLAIN = re.compile(r"sk-poe-[0-9A-Za-z]{40}")
NEW = {"username": "eve", "password1": PASSWORD, "password2": PASSWORD}
OVER: dict[str, dict[str, Any]] = {
    "used up": {"used": 1},
    "expired": {"expires_at": timezone.now() - timedelta(seconds=1)},
    "revoked": {"revoked_at": timezone.now()},
}


def browser(language: str = "en", **options: Any) -> Client:
    return Client(SERVER_NAME="127.0.0.1", headers={"accept-language": language}, **options)


def invited(cast: Cast, **fields: Any) -> tuple[Invitation, str]:
    return Invitation.objects.make(cast.alice.user, cast.physics, **fields)


def opened(secret: str, language: str = "en") -> Client:
    client = browser(language)
    assert client.get(f"/join/{secret}/").headers["Location"] == "/join/"
    return client


# Joining.


def test_who_is_invited_chooses_a_password_and_sees_the_token_once(cast: Cast) -> None:
    invitation, secret = invited(cast, points_per_day=70, allowed_models=["gpt-*"], days=5)
    client = opened(secret)
    assert "Physics" in client.get("/join/").content.decode()

    response = client.post("/join/", NEW)

    shown = PLAIN.search(response.content.decode())
    assert shown is not None and "no-store" in response.headers["Cache-Control"]
    token = AccessToken.objects.get(digest=token_digest(shown[0]))
    eve = token.owner
    assert (eve.username, eve.team, eve.role) == ("eve", cast.physics, User.Role.MEMBER)
    assert not eve.is_staff and not eve.is_superuser and eve.check_password(PASSWORD)
    assert (token.points_per_day, token.allowed_models) == (70, ["gpt-*"])
    assert token.expires_at is not None and token.expires_at > timezone.now() + timedelta(days=4)
    assert client.get("/me/tokens/").status_code == 200
    assert client.post("/join/", NEW | {"username": "eve2"}).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"username": "bob"},
        {"username": "BOB"},
        {"username": ""},
        {"username": "two words"},
        {"username": "nul\x00"},
        {"username": "x" * 151},
        {"password2": "another one entirely"},
        {"password1": "short", "password2": "short"},
        {"password1": "password123", "password2": "password123"},
        {"username": "evangeline", "password1": "evangeline", "password2": "evangeline"},
    ],
    ids=repr,
)
def test_a_mistake_uses_nothing_up(cast: Cast, wrong: dict[str, str]) -> None:
    invitation, secret = invited(cast)
    before = User.objects.count()

    response = opened(secret).post("/join/", NEW | wrong)

    assert response.status_code == 200 and 'role="alert"' in response.content.decode()
    invitation.refresh_from_db()
    assert invitation.used == 0 and User.objects.count() == before


def test_nothing_that_is_sent_along_gives_more_rights(cast: Cast) -> None:
    _invitation, secret = invited(cast)
    more = {"role": "manager", "is_staff": "on", "is_superuser": "on", "team": cast.chemistry.pk, "uses": 9}

    opened(secret).post("/join/", NEW | more)

    eve = User.objects.get(username="eve")
    assert (eve.role, eve.is_staff, eve.is_superuser, eve.team) == ("member", False, False, cast.physics)


@pytest.mark.parametrize("why", [*OVER, "wrong", "team"])
def test_what_is_over_says_so_on_one_page(cast: Cast, why: str) -> None:
    invitation, secret = invited(cast)
    if why == "team":
        cast.physics.enabled = False
        cast.physics.save()
    Invitation.objects.filter(pk=invitation.pk).update(**OVER.get(why, {}))
    client = opened("wrong" if why == "wrong" else secret)

    answers = [client.get("/join/"), client.post("/join/", NEW)]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert all("This invitation does not work" in answer.content.decode() for answer in answers)
    assert not User.objects.filter(username="eve").exists()


def test_one_that_ends_while_somebody_types_is_over(cast: Cast) -> None:
    invitation, secret = invited(cast)
    client = opened(secret)
    invitation.revoke(cast.alice.user)

    assert client.post("/join/", NEW).status_code == 404
    assert not User.objects.filter(username="eve").exists()


@pytest.mark.parametrize("fate", ["shut out", "no manager", "of another team", "gone"])
def test_a_link_ends_with_the_say_of_whoever_made_it(cast: Cast, root: Client, fate: str) -> None:
    invitation, secret = invited(cast)
    client, alice = opened(secret), cast.alice.user
    match fate:
        case "shut out":
            alice.is_active = False
        case "no manager":
            alice.role = User.Role.MEMBER
        case "of another team":
            alice.team = cast.chemistry
    alice.save()
    if fate == "gone":
        alice.delete()

    assert client.post("/join/", NEW).status_code == 404
    assert opened(secret).get("/join/").status_code == 404
    with pytest.raises(InvitationOver):
        User.objects.join(Invitation.objects.get(pk=invitation.pk), "eve", PASSWORD)
    page = reverse("admin:accounts_invitation_changelist")
    listed = [
        f"/invitation/{invitation.pk}/" in root.get(page, {"state": each}).content.decode()
        for each in ("open", "revoked")
    ]
    assert listed == [False, True] and not User.objects.filter(username="eve").exists()


def test_who_is_signed_in_does_not_use_it_up(cast: Cast) -> None:
    invitation, secret = invited(cast)
    client = opened(secret)
    client.force_login(cast.charlie.user)
    client.get(f"/join/{secret}/")

    response = client.post("/join/", NEW)

    invitation.refresh_from_db()
    assert "signed in already" in response.content.decode() and invitation.used == 0


def test_a_form_of_another_site_is_refused(cast: Cast) -> None:
    _invitation, secret = invited(cast)
    client = browser(enforce_csrf_checks=True)
    client.get(f"/join/{secret}/")

    assert client.post("/join/", NEW, headers={"origin": "https://evil.example"}).status_code == 403
    assert not User.objects.filter(username="eve").exists()


def test_the_pages_are_in_chinese(cast: Cast) -> None:
    _invitation, secret = invited(cast)
    client = opened(secret, "zh-CN")

    assert english(client.get("/join/")) == []
    assert english(client.post("/join/", NEW | {"password2": "x"})) == []
    gone = opened("wrong", "zh-CN").get("/join/").content.decode()
    assert "此邀请无效" in gone and "invitation" not in gone


@pytest.mark.asyncio
async def test_from_the_invitation_to_the_first_answer(api: Api, demo: DemoPoe, cast: Cast) -> None:
    def join() -> str:
        _invitation, secret = invited(cast)
        shown = PLAIN.search(opened(secret).post("/join/", NEW).content.decode())
        assert shown is not None
        return shown[0]

    plain = await in_database(join)
    answer = await api.openai(plain).chat.completions.create(
        model="demo-echo", messages=[{"role": "user", "content": "Hello there"}]
    )

    assert "Hello there" in str(answer.choices[0].message.content)


# However many come at once.


def test_the_last_use_is_taken_once(cast: Cast) -> None:
    invitation, _secret = invited(cast, uses=3)
    results: list[str] = []
    at_once = threading.Barrier(8)

    def join(number: int) -> None:
        found = Invitation.objects.select_related("team").get(pk=invitation.pk)
        at_once.wait(10)
        try:
            User.objects.join(found, f"guest-{number}", PASSWORD)
            results.append("in")
        except InvitationOver:
            results.append("over")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=join, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    invitation.refresh_from_db()
    assert sorted(results) == ["in"] * 3 + ["over"] * 5
    assert invitation.used == 3 and User.objects.filter(username__startswith="guest-").count() == 3
    assert AccessToken.objects.filter(owner__username__startswith="guest-").count() == 3


def test_a_name_that_somebody_takes_in_between_uses_nothing_up(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    invitation, secret = invited(cast)
    client = opened(secret)
    join = PersonManager.join

    def join_after_another(self: Any, *args: Any) -> Any:
        User.objects.create_user("eve", team=cast.chemistry)
        return join(self, *args)

    monkeypatch.setattr(PersonManager, "join", join_after_another)
    response = client.post("/join/", NEW)

    invitation.refresh_from_db()
    assert response.status_code == 200 and "already exists" in response.content.decode()
    assert invitation.used == 0 and User.objects.get(username="eve").team == cast.chemistry


# The secret.


def test_the_database_holds_a_digest_alone(cast: Cast) -> None:
    invitation, secret = invited(cast)
    opened(secret)

    row = Invitation.objects.filter(pk=invitation.pk).values().get()
    assert row["digest"] == invitation_digest(secret) and secret not in str(row)
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_data FROM django_session")
        kept = [signing.loads(data, salt=SALT) for (data,) in cursor.fetchall()]
    assert kept == [{"invitation": invitation.pk}]


def test_the_link_is_left_at_once_and_told_to_no_other_site(cast: Cast) -> None:
    _invitation, secret = invited(cast)

    response = browser().get(f"/join/{secret}/")

    assert (response.status_code, response.headers["Location"]) == (302, "/join/")
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "no-store" in response.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/join/c2VjcmV0/", "/join/***/"),
        ("/join/c2VjcmV0", "/join/***"),
        ("//join/c2VjcmV0/x", "//join/***/x"),
        ("/%6aoin/c2VjcmV0/", "/join/***"),
        ("/join%2Fc2VjcmV0/", "/join/***"),
        ("/join/", "/join/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/a%2Fb", "/v1/models/a%2Fb"),
    ],
)
def test_no_line_of_the_access_log_has_the_secret(path: str, written: str) -> None:
    lines: list[bytes] = []

    class Writer:
        def put(self, line: Any) -> None:
            lines.append(line())

    access_log.lines_to(Writer(), "json")(Visit(path=path))  # type: ignore[arg-type]

    assert f'"path":"{written}"'.encode() in lines[0] and b"c2VjcmV0" not in lines[0]


def test_nor_has_any_other_line() -> None:
    record = logging.LogRecord(
        "django.request", logging.ERROR, "x", 1, "Internal Server Error: %s", ("/join/c2VjcmV0/",), None
    )

    assert masking.Mask().filter(record)
    assert record.getMessage() == "Internal Server Error: /join/***/"


# Who may make one, and take it back.


@pytest.mark.parametrize(
    ("who", "team"), [("alice", "chemistry"), ("bob", "physics"), ("charlie", "physics")]
)
def test_only_those_who_manage_the_team_may(cast: Cast, who: str, team: str) -> None:
    by = getattr(cast, who).user
    invitation, _secret = Invitation.objects.make(cast.root.user, getattr(cast, team))

    with pytest.raises(PermissionDenied):
        Invitation.objects.make(by, getattr(cast, team))
    with pytest.raises(PermissionDenied):
        invitation.revoke(by)
    assert invitation not in Invitation.objects.shown_to(by)


def test_a_manager_invites_within_the_limits_of_the_team(cast: Cast) -> None:
    cast.physics.points_per_day = 100

    with pytest.raises(ValidationError):
        invited(cast, points_per_day=101)
    assert invited(cast, points_per_day=100)[0] in Invitation.objects.shown_to(cast.alice.user)


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


def test_the_panel_shows_the_link_once(root: Client, cast: Cast) -> None:
    preset = LimitPreset.objects.create(name="students", points_per_day=5, days=9)
    week = timezone.localtime(timezone.now() + timedelta(days=7))
    form = {
        "team": cast.physics.pk,
        "uses": 2,
        "expires_at_0": f"{week:%Y-%m-%d}",
        "expires_at_1": f"{week:%H:%M:%S}",
        "preset": preset.pk,
        "points_per_day": "7",
    }

    response = root.post(reverse("admin:accounts_invitation_add"), form)

    found = re.search(r"http://127\.0\.0\.1[^/]*(/join/[\w-]+/)", response.content.decode())
    assert found is not None and "no-store" in response.headers["Cache-Control"]
    invitation = Invitation.objects.get()
    assert (invitation.points_per_day, invitation.days, invitation.made_by) == (7, 9, cast.root.user)
    for page in ("changelist", "change"):
        args = [invitation.pk] if page == "change" else []
        again = root.get(reverse(f"admin:accounts_invitation_{page}", args=args))
        assert again.status_code == 200 and found[1] not in again.content.decode()
    client = browser()
    client.get(found[1])
    assert PLAIN.search(client.post("/join/", NEW).content.decode())


@pytest.mark.parametrize("wrong", [{"uses": "0"}, {"uses": "1001"}, {"team": ""}, {"days": "-1"}], ids=repr)
def test_an_invitation_with_a_mistake_is_not_made(root: Client, cast: Cast, wrong: dict[str, str]) -> None:
    form = {"team": cast.physics.pk, "uses": 1, "expires_at_0": "2999-01-01", "expires_at_1": "00:00:00"}

    assert root.post(reverse("admin:accounts_invitation_add"), form | wrong).status_code == 200
    assert not Invitation.objects.exists()


@pytest.mark.parametrize("where", ["list", "page"])
def test_the_panel_takes_them_back(root: Client, cast: Cast, where: str) -> None:
    invitation, secret = invited(cast)
    page = reverse("admin:accounts_invitation_take_back_one", args=[invitation.pk])
    assert root.get(page).status_code == 200 and opened(secret).get("/join/").status_code == 200

    if where == "list":
        form = {"action": "take_back", "_selected_action": [invitation.pk]}
        root.post(reverse("admin:accounts_invitation_changelist"), form)
    else:
        root.post(page)

    assert opened(secret).get("/join/").status_code == 404


@pytest.mark.parametrize("state", ["open", "used", "expired", "revoked"])
def test_the_list_is_filtered_by_state(root: Client, cast: Cast, state: str) -> None:
    rows: dict[str, dict[str, Any]] = {
        "open": {},
        "used": OVER["used up"],
        "expired": OVER["expired"],
        "revoked": OVER["revoked"],
    }
    for name, fields in rows.items():
        invitation, _secret = invited(cast, note=f"the {name} one")
        Invitation.objects.filter(pk=invitation.pk).update(**fields)

    page = root.get(reverse("admin:accounts_invitation_changelist"), {"state": state}).content.decode()

    assert [name for name in rows if f"the {name} one" in page] == [state]


def test_nobody_else_opens_the_panels_page(cast: Cast) -> None:
    people: list[Person] = [cast.alice, cast.bob]
    for person in people:
        client = browser()
        client.force_login(person.user)
        form = {"team": cast.physics.pk, "uses": 1}
        answer = client.post(reverse("admin:accounts_invitation_add"), form)
        assert answer.status_code == 302 and "/admin/login/" in answer.headers["Location"]
    assert not Invitation.objects.exists()
