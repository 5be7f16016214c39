"""How Poe keys fare is written down: with the block that the ledger holds to, an event, and what administrators are told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from relay.directory import KeyEntry
from relay.errors import (
    RelayError,
    UpstreamFailed,
    UpstreamOutOfPoints,
    UpstreamRateLimited,
    UpstreamUnauthorized,
    UpstreamUnreachable,
)
from relay.limits import NEVER, UNLIMITED
from relay.models import AccountHealth, KeyHealth, Meter, PoeAccount, PoeKey, PoolEvent
from relay.pool import Keeper, Trial, keeping
from relay.pool.health import Standing, well
from tests import cast as people

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 5, 13, 12, tzinfo=UTC)


class Desk:
    """A keeper whose clock stands still until it is set, and the key it looks after."""

    def __init__(self) -> None:
        self.now = NOW
        self.keeper = Keeper(clock=lambda: self.now, chance=lambda: 0.5)
        self.row = people.poe_key(name="main")
        self.key = entry(self.row)

    def fail(self, exc: RelayError, *, is_probe: bool = False) -> None:
        self.keeper.failed(self.key, exc, self.now, is_probe=is_probe)
        self.written()

    def written(self) -> None:
        self.keeper.close()

    def block(self, whose: str = "key") -> int:
        id_ = self.key.id if whose == "key" else self.key.account_id
        return Meter.objects.get(pk=f"{whose}:{id_}").blocked_until


def entry(row: PoeKey) -> KeyEntry:
    return KeyEntry(row.pk, row.name, row.account_id, True, 0, 100, UNLIMITED, "", "secret")


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.keeper.close()


def micro(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def test_a_refused_key_is_retired(desk: Desk) -> None:
    desk.fail(UpstreamUnauthorized("Poe refused the key"))

    health = KeyHealth.objects.get(pk=desk.key.id)
    assert (health.state, health.reason, health.since, health.until) == (
        "retired",
        "Poe refused the key",
        NOW,
        None,
    )
    assert desk.block() == NEVER
    event = PoolEvent.objects.get()
    assert (event.key, event.was, event.became, event.is_news) == (desk.row, "ok", "retired", True)


def test_an_account_without_points_rests(desk: Desk) -> None:
    desk.fail(UpstreamOutOfPoints("no points left"))

    health = AccountHealth.objects.get(pk=desk.key.account_id)
    assert health.state == "resting" and health.until is not None
    assert desk.block("account") == micro(health.until)
    event = PoolEvent.objects.get()
    assert (event.key, event.account_id, event.is_news) == (None, desk.key.account_id, True)


def test_too_many_requests_are_no_news(desk: Desk) -> None:
    desk.fail(UpstreamRateLimited("too many", retry_after=30))

    assert micro(NOW + timedelta(seconds=30)) <= desk.block("account") <= micro(NOW + timedelta(seconds=36))
    assert not PoolEvent.objects.get().is_news


def test_one_question_retires_no_two_keys(desk: Desk) -> None:
    refused = UpstreamUnauthorized("Poe refused the key")
    first = Trial(desk.keeper, desk.key, is_probe=False, instead_of=[])
    first.ended(refused)
    other = entry(people.poe_key(name="other"))
    Trial(desk.keeper, other, is_probe=False, instead_of=[(desk.key, refused, first.asked_at)]).ended(refused)
    desk.written()

    assert [health.key_id for health in KeyHealth.objects.all()] == [desk.key.id]


def test_an_account_whose_balance_is_known_is_read_again_instead(desk: Desk) -> None:
    later = NOW + timedelta(hours=1)
    AccountHealth.objects.create(
        pk=desk.key.account_id, since=NOW, balance=500, balance_at=NOW - timedelta(minutes=4), due_at=later
    )
    desk.fail(UpstreamOutOfPoints("no points left"))

    health = AccountHealth.objects.get()
    assert (health.state, health.due_at) == ("ok", NOW)

    # An old reading says nothing.
    desk.now += timedelta(hours=1)
    desk.fail(UpstreamOutOfPoints("no points left"))
    assert AccountHealth.objects.get().state == "resting"


def test_another_keys_answer_is_the_proof(desk: Desk) -> None:
    other = entry(people.poe_key(name="other"))
    failed = UpstreamFailed("Poe answered HTTP 500")
    desk.fail(failed)
    assert not KeyHealth.objects.exists()

    Trial(desk.keeper, other, is_probe=False, instead_of=[(desk.key, failed, NOW)]).answered()
    desk.written()

    assert KeyHealth.objects.get().state == "failing"
    assert desk.block() == micro(NOW + timedelta(seconds=5))


def test_an_unreachable_one_needs_no_proof_in_the_end(desk: Desk) -> None:
    for number in range(1, 6):
        assert not KeyHealth.objects.exists(), number
        desk.fail(UpstreamUnreachable("cannot reach Poe"))

    assert KeyHealth.objects.get().state == "failing"


def test_an_answer_between_begins_the_count_anew(desk: Desk) -> None:
    for _ in range(4):
        desk.fail(UpstreamUnreachable("cannot reach Poe"))
    desk.keeper.answered(desk.key, is_probe=False)
    desk.fail(UpstreamUnreachable("cannot reach Poe"))

    assert not KeyHealth.objects.exists()


def failing(desk: Desk) -> None:
    for _ in range(5):
        desk.fail(UpstreamUnreachable("cannot reach Poe"))


def test_a_probe_that_is_answered_restores_the_key(desk: Desk) -> None:
    failing(desk)
    desk.now += timedelta(seconds=6)

    desk.keeper.answered(desk.key, is_probe=True)
    desk.written()

    assert (KeyHealth.objects.get().state, KeyHealth.objects.get().failures) == ("ok", 0)
    assert desk.block() == 0
    assert [event.became for event in PoolEvent.objects.order_by("pk")] == ["failing", "ok"]


def test_a_probe_that_fails_doubles_the_pause(desk: Desk) -> None:
    failing(desk)
    desk.now += timedelta(seconds=6)

    desk.fail(UpstreamFailed("Poe answered HTTP 500"), is_probe=True)

    assert (KeyHealth.objects.get().state, KeyHealth.objects.get().failures) == ("failing", 2)
    assert desk.block() == micro(desk.now + timedelta(seconds=10))


def test_a_probe_that_is_left_lets_the_next_one_try(desk: Desk) -> None:
    failing(desk)
    until = desk.block()
    desk.now += timedelta(seconds=6)
    # As the ledger marks a key that somebody tries.
    Meter.objects.filter(pk=f"key:{desk.key.id}").update(blocked_until=-micro(desk.now) - 60_000_000)

    Trial(desk.keeper, desk.key, is_probe=True, instead_of=[]).ended(KeyboardInterrupt())
    desk.written()

    assert desk.block() == until
    assert PoolEvent.objects.count() == 1


def test_what_somebody_else_found_out_since_stays(desk: Desk) -> None:
    failing(desk)
    desk.now += timedelta(seconds=6)
    desk.fail(UpstreamUnauthorized("Poe refused the key"))

    desk.keeper.answered(desk.key, is_probe=True)
    desk.written()

    assert KeyHealth.objects.get().state == "retired"


def test_a_key_that_failed_for_long_is_news_once(desk: Desk) -> None:
    failing(desk)
    for _ in range(5):
        desk.now += timedelta(hours=1)
        desk.fail(UpstreamFailed("Poe answered HTTP 500"), is_probe=True)

    assert [event.is_news for event in PoolEvent.objects.order_by("pk")] == [False] * 3 + [True] + [False] * 2


def test_administrators_are_told_nothing_of_a_key_that_somebody_brought(desk: Desk) -> None:
    PoeAccount.objects.update(counts_in_budgets=False)
    desk.fail(UpstreamUnauthorized("Poe refused the key"))

    assert not PoolEvent.objects.get().is_news


def test_an_administrator_puts_it_back(desk: Desk) -> None:
    desk.fail(UpstreamUnauthorized("Poe refused the key"))

    assert keeping.revive("key", desk.key.id, "tested: 100 points")
    assert not keeping.revive("key", desk.key.id, "tested: 100 points")

    assert (KeyHealth.objects.get().state, KeyHealth.objects.get().reason) == ("ok", "tested: 100 points")
    assert desk.block() == 0


def test_a_key_that_is_gone_is_nobodys_trouble(desk: Desk) -> None:
    desk.row.account.delete()

    desk.fail(UpstreamUnauthorized("Poe refused the key"))
    desk.fail(UpstreamOutOfPoints("no points left"))

    assert not KeyHealth.objects.exists() and not AccountHealth.objects.exists()


def test_the_directory_is_not_reloaded_for_it(desk: Desk) -> None:
    from relay.directory import read_version

    before = read_version()
    desk.fail(UpstreamUnauthorized("Poe refused the key"))

    assert read_version() == before


def test_no_change_writes_nothing(desk: Desk) -> None:
    assert keeping.change("key", desk.key.id, lambda was, now: well(was, "x", now), NOW) is None
    assert keeping.change("key", desk.key.id, lambda was, now: Standing("ok", "y"), NOW) is not None
