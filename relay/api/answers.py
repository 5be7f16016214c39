"""Answers as Django responses: JSON, errors, and streams that settle however they end."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from relay.answering import Answer
from relay.api.dialects import OPENAI, Dialect
from relay.errors import RateLimited, RelayError
from relay.events import Event, Usage
from relay.limits import RateLimits
from relay.stored_files import Kept
from relay.visit import Visit
from relay.wire import sse

log = logging.getLogger(__name__)
T = TypeVar("T")
ResponseT = TypeVar("ResponseT", bound=HttpResponseBase)


class StreamEncoder(Protocol):
    def start(self) -> bytes: ...

    def encode_all(self, events: list[Event]) -> bytes: ...

    def end(self, counted: Usage) -> bytes: ...

    def fail(self, exc: RelayError) -> bytes: ...


def json_response(body: dict[str, Any], status: int = 200) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(body), content_type="application/json", status=status)


class ErrorResponse(HttpResponse):
    """An error that the access log can name."""

    def __init__(self, exc: RelayError, body: bytes) -> None:
        super().__init__(body, content_type="application/json", status=exc.status)
        self.error_code = exc.code


def error_response(exc: RelayError, dialect: Dialect, request_id: str) -> HttpResponse:
    response = ErrorResponse(exc, msgspec.json.encode(dialect.error(exc, request_id)))
    if exc.retry_after is not None:
        response["Retry-After"] = str(max(1, math.ceil(exc.retry_after)))
        response["retry-after-ms"] = str(max(1, math.ceil(exc.retry_after * 1000)))
    if exc.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    if isinstance(exc, RateLimited):
        add_rate_limits(response, exc.rate_limits, dialect)
    # Without it OpenAI's and Anthropic's clients go by the status alone, and ask again where nothing is left.
    response["x-should-retry"] = "true" if exc.may_pass() else "false"
    return response


def add_rate_limits(response: HttpResponseBase, standing: RateLimits | None, dialect: Dialect) -> None:
    """The headers that say how the limits per minute stand; none where there is no limit."""
    if standing is not None:
        for name, value in dialect.rate_limits(standing):
            response[name] = value


class Reply(Protocol):
    """A client's connection, whose answer has begun."""

    def takes_more(self) -> bool:
        """Whether a part leaves now, or would wait for the client."""

    def say(self, part: bytes) -> None: ...


class StreamedAnswer(StreamingHttpResponse):
    """However its sending ends, `leave` lets go of the bot before the answer is settled.

    Django only drops the iterator when a send fails, and the bot would be held until the garbage is collected.
    """

    def __init__(self, answer: Answer, stream: Stream) -> None:
        super().__init__(stream, content_type="text/event-stream")
        self._answer = answer
        self._stream = stream

    def leaves_by(self, reply: Reply, visit: Visit) -> None:
        """What comes while its iterator waits may leave past it."""
        self._stream.leaves_by(reply, visit)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Not through two generators of Django's: they cost 700 bytes for each stream and time for each part."""
        parts: AsyncIterator[bytes] = self._iterator  # type: ignore[attr-defined]
        return parts

    async def leave(self) -> None:
        await self._answer.leave()


# A body of 50 MB takes a quarter of a second to parse and to decode: not on the event loop.
OFF_LOOP_BYTES = 1_000_000


async def parsed(parse: Callable[[bytes], T], body: bytes) -> T:
    """What a wire format's `parse` makes of the body, or BadRequest."""
    if len(body) <= OFF_LOOP_BYTES:
        return parse(body)
    return await asyncio.to_thread(parse, body)


def told_of(response: ResponseT, answer: Answer, dialect: Dialect = OPENAI) -> ResponseT:
    """The response with what headers tell of an answer: how the limits stand, what was ignored, which fallback answers."""
    add_rate_limits(response, answer.rate_limits, dialect)
    if answer.ignored:
        response["x-poe-relay-ignored"] = ", ".join(answer.ignored)
    if answer.fallback_model is not None:
        response["x-poe-relay-model"] = quote(answer.fallback_model)
    return response


async def file_response(kept: Kept, pieces: AsyncIterator[bytes]) -> StreamingHttpResponse:
    """A file to be saved. Its first piece is there, or the RelayError why it is not, before anything is answered."""
    first = await anext(pieces, b"")

    async def all_of_it() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    response = StreamingHttpResponse(all_of_it(), content_type=kept.content_type)
    response["Content-Length"] = str(kept.size)
    # Whoever made it chose name and type: it must not run as a page of this site.
    response["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(kept.name)}"
    response["X-Content-Type-Options"] = "nosniff"
    return response


def stream_response(
    answer: Answer,
    encoder: StreamEncoder,
    keep_alive: bytes = sse.KEEP_ALIVE,
    before_end: Callable[[], Awaitable[None]] | None = None,
) -> StreamingHttpResponse:
    """`keep_alive` is said while the bot says nothing; `before_end` is awaited before the client hears that all is said."""
    response = StreamedAnswer(answer, Stream(answer, encoder, keep_alive, before_end))
    response["Cache-Control"] = "no-cache"
    # nginx would hold the stream back otherwise.
    response["X-Accel-Buffering"] = "no"
    return response


class Stream:
    """The bytes of a streamed answer. What arrived together leaves together; Django calls `close` in every case."""

    __slots__ = (
        "_answer",
        "_before_end",
        "_encoder",
        "_keep_alive",
        "_reply",
        "_visit",
        "is_open",
    )
    is_open: Callable[[], bool]

    def __init__(
        self,
        answer: Answer,
        encoder: StreamEncoder,
        keep_alive: bytes,
        before_end: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._answer = answer
        self._encoder = encoder
        self._keep_alive = keep_alive
        self._before_end = before_end
        self._reply: Reply | None = None
        self._visit: Visit | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        encode_all, keep_alive = self._encoder.encode_all, self._keep_alive
        head = self._encoder.start()
        may_leave_past = self._reply is not None
        try:
            async for events in self._answer:
                yield head + (encode_all(events) if events else keep_alive)
                head = b""
                if may_leave_past:
                    self._answer.leaves_through(self)
                    may_leave_past = False
            end = self._encoder.end(self._answer.usage)
            if self._before_end is not None:
                await self._before_end()
            yield end
        except RelayError as exc:
            yield head + self._encoder.fail(exc)
        except Exception as exc:
            log.exception(
                "request %s failed while it streamed", self._answer.admission.request_id, exc_info=exc
            )
            yield head + self._encoder.fail(RelayError("The relay failed in the middle of this answer."))

    def leaves_by(self, reply: Reply, visit: Visit) -> None:
        self._reply, self._visit = reply, visit
        self.is_open = reply.takes_more  # itself: a frame less for each word

    def say(self, events: list[Event]) -> None:
        assert self._reply is not None and self._visit is not None
        part = self._encoder.encode_all(events)
        self._visit.sent_bytes += len(part)
        self._reply.say(part)

    def close(self) -> None:
        self._answer.close()
