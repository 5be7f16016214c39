"""What people set for themselves: it is theirs alone, and follows them to another browser."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from django.test import Client
from django.utils import timezone

from accounts import second_factor
from accounts.models import Preferences, TokenActivity
from relay.models import DirectoryVersion
from tests.accounts.test_second_factor import code_of, with_factor
from tests.cast import PASSWORD, Cast, Person
from tests.test_signing_in import browser, is_signed_in, password
from tests.test_translations import english

PAGES = ["/me/settings/", "/me/settings/password/", "/me/settings/second-factor/"]


def signed_in(person: Person) -> Client:
    client = browser()
    password(client, person.user.username)
    return client


@pytest.mark.parametrize("page", PAGES)
def test_nobody_is_sent_to_sign_in(db: None, client: Client, page: str) -> None:
    assert client.get(page)["Location"] == f"/?next={page}"


@pytest.mark.parametrize("page", PAGES)
def test_it_is_in_chinese(cast: Cast, page: str) -> None:
    client = signed_in(cast.bob)
    client.post("/i18n/setlang/", {"language": "zh-hans"})

    assert english(client.get(page)) == []


def test_the_chosen_language_follows_to_another_browser(cast: Cast) -> None:
    signed_in(cast.bob).post("/i18n/setlang/", {"language": "zh-hans"})

    assert 'lang="zh-hans"' in signed_in(cast.bob).get("/").content.decode()
    assert 'lang="en"' in signed_in(cast.alice).get("/").content.decode()
    signed_in(cast.bob).post("/me/settings/", {"language": "en"})
    assert 'lang="en"' in signed_in(cast.bob).get("/").content.decode()


def test_a_language_that_is_not_there_is_not_kept(cast: Cast) -> None:
    client = signed_in(cast.bob)

    client.post("/i18n/setlang/", {"language": "tlh"})

    assert not Preferences.objects.exists()
    assert client.post("/me/settings/", {"language": "tlh"}).status_code == 200


def test_dates_are_in_the_chosen_time_zone_else_in_the_teams(cast: Cast) -> None:
    for who in (cast.bob, cast.root):
        moment = datetime(2026, 11, 29, 20, 30, tzinfo=UTC)
        TokenActivity.objects.create(token=who.token, last_used_at=moment)
    cast.physics.time_zone = "Asia/Kolkata"
    cast.physics.save()
    bob, root = signed_in(cast.bob), signed_in(cast.root)

    assert "Nov. 30, 2026, 2 a.m." in bob.get("/me/tokens/").content.decode()
    for client in (bob, root):
        client.post("/me/settings/", {"time_zone": "Asia/Shanghai"})

    assert "Nov. 30, 2026, 4:30 a.m." in bob.get("/me/tokens/").content.decode()
    assert "Nov. 30, 2026, 4:30 a.m." in root.get("/admin/accounts/accesstoken/").content.decode()
    browser().get("/")
    assert timezone.get_current_timezone_name() == "UTC"


def test_the_pages_say_whose_midnight_counts(cast: Cast) -> None:
    cast.physics.time_zone = "Asia/Kolkata"
    cast.physics.save()
    bob = signed_in(cast.bob)
    bob.post("/me/settings/", {"time_zone": "Asia/Shanghai"})

    for page in ("/me/settings/", "/me/usage/"):
        assert re.search(r"team's(?: time zone)?[:,] Asia/Kolkata", bob.get(page).content.decode()), page


@pytest.mark.parametrize(
    "form", [{"time_zone": "Mars/Base"}, {"time_zone": "../etc"}, {"email": "no address"}]
)
def test_what_cannot_be_is_refused(cast: Cast, form: dict[str, str]) -> None:
    response = signed_in(cast.bob).post("/me/settings/", form)

    cast.bob.user.refresh_from_db()
    assert response.status_code == 200 and 'role="alert"' in response.content.decode()
    assert cast.bob.user.email == "" and not Preferences.objects.exists()


def test_no_setting_reloads_the_directory(cast: Cast) -> None:
    client, before = signed_in(cast.bob), DirectoryVersion.objects.get().n

    client.post("/me/settings/", {"language": "en", "time_zone": "UTC", "email": "bob@example.org"})
    change = {"old_password": PASSWORD, "new_password1": "a-new-battery", "new_password2": "a-new-battery"}
    client.post("/me/settings/password/", change)
    with_factor(cast.bob.user)

    cast.bob.user.refresh_from_db()
    assert cast.bob.user.email == "bob@example.org" and cast.bob.user.check_password("a-new-battery")
    assert DirectoryVersion.objects.get().n == before


def test_a_new_password_ends_all_other_sessions(cast: Cast) -> None:
    here, there = signed_in(cast.bob), signed_in(cast.bob)
    change = {"old_password": PASSWORD, "new_password1": "a-new-battery", "new_password2": "a-new-battery"}

    assert here.post("/me/settings/password/", change)["Location"] == "/me/settings/"

    assert here.get("/me/settings/").status_code == 200
    assert there.get("/me/settings/").status_code == 302


@pytest.mark.parametrize(
    "change",
    [
        {"old_password": "guess"},
        {"new_password2": "something-else"},
        {"new_password1": "short", "new_password2": "short"},
    ],
)
def test_a_bad_change_of_password_is_refused(cast: Cast, change: dict[str, str]) -> None:
    good = {"old_password": PASSWORD, "new_password1": "a-new-battery", "new_password2": "a-new-battery"}

    page = signed_in(cast.bob).post("/me/settings/password/", good | change)

    cast.bob.user.refresh_from_db()
    assert 'role="alert"' in page.content.decode() and cast.bob.user.check_password(PASSWORD)


def test_a_browser_left_open_is_no_place_to_guess_the_password(cast: Cast) -> None:
    with_factor(cast.bob.user)
    client = signed_in(cast.bob)
    client.post("/sign-in/code/", {"code": code_of(cast.bob.user)})
    for _number in range(10):
        client.post("/me/settings/second-factor/remove/", {"password": "guess"})

    page = client.post("/me/settings/second-factor/remove/", {"password": PASSWORD})

    assert "Too many wrong attempts" in page.content.decode() and second_factor.of(cast.bob.user)
    change = {"old_password": PASSWORD, "new_password1": "a-new-battery", "new_password2": "a-new-battery"}
    assert "Too many wrong attempts" in client.post("/me/settings/password/", change).content.decode()


def test_setting_up_shows_a_code_to_scan_and_recovery_codes_once(cast: Cast) -> None:
    client = signed_in(cast.bob)
    page = client.get("/me/settings/second-factor/").content.decode()
    assert "otpauth://totp/poe-relay:bob?secret=" in page and "qrcode-generator" in page

    wrong = client.post("/me/settings/second-factor/", {"code": "nonsense"}).content.decode()
    codes = client.post("/me/settings/second-factor/", {"code": code_of(cast.bob.user)})

    shown = re.findall(r"<li><code>(\w{5}-\w{5})</code></li>", codes.content.decode())
    assert "not right" in wrong and len(shown) == 10
    assert "no-store" in codes["Cache-Control"]
    assert client.get("/me/settings/second-factor/")["Location"] == "/me/settings/"
    assert shown[0] not in client.get("/me/settings/").content.decode()


def test_switching_it_off_takes_the_password(cast: Cast) -> None:
    with_factor(cast.bob.user)
    client = signed_in(cast.bob)
    client.post("/sign-in/code/", {"code": code_of(cast.bob.user)})

    refused = client.post("/me/settings/second-factor/remove/", {"password": "guess"})
    assert "not your password" in refused.content.decode() and second_factor.of(cast.bob.user)
    client.post("/me/settings/second-factor/remove/", {"password": PASSWORD})

    assert second_factor.of(cast.bob.user) is None and is_signed_in(client)


def test_new_recovery_codes_take_a_code(cast: Cast) -> None:
    with_factor(cast.bob.user)
    client = signed_in(cast.bob)
    client.post("/sign-in/code/", {"code": code_of(cast.bob.user)})

    refused = client.post("/me/settings/second-factor/codes/", {"code": "nonsense"})
    shown = client.post("/me/settings/second-factor/codes/", {"code": code_of(cast.bob.user, 1)})

    assert "not right" in refused.content.decode()
    assert len(re.findall(r"<li><code>\w{5}-\w{5}</code></li>", shown.content.decode())) == 10


def test_a_mail_address_is_only_text(cast: Cast) -> None:
    hostile = '"><script>alert(1)</script>@x'

    page = signed_in(cast.bob).post("/me/settings/", {"email": hostile, "time_zone": hostile})

    assert page.status_code == 200 and hostile not in page.content.decode()
