"""The panel as an administrator uses it, and as nobody else may."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AccessToken, token_digest
from relay.models import BotMapping, PoeAccount, PoeKey
from tests import cast as people
from tests.cast import Cast


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


PAGES = [
    reverse(f"admin:{name}", args=args)
    for name, args in (
        ("index", ()),
        ("accounts_team_changelist", ()),
        ("accounts_team_add", ()),
        ("accounts_user_changelist", ()),
        ("accounts_user_add", ()),
        ("accounts_accesstoken_changelist", ()),
        ("accounts_accesstoken_add", ()),
        ("accounts_accesstoken_issue_many", ()),
        ("accounts_limitpreset_changelist", ()),
        ("accounts_limitpreset_add", ()),
        ("accounts_invitation_changelist", ()),
        ("accounts_invitation_add", ()),
        ("relay_poeaccount_changelist", ()),
        ("relay_poekey_changelist", ()),
        ("relay_poekey_add", ()),
        ("relay_botmapping_changelist", ()),
        ("relay_botmapping_add", ()),
        ("relay_usagerecord_changelist", ()),
    )
]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_and_nothing_comes_from_elsewhere(root: Client, page: str) -> None:
    people.poe_key()
    people.mapping("gpt-4o", "GPT-4o")

    for query in ("", "?q=gpt") if "add" not in page and page != "/admin/" else ("",):
        response = root.get(page + query)
        assert response.status_code == 200
        assert not re.search(r'(src|href)="(https?:)?//', response.content.decode())


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("who", ["nobody", "alice", "bob"])
def test_only_an_administrator_may(cast: Cast, client: Client, who: str, page: str) -> None:
    if who != "nobody":
        client.force_login(getattr(cast, who).user)

    response = client.get(page)

    assert response.status_code == 302 and response["Location"].startswith("/admin/login/")


def test_a_new_token_is_shown_once_on_a_page_that_nothing_stores(root: Client, cast: Cast) -> None:
    form = {"name": "Chatbox", "owner": cast.bob.user.pk, "allowed_models": "[]", "allowed_networks": "[]"}

    response = root.post(reverse("admin:accounts_accesstoken_add"), form)

    assert response.status_code == 200 and "no-store" in response["Cache-Control"]
    found = re.search(r"sk-poe-[0-9A-Za-z]{40}", response.content.decode())
    assert found is not None
    token = AccessToken.objects.get(name="Chatbox")
    assert token.digest == token_digest(found.group()) and token.owner == cast.bob.user
    again = root.get(reverse("admin:accounts_accesstoken_change", args=[token.pk]))
    assert found.group() not in again.content.decode()


def test_rotating_asks_first_and_shows_the_successor_once(root: Client, cast: Cast) -> None:
    page = reverse("admin:accounts_accesstoken_rotate", args=[cast.bob.token.pk])

    assert "sk-poe-" not in root.get(page).content.decode().replace(cast.bob.token.prefix, "")
    assert AccessToken.objects.filter(owner=cast.bob.user).count() == 1
    response = root.post(page)

    assert "no-store" in response["Cache-Control"]
    old = AccessToken.objects.get(pk=cast.bob.token.pk)
    assert old.replaced_by is not None and old.expires_at is not None and not old.is_expired()


def test_a_poe_key_is_stored_encrypted_and_never_shown_again(root: Client) -> None:
    secret = "a-real-poe-key-of-somebody-1234"
    form = {"name": "mine", "priority": 0, "weight": 100, "requests_in_flight": 50, "enabled": "on"}

    response = root.post(reverse("admin:relay_poekey_add"), form | {"new_secret": secret})

    assert response.status_code == 302
    key = PoeKey.objects.get()
    assert secret not in key.secret and key.last_four == "1234" and key.account.name == "mine"
    page = root.get(reverse("admin:relay_poekey_change", args=[key.pk])).content.decode()
    assert secret not in page and "1234" in page
    changed = root.post(
        reverse("admin:relay_poekey_change", args=[key.pk]), form | {"account": key.account_id, "weight": 7}
    )
    assert changed.status_code == 302
    after = PoeKey.objects.get()
    assert (after.weight, after.secret) == (7, key.secret)


def test_a_poe_key_without_a_secret_is_refused(root: Client) -> None:
    form = {"name": "mine", "priority": 0, "weight": 100, "requests_in_flight": 50}

    response = root.post(reverse("admin:relay_poekey_add"), form)

    assert response.status_code == 200 and not PoeKey.objects.exists() and not PoeAccount.objects.exists()


def test_a_model_has_one_mapping_whatever_its_case(root: Client) -> None:
    people.mapping("gpt-4o", "GPT-4o")
    form = {
        "model": "GPT-4O",
        "bot": "Other",
        "parameters": "{}",
        "fallback_models": "[]",
        "replace_policy": "reasoning",
        "simulate_roles": "off",
    }

    response = root.post(reverse("admin:relay_botmapping_add"), form)

    assert response.status_code == 200 and BotMapping.objects.count() == 1


def test_one_action_removes_the_demo_and_nothing_else(root: Client) -> None:
    demo = people.poe_key(name="demo", is_demo=True).account
    people.mapping("demo-echo", "Demo-Echo", account=demo)
    people.poe_key(name="real")
    people.mapping("gpt-4o", "GPT-4o")
    page = reverse("admin:relay_poeaccount_remove_demo")

    assert root.get(page).status_code == 200 and PoeAccount.objects.count() == 2
    root.post(page)

    assert [account.name for account in PoeAccount.objects.all()] == ["real"]
    assert [mapping.model for mapping in BotMapping.objects.all()] == ["gpt-4o"]


def test_fields_that_were_cleared_mean_nothing_not_an_error(root: Client, cast: Cast) -> None:
    mapping = people.mapping("gpt-4o", "GPT-4o", parameters={"a": 1}, fallback_models=["x"])
    form = {
        "model": "gpt-4o",
        "bot": "GPT-4o",
        "parameters": "",
        "fallback_models": "",
        "replace_policy": "reasoning",
        "simulate_roles": "off",
    }
    token = {"name": "n", "owner": cast.bob.user.pk, "allowed_models": "", "allowed_networks": ""}

    changed = root.post(reverse("admin:relay_botmapping_change", args=[mapping.pk]), form)
    issued = root.post(reverse("admin:accounts_accesstoken_add"), token)

    assert (changed.status_code, issued.status_code) == (302, 200)
    mapping.refresh_from_db()
    assert (mapping.parameters, mapping.fallback_models) == ({}, [])
    assert AccessToken.objects.get(name="n").allowed_models == []


def test_an_account_address_gets_the_slash_that_bots_are_appended_to(root: Client) -> None:
    form = {
        "name": "mine",
        "requests_per_minute": 500,
        "base_url": "http://127.0.0.1:1/bot",
        "upload_url": "http://127.0.0.1:1/u/",
        "api_url": "http://127.0.0.1:1/",
    }

    assert root.post(reverse("admin:relay_poeaccount_add"), form).status_code == 302

    account = PoeAccount.objects.get()
    assert (account.base_url, account.upload_url) == ("http://127.0.0.1:1/bot/", "http://127.0.0.1:1/u/")
    assert account.api_url == "http://127.0.0.1:1"


# Signing in, wherever the site is opened.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:3700", 200),
        ("192.168.7.20:3700", 200),
        ("[::1]:3700", 200),
        ("localhost", 200),
        ("evil.example", 400),
    ],
)
def test_pages_answer_on_addresses_of_this_machine_only(
    db: None, client: Client, host: str, status: int
) -> None:
    assert client.get("/", headers={"host": host}).status_code == status


def test_signing_in_over_another_address(cast: Cast) -> None:
    client = Client(enforce_csrf_checks=True)
    host = {"host": "192.168.7.20:3700"}
    token = re.search(
        r'csrfmiddlewaretoken" value="([^"]+)"', client.get("/admin/login/", headers=host).content.decode()
    )
    assert token is not None
    form = {
        "username": "root",
        "password": people.PASSWORD,
        "csrfmiddlewaretoken": token.group(1),
        "next": "/admin/",
    }

    response = client.post("/admin/login/", form, headers=host | {"origin": "http://192.168.7.20:3700"})

    assert response.status_code == 302 and response["Location"] == "/admin/"
    assert not response.cookies["sessionid"]["secure"]


@pytest.mark.parametrize(
    ("public_url", "status"), [("http://127.0.0.1:3700", 403), ("https://relay.example.org", 302)]
)
def test_signing_in_behind_a_reverse_proxy_needs_the_public_url(
    cast: Cast, settings: Any, public_url: str, status: int
) -> None:
    """The proxy speaks https outside and plain http with a Host of its own inside."""
    settings.CSRF_TRUSTED_ORIGINS = [public_url]
    client = Client(enforce_csrf_checks=True)
    host = {"host": "127.0.0.1:3700"}
    page = client.get("/admin/login/", headers=host).content.decode()
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token is not None
    form = {
        "username": "root",
        "password": people.PASSWORD,
        "csrfmiddlewaretoken": token.group(1),
        "next": "/admin/",
    }

    response = client.post("/admin/login/", form, headers=host | {"origin": "https://relay.example.org"})

    assert response.status_code == status


def test_the_portal_greets_with_a_sign_in_page(db: None, client: Client) -> None:
    response = client.get("/")

    assert response.status_code == 200 and b'name="password"' in response.content


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_app_that_only_looks_whether_anybody_is_there_is_welcome(
    db: None, client: Client, method: str
) -> None:
    response = client.generic(method, "/", headers={"authorization": "Bearer sk-poe-unknown"})

    assert response.status_code == 200 and bool(response.content) == (method == "GET")


def test_a_member_sees_the_own_tokens_only(cast: Cast, client: Client) -> None:
    client.post("/", {"username": "bob", "password": people.PASSWORD})

    page = client.get("/").content.decode()

    assert cast.bob.token.prefix in page and cast.charlie.token.prefix not in page
    assert "/admin/" not in page


def test_a_wrong_password_says_so_and_signs_nobody_in(cast: Cast, client: Client) -> None:
    response = client.post("/", {"username": "bob", "password": "wrong"})

    assert response.status_code == 200 and b'role="alert"' in response.content
    assert "_auth_user_id" not in client.session
