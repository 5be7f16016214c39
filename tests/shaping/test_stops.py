"""The relay ends an answer at the client's stop sequences itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.events import Attachment, Event, Finish, Reasoning, Text, ToolCall
from relay.shaping.stops import Stops

FILE = Attachment("https://h.example/a.png", "a.png", "image/png")


def shaped(stops: tuple[str, ...], *events: Event) -> list[Event]:
    """Each event on its own, until no more is wanted."""
    stage = Stops(stops)
    said = [said for event in events if not stage.is_over for said in stage.feed([event])]
    return [*said, *stage.end(Finish("stop"))]


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "hit"),
    [
        (("END",), ["one END two"], "one ", "END"),
        (("END",), ["one E", "N", "D two"], "one ", "END"),
        (("END",), ["one E", "N", "X two"], "one ENX two", ""),
        (("END",), ["one EN"], "one EN", ""),
        (("END",), ["EEND"], "E", "END"),
        (("aab",), ["aa", "ab"], "a", "aab"),
        (("\n\n", "."), ["a\n", ".\n\n"], "a\n", "."),
        (("bc", "abcd"), ["abcd"], "", "abcd"),
        (("END",), ["END"], "", "END"),
    ],
)
def test_it_ends_at_a_stop_sequence_however_it_is_cut(
    stops: tuple[str, ...], pieces: list[str], text: str, hit: str
) -> None:
    said = shaped(stops, *map(Text, pieces))

    assert "".join(event.text for event in said if isinstance(event, Text)) == text
    assert said[-1] == Finish("stop", hit)


@given(
    st.lists(st.text("ab", max_size=4), max_size=6),
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1),
)
def test_it_says_what_comes_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    ends = [whole.find(stop) for stop in stops if stop in whole]

    said = shaped(tuple(stops), *map(Text, pieces))

    # A longer sequence that begins earlier may end later than a shorter one: then the shorter has ended the answer.
    text = "".join(event.text for event in said if isinstance(event, Text))
    assert whole.startswith(text) and not any(stop in text for stop in stops)
    assert (text == whole) == (not ends)


def test_a_text_that_stands_still_is_said_before_what_follows() -> None:
    call = ToolCall(0, "c", "f", "{}")

    assert shaped(("END",), Text("E"), call) == [Text("E"), call, Finish("stop")]
    assert shaped(("END",), Text("E"), FILE, Text("ND")) == [Text("E"), FILE, Text("ND"), Finish("stop")]


def test_thoughts_end_nothing() -> None:
    assert shaped(("END",), Reasoning("END"), Text("a")) == [Reasoning("END"), Text("a"), Finish("stop")]


def test_what_follows_a_stop_is_not_said() -> None:
    stage = Stops(("END",))

    assert stage.feed([Text("aEND"), Text("b"), FILE]) == [Text("a")] and stage.is_over
    assert stage.end(Finish("tool_calls")) == [Finish("stop", "END")]


def test_an_answer_that_was_cut_before_says_all_that_it_has() -> None:
    stage = Stops(("END",))

    assert [*stage.feed([Text("aE")]), *stage.end(Finish("length"))] == [
        Text("a"),
        Text("E"),
        Finish("length"),
    ]
