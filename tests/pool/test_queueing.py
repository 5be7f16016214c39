"""Who waits for a Poe key, in which order, and how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from relay.errors import AllKeysBusy
from relay.pool import Queue

pytestmark = pytest.mark.asyncio
KEYS = frozenset({1, 2})


class Keys:
    """So many slots, and who asked for one."""

    def __init__(self, slots: int = 0, retry_after: float = 1) -> None:
        self.slots = slots
        self.retry_after = retry_after
        self.asked: list[str] = []
        self.served: list[str] = []

    def ask(self, name: str) -> Callable[[float], Awaitable[str]]:
        async def ask(seconds: float) -> str:
            self.asked.append(f"{name} again" if seconds > 0 else name)
            await asyncio.sleep(0)
            if not self.slots:
                raise AllKeysBusy("busy", retry_after=self.retry_after)
            self.slots -= 1
            self.served.append(name)
            return name

        return ask


def waiting(queue: Queue, keys: Keys, *names: str, of: frozenset[int] = KEYS) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(queue.admit(lambda: of, keys.ask(name))) for name in names]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_free_key_is_taken_at_once() -> None:
    keys, queue = Keys(slots=1), Queue(10)

    assert await queue.admit(lambda: KEYS, keys.ask("a")) == "a"

    assert keys.asked == ["a again"] and queue.waiting == 0


async def test_first_come_first_served() -> None:
    keys, queue = Keys(), Queue(10)
    tasks = waiting(queue, keys, "a", "b", "c")
    await until(lambda: queue.waiting == 3)

    keys.slots = 2
    await until(lambda: len(keys.served) == 2)
    (late,) = waiting(queue, keys, "d")
    await until(lambda: queue.waiting == 2)
    keys.slots = 2

    assert await asyncio.gather(*tasks, late) == ["a", "b", "c", "d"]
    assert keys.served == ["a", "b", "c", "d"] and queue.waiting == 0


async def test_who_comes_later_does_not_overtake() -> None:
    keys, queue = Keys(), Queue(10)
    tasks = waiting(queue, keys, "a")
    await until(lambda: queue.waiting == 1)
    keys.slots = 1

    tasks += waiting(queue, keys, "b")
    await until(lambda: keys.served)

    assert keys.served == ["a"]
    keys.slots = 1
    await asyncio.gather(*tasks)


async def test_only_the_first_asks_ten_times_a_second() -> None:
    keys, queue = Keys(), Queue(0.55)
    results = await asyncio.gather(*waiting(queue, keys, *"abcdefgh"), return_exceptions=True)

    assert all(isinstance(result, AllKeysBusy) for result in results)
    # Each once when it came and once in the end, and the first ones of the line meanwhile.
    assert len(keys.asked) <= 8 * 2 + 7


async def test_others_with_other_keys_wait_for_nobody() -> None:
    busy, free, queue = Keys(), Keys(slots=1), Queue(10)
    tasks = waiting(queue, busy, "a")
    await until(lambda: queue.waiting == 1)

    assert await queue.admit(lambda: frozenset({3}), free.ask("b")) == "b"

    busy.slots = 1
    await asyncio.gather(*tasks)


async def test_after_so_long_it_is_told() -> None:
    keys, queue = Keys(retry_after=0.2), Queue(0.3)
    began = time.monotonic()

    with pytest.raises(AllKeysBusy):
        await queue.admit(lambda: KEYS, keys.ask("a"))

    assert 0.28 <= time.monotonic() - began < 2
    assert keys.asked[-1] == "a" and "a" not in keys.asked[:-1]
    assert queue.waiting == 0


@pytest.mark.parametrize(("seconds", "retry_after"), [(0, 1), (10, 300)], ids=["off", "known to be longer"])
async def test_nobody_waits_in_vain(seconds: float, retry_after: float) -> None:
    keys, queue = Keys(retry_after=retry_after), Queue(seconds)
    began = time.monotonic()

    with pytest.raises(AllKeysBusy) as refused:
        await queue.admit(lambda: KEYS, keys.ask("a"))

    assert refused.value.retry_after == retry_after
    assert time.monotonic() - began < 1 and len(keys.asked) == 1


async def test_whoever_hangs_up_leaves_the_line() -> None:
    keys, queue = Keys(), Queue(10)
    first, second, third = waiting(queue, keys, "a", "b", "c")
    await until(lambda: queue.waiting == 3)

    first.cancel()
    second.cancel()
    await asyncio.wait((first, second))
    keys.slots = 1

    assert await third == "c"
    assert queue.waiting == 0
