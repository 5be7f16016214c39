from __future__ import annotations

import getpass
import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management.base import CommandError

from accounts.models import Team
from relay import vault
from relay.models import PoeAccount, PoeKey
from tests.commands import run

pytestmark = pytest.mark.django_db

SECRET = "made-up-poe-key-9999"
Give = Callable[..., str]


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Give:
    def add(text: str, *arguments: str, **options: Any) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return run("addpoekey", *arguments, **options)

    return add


def test_a_key_is_sealed_and_its_account_has_its_name(give: Give) -> None:
    out = give(f"  {SECRET}\n", "main")

    key = PoeKey.objects.select_related("account").get()
    assert vault.unseal(key.secret) == SECRET
    assert SECRET not in key.secret
    assert (key.name, key.last_four, key.account.name, key.account.team) == ("main", "9999", "main", None)
    assert out == "main (…9999) added to the account main.\n"


def test_options_are_stored(give: Give) -> None:
    team = Team.objects.create(name="Physics")

    give(
        *(SECRET, "second", "--account", "shared", "--team", "Physics"),
        *("--priority", "-3", "--weight", "7", "--proxy", "SOCKS://127.0.0.1:1080/"),
    )

    key = PoeKey.objects.select_related("account__team").get()
    assert (key.account.name, key.account.team) == ("shared", team)
    assert (key.priority, key.weight, key.proxy) == (-3, 7, "socks5://127.0.0.1:1080")


def test_two_keys_share_an_account(give: Give) -> None:
    give(SECRET, "first", "--account", "shared")
    give("another-made-up-key-8888", "second", "--account", "shared")

    assert PoeAccount.objects.count() == 1
    assert PoeKey.objects.filter(account__name="shared").count() == 2


def test_a_terminal_is_asked_without_an_echo(give: Give, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("must not be read"))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: SECRET)

    run("addpoekey", "main")

    assert vault.unseal(PoeKey.objects.get().secret) == SECRET


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "standard input"),
        (" \n ", "standard input"),
        ("two words", "space"),
        ("one-line\nanother-line", "control character"),
        ("made-up\x00key", "control character"),
        ("sch\u00f6ner-schl\u00fcssel", "letter"),
        ("made0up1cookie%3D%3D", "cookie"),
        ("k" * 1001, "too long"),
    ],
)
def test_it_refuses_what_is_no_key_without_showing_it(give: Give, text: str, sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence) as refusal:
        give(text, "main")

    assert not text.strip() or text.strip() not in str(refusal.value)
    assert not PoeKey.objects.exists()
    assert not PoeAccount.objects.exists()


def test_it_refuses_standard_input_that_is_not_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\xfa"), encoding="utf-8"))

    with pytest.raises(CommandError, match="not text"):
        run("addpoekey", "main")


def test_it_refuses_a_name_that_exists_and_replaces_when_told(give: Give) -> None:
    give(SECRET, "main", "--weight", "7", "--account", "shared")

    with pytest.raises(CommandError, match="--replace"):
        give("another-made-up-key-8888", "main")
    assert PoeKey.objects.get().last_four == "9999"
    out = give("another-made-up-key-8888", "main", "--replace")

    key = PoeKey.objects.select_related("account").get()
    assert vault.unseal(key.secret) == "another-made-up-key-8888"
    assert (key.last_four, key.weight, key.account.name) == ("8888", 7, "shared")
    assert out == "main (…8888) replaced in the account shared.\n"


def test_replacing_says_that_a_disabled_key_stays_so(give: Give) -> None:
    give(SECRET, "main")
    PoeKey.objects.update(enabled=False)

    assert "disabled" in give("another-made-up-key-8888", "main", "--replace")


def test_it_refuses_a_secret_that_is_stored_under_another_name(give: Give) -> None:
    give(SECRET, "main")

    with pytest.raises(CommandError, match="stored already, as main"):
        give(SECRET, "second")

    assert PoeKey.objects.count() == 1
    give(SECRET, "main", "--replace")


def test_a_key_that_another_encryption_key_has_sealed_does_not_stand_in_the_way(give: Give) -> None:
    give(SECRET, "main")
    PoeKey.objects.update(secret=vault.seal(SECRET, purpose="something else"))

    give(SECRET, "second")

    assert PoeKey.objects.count() == 2


def test_no_real_key_goes_to_the_demo_server(give: Give) -> None:
    PoeAccount.objects.create(name="demo", is_demo=True)

    with pytest.raises(CommandError, match="demo server"):
        give(SECRET, "demo")

    assert not PoeKey.objects.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weight": 0}, "--weight: .*1"),
        ({"priority": 2**70}, "--priority: "),
        ({"proxy": "ftp://127.0.0.1"}, "--proxy: "),
        ({"proxy": "http://["}, "--proxy: "),
        ({"team": "Nobody"}, "no team 'Nobody'"),
        ({"account": "a" * 101}, "--account: .*100"),
    ],
)
def test_it_refuses_a_bad_value_and_leaves_nothing_behind(
    give: Give, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CommandError, match=sentence):
        give(SECRET, "main", **options)

    assert not PoeKey.objects.exists()
    assert not PoeAccount.objects.exists()


@pytest.mark.parametrize("arguments", [("second", "--account", "shared"), ("main", "--replace")])
def test_it_refuses_another_team_for_an_account(give: Give, arguments: tuple[str, ...]) -> None:
    Team.objects.create(name="Physics")
    give(SECRET, "main", "--account", "shared")

    with pytest.raises(CommandError, match="belongs to all teams"):
        give("another-made-up-key-8888", *arguments, "--team", "Physics")

    assert PoeKey.objects.get().last_four == "9999"
