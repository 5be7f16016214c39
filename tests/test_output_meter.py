"""The meter of an answer: never more than `max_tokens`, and full exactly when something was cut."""

from __future__ import annotations

import asyncio
import sys
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay import counting
from relay.events import Attachment, Event, Reasoning, Replace, Text, ToolCall
from relay.output_meter import OutputMeter
from relay.pieces import MOST_PIECES, Pieces

SCRAPS = [
    *(
        "a",
        " ",
        "\n",
        "  ",
        "é",
        "你",
        "好世界",
        "😀",
        "👨‍👩‍👧",
        "\u200d",
        "👦",
        "\u0301",
        "🇩",
        "🇪",
        "the ",
        "ing",
    ),
    # One token each, three or more with the next letter.
    *("import", "return", " about", " people", "include", " Pennsylvania", "r", "d", "n", "l", "t", "s"),
    *("1", "23", "!", "''", "...", "\r\n", "A"),
]
scraps = st.lists(st.sampled_from(SCRAPS), max_size=4).map("".join)
answers = st.lists(
    st.one_of(st.builds(Text, scraps), st.builds(Reasoning, scraps), st.builds(Text, st.text(max_size=6))),
    max_size=14,
)


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    counting.load()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text whose tokens are counted, in order."""
    texts: list[str] = []
    count = counting.count

    def noted(text: str) -> int:
        texts.append(text)
        return count(text)

    monkeypatch.setattr(counting, "count", noted)
    return texts


def tokens(text: str) -> int:
    return counting.count(text)


def heard(meter: OutputMeter, events: list[Event]) -> list[Event]:
    """As the pipeline asks: taken as they are if they surely fit."""
    return events if meter.take(events) else meter.cut(events)


def fed(meter: OutputMeter, events: list[Event]) -> Iterator[list[Event]]:
    """One event a read, as a slow bot says them."""
    for event in events:
        yield heard(meter, [event])


def said(events: list[Event], kind: type[Text] | type[Reasoning]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


@settings(max_examples=300, deadline=None)
@given(events=answers, limit=st.integers(1, 25), at_once=st.booleans())
@example(events=[Text("import"), Text("r")], limit=2, at_once=False)
@example(events=[Reasoning("import"), Text("include"), Reasoning("r"), Text("t")], limit=5, at_once=True)
@example(events=[Text("a"), Text(""), Text("")], limit=1, at_once=False)
def test_it_lets_through_as_much_as_may_be_and_says_when_it_cuts(
    events: list[Event], limit: int, at_once: bool
) -> None:
    meter = OutputMeter(limit)

    kept = heard(meter, events) if at_once else [event for batch in fed(meter, events) for event in batch]

    texts = {kind: (said(events, kind), said(kept, kind)) for kind in (Text, Reasoning)}
    assert all(whole.startswith(part) for whole, part in texts.values())
    assert sum(tokens(part) for _whole, part in texts.values()) <= limit
    assert meter.is_full is any(whole != part for whole, part in texts.values())
    assert all(event.text for event in kept if isinstance(event, Text | Reasoning))
    spent = asyncio.run(meter.usage())
    assert spent["reasoning_tokens"] == tokens(texts[Reasoning][1])
    assert spent["completion_tokens"] == spent["reasoning_tokens"] + tokens(texts[Text][1]) == meter.counted()


def test_it_takes_nothing_after_it_was_cut() -> None:
    meter = OutputMeter(1)
    heard(meter, [Text("one two")])
    meter.limit = 100

    assert meter.is_full
    assert not meter.take([Text("x")]) and not meter.take([Text("x"), Text("y")])


def test_what_was_counted_on_the_way_is_not_counted_again(counted: list[str]) -> None:
    meter = OutputMeter(1_000)
    words = [f" word{n}" for n in range(300)]

    for start in range(0, 300, 10):
        assert meter.take([Text(word) for word in words[start : start + 10]])
    spent = asyncio.run(meter.usage())

    assert sum(map(len, counted)) == len("".join(words))
    assert spent == {"completion_tokens": tokens("".join(words)), "reasoning_tokens": 0}


@settings(max_examples=100, deadline=None)
@given(events=answers)
def test_without_a_limit_nothing_is_cut(events: list[Event]) -> None:
    meter = OutputMeter(None)

    kept = meter.cut(events)

    assert (said(kept, Text), said(kept, Reasoning)) == (said(events, Text), said(events, Reasoning))
    assert not meter.is_full


@settings(max_examples=100, deadline=None)
@given(text=scraps.filter(bool), more=scraps.filter(bool))
def test_what_fits_exactly_is_not_full_until_more_comes(text: str, more: str) -> None:
    meter = OutputMeter(tokens(text))

    assert meter.cut([Text(text)]) == [Text(text)]
    assert not meter.is_full

    kept = meter.cut([Text(more)])
    assert meter.is_full is (said(kept, Text) != more)
    assert meter.is_full is (tokens(text + more) > tokens(text))


def test_once_full_it_lets_nothing_through() -> None:
    meter = OutputMeter(1)

    assert meter.cut([Text("hello world"), Text("!"), Reasoning("hm")]) == [Text("hello")]
    assert meter.is_full
    assert meter.cut([Text("!"), Reasoning("hm"), ToolCall(0, "c", "f"), Replace("x")]) == []


def test_thoughts_and_words_share_the_limit() -> None:
    meter = OutputMeter(3)

    kept = meter.cut([Reasoning("hello world"), Text("hello world"), Reasoning("!")])

    assert kept == [Reasoning("hello world"), Text("hello")]
    assert asyncio.run(meter.usage()) == {"completion_tokens": 3, "reasoning_tokens": 2}


def test_it_cuts_at_a_whole_character() -> None:
    meter = OutputMeter(2)

    kept = meter.cut([Text("a" + "👨‍👩‍👧‍👦" * 3)])

    text = said(kept, Text)
    assert text.startswith("a") and text.encode().decode() == text and tokens(text) <= 2


def test_what_is_not_text_passes() -> None:
    meter = OutputMeter(1)
    events: list[Event] = [Attachment("https://h.example/a.png", "a", "image/png"), Replace("x"), Text("a")]

    assert meter.cut(events) == events
    assert not meter.is_full and not meter.has_tool_calls


def test_tool_calls_are_seen_and_counted() -> None:
    meter = OutputMeter(None)

    meter.cut([ToolCall(0, "c", "hello"), ToolCall(0, arguments=" world")])

    assert meter.has_tool_calls and meter.counted() == 2


@pytest.mark.parametrize("at_once", [True, False])
def test_tool_calls_count_towards_the_limit(at_once: bool) -> None:
    meter = OutputMeter(10)
    events: list[Event] = [
        ToolCall(0, "c", "hello"),
        ToolCall(0, arguments=" world" * 4),
        Text(" world" * 20),
    ]

    kept = heard(meter, events) if at_once else [event for batch in fed(meter, events) for event in batch]

    assert meter.is_full and meter.counted() <= 10
    assert kept[:2] == events[:2], "what fits is let through"


def test_a_tool_call_that_is_too_long_ends_the_answer() -> None:
    meter = OutputMeter(10)
    pieces: list[Event] = [ToolCall(0, "c", "f"), *(ToolCall(0, arguments=" world") for _ in range(50))]

    kept = [event for batch in fed(meter, pieces) for event in batch]

    assert meter.is_full and meter.counted() <= 10
    assert kept == pieces[: len(kept)] and len(kept) >= 9


def test_far_from_the_limit_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(text: str) -> int:
        raise AssertionError("counted")

    monkeypatch.setattr(counting, "count", count)
    meter = OutputMeter(6000)

    for _ in range(1000):
        assert meter.cut([Text("word ")]) and meter.cut([Reasoning("!")])
    assert not meter.is_full


def test_near_the_limit_it_is_counted_seldom(counted: list[str]) -> None:
    meter = OutputMeter(4096)

    began = time.thread_time()
    kept = sum(len(meter.cut([Text(" word")])) for _ in range(5000))

    assert kept == 4096 and meter.is_full
    assert len(counted) < 200
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("limit", [None, 100_000])
@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("kind", [Text, Reasoning])
def test_words_are_not_kept_one_by_one(kind: type[Text | Reasoning], at_once: int, limit: int | None) -> None:
    """Each takes 80 bytes as an object of its own, in each of a thousand streams."""
    meter = OutputMeter(limit)
    words = ["".join([f"{n}", " "]) for n in range(6 * MOST_PIECES)]
    held_by_none = [sys.getrefcount(word) for word in words]

    for start in range(0, len(words), at_once):
        assert meter.take([kind(word) for word in words[start : start + at_once]])

    assert [sys.getrefcount(word) for word in words][: 5 * MOST_PIECES] == held_by_none[: 5 * MOST_PIECES]
    said = "".join(words)
    assert meter.characters == (len(said) if kind is Text else 0)
    thoughts = tokens(said) if kind is Reasoning else 0
    assert asyncio.run(meter.usage()) == {"completion_tokens": tokens(said), "reasoning_tokens": thoughts}


@pytest.mark.parametrize("limit", [None, 100_000])
def test_one_wide_character_does_not_widen_the_whole_answer(limit: int | None) -> None:
    """Python keeps a text as wide as its widest character: four bytes for each letter beside one emoji."""
    meter = OutputMeter(limit)
    tracemalloc.start()
    try:
        assert meter.take([Text("😀")])
        for number in range(1000):
            assert meter.take([Text(f"word {number:04} of a long text")])
        kept, _most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Once for the end, and once for what is still to be counted.
    assert kept < meter.characters * (1.5 if limit is None else 2.8)


@pytest.mark.parametrize("at_once", [1, 2])
def test_many_words_are_joined_once(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []
    join = Pieces.join

    def noted(pieces: Pieces) -> None:
        joined.append(len(pieces))
        join(pieces)

    monkeypatch.setattr(Pieces, "join", noted)
    meter = OutputMeter(None)

    for number in range(0, 10 * MOST_PIECES, at_once):
        meter.take([Text(f"{number} ")] * at_once)

    # The blocks that are joined already stand before the words.
    assert joined == [MOST_PIECES + blocks for blocks in range(10)]


def test_an_answer_of_many_words_is_cut_at_its_limit() -> None:
    words = [f" w{n}" for n in range(4 * MOST_PIECES)]
    limit = tokens("".join(words)) - 5
    meter = OutputMeter(limit)

    kept = [event for word in words for event in heard(meter, [Text(word)])]

    said = "".join(event.text for event in kept if isinstance(event, Text))
    assert meter.is_full and "".join(words).startswith(said) and tokens(said) == meter.counted() == limit
