"""Days that are over are added up once, whatever changes in them later is, and reports say the same as by the hours."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from relay import reports
from relay.ledger import days
from relay.ledger.correcting import Correction, correct
from relay.ledger.rollups import SUM_COLUMNS
from relay.ledger.verify import verify
from relay.models import (
    AddedUp,
    LateHour,
    ModelDay,
    PoeAccount,
    PoeCharge,
    TeamHour,
    TokenDay,
    UsageHour,
    UsageRecord,
)
from relay.reports import Scope
from tests.ledger import making, written

pytestmark = pytest.mark.django_db(transaction=True)

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def hour(when: datetime, **fields: Any) -> UsageHour:
    values: dict[str, Any] = dict.fromkeys(SUM_COLUMNS, 0)
    owners = {"team_id": 1, "user_id": 1, "token_id": 1, "key_id": 1, "model": "m", "bot": "B"}
    return UsageHour.objects.create(hour=when, **values | {"requests": 1} | owners | fields)


def add_up_all() -> None:
    while days.add_up():
        pass


def settled_days_ago(number: int) -> UsageRecord:
    """Its record and its hour; nothing of it is noted."""
    asked = written.used(points=10)
    earlier = datetime.now(UTC) - number * DAY
    UsageRecord.objects.filter(pk=asked.id).update(started_at=earlier)
    UsageHour.objects.update(hour=earlier.replace(minute=0, second=0, microsecond=0))
    LateHour.objects.all().delete()
    return UsageRecord.objects.get(pk=asked.id)


@pytest.fixture
def march() -> None:
    """Thirty days of two teams, four users and six tokens; some hours without use, and a day."""
    chance = random.Random(7)
    numbers = {name: range(1, 100) for name in SUM_COLUMNS}
    UsageHour.objects.bulk_create(
        UsageHour(
            hour=FIRST + number * HOUR,
            team_id=(token % 2) + 1,
            user_id=(token % 4) + 1,
            token_id=token,
            key_id=chance.randrange(3),
            model=f"model-{chance.randrange(3)}",
            bot="B",
            **{name: chance.choice(of) for name, of in numbers.items()},
        )
        for number in range(30 * 24)
        for token in chance.sample(range(1, 7), chance.randrange(4))
        if number // 24 != 11
    )


REPORTS: dict[str, Callable[[Scope], object]] = {
    "totals": reports.totals,
    "by day": lambda scope: reports.by_day(scope, "Asia/Shanghai"),
    "by hour": lambda scope: reports.slots(scope, "hour", "UTC"),
    "slots by day": lambda scope: reports.slots(scope, "day", "Asia/Kolkata"),
    "by month": lambda scope: reports.slots(scope, "month", "America/New_York"),
    "by model": reports.by_model,
    "by user": reports.by_user,
    "by team": reports.by_team,
    "by token": reports.by_token,
}
SCOPES = {
    "whole days": Scope(FIRST, FIRST + 30 * DAY),
    "no day is whole": Scope(FIRST + 3 * HOUR, FIRST + 40 * HOUR),
    "parts at both ends": Scope(FIRST - 5 * DAY + 16 * HOUR, FIRST + 20 * DAY + 16 * HOUR),
    "within a day": Scope(FIRST + 3 * HOUR, FIRST + 5 * HOUR),
    "off the hour": Scope(FIRST + timedelta(seconds=1), FIRST + 9 * DAY + timedelta(minutes=61)),
    "a team": Scope(FIRST + 6 * HOUR, FIRST + 30 * DAY, team_id=2),
    "a team that is none": Scope(FIRST, FIRST + 30 * DAY, team_id=9),
    "a user": Scope(FIRST + 6 * HOUR, FIRST + 30 * DAY, user_id=3),
    "a user of a team": Scope(FIRST, FIRST + 30 * DAY, team_id=2, user_id=2),
}


def test_reports_say_the_same_while_days_are_added_up(march: None) -> None:
    def said() -> dict[tuple[str, str], object]:
        return {(name, of): ask(scope) for name, ask in REPORTS.items() for of, scope in SCOPES.items()}

    by_hours = said()

    for _day in range(9):
        days.add_up()
    assert said() == by_hours
    add_up_all()
    assert said() == by_hours
    assert days.added_until() == FIRST + 30 * DAY and not LateHour.objects.exists()


def test_what_is_added_up_is_asked_and_not_the_hours(march: None) -> None:
    add_up_all()
    UsageHour.objects.filter(hour__lt=FIRST + 29 * DAY).delete()

    use = reports.totals(Scope(FIRST, FIRST + 29 * DAY))
    models = reports.by_model(Scope(FIRST, FIRST + 29 * DAY))

    assert use.requests == sum(share.requests for share in models) > 10_000


def test_a_day_is_added_up_two_hours_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    hour(FIRST + 23 * HOUR)
    closes = (FIRST + DAY + 2 * HOUR).timestamp()

    monkeypatch.setattr(days, "moment", lambda: closes - 1)
    add_up_all()
    assert days.added_until() == days.NEVER and not TokenDay.objects.exists()

    monkeypatch.setattr(days, "moment", lambda: closes)
    add_up_all()
    assert days.added_until() == FIRST + DAY
    assert [each.requests for table in (TokenDay, ModelDay, TeamHour) for each in table.objects.all()] == [
        1
    ] * 4
    assert TokenDay.objects.get().day == date(2026, 3, 1)


def test_days_without_use_are_passed_over() -> None:
    hour(FIRST)
    hour(FIRST + 300 * DAY - 400 * DAY)

    steps = 0
    while days.add_up():
        steps += 1

    assert days.added_until() == FIRST + DAY and steps <= 4


def test_what_poe_charges_later_is_added_up() -> None:
    record = settled_days_ago(3)
    add_up_all()
    account = PoeAccount.objects.create(name="poe")
    now = datetime.now(UTC)
    charge = PoeCharge.objects.create(account=account, query_id="1", at=now, read_at=now, bot="B", points=7)

    correct([Correction(charge.pk, record.pk)])

    assert TokenDay.objects.get().points == 10 and LateHour.objects.count() == 1
    assert verify().differences == ()  # it is to be added up anew
    add_up_all()
    assert [each.points for table in (TokenDay, ModelDay) for each in table.objects.all()] == [7, 7]
    assert {each.team_id: each.points for each in TeamHour.objects.all()} == {0: 7, 1: 7}
    assert verify().differences == () and not LateHour.objects.exists()


def test_what_is_settled_days_later_is_added_up() -> None:
    settled_days_ago(2)
    asked = written.admit(points=10)
    UsageRecord.objects.filter(pk=asked.id).update(started_at=datetime.now(UTC) - 2 * DAY)
    add_up_all()

    written.settle(making.settlement(asked, points=4))
    add_up_all()

    assert TokenDay.objects.get().points == 14 and TokenDay.objects.get().requests == 2
    assert verify().differences == ()


def test_what_is_settled_within_the_hour_is_not_noted() -> None:
    written.used(points=1)
    written.used(points=2)

    assert UsageHour.objects.get().points == 3 and not LateHour.objects.exists()


def test_whoever_comes_too_late_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sums were read before those of the process that took over."""
    hour(FIRST)
    count = days.Table.counted

    def overtaken(table: days.Table, day: datetime) -> days.Sums:
        found = count(table, day)
        AddedUp.objects.update(changes=77)
        return found

    monkeypatch.setattr(days.Table, "counted", overtaken)
    LateHour.objects.all().delete()
    with pytest.raises(days.Overtaken):
        days.add_up()

    assert not TeamHour.objects.exists() and days.added_until() == days.NEVER


def test_added_up_anew_only_what_differs_is_written(march: None) -> None:
    add_up_all()
    before = dict(TeamHour.objects.values_list("pk", "points"))
    changed = UsageHour.objects.filter(hour=FIRST + 5 * DAY).first() or hour(FIRST + 5 * DAY)
    UsageHour.objects.filter(pk=changed.pk).update(points=changed.points + 5)

    add_up_all()

    after = dict(TeamHour.objects.values_list("pk", "points"))
    assert after.keys() == before.keys()
    assert sorted(after[pk] - before[pk] for pk in after if after[pk] != before[pk]) == [5, 5]


WRONG = [
    (
        "UPDATE relay_tokenday SET points = 9",
        "day 2026-03-01 UTC, team_id 1, user_id 1, token_id 1: points 9 instead of 3",
    ),
    (
        "DELETE FROM relay_modelday",
        "day 2026-03-01 UTC, team_id 1, model 'm': requests 0 instead of 1, points 0",
    ),
    ("UPDATE relay_teamhour SET lost = 1 WHERE team_id = 0", "hour 2026-03-01 00:00 UTC, team_id 0: lost 1"),
]


@pytest.mark.parametrize(("statement", "said"), WRONG)
def test_verify_tells_what_is_not_the_sum_of_its_hours(statement: str, said: str) -> None:
    hour(FIRST, points=3)
    add_up_all()
    assert list(days.differences()) == []
    with connection.cursor() as cursor:
        cursor.execute(statement)

    (difference,) = days.differences()

    assert difference.startswith(said)


@pytest.mark.django_db
def test_the_hours_have_their_triggers() -> None:
    """A migration that rebuilds the table on SQLite drops them: it must make them again."""
    if connection.vendor == "sqlite":
        query, expected = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", 2
    else:
        query = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = %s::regclass"
        expected = 1
    with connection.cursor() as cursor:
        cursor.execute(query, ["relay_usagehour"])
        assert cursor.fetchone()[0] == expected
