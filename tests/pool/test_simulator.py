"""Twelve Poe keys over hours of scripted trouble: who is asked, who is blamed, and who comes back when."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy_site.config import Config
from relay.pool.health import JITTER, LONGEST_PAUSE
from tests.pool import simulator
from tests.pool.simulator import BALANCE_SECONDS, HOUR, MINUTE, Fault, Simulation

pytestmark = pytest.mark.asyncio
KEYS = 12
WEIGHTS = (100, 50, 200, 100, 100, 150, 50, 100, 200, 100, 100, 150)

Make = Callable[..., Simulation]


@pytest_asyncio.fixture
async def make(tmp_path: Path, config: Config) -> AsyncIterator[Make]:
    made: list[Simulation] = []

    def one(weights: tuple[int, ...] = WEIGHTS, *faults: Fault, **fields: Any) -> Simulation:
        made.append(simulator.make(config, tmp_path / str(len(made)), weights, faults, **fields))
        return made[-1]

    yield one
    for each in made:
        await each.relay.stop()


def script(seed: int) -> list[Fault]:
    """Six hours in which each of the keys 1 to 10 meets each kind of trouble or several; 11 and 12 never do."""
    chance = random.Random(seed)
    faults = []
    # Never more than four begin at once: a request tries five keys.
    kinds = ["401", "402", "403", "429", "500", "529", "reset", "slow", "429", "402"]
    for key, kind in enumerate(kinds, 1):
        begins = 10 * MINUTE * (1 + key // 4) + chance.uniform(0, 5 * MINUTE)
        retry_after = chance.choice([7.0, 90.0]) if kind == "429" and key == 4 else None
        faults.append(Fault(key, kind, begins, begins + chance.uniform(20, 60) * MINUTE, retry_after))
        if kind not in ("401", "403"):
            later = 3 * HOUR + chance.uniform(0, HOUR)
            # One key is slow at a time: a request that two keys in a row let wait in vain asks no third.
            other = chance.choice(["500", "429", "reset", "402"])
            faults.append(Fault(key, other, later, later + chance.uniform(1, 30) * MINUTE))
    return faults


@pytest.mark.parametrize("seed", [1, 2])
async def test_six_hours_of_trouble(make: Make, seed: int) -> None:
    pool = make(WEIGHTS, *script(seed))
    chance = random.Random(seed)
    revived: set[int] = set()

    while pool.seconds < 6 * HOUR:
        pool.pass_time(chance.uniform(5, 25))
        before = len(pool.changes)
        if chance.random() < 0.1:
            assert set(await pool.ask_many(2, "too long")) == {"context_length_exceeded"}
            blamed = {change.id for change in pool.changes[before:] if change.became != "ok"}
            asked = {each.key: each.fault for each in pool.asked if each.at == pool.seconds}
            assert all(asked[key] for key in blamed), "a user's own mistake blamed a key"
        assert set(await pool.ask_many(chance.randint(1, 3))) == {""}
        for key in (1, 3):
            # An administrator acts an hour after the trouble is over.
            fault = next(f for f in pool.faults if f.key == key)
            if pool.seconds > fault.ends + HOUR and key not in revived:
                revived.add(key)
                assert pool.state_of(key) == "retired"
                pool.revive("key", key)

    # No request failed for want of a key, though ten of twelve had trouble.
    assert {code for _at, code in pool.failed} == {"context_length_exceeded"}
    # Nobody without trouble was ever blamed, and each with trouble was.
    assert {change.id for change in pool.changes if change.became != "ok"} == set(range(1, 11))
    assert revived == {1, 3}
    for fault in pool.faults:
        check(pool, fault)
    assert {pool.state_of(key) for key in range(1, KEYS + 1)} == {"ok"}


def check(pool: Simulation, fault: Fault) -> None:
    """How often the key was asked while it had trouble, and that it came back when the trouble was over."""
    met = [each for each in pool.asked if each.key == fault.key and fault.begins <= each.at < fault.ends]
    minutes = (fault.ends - fault.begins) / MINUTE
    if not met:
        return  # still left alone from before
    at_once = max(Counter(each.at for each in met).values())
    match fault.kind:
        case "401" | "403":
            # Once it is known, never again: only those that were under way together.
            assert len({each.at for each in met}) == 1
        case "402":
            # Until the balance says otherwise, which it does not while the trouble lasts; rarely somebody tries.
            assert len({each.at for each in met}) <= 1 + minutes / 10
        case "429" if fault.retry_after is not None:
            # Not before Poe says, and about as soon as it says.
            times = sorted({each.at for each in met})
            assert all(b - a >= fault.retry_after for a, b in zip(times, times[1:], strict=False))
            assert len(times) >= (fault.ends - fault.begins) / (fault.retry_after * (1 + JITTER) + 2 * MINUTE)
        case _:
            # Longer and longer pauses, one at a time after the first.
            assert len({each.at for each in met}) <= 8 + minutes / (LONGEST_PAUSE / MINUTE * (1 - JITTER))
    assert at_once <= 5
    if fault.kind not in ("401", "403"):
        back = [c.at for c in pool.changes if c.id == fault.key and c.became == "ok" and c.at >= fault.ends]
        later = [f.begins for f in pool.faults if f.key == fault.key and f.begins > fault.begins]
        latest = fault.ends + max(LONGEST_PAUSE * (1 + JITTER), BALANCE_SECONDS) + 3 * MINUTE
        assert (back and back[0] <= latest) or any(begins < latest for begins in later)


async def test_load_is_shared_by_weight(make: Make) -> None:
    pool = make()

    for _ in range(400):
        pool.pass_time(1)
        await pool.ask_many(15)

    total = sum(pool.answered.values())
    assert total == 6000 and not pool.failed
    for key, weight in enumerate(WEIGHTS, 1):
        share = pool.answered[key] / total / (weight / sum(WEIGHTS))
        # Within ten per cent by weight; a key of weight 50 has 214 of 6,000, whose own chance is 7 %.
        assert 1 - 0.1 - 3 * pool.answered[key] ** -0.5 < share < 1 + 0.1 + 3 * pool.answered[key] ** -0.5


@pytest.mark.parametrize(
    ("kind", "state"),
    [("401", "retired"), ("403", "retired"), ("402", "resting"), ("429", "cooling")],
)
async def test_one_key_alone_is_told_at_once(make: Make, kind: str, state: str) -> None:
    pool = make((100,), Fault(1, kind, 0, HOUR))
    pool.pass_time(1)

    assert await pool.ask() != ""

    assert pool.state_of(1) == state


async def test_a_bot_that_fails_with_every_key_blames_none(make: Make) -> None:
    pool = make((100,) * 3, *[Fault(key, "500", 0, HOUR) for key in (1, 2, 3)])

    for _ in range(20):
        pool.pass_time(1)
        assert await pool.ask() == "upstream_failed"

    assert pool.changes == []


async def test_a_key_that_cannot_be_reached_is_left_alone_though_it_is_the_only_one(make: Make) -> None:
    pool = make((100,), Fault(1, "reset", 0, MINUTE))
    for _ in range(5):
        pool.pass_time(0.1)
        assert await pool.ask() == "upstream_unreachable"
    assert pool.state_of(1) == "failing"
    asked = len(pool.asked)

    pool.relay.queue._seconds = 0
    assert await pool.ask() == "all_keys_busy"
    assert len(pool.asked) == asked

    pool.pass_time(2 * MINUTE)
    assert await pool.ask() == ""
    assert pool.state_of(1) == "ok"


async def test_one_request_at_a_time_tries_a_key_that_failed(make: Make) -> None:
    pool = make((1000, 1), Fault(1, "500", 0, 10 * MINUTE))
    pool.pass_time(1)
    assert set(await pool.ask_many(8)) == {""}
    assert pool.state_of(1) == "failing"

    pool.pass_time(10)
    pool.asked.clear()
    assert set(await pool.ask_many(20)) == {""}

    assert Counter(each.key for each in pool.asked) == {1: 1, 2: 20}


async def test_a_pause_is_twice_as_long_each_time(make: Make) -> None:
    pool = make((1000, 1), Fault(1, "500", 0, 10 * HOUR))
    while pool.seconds < HOUR:
        pool.pass_time(1)
        assert await pool.ask() == ""

    at = [change.at for change in pool.changes if change.became == "failing"]
    pauses = [b - a for a, b in zip(at, at[1:], strict=False)]
    assert len(pauses) > 8
    assert all(short < long * 1.05 for short, long in zip(pauses, pauses[1:6], strict=False))
    assert max(pauses) <= LONGEST_PAUSE * (1 + JITTER) + 2


async def test_whoever_leaves_a_probe_lets_the_next_one_try(make: Make) -> None:
    pool = make((1000, 1), Fault(1, "500", 0, 5))
    pool.pass_time(1)
    assert await pool.ask() == ""
    pool.pass_time(30)
    asking = asyncio.ensure_future(pool.ask())
    while not any(each.at == pool.seconds for each in pool.asked):
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    pool.asked.clear()
    pool.pass_time(1)
    assert await pool.ask() == ""

    assert [each.key for each in pool.asked] == [1]
    assert pool.state_of(1) == "ok"


async def test_the_users_own_mistake_shows_that_the_key_works(make: Make) -> None:
    pool = make((1000, 1), Fault(1, "reset", 0, 5))
    pool.pass_time(1)
    assert await pool.ask() == ""
    assert pool.state_of(1) == "failing"

    pool.pass_time(30)
    assert await pool.ask("too long") == "context_length_exceeded"

    assert pool.state_of(1) == "ok"


@pytest.mark.parametrize("kind", ["slow", "500", "reset"])
async def test_after_two_keys_that_failed_the_next_question_begins_elsewhere(make: Make, kind: str) -> None:
    faults = [Fault(key, kind, 0, HOUR) for key in (1, 2)]
    pool = make((100,) * 3, *faults, priorities={1: 9, 2: 9})

    # A request that two keys let wait in vain asks no third; whoever comes next is not kept waiting for that.
    first = await pool.ask()
    assert first == ("upstream_timeout" if kind == "slow" else "")
    for _ in range(100):
        pool.pass_time(1)
        assert await pool.ask() == ""

    # They are tried again and again, and less and less often.
    assert 2 <= sum(each.key != 3 for each in pool.asked) <= 30


async def test_a_stream_that_only_waited_goes_on_with_the_next_key(make: Make) -> None:
    pool = make((1000, 1), Fault(1, "hang", 0, HOUR))

    assert await pool.ask() == ""

    assert [each.key for each in pool.asked] == [1, 2]
    assert pool.state_of(1) == "failing"


async def test_a_stream_that_waited_in_vain_says_why(make: Make) -> None:
    pool = make((1000, 1), Fault(1, "hang", 0, HOUR), Fault(2, "hang", 0, HOUR))

    assert await pool.ask() == "upstream_timeout"

    assert [each.key for each in pool.asked] == [1, 2]
    assert pool.changes == []


async def test_a_private_bot_is_found_with_its_owners_key(make: Make) -> None:
    pool = make((1000, 1), Fault(1, "404", 0, HOUR))

    assert await pool.ask() == ""

    assert [each.key for each in pool.asked] == [1, 2]
    assert pool.changes == []


async def test_a_bot_that_says_unauthorized_retires_nobody(make: Make) -> None:
    pool = make((100,) * 3, *[Fault(key, "said", 0, HOUR) for key in (1, 2, 3)])

    for _ in range(5):
        pool.pass_time(1)
        assert await pool.ask() == "upstream_unauthorized"

    assert pool.changes == []


async def test_one_question_retires_one_key(make: Make) -> None:
    pool = make((100,) * 3, *[Fault(key, "403", 0, HOUR) for key in (1, 2, 3)])

    assert await pool.ask() == "upstream_unauthorized"

    assert [change.became for change in pool.changes] == ["retired"]
