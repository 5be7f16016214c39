"""The ledger on the real database: exactly once, in groups, whatever fails."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from accounts.models import TokenActivity
from relay.directory import read_version
from relay.errors import Unavailable
from relay.ledger import Admission, BadItem, Batch, Ledger, Settlement, Stale
from relay.ledger.opening import open_ledger
from relay.models import UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.conftest import in_database

pytestmark = pytest.mark.asyncio


@pytest.fixture
def ledger(transactional_db: None) -> Iterator[Ledger]:
    opened = open_ledger()
    yield opened
    assert opened.close()


def admission(cast: Cast, **fields: Any) -> Admission:
    values = {
        "version": read_version(),
        "request_id": "req_1",
        "token_id": cast.bob.token.pk,
        "token_prefix": cast.bob.token.prefix,
        "user_id": cast.bob.user.pk,
        "user_name": "bob",
        "team_id": cast.physics.pk,
        "team_name": "Physics",
        "model": "gpt-4o",
        "bot": "GPT-4o",
        "wire": "openai-chat",
        "streamed": True,
        "prompt_tokens": 12,
        "key_id": 1,
        "key_name": "key",
    }
    return Admission(**{**values, **fields})


def settlement(of: Admission, **fields: Any) -> Settlement:
    values = {
        "id": of.id,
        "outcome": "done",
        "error_code": "",
        "finish_reason": "stop",
        "completion_tokens": 34,
        "bot": of.bot,
        "key_id": 2,
        "key_name": "other key",
        "first_byte_ms": 5,
        "total_ms": 50,
    }
    return Settlement(**{**values, **fields})


async def records() -> list[UsageRecord]:
    return await in_database(lambda: list(UsageRecord.objects.order_by("started_at")))


async def test_a_record_is_there_before_admit_returns(ledger: Ledger, cast: Cast) -> None:
    one = await in_database(admission, cast)

    await ledger.admit(one)

    (record,) = await records()
    assert (record.id, record.outcome, record.user_name, record.prompt_tokens) == (one.id, "open", "bob", 12)
    assert abs((record.started_at - one.started_at).total_seconds()) < 0.001
    activity = await in_database(TokenActivity.objects.get)
    assert activity.token_id == cast.bob.token.pk


async def test_it_settles_once(ledger: Ledger, cast: Cast) -> None:
    one = await in_database(admission, cast)
    await ledger.admit(one)

    ledger.settle(settlement(one))
    ledger.settle(settlement(one, outcome="failed", completion_tokens=1))
    assert await asyncio.to_thread(ledger.flush, 5)

    (record,) = await records()
    assert (record.outcome, record.completion_tokens, record.key_name) == ("done", 34, "other key")
    assert (record.first_byte_ms, record.total_ms) == (5, 50)


async def test_an_admission_at_an_old_version_is_stale_and_leaves_nothing(ledger: Ledger, cast: Cast) -> None:
    old = await in_database(admission, cast)
    await in_database(people.mapping, "new", "N")
    fresh = await in_database(admission, cast)

    refused, taken = await asyncio.gather(ledger.admit(old), ledger.admit(fresh), return_exceptions=True)

    assert isinstance(refused, Stale) and taken is None
    assert [record.id for record in await records()] == [fresh.id]


async def test_many_at_once_are_all_written(ledger: Ledger, cast: Cast) -> None:
    base = await in_database(admission, cast)
    many = [replace(base, id=uuid.uuid4()) for _ in range(300)]

    async def one(each: Admission) -> None:
        await ledger.admit(each)
        ledger.settle(settlement(each))

    await asyncio.gather(*map(one, many))
    assert await asyncio.to_thread(ledger.flush, 5)

    assert {(r.id, r.outcome) for r in await records()} == {(each.id, "done") for each in many}


async def test_one_bad_item_is_refused_and_not_its_batch(ledger: Ledger, cast: Cast) -> None:
    base = await in_database(admission, cast)
    twin = replace(base, id=uuid.uuid4())
    await ledger.admit(twin)
    good = [replace(base, id=uuid.uuid4()) for _ in range(5)]

    results = await asyncio.gather(
        *[ledger.admit(each) for each in (good[0], good[1], twin, *good[2:])], return_exceptions=True
    )

    assert [type(result) for result in results].count(Unavailable) == 1
    assert {r.id for r in await records()} == {twin.id, *(each.id for each in good)}


async def test_a_cancelled_admission_is_settled_as_nothing(ledger: Ledger, cast: Cast) -> None:
    one = await in_database(admission, cast)
    task = asyncio.create_task(ledger.admit(one))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ledger.flush, 5)

    assert [(r.outcome, r.error_code, r.completion_tokens) for r in await records()] == [
        ("failed", "not_started", 0)
    ]


class Failing:
    """A store whose database is down for its first `times` commits."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.committed: list[Batch] = []
        self.closed = False

    def commit(self, batch: Batch) -> int:
        if self.times > 0:
            self.times -= 1
            raise ConnectionError("down")
        self.committed.append(batch)
        return 7

    def close(self) -> None:
        self.closed = True


def plain(**fields: Any) -> Admission:
    values: dict[str, Any] = dict.fromkeys(("token_id", "user_id", "team_id", "prompt_tokens", "key_id"), 1)
    texts = dict.fromkeys(
        ("request_id", "token_prefix", "user_name", "team_name", "model", "bot", "wire", "key_name"), "x"
    )
    return Admission(**{**values, **texts, "version": 7, "streamed": False, **fields})


async def test_a_database_that_is_down_refuses_admissions_and_keeps_settlements() -> None:
    store = Failing(times=2)
    ledger = Ledger(store)
    refused, earlier = plain(), plain()

    with pytest.raises(Unavailable) as unavailable:
        await ledger.admit(refused)
    assert unavailable.value.retry_after is not None
    ledger.settle(settlement(earlier))
    began = time.monotonic()
    assert await asyncio.to_thread(ledger.flush, 5)

    assert time.monotonic() - began < 3
    written = [each for batch in store.committed for each in batch.settlements]
    # What may have been committed all the same is settled as nothing; what ended meanwhile is not lost.
    assert {(each.id, each.error_code) for each in written} == {(refused.id, "not_started"), (earlier.id, "")}
    assert len(written) == 2
    assert ledger.close() and store.closed


async def test_a_settlement_that_the_database_refuses_does_not_stop_the_others() -> None:
    bad, good = plain(), [plain() for _ in range(3)]

    class Picky(Failing):
        def commit(self, batch: Batch) -> int:
            if any(each.id == bad.id for each in batch.settlements):
                raise BadItem("DataError")
            return super().commit(batch)

    store = Picky(times=0)
    ledger = Ledger(store)
    for each in (good[0], bad, *good[1:]):
        ledger.settle(settlement(each))
    assert await asyncio.to_thread(ledger.flush, 5)

    assert {each.id for batch in store.committed for each in batch.settlements} == {each.id for each in good}
    assert ledger.close()
