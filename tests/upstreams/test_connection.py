"""A connection's own manners, over a transport of paper: how it reads answers, waits, sends, and ends."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any

import pytest

from relay.errors import UpstreamBroken
from relay.upstreams.connection import Connection

pytestmark = pytest.mark.asyncio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Paper(asyncio.Transport):
    """Writes down what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.reads = True
        self.is_aborted = False
        self.chokes_after = 1 << 60
        self.protocol: Connection | None = None

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))
        if sum(map(len, self.written)) > self.chokes_after and self.protocol is not None:
            self.protocol.pause_writing()

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


class Asked:
    """A connection that has been asked something."""

    def __init__(self, body: bytes = b"?", chokes_after: int = 1 << 60) -> None:
        self.freed = 0
        self.lost = 0
        self.transport = Paper()
        self.connection = Connection(self._free, self._lose)
        self.transport.protocol = self.connection
        self.transport.chokes_after = chokes_after
        self.connection.connection_made(self.transport)
        self.connection.ask(b"POST / HTTP/1.1\r\n\r\n", body)

    def _free(self, _: Connection) -> None:
        self.freed += 1

    def _lose(self, _: Connection) -> None:
        self.lost += 1

    def feed(self, data: bytes, step: int = 0) -> None:
        for start in range(0, len(data), step or len(data)):
            self.connection.data_received(data[start : start + (step or len(data))])

    def rest(self) -> bytes:
        """The whole body; raises what broke it, AssertionError if it goes on."""
        body = b""
        while data := self.connection.take():
            body += data
        assert data is not None, "its end has not come"
        return body


@pytest.mark.parametrize("step", [0, 1, 7], ids=["whole", "byte by byte", "seven bytes"])
@pytest.mark.parametrize(
    ("answer", "status", "body", "is_used_again"),
    [
        (OK + b"Content-Length: 3\r\n\r\nabc", 200, b"abc", True),
        (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde", True),
        (CHUNKED + b"3;name=value\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", 200, b"abc", True),
        (CHUNKED + b"3  \r\nabc\r\n0\r\n\r\n", 200, b"abc", True),
        (CHUNKED.replace(b"\r", b"") + b"3\r\nabc\r\n0\r\n\r\n", 200, b"abc", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na", 200, b"a", True),
        (
            b"HTTP/1.1 103 Early\r\nContent-Length: 9\r\n\r\n" + CHUNKED + b"1\r\na\r\n0\r\n\r\n",
            200,
            b"a",
            True,
        ),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 429 Wait\r\nContent-Length: 2\r\n\r\n{}", 429, b"{}", True),
        (OK + b"Content-Length: 1\r\nConnection: close\r\n\r\na", 200, b"a", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", 200, b"a", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na", 200, b"a", True),
    ],
)
async def test_it_reads_an_answer(
    answer: bytes, status: int, body: bytes, is_used_again: bool, step: int
) -> None:
    asked = Asked()

    asked.feed(answer, step)

    assert asked.connection.has_answered()
    assert (asked.connection.status, asked.rest()) == (status, body)
    asked.connection.leave(0)
    assert (asked.freed, asked.transport.is_aborted) == (int(is_used_again), not is_used_again)


async def test_of_headers_that_are_alike_the_first_counts_and_only_those_of_the_answer() -> None:
    asked = Asked()

    asked.feed(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n")
    asked.feed(OK + b"RETRY-AFTER:  7 \r\nRetry-After: 8\r\nTransfer-Encoding: chunked\r\n\r\n")
    asked.feed(b"0\r\nX: y\r\n\r\n")

    assert asked.connection.headers == {"retry-after": "7", "transfer-encoding": "chunked"}


async def test_one_answer_leaves_nothing_to_the_next() -> None:
    asked = Asked()
    asked.feed(b"HTTP/1.1 429 Wait\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno")
    asked.connection.leave(0)  # although nobody took the body

    asked.connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"")
    assert not asked.connection.has_answered()
    asked.feed(OK + b"Content-Length: 3\r\n\r\nyes")

    assert (asked.connection.status, asked.connection.headers) == (200, {"content-length": "3"})
    assert asked.rest() == b"yes"


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n",
        OK + b"Content-Length: +2\r\n\r\n",
        OK + b"Na me: x\r\n\r\n",
        OK + b"X: \0\r\n\r\n",
        OK + b"X: " + b"x" * 70_000,
        OK + b"X: x\r\n" * 12_000,
        b"HTTP/1.1 102 Working\r\n\r\n" * 3000,
    ],
    ids=lambda answer: repr(answer[:60]),
)
async def test_it_refuses_a_head_that_is_no_head(answer: bytes) -> None:
    asked = Asked()

    asked.feed(answer, 1000)

    with pytest.raises(UpstreamBroken, match="^Poe sent an answer that is not HTTP$"):
        asked.connection.has_answered()
    assert (asked.transport.is_aborted, asked.lost) == (True, 1)


@pytest.mark.parametrize(
    "rest", [b"0x1\r\na", b"+1\r\na", b"1_0\r\n", b"\r\n", b"g\r\n", b"1\r\nab\r\n", b"f" * 17 + b"\r\n"]
)
async def test_broken_framing_is_told_after_what_came_before_it(rest: bytes) -> None:
    asked = Asked()

    asked.feed(CHUNKED + b"3\r\nabc\r\n" + rest)

    assert (asked.connection.take() or b"")[:3] == b"abc"
    with pytest.raises(UpstreamBroken, match="^the answer was cut off$"):
        asked.connection.take()
    assert asked.transport.is_aborted


@pytest.mark.parametrize(
    "answer", [CHUNKED + b"3\r\nab", CHUNKED + b"1\r\na\r\n", OK + b"Content-Length: 3\r\n\r\nab"]
)
async def test_an_end_before_the_end_is_a_failure(answer: bytes) -> None:
    asked = Asked()
    asked.feed(answer)

    asked.connection.connection_lost(None)

    assert asked.connection.take()
    with pytest.raises(UpstreamBroken, match="^the answer was cut off$"):
        asked.connection.take()


async def test_a_body_without_a_size_ends_with_its_connection() -> None:
    asked = Asked()
    asked.feed(OK + b"\r\nabc")

    assert asked.connection.take() == b"abc"
    assert asked.connection.take() is None
    asked.connection.connection_lost(None)

    assert asked.connection.take() == b""
    asked.connection.leave(0)
    assert asked.freed == 0


async def test_a_body_without_a_size_that_is_reset_is_a_failure() -> None:
    asked = Asked()
    asked.feed(OK + b"\r\nabc")

    asked.connection.connection_lost(ConnectionResetError())

    assert asked.connection.take() == b"abc"
    with pytest.raises(UpstreamBroken):
        asked.connection.take()


@pytest.mark.parametrize("separately", [False, True])
@pytest.mark.parametrize("more", [OK, b"x", b"\0"])
async def test_what_comes_after_the_end_closes_the_connection_and_harms_no_answer(
    more: bytes, separately: bool
) -> None:
    asked = Asked()
    answer = OK + b"Content-Length: 1\r\n\r\na"

    for piece in (answer, more) if separately else (answer + more,):
        asked.feed(piece)

    assert asked.rest() == b"a"
    asked.connection.leave(0)
    assert (asked.freed, asked.transport.is_aborted) == (0, True)


async def test_words_that_nobody_asked_for_close_an_idle_connection() -> None:
    asked = Asked()
    asked.feed(OK + b"Content-Length: 0\r\n\r\n")
    asked.connection.leave(0)

    asked.feed(b"HTTP/1.1 408 Timeout\r\n\r\n")

    assert (asked.freed, asked.lost, asked.transport.is_aborted) == (1, 1, True)
    assert not asked.connection.is_alive(ask_system=False)


async def test_it_stops_reading_while_nobody_takes() -> None:
    asked = Asked()
    asked.feed(CHUNKED)
    piece = b"800\r\n" + b"x" * 0x800 + b"\r\n"

    pieces = 0
    while asked.transport.reads:
        asked.feed(piece)
        pieces += 1
    assert 4 <= pieces <= 8

    taken = []
    while data := asked.connection.take():
        taken.append(len(data))
    assert sum(taken) == pieces * 0x800 and len(taken) == 2
    assert asked.transport.reads


async def test_a_connection_that_is_used_again_reads_again() -> None:
    asked = Asked()
    asked.feed(OK + b"Content-Length: 70000\r\n\r\n" + b"x" * 70_000)
    assert not asked.transport.reads

    asked.connection.leave(0)

    assert (asked.freed, asked.transport.reads) == (1, True)


# Sending.


async def test_a_small_question_is_one_write() -> None:
    assert Asked(b"x" * 1000).transport.written == [b"POST / HTTP/1.1\r\n\r\n" + b"x" * 1000]


async def test_a_large_question_goes_out_piece_by_piece_as_it_is_taken() -> None:
    body = bytes(range(256)) * 8192  # 2 MB
    asked = Asked(body, chokes_after=300_000)
    sizes = []

    for _ in range(20):
        await asyncio.sleep(0)
        sizes.append(sum(map(len, asked.transport.written)))
    assert sizes[-1] < 600_000
    asked.transport.chokes_after = 1 << 60
    asked.connection.resume_writing()
    for _ in range(20):
        before = sum(map(len, asked.transport.written))
        await asyncio.sleep(0)
        assert sum(map(len, asked.transport.written)) - before <= 256 * 1024

    assert b"".join(asked.transport.written).endswith(b"\r\n\r\n" + body)


async def test_an_answer_before_the_question_was_sent_is_read_and_the_connection_closed() -> None:
    asked = Asked(b"x" * 1_000_000, chokes_after=1)

    asked.feed(b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\n\r\n{}")

    assert asked.rest() == b"{}"
    asked.connection.leave(0)
    assert (asked.freed, asked.transport.is_aborted) == (0, True)
    sent = len(asked.transport.written)
    asked.connection.resume_writing()
    assert len(asked.transport.written) == sent


# Waiting.


async def test_a_wait_ends_with_what_arrives_and_not_with_framing() -> None:
    asked = Asked()
    loop = asyncio.get_running_loop()
    asked.feed(CHUNKED)
    waiting = asyncio.ensure_future(asked.connection.wait(loop.time() + 5))
    await asyncio.sleep(0)

    asked.feed(b"3\r")
    await asyncio.sleep(0.01)
    assert not waiting.done()
    asked.feed(b"\na")
    await asyncio.wait_for(waiting, 1)

    assert asked.connection.take() == b"a"


async def test_a_wait_ends_at_its_time() -> None:
    asked = Asked()
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert await asked.connection.read(began + 0.05) is None

    assert 0.04 < loop.time() - began < 1


async def test_many_waits_need_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    asked = Asked()
    asked.feed(CHUNKED)
    timers = 0
    call_at = loop.call_at

    def counted(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        nonlocal timers
        timers += 1
        return call_at(*arguments, **options)

    monkeypatch.setattr(loop, "call_at", counted)
    for number in range(50):
        loop.call_soon(asked.feed, b"1\r\na\r\n")
        assert await asked.connection.read(loop.time() + 5 + number) == b"a"

    assert timers == 1


async def test_a_timer_that_rings_too_early_is_moved() -> None:
    asked = Asked()
    loop = asyncio.get_running_loop()
    began = loop.time()

    await asked.connection.wait(began + 0.02)
    waiting = asyncio.ensure_future(asked.connection.wait(began + 0.04))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    await asked.connection.wait(began + 0.12)

    assert loop.time() - began >= 0.11


async def test_closing_wakes_who_waits() -> None:
    asked = Asked()
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, asked.connection.close)

    with pytest.raises(UpstreamBroken, match="^the connection to Poe broke$"):
        await asked.connection.read(loop.time() + 5)
    asked.connection.close()

    assert asked.lost == 1


# Leaving.


@pytest.mark.parametrize("ends", [True, False])
async def test_an_answer_that_was_left_may_still_end(ends: bool) -> None:
    asked = Asked()
    asked.feed(CHUNKED + b"1\r\na\r\n")

    asked.connection.leave(0.05)
    assert not asked.transport.is_aborted
    if ends:
        asked.feed(b"0\r\n\r\n")
    await asyncio.sleep(0.1)

    assert (asked.freed, asked.transport.is_aborted) == (int(ends), not ends)


async def test_an_answer_that_was_left_for_good_is_closed_at_once() -> None:
    asked = Asked()
    asked.feed(CHUNKED + b"1\r\na\r\n")

    asked.connection.leave(0)

    assert (asked.freed, asked.lost, asked.transport.is_aborted) == (0, 1, True)


async def test_a_bot_that_was_left_knows_it_before_anything_else_happens() -> None:
    """Its slot may be another's at once. The loop itself closes what is aborted in its next turn."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(lambda _: None, lambda _: None)
        await asyncio.get_running_loop().create_connection(lambda: connection, *listener.getsockname())
        connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"?")
        with listener.accept()[0] as bot:
            poll = select.poll()
            poll.register(bot.fileno(), select.POLLRDHUP)
            assert not poll.poll(0)

            connection.leave(0)

            assert poll.poll(1000)  # the loop stands still meanwhile


async def test_asking_on_a_closed_connection_is_told() -> None:
    asked = Asked()
    asked.feed(OK + b"Content-Length: 0\r\n\r\n")
    asked.connection.leave(0)
    asked.connection.connection_lost(None)

    asked.connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"")

    with pytest.raises(UpstreamBroken, match="^the connection to Poe broke$"):
        asked.connection.has_answered()


async def test_a_connection_that_was_closed_while_it_was_made_stays_closed() -> None:
    connection = Connection(lambda _: None, lambda _: None)
    connection.close()
    transport = Paper()

    connection.connection_made(transport)

    assert transport.is_aborted


# Taken at once, past whoever waits.


async def test_what_is_not_taken_at_once_is_not_offered_again_before_its_reader_wakes() -> None:
    asked, offered = Asked(), []
    asked.feed(CHUNKED)

    def take(piece: bytes) -> bool:
        offered.append(piece)
        return False

    asked.connection.on_piece = take
    waiting = asyncio.ensure_future(asked.connection.wait(asyncio.get_running_loop().time() + 5))
    await asyncio.sleep(0)
    asked.feed(b"1\r\na\r\n")
    asked.feed(b"1\r\nb\r\n")

    await asyncio.wait_for(waiting, 1)
    assert offered == [b"a"]
    assert asked.connection.take() == b"b"


async def test_nothing_is_taken_at_once_while_nobody_waits() -> None:
    asked = Asked()
    asked.feed(CHUNKED)
    asked.connection.on_piece = lambda _piece: True

    asked.feed(b"1\r\na\r\n")

    assert asked.connection.take() == b"a"


async def test_an_end_that_comes_with_its_last_piece_wakes_who_waits() -> None:
    asked = Asked()
    asked.feed(CHUNKED)
    asked.connection.on_piece = lambda _piece: True
    waiting = asyncio.ensure_future(asked.connection.wait(asyncio.get_running_loop().time() + 5))
    await asyncio.sleep(0)

    asked.feed(b"1\r\nz\r\n0\r\n\r\n")

    await asyncio.wait_for(waiting, 1)
    assert asked.rest() == b"z"
