"""Which connections are used again, and which are not."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from relay.events import ChatRequest, Message, TextPart
from relay.upstreams import pool
from relay.upstreams.poe import Key, Poe

from . import scripted
from .scripted import DONE, answering, text

pytestmark = pytest.mark.asyncio

HELLO = ChatRequest(model="gpt-4o", messages=(Message("user", (TextPart("hello"),)),))


@pytest.fixture
def short_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LONGEST_IDLE", 0.1)


async def ask(poe: Poe, key: Key) -> None:
    async for _ in poe.stream(HELLO, bot="B", key=key):
        pass


async def test_at_once_need_one_each_and_one_after_the_other_need_one() -> None:
    poe = Poe()
    async with scripted.upstream(answering(text("a") + DONE)) as upstream:
        for _ in range(3):
            await asyncio.gather(*(ask(poe, upstream.key()) for _ in range(4)))
            await asyncio.sleep(0.02)
        await poe.close()

    assert (len(upstream.requests), upstream.connections) == (12, 4)


async def test_a_connection_that_the_peer_closed_is_not_taken() -> None:
    async def once(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        await answering(DONE)(request, writer)
        writer.close()

    poe = Poe()
    async with scripted.upstream(once) as upstream:
        for _ in range(3):
            await ask(poe, upstream.key())
            await asyncio.sleep(0.05)
        assert not poe._pool._all
        await poe.close()

    assert upstream.connections == 3


async def test_a_connection_of_which_only_the_system_knows_that_it_is_closed_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_DOUBTFUL_AFTER", 0)
    poe = Poe()
    async with scripted.upstream(answering(DONE)) as upstream:
        await ask(poe, upstream.key())
        await asyncio.sleep(0.02)
        (connection,) = poe._pool._all
        assert connection.is_alive(ask_system=True)
        _shut(upstream)
        time.sleep(0.01)  # the loop stands still meanwhile

        assert connection.is_alive(ask_system=False)
        assert not connection.is_alive(ask_system=True)
        await ask(poe, upstream.key())
        await poe.close()

    assert (len(upstream.requests), upstream.connections) == (2, 2)


def _shut(upstream: scripted.Upstream) -> None:
    """The peer's FIN, without a turn of the loop."""
    descriptor = upstream.writers[-1].get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(descriptor)) as peer:
        peer.shutdown(socket.SHUT_RDWR)


async def test_an_old_connection_is_not_taken(short_idleness: None) -> None:
    poe = Poe()
    async with scripted.upstream(answering(DONE)) as upstream:
        await ask(poe, upstream.key())
        await asyncio.sleep(0.02)
        time.sleep(0.1)  # the sweep has had no turn
        await ask(poe, upstream.key())
        await poe.close()

    assert upstream.connections == 2


async def test_old_connections_are_closed_though_nobody_asks(short_idleness: None) -> None:
    poe = Poe()
    async with scripted.upstream(answering(DONE)) as upstream:
        await asyncio.gather(*(ask(poe, upstream.key()) for _ in range(3)))
        await asyncio.sleep(0.06)
        await ask(poe, upstream.key())  # one of the three is young again
        await asyncio.sleep(0.07)
        assert len(poe._pool._all) == 1
        await asyncio.sleep(0.1)

        assert not poe._pool._all
        assert not poe._pool._free
        await poe.close()


async def test_the_youngest_is_taken_so_that_the_others_grow_old(short_idleness: None) -> None:
    poe = Poe()
    async with scripted.upstream(answering(DONE)) as upstream:
        await asyncio.gather(*(ask(poe, upstream.key()) for _ in range(2)))
        for _ in range(5):
            await asyncio.sleep(0.03)
            await ask(poe, upstream.key())

        assert len(poe._pool._all) == 1
        await poe.close()


async def test_a_lost_connection_is_not_asked_twice() -> None:
    """Poe may have begun an answer that costs points: who asked decides."""
    hangs_up = False

    async def script(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        if hangs_up:
            writer.close()
        else:
            await answering(DONE)(request, writer)

    poe = Poe()
    async with scripted.upstream(script) as upstream:
        await ask(poe, upstream.key())
        await asyncio.sleep(0.02)
        hangs_up = True
        with pytest.raises(Exception, match="^the connection to Poe broke$"):
            await ask(poe, upstream.key())
        await poe.close()

    assert len(upstream.requests) == 2
