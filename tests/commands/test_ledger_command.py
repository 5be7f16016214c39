from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from relay.management.commands import ledger as module
from relay.models import Meter, Pruning
from tests.commands import run
from tests.ledger import written

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_ledger_that_is_right_is_one_sentence(transactional_db: None) -> None:
    written.used(10)

    assert run("ledger", "verify") == (
        "The ledger is right: 5 meters, 1 hourly rollups and 1 usage records agree.\n"
    )


def test_every_difference_is_a_line_and_the_exit_status_is_1(transactional_db: None) -> None:
    written.used(10)
    Meter.objects.filter(pk="user:1").update(day_points=11, in_flight=1)

    lines, failed = failure()

    assert [line.partition(" points")[0] for line in lines] == [
        "user:1: the meter says 1 requests in flight, there are 0 open records",
        "user:1: the meter says 11",
    ]
    assert failed.returncode == 1
    assert str(failed).startswith("the ledger is wrong: 2 differences in 5 meters, ")


def test_it_does_not_print_without_end(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PRINTED", 1)
    written.used(10)
    Meter.objects.update(in_flight=1)

    lines, _failed = failure()

    assert lines == ["account:1: the meter says 1 requests in flight, there are 0 open records", "and 4 more"]


def test_it_says_since_when_it_can_tell(transactional_db: None) -> None:
    Pruning.objects.create(pk=1, pruned_before=datetime(2026, 5, 13, 12, 34, tzinfo=UTC))

    assert "(what is older than 2026-05-13 12:34 UTC is pruned)" in run("ledger", "verify")


def failure() -> tuple[list[str], CommandError]:
    out = StringIO()
    with pytest.raises(CommandError) as failed:
        call_command("ledger", "verify", stdout=out)
    return out.getvalue().splitlines(), failed.value


def test_it_needs_to_be_told_what_to_do() -> None:
    with pytest.raises(CommandError):
        run("ledger")
