"""The link on a sheet: somebody who was made without a password sets one, once, and nobody else can."""

from __future__ import annotations

import re
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings as site
from django.db import connections
from django.test import Client
from django.urls import reverse

from accounts import first_password
from accounts.models import User
from proxy_site import masking
from tests.cast import PASSWORD, Cast
from tests.test_translations import english

PAGE = "/join/password/"
CHOSEN = {"new_password1": PASSWORD, "new_password2": PASSWORD}


def browser(language: str = "en", **options: Any) -> Client:
    return Client(SERVER_NAME="127.0.0.1", headers={"accept-language": language}, **options)


@pytest.fixture
def eve(cast: Cast) -> User:
    return User.objects.create_user("eve", team=cast.physics)


def opened(link: str, language: str = "en") -> Client:
    client = browser(language)
    answer = client.get(link)
    assert answer.headers["Location"] == PAGE and answer.headers["Referrer-Policy"] == "no-referrer"
    assert "no-store" in answer.headers["Cache-Control"]
    return client


def test_from_the_sheet_to_the_own_pages(cast: Cast, client: Client) -> None:
    client.force_login(cast.root.user)
    sent = {"text": "frank\nbob", "team": cast.physics.pk, "token_name": "course", "confirmed": "1"}
    sheets = client.post(reverse("admin:accounts_accesstoken_issue_many"), sent).content.decode()
    (link,) = set(re.findall(r"/join/\d+\.[\w-]+/", sheets))
    person = opened(link)

    assert "frank" in person.get(PAGE).content.decode()
    answer = person.post(PAGE, CHOSEN, follow=True)

    assert answer.redirect_chain == [("/", 302)] and "Your user name is frank." in answer.content.decode()
    assert "course" in person.get("/me/tokens/").content.decode()
    assert User.objects.get(username="frank").check_password(PASSWORD)
    assert User.objects.get(username="bob").check_password(PASSWORD)  # as it was
    assert opened(link).post(PAGE, CHOSEN).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"new_password2": "another"},
        {"new_password1": "short", "new_password2": "short"},
        {"new_password1": ""},
    ],
    ids=repr,
)
def test_a_mistake_uses_nothing_up(eve: User, wrong: dict[str, str]) -> None:
    client = opened(first_password.link_for(eve))

    answer = client.post(PAGE, CHOSEN | wrong)

    assert answer.status_code == 200 and 'role="alert"' in answer.content.decode()
    assert client.post(PAGE, CHOSEN).status_code == 302


@pytest.mark.parametrize("why", ["password", "disabled", "another's", "wrong", "huge"])
def test_what_is_over_says_so_on_one_page(cast: Cast, eve: User, why: str) -> None:
    link = first_password.link_for(eve)
    match why:
        case "password":
            eve.set_password("set by an administrator")
        case "disabled":
            eve.is_active = False
        case "another's":
            link = link.replace(f"/{eve.pk}.", f"/{User.objects.create_user('grace', team=cast.physics).pk}.")
        case "wrong":
            link = link[:-2] + ("0/" if link[-2] != "0" else "1/")
        case "huge":
            link = link.replace(f"/{eve.pk}.", f"/{10**30}.")
    eve.save()
    client = opened(link)

    for answer in (client.get(PAGE), client.post(PAGE, CHOSEN)):
        assert answer.status_code == 404 and "This link does not work" in answer.content.decode()
    assert not User.objects.get(pk=eve.pk).check_password(PASSWORD)


def test_it_ends_after_fourteen_days(eve: User, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = first_password.link_for(eve).partition(".")[2].rstrip("/")
    life = timedelta(seconds=site.PASSWORD_RESET_TIMEOUT)
    now = datetime.now()  # noqa: DTZ005

    found = []
    for later in (life - timedelta(minutes=1), life + timedelta(minutes=1)):
        monkeypatch.setattr(first_password._Proofs, "_now", lambda _self, at=now + later: at)
        found.append(first_password.find(eve.pk, proof))

    assert life.days == 14 and found == [eve, None]


def test_an_open_page_ends_with_the_link(eve: User) -> None:
    link = first_password.link_for(eve)
    first, second = opened(link), opened(link)

    assert first.post(PAGE, CHOSEN).status_code == 302
    other = {"new_password1": "of somebody else", "new_password2": "of somebody else"}
    assert second.post(PAGE, other).status_code == 404
    eve.refresh_from_db()
    assert eve.check_password(PASSWORD)


def test_two_at_once_set_one(eve: User) -> None:
    at_once, results = threading.Barrier(4), []

    def choose(password: str) -> None:
        person = User.objects.get(pk=eve.pk)
        at_once.wait(10)
        try:
            first_password.choose(person, password)
            results.append(password)
        except first_password.LinkOver:
            pass
        finally:
            connections.close_all()

    threads = [threading.Thread(target=choose, args=(f"number {number} of four",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    eve.refresh_from_db()
    assert len(results) == 1 and eve.check_password(results[0])


def test_who_has_a_password_gets_no_link(cast: Cast) -> None:
    assert first_password.link_for(cast.bob.user) == ""


@pytest.mark.parametrize("right", ["is_staff", "is_superuser"])
def test_no_paper_opens_the_panel(eve: User, right: str) -> None:
    link = first_password.link_for(eve)
    client = opened(link)
    setattr(eve, right, True)
    eve.save()

    assert first_password.link_for(eve) == ""
    for each in (client, opened(link)):
        assert each.post(PAGE, CHOSEN).status_code == 404
    eve.refresh_from_db()
    assert not eve.has_usable_password()


def test_who_is_signed_in_uses_nothing_up(cast: Cast, eve: User) -> None:
    client = opened(first_password.link_for(eve))
    client.force_login(cast.charlie.user)
    client.get(first_password.link_for(eve))

    said = client.post(PAGE, CHOSEN).content.decode()

    eve.refresh_from_db()
    assert "signed in already" in said and not eve.has_usable_password()


def test_a_form_of_another_site_is_refused(eve: User) -> None:
    client = browser(enforce_csrf_checks=True)
    client.get(first_password.link_for(eve))

    assert client.post(PAGE, CHOSEN, headers={"origin": "https://evil.example"}).status_code == 403


def test_no_log_line_has_the_link(eve: User) -> None:
    assert masking.path(first_password.link_for(eve)) == "/join/***/"


def test_the_pages_are_in_chinese(eve: User) -> None:
    link = first_password.link_for(eve)
    client = opened(link, "zh-CN")

    assert english(client.get(PAGE)) == []
    assert english(client.post(PAGE, CHOSEN | {"new_password2": "x"})) == []
    assert english(client.post(PAGE, CHOSEN, follow=True)) == []
    assert "此链接无效" in opened(link, "zh-CN").get(PAGE).content.decode()
