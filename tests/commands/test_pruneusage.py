from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management.base import CommandError

from relay.management.commands.pruneusage import duration
from relay.models import Meter, UsageRecord
from tests.commands import run
from tests.ledger import written

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        (" 2W ", timedelta(weeks=2)),
    ],
)
def test_it_understands_an_age(text: str, age: timedelta) -> None:
    assert duration(text) == age


@pytest.mark.parametrize("text", ["", "90", "d", "0d", "-1d", "1.5d", "90 days", "1m", "999999w", "٩d"])
def test_it_refuses_what_is_no_age(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        duration(text)


def test_the_age_must_be_said() -> None:
    with pytest.raises(CommandError):
        run("pruneusage")


def test_it_says_what_it_removed_and_what_stays(transactional_db: None) -> None:
    now = datetime.now(UTC)
    for days in (200, 100, 0):
        written.used(1, now - timedelta(days=days))
    Meter.objects.exclude(pk="team:1").update(day_points=0, month_points=0)
    before = f"{now - timedelta(days=90):%Y-%m-%d %H:%M}"

    said = run("pruneusage", "--older-than", "90d")

    assert said == (
        f"Removed 2 usage records from before {before} UTC. Removed 4 meters of owners that are gone. "
        "The hourly rollups stay.\n"
    )
    assert UsageRecord.objects.count() == 1


def test_it_says_why_it_kept_more(transactional_db: None) -> None:
    now = datetime.now(UTC)
    for days in (100, 95):
        written.admit(1, now - timedelta(days=days))

    said = run("pruneusage", "--older-than", "12h")

    assert said == (
        f"Removed 0 usage records from before {now - timedelta(days=100):%Y-%m-%d %H:%M} UTC. "
        "What began later is kept: a record of then is open, or counts in a budget period that is not over. "
        "Removed 1 meter of owners that are gone. The hourly rollups stay.\n"
    )
