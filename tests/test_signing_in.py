"""Signing in: password, then code; at both doors; slowly for guessers; and no way around it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.test import Client
from django.urls import reverse

from accounts import guessing, second_factor
from accounts.models import Guesses, User
from accounts.signing_in import KNOWN_BROWSER
from tests.accounts.test_second_factor import code_of, with_factor
from tests.cast import PASSWORD, Cast
from tests.conftest import Served

ROOT = Path(__file__).parent.parent
DOORS = ["/", "/admin/login/"]


def browser(address: str = "192.0.2.7") -> Client:
    return Client(SERVER_NAME="127.0.0.1", REMOTE_ADDR=address, headers={"accept-language": "en"})


def password(client: Client, name: str, said: str = PASSWORD, door: str = "/") -> Any:
    return client.post(door, {"username": name, "password": said})


def is_signed_in(client: Client) -> bool:
    return SESSION_KEY in client.session


@pytest.fixture
def demanded(settings: Any) -> None:
    accounts = settings.CONFIG.accounts.model_copy(update={"second_factor": "administrators"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"accounts": accounts})


# The doors.


@pytest.mark.parametrize("door", DOORS)
def test_without_a_second_factor_the_password_is_enough(cast: Cast, door: str) -> None:
    client = browser()

    assert password(client, "root", door=f"{door}?next=/admin/accounts/user/")["Location"] == (
        "/admin/accounts/user/"
    )

    assert client.get("/admin/").status_code == 200


@pytest.mark.parametrize("door", DOORS)
def test_with_one_nobody_is_in_before_the_code(cast: Cast, door: str) -> None:
    with_factor(cast.root.user)
    client = browser()

    assert password(client, "root", door=f"{door}?next=/admin/accounts/user/")["Location"] == "/sign-in/code/"

    assert not is_signed_in(client)
    assert client.get("/admin/").status_code == client.get("/me/tokens/").status_code == 302
    assert client.post("/sign-in/code/", {"code": "wrong"}).status_code == 200
    assert not is_signed_in(client)
    response = client.post("/sign-in/code/", {"code": code_of(cast.root.user)})
    assert response["Location"] == "/admin/accounts/user/" and is_signed_in(client)
    assert client.get("/admin/").status_code == 200


def test_where_to_go_is_on_this_site(cast: Cast) -> None:
    assert password(browser(), "bob", door="/?next=https://evil.example/")["Location"] == "/"


def test_who_may_not_open_the_panel_is_told_so_there(cast: Cast) -> None:
    client = browser()
    client.force_login(cast.bob.user)

    page = client.get("/admin/", follow=True)

    assert page.status_code == 200 and "signed in as bob" in page.content.decode()


@pytest.mark.parametrize("change", ["time", "password", "disabled", "nobody"])
def test_a_password_that_was_said_does_not_wait_for_ever(
    cast: Cast, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, client = cast.bob.user, browser()
    with_factor(bob)
    if change != "nobody":
        password(client, "bob")
    if change == "time":
        monkeypatch.setattr("accounts.signing_in.CODE_SECONDS", -1)
    elif change == "password":
        bob.set_password("another one that is long")
        bob.save()
    elif change == "disabled":
        User.objects.filter(pk=bob.pk).update(is_active=False)

    response = client.post("/sign-in/code/", {"code": code_of(bob)})

    assert response["Location"] == "/" and not is_signed_in(client)


# No way around.


def walk(client: Client) -> dict[str, int]:
    pages = [
        "/",
        "/me/tokens/",
        "/me/settings/",
        "/admin/",
        "/admin/accounts/user/",
        "/admin/password_change/",
    ]
    pages += ["/admin/jsi18n/", "/admin/autocomplete/", "/admin/relay/live/", "/admin/login/"]
    return {page: client.get(page).status_code for page in pages}


def test_a_session_that_began_otherwise_is_asked_for_the_code(cast: Cast) -> None:
    with_factor(cast.root.user)
    for page in walk(browser()):
        client = browser()
        client.force_login(cast.root.user)

        response = client.get(page)

        assert response["Location"] == "/sign-in/code/" and not is_signed_in(client), page
    client.post("/sign-in/code/", {"code": code_of(cast.root.user)})
    assert client.get("/admin/").status_code == 200


def test_switching_it_on_asks_all_other_browsers(cast: Cast) -> None:
    here, there = browser(), browser()
    for client in (here, there):
        password(client, "bob")
    here.get("/me/settings/second-factor/")

    here.post("/me/settings/second-factor/", {"code": code_of(cast.bob.user)})

    assert here.get("/me/settings/").status_code == 200
    assert there.get("/me/settings/")["Location"] == "/sign-in/code/"


def test_a_new_one_does_not_trust_a_browser_that_passed_the_old_one(cast: Cast) -> None:
    client = browser()
    with_factor(cast.bob.user)
    password(client, "bob")
    client.post("/sign-in/code/", {"code": code_of(cast.bob.user)})
    second_factor.remove(cast.bob.user, by="root")
    assert client.get("/me/settings/").status_code == 200

    with_factor(cast.bob.user)

    assert client.get("/me/settings/")["Location"] == "/sign-in/code/"


def test_nothing_else_begins_a_session() -> None:
    """Django's `login` is called in one place; the panel's own page of that name is never reached."""
    callers = {
        str(path.relative_to(ROOT))
        for folder in ("accounts", "relay", "proxy_site")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "django.contrib.auth"
        if {"login", "alogin"} & {alias.name for alias in node.names}
    }

    assert callers == {"accounts/signing_in.py"}
    assert reverse("admin:login") == "/admin/login/"


def test_an_administrator_sets_one_up_first_if_that_is_demanded(cast: Cast, demanded: None) -> None:
    client = browser()
    password(client, "root")

    seen = {page: client.get(page) for page in walk(browser())}

    assert {page["Location"] for page in seen.values()} == {"/me/settings/second-factor/"}
    assert "demands it of you" in client.get("/me/settings/second-factor/").content.decode()
    client.post("/me/settings/second-factor/", {"code": code_of(cast.root.user)})
    assert client.get("/admin/").status_code == 200


def test_nobody_else_has_to(cast: Cast, demanded: None) -> None:
    client = browser()

    password(client, "bob")

    assert client.get("/me/tokens/").status_code == 200


def test_everybody_can_be_demanded_too(cast: Cast, settings: Any) -> None:
    accounts = settings.CONFIG.accounts.model_copy(update={"second_factor": "everybody"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"accounts": accounts})
    client = browser()
    password(client, "bob")

    assert client.get("/me/tokens/")["Location"] == "/me/settings/second-factor/"


def test_who_has_to_can_still_sign_out_and_read_it_in_chinese(cast: Cast, demanded: None) -> None:
    client = browser()
    password(client, "root")

    client.post("/i18n/setlang/", {"language": "zh-hans"})

    assert 'lang="zh-hans"' in client.get("/me/settings/second-factor/").content.decode()
    client.post("/sign-out/")
    assert not is_signed_in(client)


# Administrators help.


def test_an_administrator_takes_a_lost_one_away_and_it_is_noted(cast: Cast) -> None:
    with_factor(cast.bob.user)
    root = browser()
    root.force_login(cast.root.user)

    form = {"action": "remove_second_factor", "_selected_action": [cast.bob.user.pk, cast.alice.user.pk]}
    page = root.post("/admin/accounts/user/", form, follow=True)

    assert "1 second factor taken away." in page.content.decode()
    history = root.get(f"/admin/accounts/user/{cast.bob.user.pk}/history/").content.decode()
    assert "second factor" in history and second_factor.of(cast.bob.user) is None
    assert password(browser(), "bob")["Location"] == "/"


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_nobody_else_takes_one_away(cast: Cast, who: str) -> None:
    with_factor(cast.charlie.user)
    client = browser()
    client.force_login(getattr(cast, who).user)

    form = {"action": "remove_second_factor", "_selected_action": [cast.charlie.user.pk]}
    response = client.post("/admin/accounts/user/", form)

    assert response["Location"].startswith("/admin/login/") and second_factor.of(cast.charlie.user)


# Guessing.


@pytest.mark.parametrize("door", DOORS)
def test_a_name_is_guessed_at_slowly_from_anywhere(cast: Cast, door: str) -> None:
    for number in range(10):
        refused = password(browser(f"192.0.2.{number}"), "bob", "guess", door)
        assert "correct username and password" in refused.content.decode()

    response = password(browser("192.0.2.99"), "BOB", PASSWORD, door)

    assert response.status_code == 429 and 0 < int(response["Retry-After"]) <= 60
    assert "Too many wrong attempts. Wait a minute" in response.content.decode()
    assert password(browser("192.0.2.99"), "alice", door=door).status_code == 302


def test_an_address_guesses_slowly_whatever_the_names(cast: Cast) -> None:
    # Fifty are free; a slow machine is given some back meanwhile.
    for number in range(60):
        password(browser(), f"name{number}", "guess")

    assert password(browser(), "bob").status_code == 429
    assert password(browser("192.0.2.8"), "bob").status_code == 302


def test_behind_a_proxy_it_is_the_guesser_who_is_slowed(serve: Callable[..., Served], cast: Cast) -> None:
    hashed = PBKDF2PasswordHasher().encode(PASSWORD, "salt", iterations=1)  # as that process knows it
    User.objects.filter(pk=cast.bob.user.pk).update(password=hashed)
    served = serve(POE_RELAY_SERVER__TRUSTED_PROXIES="127.0.0.1")
    secret = "a" * 32  # a browser takes it from the page, which here has no static files to show
    form = {"csrfmiddlewaretoken": secret, "username": "bob", "password": PASSWORD}
    headers = {"x-forwarded-for": "203.0.113.9", "cookie": f"csrftoken={secret}"}

    assert httpx2.post(f"{served.url}/", data=form, headers=headers).status_code == 302

    assert Guesses.objects.filter(pk=guessing.from_address("203.0.113.9")).exists()
    assert not Guesses.objects.filter(pk=guessing.from_address("127.0.0.1")).exists()


def test_a_browser_that_was_here_before_is_not_locked_out_by_strangers(cast: Cast) -> None:
    own = browser()
    password(own, "bob")
    own.post("/sign-out/")
    for _number in range(11):
        password(browser(), "bob", "guess")

    assert password(browser(), "bob").status_code == 429
    assert password(own, "bob").status_code == 302


def test_such_a_browser_guesses_slowly_too(cast: Cast) -> None:
    own = browser()
    password(own, "bob")
    own.post("/sign-out/")
    for _number in range(10):
        password(own, "bob", "guess")

    assert password(own, "bob").status_code == 429


def test_it_is_known_for_its_own_name_only_and_cannot_be_made_up(cast: Cast) -> None:
    own = browser()
    password(own, "bob")
    own.post("/sign-out/")
    for _number in range(10):
        password(own, "alice", "guess")
    own.cookies[KNOWN_BROWSER] = own.cookies[KNOWN_BROWSER].value[:-1]

    assert password(browser(), "alice").status_code == 429
    assert password(own, "alice").status_code == 429


def test_right_passwords_are_not_counted(cast: Cast) -> None:
    for _number in range(12):
        assert password(browser(), "bob").status_code == 302
    assert password(browser(), "bob", "").status_code == 200

    assert all(row.forgotten_at.timestamp() > 0 for row in Guesses.objects.all())
    assert password(browser(), "bob").status_code == 302


def test_what_was_typed_is_not_stored(cast: Cast) -> None:
    password(browser(), "my-password-by-mistake", "guess")

    assert "my-password" not in str(list(Guesses.objects.values()))
