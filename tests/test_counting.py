"""Token counts: OpenAI's own numbers, in time whatever the text."""

from __future__ import annotations

import base64
import gc
import gzip
import random
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken import _tiktoken

from relay import counting
from relay.events import ChatRequest, FilePart, Message, TextPart, ToolCallPart, ToolResultPart

FAMILY = "👨‍👩‍👧‍👦"
SCRAPS = [
    *(
        "a",
        " ",
        "\n",
        "\r\n",
        "  ",
        "é",
        "你",
        "好",
        "😀",
        FAMILY,
        "the ",
        "ing",
        "import",
        "return",
        "r",
        "d",
    ),
    *("123", "!", "한국", "हिन्दी", "\u0301", "🇩🇪", "𝒳", "ﷺ", "ქ", "'s", "A", "Pennsylvania", "\x00", "/"),
]
texts = st.one_of(st.lists(st.sampled_from(SCRAPS), max_size=20).map("".join), st.text(max_size=30))


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    counting.load()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("hello world", 2),
        ("Hello, world!", 4),
        # From OpenAI's cookbook, "How to count tokens with tiktoken", o200k_base.
        ("antidisestablishmentarianism", 6),
        ("2 + 2 = 4", 7),
        ("お誕生日おめでとう", 8),
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("你好世界", 2),
        ("😀", 1),
        (FAMILY, 11),
        ("\n\n\n", 1),
        ("1234567", 3),
        # What looks like a token of the chat format is text.
        ("<|endoftext|>", 7),
    ],
)
def test_it_counts_as_openai_does(text: str, tokens: int) -> None:
    assert counting.count(text) == tokens


BLANKS = [*" \t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000\u200b", "  ", "\r\n", "\n\n    ", "\n\t\t"]
spaced = st.lists(st.sampled_from([*BLANKS, *SCRAPS]), max_size=20).map("".join)


@pytest.fixture(scope="module")
def openais() -> Callable[[str], list[int]]:
    """With the pattern as OpenAI has it: no group."""
    lines = gzip.decompress(counting.RANKS.read_bytes()).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    pattern = "|".join((*counting.WORDS, r"\s+(?!\S)", r"\s+"))
    encode: Callable[[str], list[int]] = _tiktoken.CoreBPE(ranks, {}, pattern).encode_ordinary
    return encode


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(spaced, texts))
@example(text="def f(a):\n    return  a\n\n\tx = 1 \n  ")
@example(text="one  two   3    !\n  \n four \r\n five\u3000\u3000六 \xa0 七")
def test_the_group_in_its_pattern_changes_nothing(text: str, openais: Callable[[str], list[int]]) -> None:
    assert counting._encode(text) == openais(text)


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_a_text_has_at_most_as_many_tokens_as_bytes(text: str) -> None:
    assert bool(text) <= counting.count(text) <= len(text.encode())


ALL_KINDS = [chr(each) for each in range(0x80, 0x1FFFF) if not 0xD800 <= each < 0xE000]
LONG = {
    "a": ("a" * 300_000, 37_500),
    "space": (" " * 300_000, 2352),
    "newline": ("\n" * 300_000, 18_750),
    "CJK": ("你好世界" * 50_000, 100_000),
    "CJK without words": ("的不一是" * 50_000, None),
    "kana": ("あ" * 300_000, 300_000),
    "digits": ("1" * 300_000, None),
    "marks": ("\u0301" * 300_000, None),
    "punctuation": ("!?" * 150_000, None),
    "mixed case": ("aB" * 150_000, None),
    "emoji": (FAMILY * 20_000, None),
    "blank lines": (" \n" * 150_000, None),
    "blanks and words": ("\n x  a" * 50_000, None),
    # Of many kinds: an automaton that grows with each of them took forty times as long as it does for prose.
    "any characters": ("".join(random.Random(1).choices(ALL_KINDS, k=60_000)), None),
    "any letters": ("".join(random.Random(1).choices(ALL_KINDS[:0x780], k=60_000)), None),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_run_is_counted_in_time(name: str) -> None:
    text, tokens = LONG[name]
    began = time.thread_time()

    counted = counting.count(text)

    assert time.thread_time() - began < 1
    assert counted == pytest.approx(tokens, rel=0.01) if tokens else 0 < counted <= len(text.encode())


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_the_head_of_a_long_run_is_cut_in_time_and_near_its_limit(name: str, share: float) -> None:
    text, _tokens = LONG[name]
    limit = round(counting.count(text) * share)
    began = time.thread_time()

    head = counting.head(text, limit)

    assert time.thread_time() - began < 1
    assert text.startswith(head)
    assert limit * 0.99 - 5 <= counting.count(head) <= limit


def test_a_million_characters_do_not_take_long_to_cut() -> None:
    began = time.thread_time()

    head = counting.head("a" * 1_000_000, 60_000)

    assert time.thread_time() - began < 1
    assert len(head) == 480_000


def test_a_text_that_fits_is_not_cut() -> None:
    for text, limit in ((" " * 300_000, 2353), ("hello world", 2), ("", 0), ("你好" * 40_000, 200_000)):
        assert counting.count(text) <= limit
        assert counting.head(text, limit) == text


@settings(max_examples=300, deadline=None)
@given(text=texts, limit=st.integers(0, 12))
@example(text=FAMILY, limit=1)
@example(text="importr", limit=2)
@example(text="ﷺ", limit=1)
def test_a_head_counts_back_to_its_limit_and_is_cut_at_a_whole_character(text: str, limit: int) -> None:
    head = counting.head(text, limit)

    assert text.startswith(head)
    assert counting.count(head) <= limit
    if head != text:
        assert counting.count(text) > limit


@settings(max_examples=1000, deadline=None)
@given(text=texts, more=texts)
@example(text="one two", more="self")
@example(text="1 2", more="3")
@example(text="it 's", more="s")
@example(text="a  ", more=" b")
@example(text="你好，世", more="界。")
def test_what_is_settled_counts_the_same_whatever_follows(text: str, more: str) -> None:
    tokens, end = counting.count_settled(text)

    assert tokens == counting.count(text[:end])
    assert tokens + counting.count(text[end:] + more) == counting.count(text + more)


def test_all_but_the_last_word_is_settled() -> None:
    assert counting.count_settled("Some words are said") == (3, len("Some words are"))
    assert counting.count_settled("你好，世界") == (1, 2)
    assert (
        counting.count_settled("nothing")
        == counting.count_settled(" ! ?")
        == counting.count_settled("")
        == (0, 0)
    )


def test_a_text_without_letters_is_looked_through_in_time() -> None:
    began = time.thread_time()

    assert counting.count_settled("! " * 500_000) == (0, 0)

    assert time.thread_time() - began < 1


@pytest.mark.parametrize("limit", [0, -1, -100])
def test_a_head_of_nothing_is_empty(limit: int) -> None:
    assert counting.head("hello world", limit) == ""


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "\ud83d" * 3, "\ude00\ud83d"])
def test_half_a_surrogate_pair_is_counted_and_not_raised(text: str) -> None:
    assert 1 <= counting.count(text) <= 3 * len(text)
    assert counting.count(counting.head(text, 1)) <= 1


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [0, 100, counting.OFF_LOOP, counting.OFF_LOOP + 1, 60_000])
async def test_off_the_loop_it_counts_the_same(length: int) -> None:
    text = ("hello world " * (length // 12 + 1))[:length]

    assert await counting.count_off_loop(text) == counting.count(text)


@pytest.mark.asyncio
async def test_only_a_long_text_leaves_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Any] = []

    async def to_thread(function: Callable[..., int], *args: Any) -> int:
        left.append(function)
        return function(*args)

    monkeypatch.setattr(counting.asyncio, "to_thread", to_thread)  # type: ignore[attr-defined]
    monkeypatch.setattr(counting, "_remembered", counting.Remembered(10))
    long = Message("user", (TextPart("a " * counting.OFF_LOOP),))
    short = Message("user", (TextPart("a"),))

    await counting.count_off_loop("a" * counting.OFF_LOOP)
    await counting.count_prompt(ChatRequest(model="m", messages=(short,)))
    assert not left

    await counting.count_off_loop("a" * (counting.OFF_LOOP + 1))
    await counting.count_prompt(ChatRequest(model="m", messages=(short, long)))
    assert len(left) == 2


@pytest.mark.asyncio
async def test_what_was_counted_before_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a client sends the whole conversation with its next turn."""
    remembered = counting.Remembered(3)
    count = Mock(side_effect=counting.count)
    monkeypatch.setattr(counting, "count", count)

    assert await remembered.total(["hello world", "antidisestablishmentarianism"]) == 2 + 6
    assert await remembered.total(["hello world", "antidisestablishmentarianism", "2 + 2 = 4"]) == 2 + 6 + 7

    assert [call.args[0] for call in count.mock_calls].count("hello world") == 1


@pytest.mark.asyncio
async def test_as_many_texts_are_remembered_as_it_may_and_the_latest_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remembered = counting.Remembered(2)
    count = Mock(side_effect=counting.count)
    monkeypatch.setattr(counting, "count", count)
    await remembered.total(["one", "two"])
    await remembered.total(["one", "three"])
    count.reset_mock()

    await remembered.total(["one", "three"])
    assert not count.called
    assert await remembered.total(["two"]) == 1
    assert count.called and len(remembered._tokens) == 2


@pytest.mark.asyncio
async def test_no_text_is_kept_that_was_counted() -> None:
    remembered = counting.Remembered(10)
    await remembered.total(["what nobody else may read"])

    held = gc.get_referents(remembered._tokens)
    assert held and not any("nobody" in repr(each) for each in held)


HELLO = TextPart("hello world")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("messages", "tokens"),
    [
        ([], 3),
        ([Message("user", (HELLO,))], 3 + 4 + 2),
        ([Message("user", ())], 3 + 4),
        ([Message("user", (HELLO, HELLO)), Message("assistant", (HELLO,))], 3 + 8 + 6),
        ([Message("user", (FilePart("a", "image/png", data=b"x" * 99), HELLO))], 3 + 4 + 2 + 85),
        ([Message("assistant", (ToolCallPart("c1", "hello", " world"),))], 3 + 4 + 2),
        ([Message("tool", (ToolResultPart("c1", "f", "hello world"),))], 3 + 4 + 2),
    ],
)
async def test_a_prompt_is_counted_with_what_is_around_it(messages: list[Message], tokens: int) -> None:
    assert await counting.count_prompt(ChatRequest(model="m", messages=tuple(messages))) == tokens


@pytest.mark.asyncio
async def test_tools_are_part_of_the_prompt() -> None:
    chat = ChatRequest(model="m", messages=(), tools=({"function": {"name": "get_weather"}},))

    assert await counting.count_prompt(chat) > 3 + 5
