"""Whole requests over several Poe keys: who waits, who is asked next, and what is written down of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.models import AccountHealth, KeyHealth, Meter, PoeKey, PoolEvent, UsageRecord
from tests import cast as people
from tests.api.test_chat import settled
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio
WRONG = "wrong-key-wrong-key-wrong-key-01"


async def first_a_wrong_key(demo: DemoPoe) -> PoeKey:
    """One that is asked before the demo's own, and refused."""
    wrong = await in_database(people.poe_key, WRONG, name="wrong", base_url=f"{demo.url}/bot/")
    await in_database(lambda: PoeKey.objects.filter(pk=wrong.pk).update(priority=9))
    return wrong


async def written(api: Api) -> None:
    """What the keeper's thread has been told."""
    await asyncio.to_thread(api.relay.keeper.close)


async def rows(model: Any) -> list[Any]:
    return await in_database(lambda: list(model.objects.order_by("pk")))


async def test_a_refused_key_is_asked_once(api: Api, cast: Cast, demo: DemoPoe) -> None:
    wrong = await first_a_wrong_key(demo)

    assert (await api.chat(cast.bob.plain, "demo-echo")).status_code == 200
    await written(api)
    for turn in range(3):
        assert (await api.chat(cast.bob.plain, "demo-echo", f"Turn {turn}")).status_code == 200
    await written(api)

    (health,) = await rows(KeyHealth)
    assert (health.pk, health.state, health.until) == (wrong.pk, "retired", None)
    assert "refused" in health.reason and WRONG not in health.reason
    # Asked again it would have said so again.
    assert [(event.became, event.is_news) for event in await rows(PoolEvent)] == [("retired", True)]


async def test_a_request_waits_for_a_slot_and_holds_nothing(api: Api, cast: Cast, demo: DemoPoe) -> None:
    demo.script("slow", ("text", {"text": "a"}), ("text", {"text": "b"}), ("done", {}), delay=0.15)
    await in_database(people.mapping, "slow", "slow")
    await in_database(lambda: PoeKey.objects.update(requests_in_flight=1))

    asking = [asyncio.create_task(api.chat(cast.bob.plain, "slow", f"Number {n}")) for n in range(3)]
    while api.relay.queue.waiting < 2:
        await asyncio.sleep(0.01)
    # Who waits has no record, and so no reservation and no slot.
    assert len(await rows(UsageRecord)) == 1
    answers = await asyncio.gather(*asking)

    assert [answer.status_code for answer in answers] == [200] * 3
    assert {record.outcome for record in await settled(3)} == {"done"}
    assert {meter.in_flight for meter in await rows(Meter)} == {0}


async def test_too_many_requests_are_waited_for_as_long_as_poe_says(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    refused = await api.chat(cast.bob.plain, "demo-faulty", "status-429")
    assert refused.status_code == 429 and refused.headers["retry-after"] == "7"
    await written(api)
    (health,) = await rows(AccountHealth)
    assert health.state == "cooling"

    # Seven seconds, not the ten that somebody would wait in line.
    api.relay.queue._seconds = 3
    other = await api.chat(cast.bob.plain, "demo-echo")

    assert other.status_code == 429 and other.json()["error"]["code"] == "all_keys_busy"
    assert 5 <= int(other.headers["retry-after"]) <= 9


async def test_an_account_without_points_is_told_apart_from_a_busy_one(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    assert (await api.chat(cast.bob.plain, "demo-faulty", "status-401")).status_code == 502
    await written(api)

    refused = await api.chat(cast.bob.plain, "demo-echo")

    assert refused.status_code == 503 and refused.json()["error"]["code"] == "no_poe_key"
    assert refused.headers["retry-after"] == "300"


async def test_a_users_own_mistake_blames_no_key(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await first_a_wrong_key(demo)
    assert (await api.chat(cast.bob.plain, "demo-faulty", "too-long")).status_code == 400
    await written(api)

    # The wrong key is; the one that answered is not.
    assert [health.key_id for health in await rows(KeyHealth)] == [
        (await in_database(lambda: PoeKey.objects.get(name="wrong"))).pk
    ]


async def test_a_fallback_is_named(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await in_database(people.mapping, "weak", "Demo-Faulty", fallback_models=["demo-echo"])

    answer = await api.chat(cast.bob.plain, "weak", "status-500")

    assert answer.status_code == 200 and answer.headers["x-poe-relay-model"] == "demo-echo"
