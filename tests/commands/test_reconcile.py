from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.core.management.base import CommandError

from relay import charges
from relay.charges import BotFigures, Figures, Round
from relay.management.commands import reconcile
from relay.models import PoeCharge, UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.commands import run
from tests.conftest import Api, DemoPoe, in_database, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.asyncio
async def test_a_request_is_charged_as_the_demo_account_says(api: Api, demo: DemoPoe, cast: Cast) -> None:
    answer = await api.chat(cast.bob.plain, "demo-echo", "one two three four five six")
    assert answer.status_code == 200

    def is_settled() -> bool:
        return UsageRecord.objects.exclude(outcome="open").exists()

    assert await in_database(wait_for, is_settled)
    said = await in_database(run, "reconcile", "--force")

    record, charge = await in_database(_record_and_charge)
    assert "Matched 1 (0 ambiguous)." in said
    assert (record.points, record.accounting) == (charge.points, "reconciled")
    assert (record.prompt_tokens, record.completion_tokens) == (6, 6)
    assert (charge.points, charge.api_key_name, charge.bot) == (1 + 3, "demo", "Demo-Echo")


def _record_and_charge() -> tuple[UsageRecord, PoeCharge]:
    record = UsageRecord.objects.get()
    return record, PoeCharge.objects.get(record_id=record.pk)


def test_it_prints_what_it_did_and_how_far_the_estimates_are_off(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def done(*, force: bool) -> Round:
        asked.append(force)
        return Round(stored=1234, matched=5, ambiguous=1, waiting=2, leaks=3, own=4)

    figures = Figures(
        days=30,
        bots=(BotFigures("GPT-4o", 1200, 10, 1000, 1100), BotFigures("Free", 3, 0, 0, 0)),
        matched=1203,
        ambiguous=10,
        waiting=2,
        leaks=3,
        leaked_points=33,
        own=4,
        own_points=44,
        estimated=1000,
        charged=1100,
    )
    monkeypatch.setattr(charges, "reconcile", done)
    monkeypatch.setattr(charges, "figures", lambda days: figures)

    said = run("reconcile")

    assert asked == [False]
    assert said.splitlines() == [
        "Read 1,234 new charges. Matched 5 (1 ambiguous). "
        "Unmatched: 2 waiting, 3 possible leaks, 4 of the owner's own use.",
        "The last 30 days: 1,203 charges matched (10 ambiguous), 2 waiting, 3 possible leaks (33 points), "
        "4 of the owner's own use (44 points).",
        "bot     matched  ambiguous  estimated  charged    drift",
        "GPT-4o    1,200         10      1,000    1,100  +10.0 %",
        "Free          3          0          0        0        -",
        "all                             1,000    1,100  +10.0 %",
    ]


def test_it_says_which_history_could_not_be_read(transactional_db: None) -> None:
    people.poe_key(name="main", api_url="http://127.0.0.1:9")

    with pytest.raises(CommandError, match=r"The points history of 'main' could not be read: .+\."):
        run("reconcile")


def test_without_accounts_there_is_nothing_to_do(transactional_db: None) -> None:
    assert async_to_sync(charges.reconcile)() == Round()
    assert reconcile.DAYS == 30
    assert run("reconcile").startswith("Read 0 new charges.")
