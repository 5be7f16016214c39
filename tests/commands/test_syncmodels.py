from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management.base import CommandError

from relay.models import Bot, BotMapping, PoeAccount
from tests import cast as people
from tests.commands import run
from tests.conftest import DemoPoe
from tests.listing import Listing, point_to, serve

pytestmark = pytest.mark.django_db


@pytest.fixture
def poe(settings: Any) -> Iterator[Listing]:
    with serve() as listing:
        point_to(settings, listing)
        yield listing


def test_it_reads_the_real_list_without_a_key(poe: Listing) -> None:
    people.poe_key()
    people.mapping("o3", "O3")
    people.mapping("sonnet", "Claude-3.5-Sonnet")

    out = run("syncmodels")

    assert out.startswith(f"{poe.url} lists 492 bots: 492 new (")
    assert "0 gone." in out and "2 mappings brought up to date (o3, sonnet)." in out
    assert "sonnet: its bot Claude-3.5-Sonnet is not in the list; the nearest is claude-sonnet-5.5." in out
    assert Bot.objects.count() == 492
    assert BotMapping.objects.get(model="o3").points_per_1000_input_tokens is not None
    assert [name.lower() for name in poe.headers[0]].count("authorization") == 0


def test_it_adds_what_is_named(poe: Listing) -> None:
    people.mapping("o3", "o3")

    out = run("syncmodels", "--add", "GPT-4o", "o3", "claude-opus-5.5")

    assert "2 mappings made (" in out and "1 model had a mapping already." in out
    assert set(BotMapping.objects.values_list("model", "found")) == {
        ("o3", "listed"),
        ("gpt-4o", "listed"),
        ("Claude-Opus-5.5", "listed"),
    }


def test_it_adds_all_that_have_no_mapping(poe: Listing) -> None:
    people.mapping("fast", "GPT-4o-mini")
    poe.entries = [{"id": "gpt-4o"}, {"id": "gpt-4o-mini"}, {"id": ""}]

    would = run("syncmodels", "--add-all", "--dry-run")
    assert (
        "2 new" in would
        and "1 that nobody can read" in would
        and "1 mapping would be made (gpt-4o)." in would
    )
    assert not Bot.objects.exists() and BotMapping.objects.count() == 1

    assert "1 mapping made (gpt-4o)." in run("syncmodels", "--add-all")
    assert "0 mappings made." in run("syncmodels", "--add-all")


def test_a_name_that_is_not_in_the_list_is_refused_before_anything_is_written(poe: Listing) -> None:
    with pytest.raises(CommandError, match=r"no bot 'GPT-4': did you mean gpt-4.1\?"):
        run("syncmodels", "--add", "gpt-4o", "GPT-4")

    assert not Bot.objects.exists() and not BotMapping.objects.exists()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, b'{"data": []}', "is empty"),
        (200, b'{"data": [{"id": 5}, 7]}', "is empty"),
        (200, b"{}", "nobody can read"),
        (200, b"<html>", "nobody can read"),
        (500, b"", "cannot be read"),
        (404, b"", "cannot be read"),
    ],
)
def test_a_list_that_is_empty_or_unreadable_changes_nothing(
    poe: Listing, status: int, body: bytes, sentence: str
) -> None:
    run("syncmodels", "--add", "gpt-4o")
    poe.answer = (status, body)

    with pytest.raises(CommandError, match=f"(?s){sentence}.*Nothing was changed"):
        run("syncmodels")

    assert Bot.objects.filter(gone_at=None).count() == 492
    assert BotMapping.objects.get().found == "listed"


def test_a_server_that_is_not_there_is_told_in_a_sentence(poe: Listing, settings: Any) -> None:
    poe.url = "http://127.0.0.1:9"
    point_to(settings, poe)

    with pytest.raises(CommandError, match=r"the list of bots at http://127.0.0.1:9 cannot be read"):
        run("syncmodels")


def test_an_accounts_own_list_is_the_demo_servers(demo: DemoPoe) -> None:
    BotMapping.objects.filter(model="demo-echo").update(account=PoeAccount.objects.get(name="demo"))

    out = run("syncmodels", "--account", "demo")

    assert f"{demo.url} lists" in out
    mapping = BotMapping.objects.get(model="demo-echo")
    assert (mapping.found, bool(mapping.parameters_of_bot)) == ("listed", True)
    # It is asked with any account's keys: Poe's own list is its list.
    assert BotMapping.objects.get(model="demo-tools").found == ""
    assert Bot.objects.get(handle_key="demo-echo").handle == "Demo-Echo"


def test_an_account_that_is_not_there(poe: Listing) -> None:
    PoeAccount.objects.create(name="main")

    with pytest.raises(CommandError, match="no Poe account 'other'; there are: main"):
        run("syncmodels", "--account", "other")
