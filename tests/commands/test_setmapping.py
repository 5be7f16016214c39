from __future__ import annotations

import pytest
from django.core.management.base import CommandError

from relay.models import BotMapping, PoeAccount
from tests.commands import run

pytestmark = pytest.mark.django_db


def test_it_makes_changes_and_leaves_a_mapping() -> None:
    assert run("setmapping", "gpt-4o", "GPT-4o") == "gpt-4o -> GPT-4o (new)\n"
    assert run("setmapping", "gpt-4o", "GPT-4o") == "gpt-4o -> GPT-4o (unchanged)\n"
    assert run("setmapping", "gpt-4o", "gpt-5.4") == "gpt-4o -> gpt-5.4 (changed from GPT-4o)\n"

    mapping = BotMapping.objects.get()
    assert (mapping.model, mapping.bot, mapping.enabled, mapping.hidden) == ("gpt-4o", "gpt-5.4", True, False)


def test_a_model_in_another_case_is_the_same_model() -> None:
    run("setmapping", "gpt-4o", "GPT-4o")

    assert run("setmapping", " GPT-4O ", "gpt-5.4") == "gpt-4o -> gpt-5.4 (changed from GPT-4o)\n"
    assert BotMapping.objects.count() == 1


def test_what_is_not_said_stays() -> None:
    PoeAccount.objects.create(name="main")
    run("setmapping", "gpt-4o", "GPT-4o", "--hidden", "--disabled", "--account", "main")

    out = run("setmapping", "gpt-4o", "gpt-5.4")

    mapping = BotMapping.objects.select_related("account").get()
    assert out == "gpt-4o -> gpt-5.4 (changed from GPT-4o)\n"
    assert mapping.hidden
    assert not mapping.enabled
    assert mapping.account is not None
    assert mapping.account.name == "main"


def test_flags_can_be_taken_back() -> None:
    PoeAccount.objects.create(name="main")
    run("setmapping", "gpt-4o", "GPT-4o", "--hidden", "--disabled", "--account", "main")

    out = run("setmapping", "gpt-4o", "GPT-4o", "--no-hidden", "--no-disabled", "--account", "")

    mapping = BotMapping.objects.get()
    assert out == "gpt-4o -> GPT-4o (changed: listed, enabled, any account)\n"
    assert (mapping.hidden, mapping.enabled, mapping.account_id) == (False, True, None)


@pytest.mark.parametrize(
    ("model", "bot", "sentence"),
    [
        ("", "GPT-4o", "MODEL: "),
        (" ", "GPT-4o", "MODEL: "),
        ("gpt-4o", " ", "BOT: "),
        ("m" * 201, "GPT-4o", "MODEL: .*200"),
        ("gpt-4o", "b" * 201, "BOT: .*200"),
        ("gpt\x07", "GPT-4o", "control character"),
        ("gpt-4o", "GPT\n4o", "control character"),
    ],
)
def test_it_refuses_names_that_are_none(model: str, bot: str, sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        run("setmapping", model, bot)

    assert not BotMapping.objects.exists()


def test_it_refuses_an_unknown_account_and_names_those_there_are() -> None:
    PoeAccount.objects.create(name="main")

    with pytest.raises(CommandError, match="no Poe account 'mian'; there are: main"):
        run("setmapping", "gpt-4o", "GPT-4o", "--account", "mian")

    assert not BotMapping.objects.exists()
