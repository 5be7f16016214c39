"""One HTTP/1.1 connection to Poe, on which we ask again and again; knows nothing of bots, pools or proxies.

It is as small as it can be, since its cost is paid for each request and for each piece of an answer.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import cast

import httptools

from relay.errors import UpstreamBroken, UpstreamUnreachable

# Of an answer whose client does not read: so much waits here and in the system, and so much is taken at once, which is ten
# times as long in a client's own words. A thousand of them are to be borne.
_MOST_WAITING = 12 * 1024
_SYSTEM_BUFFER = 16 * 1024
_BATCH = 10 * 1024
# More than some words is not taken at once: what else comes in this turn of the loop leaves together with it.
_WORDS = 1024
_LARGEST_HEAD = 64 * 1024
_PIECE = 256 * 1024  # of a question that is sent in pieces, one in a turn of the loop
_CLOCK_STEP = 0.001  # uvloop's clock has whole milliseconds, so a timer may ring a bit early


class Connection(asyncio.Protocol):
    """Asks one question at a time: `ask`, then `has_answered` and `take` with `wait` between them, then `leave`.

    `on_free` is called when it can be asked again, `on_lost` once when it is closed by whomever.
    """

    __slots__ = (
        "_arrived",
        "_body",
        "_failure",
        "_has_ended",
        "_head_size",
        "_is_asking",
        "_is_choked",
        "_is_framed",
        "_is_left",
        "_is_paused",
        "_is_spoiled",
        "_loop",
        "_on_free",
        "_on_lost",
        "_parser",
        "_timer",
        "_timer_at",
        "_transport",
        "_unsent",
        "_until",
        "_waiter",
        "headers",
        "is_closed",
        "on_piece",
        "status",
    )

    def __init__(self, on_free: Callable[[Connection], None], on_lost: Callable[[Connection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self.is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._until = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._is_asking = False
        self._is_left = False
        self._is_choked = False  # the system takes no more of a question for now
        self._is_paused = False  # we take no more of an answer for now
        self._unsent = memoryview(b"")
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        # As aiohttp reads answers: some servers end lines with LF alone, some pad the sizes of chunks.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._expect_an_answer()

    def _expect_an_answer(self) -> None:
        self.status = 0  # until the head is there
        self.headers: dict[str, str] = {}  # by names in small letters; of several that are alike, the first
        self._head_size = 0
        self._arrived = 0
        self._is_framed = True  # does the answer say where it ends?
        self._is_spoiled = False  # is the connection of no use after it?
        self._has_ended = False
        self._failure: str | None = None
        self._body.clear()
        # Given what arrives while somebody waits for it; False: who waits is to be woken.
        self.on_piece: Callable[[bytes], bool] | None = None

    # For who asks.

    def ask(self, head: bytes, body: bytes) -> None:
        """Sends a question; a large body goes out as fast as it is taken, while the answer may arrive already."""
        self._is_asking = True
        if self._transport is None:
            self._failure = "the connection to Poe broke"
        elif len(body) <= _PIECE:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._send_a_piece()

    def has_answered(self) -> bool:
        """Whether status and headers are there. Raises UpstreamBroken."""
        if self._failure is not None and not self.status:
            raise UpstreamUnreachable(self._failure)
        return self.status != 0

    def take(self) -> bytes | None:
        """What has arrived of the body: nothing at its end, None if it goes on. Raises UpstreamBroken."""
        if self._body:
            data = self._next_batch()
            if self._is_paused and self._arrived <= _BATCH and self._transport is not None:
                self._is_paused = False
                self._transport.resume_reading()
            return data
        if self._failure is not None:
            raise UpstreamBroken(self._failure)
        return b"" if self._has_ended else None

    def _next_batch(self) -> bytes:
        count = len(self._body)
        if count == 1:
            self._arrived = 0
            return self._body.pop()
        if self._arrived > _BATCH:
            size = count = 0
            while count < len(self._body) and size < _BATCH:
                size += len(self._body[count])
                count += 1
        data = b"".join(self._body[:count])
        del self._body[:count]
        self._arrived = self._arrived - len(data) if self._body else 0
        return data

    async def read(self, until: float) -> bytes | None:
        """Takes what has arrived, or will have by then: None if nothing has."""
        data = self.take()
        if data is not None:
            return data
        await self.wait(until)
        return self.take()

    async def wait(self, until: float) -> None:
        """Returns when something has happened, or at that time of the loop's clock.

        The one timer is moved only when it rings too early, so that waiting costs neither a timer nor a task.
        """
        self._until = until
        if self._timer is None or self._timer_at > until:
            self._set_timer()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def leave(self, patience: float) -> None:
        """Nothing more will be taken: closes the connection at once, unless the answer ends in that many seconds."""
        self.on_piece = None
        if self._has_ended:
            self._end()
        elif patience and self._failure is None:
            self._is_left = True
            self._until = self._loop.time() + patience
            self._set_timer()
        else:
            self.close()

    def close(self) -> None:
        """At once; who waits is told that it broke."""
        self._abort("the connection to Poe broke")

    def give_up_transport(self) -> asyncio.Transport:
        """For who goes on with another protocol, such as TLS behind a proxy: this one is used no more."""
        transport = self._transport
        if transport is None:
            raise UpstreamBroken("the connection to Poe broke")
        self._lose("the connection to Poe broke")
        return transport

    def is_alive(self, *, ask_system: bool) -> bool:
        """Whether an idle connection is still open; the system may know more than the loop has told so far."""
        if self._transport is None or self._transport.is_closing():
            return False
        return not (ask_system and _has_news(self._transport))

    # What the loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.is_closed:  # while it was being made
            cast("asyncio.Transport", transport).abort()
            return
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SYSTEM_BUFFER)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if not self._is_asking:
            self.close()  # nobody asked for more
            return
        had_answered = self.status != 0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._abort("the answer was cut off" if self.status else "Poe sent an answer that is not HTTP")
            return
        if not self.status:
            self._head_size += len(data)
            if self._head_size > _LARGEST_HEAD:
                self._abort("Poe sent an answer that is not HTTP")
            return
        if self._has_ended and self._is_left:
            self._end()
            return
        self._arrived += len(data)
        if self._arrived > _MOST_WAITING and not self._is_paused:
            self._is_paused = True
            transport.pause_reading()
        if not had_answered or self._has_ended:
            self._wake()
        elif self._body:
            waiter = self._waiter
            if (
                self.on_piece is None
                or waiter is None
                or waiter.done()
                or self._arrived > _WORDS
                or not self.on_piece(self._next_batch())
            ):
                self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_closed:
            return
        if self.status and not self._is_framed and exc is None:
            self._has_ended = True
        self._lose("the answer was cut off" if self.status else "the connection to Poe broke")

    def pause_writing(self) -> None:
        self._is_choked = True

    def resume_writing(self) -> None:
        self._is_choked = False
        self._send_a_piece()

    # What the parser tells.

    @property
    def on_body(self) -> Callable[[bytes], None]:
        """The parser asks for it once: no frame of ours runs for each piece of an answer."""
        return self._body.append

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # afterwards come trailers, in which nothing is of use
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip())

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # a word in between, such as 103; the answer is still to come
            self.headers = {}
            return
        self.status = status
        self._is_framed = "content-length" in self.headers or "transfer-encoding" in self.headers

    def on_message_begin(self) -> None:
        if self._has_ended:
            self._is_spoiled = True  # an answer to no question

    def on_message_complete(self) -> None:
        if self.status:
            self._has_ended = True
            self._is_asking = False
            self._is_spoiled = not self._parser.should_keep_alive()

    # How it ends.

    def _end(self) -> None:
        """The answer has been read to its end: the connection is free, or else of no more use."""
        if self.is_closed:
            return
        if self._unsent or self._is_spoiled:
            self.close()
            return
        self._is_left = False
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        self._expect_an_answer()
        self._on_free(self)

    def _abort(self, why: str) -> None:
        if self._transport is not None:
            if self._is_asking:
                _hang_up(self._transport)
            self._transport.abort()
        self._lose(why)

    def _lose(self, why: str) -> None:
        """Remembers that the connection is closed, and why, and tells all who have to know."""
        if self.is_closed:
            return
        self.is_closed = True
        self._is_asking = False
        self._transport = None
        del self._parser  # which holds this object: nothing is left for the garbage collector
        self._unsent = memoryview(b"")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._has_ended:
            self._failure = why
        self._wake()
        self._on_lost(self)

    # Waiting and sending.

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._until, self._ring)
        self._timer_at = self._until

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None and not self._is_left:
            return  # who waits next sets the timer
        if self._loop.time() + _CLOCK_STEP < self._until:
            self._set_timer()
        elif self._is_left:
            self.close()
        else:
            self._wake()

    def _send_a_piece(self) -> None:
        if not self._unsent or self._is_choked or self._transport is None:
            return
        piece, self._unsent = self._unsent[:_PIECE], self._unsent[_PIECE:]
        self._transport.write(piece)
        if self._unsent and not self._is_choked:
            self._loop.call_soon(self._send_a_piece)


def _hang_up(transport: asyncio.Transport) -> None:
    """Tells the other side before this returns.

    The loop closes what is aborted in its next turn. By then the slot that this question held may be given to another process,
    whose question would meet it at the bot.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    try:
        with sock.dup() as same:
            same.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already, or else the loop does it


def _has_news(transport: asyncio.Transport) -> bool:
    """Whether there is anything to read, an end included."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
