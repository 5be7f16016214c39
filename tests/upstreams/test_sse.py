"""The SSE reader, as tables: however a stream is cut into reads, its events are the same."""

from __future__ import annotations

import random

import pytest

from relay.upstreams.sse import EventTooLarge, SSEReader, end_of_event

from .streams import BAD_UTF8, HALF_EMOJI, STREAMS, WITH_MARK

RECORDED = {**STREAMS, "bad UTF-8": BAD_UTF8, "half an emoji": HALF_EMOJI, "byte order mark": WITH_MARK}


def read(*chunks: bytes, limit: int = 1 << 20) -> list[tuple[str, bytes]]:
    reader = SSEReader(limit)
    return [event for chunk in chunks for event in reader.feed(chunk)]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(stream)]
    return [stream[start:end] for start, end in zip(edges, edges[1:], strict=False)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"event: text\ndata: a\n\n", [("text", b"a")]),
        (b"event: text\r\ndata: a\r\n\r\n", [("text", b"a")]),
        (b"event: text\rdata: a\r\r", [("text", b"a")]),
        (b"event: text\ndata: a\r\n\rdata: b\n\r", [("text", b"a"), ("", b"b")]),
        (b"data: a\ndata: b\ndata:\ndata\n\n", [("", b"a\nb\n\n")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"event:text\ndata:a\n\n", [("text", b"a")]),
        (b"event: one\nevent: two\ndata: a\n\n", [("two", b"a")]),
        (b"event: one\ndata: a\n\ndata: b\n\n", [("one", b"a"), ("", b"b")]),
        (b"event: done\n\n", [("done", b"")]),
        (b"event\ndata: a\n\n", [("", b"a")]),
        (b"\n\n\ndata: a\n\n\n\n", [("", b"a")]),
        (b": a comment\n\n:\n\ndata: a\n: within\n\n", [("", b"a")]),
        (b"id: 7\nretry: 100\ncolour: red\ndata: a\n\n", [("", b"a")]),
        (b"id: 7\n\nretry: 5\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),
        (b"data: cut short\n", []),
        (b"data: cut sh", []),
        (b"event: t\xff\ndata: a\n\n", [("t\ufffd", b"a")]),
        (b"", []),
    ],
)
def test_it_reads_events(stream: bytes, events: list[tuple[str, bytes]]) -> None:
    assert read(stream) == events
    assert read(*cut(stream, list(range(len(stream))))) == events


@pytest.mark.parametrize("name", RECORDED)
def test_it_reads_the_same_whatever_the_reads_are(name: str) -> None:
    stream = RECORDED[name][:4000]
    whole = read(stream)
    rng = random.Random(name)

    byte_by_byte = read(*cut(stream, list(range(1, len(stream)))))
    randomly = [read(*cut(stream, rng.choices(range(len(stream)), k=rng.randint(1, 9)))) for _ in range(50)]

    assert byte_by_byte == whole
    assert all(events == whole for events in randomly)


def test_line_ends_do_not_matter() -> None:
    stream = STREAMS["LF"]

    expected = read(stream)

    assert read(stream.replace(b"\n", b"\r\n")) == expected
    assert read(stream.replace(b"\n", b"\r")) == expected
    assert len(expected) == 3


def test_an_event_is_told_with_the_read_that_completes_it() -> None:
    reader = SSEReader(100)

    assert reader.feed(b"data: a\r\n\r") == [("", b"a")]
    assert reader.feed(b"\ndata: b\n\n") == [("", b"b")]


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 100,
        b"data: " + b"x" * 100 + b"\n\n",
        b"data: xxxxxxxxxx\n" * 10,
        b"data:\n" * 30,
        b"event: " + b"x" * 100 + b"\n",
        b": " + b"x" * 100,
    ],
    ids=["a line without end", "a line", "many lines", "many empty lines", "a name", "a comment"],
)
def test_it_refuses_what_grows_over_the_limit(stream: bytes) -> None:
    with pytest.raises(EventTooLarge) as whole:
        read(b"data: before\n\n" + stream, limit=64)
    with pytest.raises(EventTooLarge):
        read(*cut(stream, list(range(len(stream)))), limit=64)

    assert whole.value.events == [("", b"before")]


def test_an_ordinary_event_over_the_limit_is_refused() -> None:
    with pytest.raises(EventTooLarge):
        read(b"event: text\ndata: " + b"x" * 100 + b"\n\n", limit=64)


@pytest.mark.parametrize(
    ("begun", "events"),
    [
        (b"data: a\n", [("text", b"a\nb")]),
        (b": comment\n", [("text", b"b")]),
        (b"data: a", [("", b"aevent: text\nb")]),
        (b"event: text\ndata: a\n\n\xef\xbb\xbf", [("text", b"a"), ("", b"b")]),
        (b"\n", [("text", b"b")]),
        (b"", [("text", b"b")]),
    ],
)
def test_an_ordinary_event_after_what_has_begun_before(begun: bytes, events: list[tuple[str, bytes]]) -> None:
    ordinary = b"event: text\ndata: b\n\n"

    assert read(begun, ordinary) == read(begun + ordinary) == events


def test_a_byte_order_mark_after_an_ordinary_event_is_none() -> None:
    assert read(b"event: text\ndata: a\n\n", b"\xef\xbb\xbfevent: text\ndata: b\n\n") == [
        ("text", b"a"),
        ("", b"b"),
    ]


def test_the_limit_is_for_one_event_and_not_for_the_stream() -> None:
    assert len(read(b"data: 0123456789\n\n" * 100, limit=20)) == 100
    assert len(read(*cut(b"data: 0123456789\n\n" * 10, list(range(180))), limit=20)) == 10


def test_a_read_full_of_beginnings_takes_no_longer_than_it_is_long() -> None:
    """If each of them were tried to the end of the line, this would take an hour."""
    reader = SSEReader(8 << 20)

    assert reader.feed(b"event: " * 1_000_000 + b"\n\n" + b"data: a\n\n")[-1] == ("", b"a")


def test_what_somebody_else_has_read_is_passed_over() -> None:
    reader = SSEReader(1 << 20)
    chunk = b"data: a\n\n"
    assert reader.may_pass_over(chunk)

    reader.pass_over()

    # It was the beginning, where alone a mark is no part of a name.
    assert reader.feed(b"\xef\xbb\xbfdata: a\n\n" + chunk) == [("", b"a")]


@pytest.mark.parametrize("begun", [b"data: a\n", b"da"])
def test_an_event_that_has_begun_is_not_passed_over(begun: bytes) -> None:
    reader = SSEReader(1 << 20)
    reader.feed(begun)

    assert reader.is_in_event
    assert not reader.may_pass_over(b"data: b\n\n")


def test_what_may_be_too_large_is_not_passed_over() -> None:
    assert not SSEReader(20).may_pass_over(b"data: a\n\n" * 3)


@pytest.mark.parametrize(
    ("chunk", "end"),
    [
        (b"", 0),
        (b"a\n", 0),
        (b"a\n\nb", 3),
        (b"a\r\n\r\nb\n\n", 5),
        (b"\n\n\n\n", 2),
        (b"a\r\n\n\nb\r\n\r\n", 4),
    ],
)
def test_an_event_ends_at_a_blank_line(chunk: bytes, end: int) -> None:
    assert end_of_event(chunk) == end
