"""What whole events say that are nothing but text is read at once, to the same effect as one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.errors import UpstreamBroken
from relay.events import Event, Text, Words, one_by_one
from relay.upstreams import poe_protocol
from relay.upstreams.sse import SSEReader

# Texts as JSON strings, and what is none.
STRINGS = [
    b'"a"',
    b'""',
    b'"\\u4f60 \\"b\\" \\\\"',
    b'"\\ud83d\\ude00\\/\\n"',
    '"好"'.encode(),
    b'"index"',
    b'"}"',
    b'"\\"}"',
    b'"event: text"',
]
ODD_STRINGS = [
    b'"\xff"',
    b'"\xe5\xa5"',
    b'"\\ud83d"',
    b'"\\ude00"',
    b'"\\x"',
    b'"\x00"',
    b'"\t"',
    b'"a","b"',
    b'"a"]["b"',
    b"1",
    b"null",
    b"[]",
    b"",
    b'"',
    b'"\\"',
]
# Between the JSON string and the brace; what is no event of text; what is around events.
ODD_EVENTS = [
    b'event: text\ndata: {"text":"x","index":1}\n\n',
    b'event: text\ndata: {"more":1,"text":"x"}\n\n',
    b'event: text\ndata: {"text" : "x"}\n\n',
    b'event: replace_response\ndata: {"text":"x"}\n\n',
    b"event: ping\ndata: {}\n\n",
    b'event: text\ndata: {"text":"x"}\r\n\r\n',
    b"event: done\ndata: {}\n\n",
    b": comment\n\n",
    b'event: text\ndata: {"text":"x"}\n',
    b'event: text\ndata: {"te',
    b"\n",
]


def text(string: bytes, newline: bytes = b"\n", space: bytes = b"") -> bytes:
    return b"event: text" + newline + b'data: {"text":' + space + string + b"}" + newline * 2


def read_one_by_one(chunk: bytes) -> list[Event]:
    said: list[Event] = []
    for name, data in SSEReader(1 << 20).feed(chunk):
        poe_protocol.read(name, data, said)
    return said


events = st.one_of(
    st.sampled_from(STRINGS).map(text),
    st.sampled_from(STRINGS).map(lambda string: text(string, b"\r\n", b" ")),
    st.text(max_size=5).map(lambda said: text(json.dumps(said).encode())),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5).map(
        lambda said: text(json.dumps(said, ensure_ascii=False).encode())
    ),
    st.sampled_from(ODD_STRINGS).map(text),
    st.sampled_from(ODD_EVENTS),
)


@settings(max_examples=500, deadline=None)
@given(chunk=st.lists(events, max_size=6).map(b"".join))
@example(chunk=b"".join(map(text, STRINGS)))
@example(chunk=b"".join(text(string, b"\r\n", b" ") for string in STRINGS))
def test_at_once_it_means_the_same(chunk: bytes) -> None:
    if (found := poe_protocol.words(chunk)) is None:
        return

    words, length = found
    said = read_one_by_one(chunk[:length])
    assert words.each() == said
    assert words.text == "".join(event.text for event in said if isinstance(event, Text))


@settings(max_examples=200, deadline=None)
@given(
    said=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6),
    escapes=st.booleans(),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    space=st.sampled_from([b"", b" "]),
)
def test_mere_texts_are_read_at_once(said: list[str], escapes: bool, newline: bytes, space: bytes) -> None:
    strings = [json.dumps(each, ensure_ascii=escapes).encode() for each in said]
    chunk = b"".join(text(each, newline, space) for each in strings)

    # Each as it came, but for those that say nothing.
    words = Words("".join(said), [each for each in strings if each != b'""'])
    assert poe_protocol.words(chunk) == (words, len(chunk))
    assert one_by_one([words]) == [Text(each) for each in said if each]


@pytest.mark.parametrize("odd", ODD_STRINGS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_odd_text_is_left_to_be_read_by_itself(odd: bytes, place: int) -> None:
    strings = [b'"a"', b'"b"']
    strings.insert(place, odd)

    assert_nothing_odd_is_read(list(map(text, strings)), place)


@pytest.mark.parametrize("odd", ODD_EVENTS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_odd_event_is_left_to_be_read_by_itself(odd: bytes, place: int) -> None:
    chunks = [text(b'"a"'), text(b'"b"')]
    chunks.insert(place, odd)

    assert_nothing_odd_is_read(chunks, place)


def assert_nothing_odd_is_read(chunks: list[bytes], place: int) -> None:
    """What comes before it may be read, if nothing comes after it that looks alike."""
    found = poe_protocol.words(b"".join(chunks))

    assert found is None or (place == 2 and found == poe_protocol.words(chunks[0] + chunks[1]))


def test_what_comes_before_the_end_is_read_at_once() -> None:
    said, end = text(b'"a"') + text(b'"b"'), b"event: done\ndata: {}\n\n"

    assert poe_protocol.words(said + end) == (Words("ab", [b'"a"', b'"b"']), len(said))


@pytest.mark.parametrize("odd", [b'"a"},{"text":"b"', b'"a"},', b',"a"', b""])
def test_none_passes_for_two(odd: bytes) -> None:
    before = text(b'"x"')
    found = poe_protocol.words(before + text(odd))

    assert found is None or found[1] == len(before)
    with pytest.raises(UpstreamBroken):
        read_one_by_one(before + text(odd))


@pytest.mark.parametrize("run", [b"a" * 40, b"\\n" * 40, b"a\\n" * 40, b"a" * 1_000_000], ids=len)
def test_a_string_that_never_ends_takes_no_longer_than_it_is_long(run: bytes) -> None:
    """An expression that goes back would take years."""
    assert poe_protocol.words(text(b'"' + run)) is None
