"""What arrived together is read at once, to the same effect as one by one."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.errors import UpstreamBroken
from relay.events import Event, Text
from relay.upstreams import poe_protocol

ORDINARY = [
    b'{"text": "a"}',
    b'{"text":"\\u4f60 \\"b\\""}',
    b'{"text":""}',
    b'{"text":"x","index":0}',
    b'{"text":"x","index":1}',
    b'{"text":"c","more":[1]}',
    '{"text":"好"}'.encode(),
    b'{"text":"\\"index\\""}',
]
ODD = [b"", b"{}", b"[]", b'{"text":1}', b'{"text":"\xff"}', b'{"text":"\\ud83d"}', b'{"text":"a"', b"}"]
named = st.tuples(
    st.sampled_from(["text", "text", "text", "ping", "replace_response"]), st.sampled_from(ORDINARY)
)


def one_by_one(events: list[tuple[str, bytes]]) -> list[Event]:
    said: list[Event] = []
    for name, data in events:
        poe_protocol.read(name, data, said)
    return said


@settings(max_examples=300, deadline=None)
@given(events=st.lists(named, max_size=6))
@example(events=[("text", each) for each in ORDINARY])
def test_at_once_it_means_the_same(events: list[tuple[str, bytes]]) -> None:
    said = poe_protocol.texts(events)

    assert said is None or said == one_by_one(events)


def test_mere_texts_are_read_at_once() -> None:
    events = [("text", b'{"text":"a"}'), ("text", b'{"text":""}'), ("text", b'{"text":"b"}')]

    assert poe_protocol.texts(events) == [Text("a"), Text("b")]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_odd_one_is_left_to_be_read_by_itself(odd: bytes, place: int) -> None:
    events = [("text", b'{"text":"a"}')] * 2
    events.insert(place, ("text", odd))

    assert poe_protocol.texts(events) is None


@pytest.mark.parametrize("odd", [b'{"text":"a"},{"text":"b"}', b'{"text":"a"},', b',{"text":"a"}', b""])
def test_none_passes_for_two(odd: bytes) -> None:
    events = [("text", b'{"text":"x"}'), ("text", odd)]

    assert poe_protocol.texts(events) is None
    with pytest.raises(UpstreamBroken):
        one_by_one(events)
