"""Tables of (what a bot says, what a client is told), and what must hold for anything a bot may say."""

from __future__ import annotations

import json
import sys
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.events import Attachment, Event, Finish, Reasoning, Replace, Text, ToolCall, Words, one_by_one
from relay.noise import Noise
from relay.pieces import MOST_PIECES
from relay.transcript import Policy, Transcript, strip_reasoning

CAT = Attachment("https://files.example/cat.png", "cat.png", "image/png", "ref1")
CAT_UNREFERENCED = Attachment("https://files.example/cat.png", "cat.png", "image/png")
SONG = Attachment("https://files.example/song.mp3", "song.mp3", "audio/mpeg")
CALL = ToolCall(0, "call_1", "weather", '{"city": "Bern"}')
THOUGHTS = "*Thinking...*\n\n> **Counting**\n> \n> One, two.\n\n"


def tell(*feeds: Event, policy: Policy = "reasoning") -> list[list[Event]]:
    """What each feed gives, one event a feed, and the end last."""
    transcript = Transcript(policy)
    return [*(transcript.feed([event]) for event in feeds), transcript.end()]


def said(transcript: Transcript, events: list[Event]) -> list[Event]:
    return [*transcript.feed(events), *transcript.end()]


def content(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def final(text: str, policy: Policy = "reasoning") -> str:
    """The answer of a bot that says all at once."""
    transcript = Transcript(policy)
    said(transcript, [Text(text)])
    return transcript.text


@pytest.mark.parametrize(
    ("feeds", "told"),
    [
        pytest.param([Text("Hello")], [[Text("Hello")], []], id="the first token never waits"),
        pytest.param([Text("ha"), Text("ha")], [[Text("ha")], [Text("ha")], []], id="equal neighbours"),
        pytest.param([Text("T"), Text("he")], [[], [Text("The")], []], id="T may become Thinking"),
        pytest.param([Text("Thinking"), Text("s")], [[], [Text("Thinkings")], []], id="another word"),
        pytest.param(
            [Text("Working. "), Text("Yes")], [[Text("Working. ")], [Text("Yes")], []], id="a sentence"
        ),
        pytest.param([Text("Working")], [[], [Text("Working")]], id="held until the end"),
        pytest.param([Text("*"), Text(" item")], [[], [Text("* item")], []], id="a list"),
        pytest.param([Text("**Bold**")], [[Text("**Bold**")], []], id="bold"),
        pytest.param([Text("> quote")], [[Text("> quote")], []], id="a quotation is an answer"),
        pytest.param([Text("\n\n  x")], [[Text("\n\n  x")], []], id="leading space of an answer"),
        pytest.param(
            [Text("\n"), Text(" x")], [[], [Text("\n x")], []], id="leading space may lead to noise"
        ),
        pytest.param([Text(" \n")], [[], [Text(" \n")]], id="nothing but space"),
        pytest.param([Text(" " * 81)], [[Text(" " * 81)], []], id="too much space for noise"),
        pytest.param(
            [Text("Working " + "x" * 80)], [[Text("Working " + "x" * 80)], []], id="too long for noise"
        ),
        pytest.param([Text("")], [[], []], id="empty"),
        pytest.param([Text("Hi"), Text("")], [[Text("Hi")], [], []], id="empty later"),
        pytest.param(
            [Text("Hi\nThinking... (1s elapsed)\n"), Text("> q\n")],
            [[Text("Hi\nThinking... (1s elapsed)\n")], [Text("> q\n")], []],
            id="after the answer began all is answer",
        ),
    ],
)
def test_it_sends_an_ordinary_answer_as_it_comes(feeds: list[Event], told: list[list[Event]]) -> None:
    assert tell(*feeds) == told


@pytest.mark.parametrize(
    ("feeds", "told"),
    [
        pytest.param(
            [Text("Thinking... (1s elapsed)Thinking... (2s elapsed)"), Text('{"a": 1}')],
            [[Reasoning("Thinking...\n")], [Text('{"a": 1}')], []],
            id="ticks without line ends",
        ),
        pytest.param(
            [Text("Thinking... (1s elapsed)\n"), Text("Thinking... (2s elapsed)\n\n"), Text("    code")],
            [[Reasoning("Thinking...\n")], [], [Text("    code")], []],
            id="ticks on lines, an indented answer",
        ),
        pytest.param(
            [Text("*Thinking... (1s elapsed)*"), Text("**Hi**")],
            [[], [Reasoning("Thinking...\n"), Text("**Hi**")], []],
            id="an emphasised tick, a bold answer",
        ),
        pytest.param(
            [Text("**Working... (1s elapsed)*"), Text("*Hi")],
            [[], [Reasoning("Working...\n"), Text("Hi")], []],
            id="emphasis that closes later",
        ),
        pytest.param(
            [Text("*Thinking...* (1m 5s elapsed) Hi")],
            [[Reasoning("Thinking...\n"), Text("Hi")], []],
            id="emphasis that closes earlier",
        ),
        pytest.param([Text("(3s elapsed)Hi")], [[Text("Hi")], []], id="a bare tick says nothing"),
        pytest.param([Text("(3 apples)")], [[Text("(3 apples)")], []], id="no tick"),
        pytest.param(
            [Text("Think"), Text("ing... (1"), Text("2s elap"), Text("sed)"), Text(" \n\nHi")],
            [[], [], [], [Reasoning("Thinking...\n")], [Text("Hi")], []],
            id="a tick in pieces",
        ),
        pytest.param(
            [Text("🔍 *Searching poe.com for cats...*\nLoading… 40%\nHi")],
            [[Reasoning("Searching poe.com for cats...\n"), Reasoning("Loading…\n"), Text("Hi")], []],
            id="lines of noise",
        ),
        pytest.param(
            [Text("正在生成图片…\n思考中...\nHi")],
            [[Reasoning("正在生成图片…\n"), Reasoning("思考中...\n"), Text("Hi")], []],
            id="Chinese noise",
        ),
        pytest.param(
            [Text("Thinking... it helps\n")], [[Text("Thinking... it helps\n")], []], id="more on the line"
        ),
        pytest.param(
            [Text("Thinking...\n> q")], [[Reasoning("Thinking...\n"), Text("> q")], []], id="no heading"
        ),
        pytest.param(
            [Text("*Thinking...*\n\n"), Text("Hi")],
            [[], [Reasoning("Thinking...\n"), Text("Hi")], []],
            id="a heading without thoughts",
        ),
        pytest.param([Text("Thinking...")], [[], [Text("Thinking...")]], id="noise alone is an answer"),
        pytest.param(
            [Text("*Thinking...*\n\n")], [[], [Text("*Thinking...*\n\n")]], id="a heading alone is an answer"
        ),
        pytest.param(
            [Text("Loading...\nThinking...")],
            [[Reasoning("Loading...\n")], [Reasoning("Thinking...\n")]],
            id="noise after noise is none",
        ),
        pytest.param([Text("Loading...\n \n")], [[Reasoning("Loading...\n")], []], id="space after noise"),
        pytest.param(
            [Text("Loading...\n "), Text("x")],
            [[Reasoning("Loading...\n")], [Text(" x")], []],
            id="indentation after noise",
        ),
        pytest.param(
            [Text("Thinking..."), SONG],
            [[], [SONG], [Reasoning("Thinking...\n")]],
            id="beside a file it is noise",
        ),
        pytest.param(
            [Text("Thinking..."), CALL],
            [[], [Reasoning("Thinking...\n"), CALL], []],
            id="before a tool call too",
        ),
    ],
)
def test_it_tells_noise_once_as_reasoning(feeds: list[Event], told: list[list[Event]]) -> None:
    assert tell(*feeds) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Working " + "x" * 69 + "...\nHi", [Reasoning("Working " + "x" * 69 + "...\n"), Text("Hi")]),
        ("Working " + "x" * 70 + "...\nHi", [Text("Working " + "x" * 70 + "...\nHi")]),
        (
            "Working " + "x" * 56 + "... (1s elapsed)Hi",
            [Reasoning("Working " + "x" * 56 + "...\n"), Text("Hi")],
        ),
        ("Working " + "x" * 57 + "... (1s elapsed)Hi", [Text("Working " + "x" * 57 + "... (1s elapsed)Hi")]),
        (
            f"***Working {'x' * 52}... (1s elapsed)***Hi",
            [Text(f"***Working {'x' * 52}... (1s elapsed)***Hi")],
        ),
        (f"Loading...\n{' ' * 80}\nHi", [Reasoning("Loading...\n"), Text("Hi")]),
        (f"Loading...\n{' ' * 81}\nHi", [Reasoning("Loading...\n"), Text(f"{' ' * 81}\nHi")]),
        ("*Thinking...*\n" + "\n" * 80 + "> q", [Reasoning("q")]),
        ("*Thinking...*\n" + "\n" * 81 + "> q", [Reasoning("Thinking...\n"), Text("> q")]),
        ("*Thinking... (1s elapsed)*\n> q", [Reasoning("q")]),
        ("*Thinking... (1s elapsed)* > q", [Reasoning("Thinking...\n"), Text("> q")]),
        ("*Thinking...*\n> \n> q", [Reasoning("q")]),
        (f"*Thinking...*\n> q\n{' ' * 81}> r", [Reasoning("q"), Text(f"{' ' * 81}> r")]),
    ],
)
def test_it_waits_only_so_far(text: str, told: list[Event]) -> None:
    at_once, by_character = Transcript(), Transcript()

    assert at_once.feed([Text(text)]) == told
    said(by_character, [Text(character) for character in text])
    assert (by_character.text, by_character.reasoning) == (at_once.text, at_once.reasoning)


def test_it_streams_quoted_lines_below_a_heading_as_reasoning() -> None:
    told = tell(
        Text("*Thinking...*"),
        Text("\n\n>"),
        Text(" **Count"),
        Text("ing**\n> \n"),
        Text(">One"),
        Text("\n\n"),
        Text("> two\n\nMy"),
        Text(" answer\n> three"),
    )

    assert told == [
        [],
        [],
        [Reasoning("**Count")],
        [Reasoning("ing**")],
        [Reasoning("\n\nOne")],
        [],
        [Reasoning("\n\ntwo"), Text("My")],
        [Text(" answer\n> three")],
        [],
    ]


def test_it_reads_several_blocks_of_thoughts() -> None:
    transcript = Transcript()

    said(transcript, [Text("*Thinking...*\n> a\nThinking... (2s elapsed)\n*Thinking...*\n> b\nHi")])

    assert transcript.reasoning == "a\nThinking...\n\nb"
    assert transcript.text == "Hi"


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("reasoning", [[Reasoning("Loading...\n")], [Reasoning("why")], [Text("Hi")], [Text("B")], []]),
        ("drop", [[], [Reasoning("why")], [Text("Hi")], [Text("B")], []]),
        ("buffer", [[Reasoning("Loading...\n")], [Reasoning("why")], [], [], [Text("HiB")]]),
        (
            "show",
            [[Text("Loading...\n")], [Text("*Thinking...*\n> why")], [Text("\nHi")], [Text("B")], []],
        ),
    ],
)
def test_it_follows_the_policy(policy: Policy, told: list[list[Event]]) -> None:
    feeds: list[Event] = [Text("Loading...\n"), Text("*Thinking...*\n> why"), Text("\nHi"), Text("B")]

    assert tell(*feeds, policy=policy) == told


@pytest.mark.parametrize(
    ("policy", "feeds", "told", "text"),
    [
        pytest.param(
            "reasoning",
            [Replace("Hel"), Replace("Hello"), Text("!"), Replace("Hello!"), Replace("Hello! Bye")],
            [[Text("Hel")], [Text("lo")], [Text("!")], [], [Text(" Bye")], []],
            "Hello! Bye",
            id="only the rest is sent",
        ),
        pytest.param(
            "reasoning",
            [
                Replace("Thinking... (1s elapsed)"),
                Replace("Thinking... (2s elapsed)"),
                Replace("Hi"),
                Text("B"),
            ],
            [[Reasoning("Thinking...\n")], [], [Text("Hi")], [Text("B")], []],
            "HiB",
            id="ticks give way to the answer",
        ),
        pytest.param(
            "reasoning",
            [
                Replace("Generating image..."),
                Replace("Generating image... 40%"),
                Replace("Image created!"),
                SONG,
            ],
            [[Reasoning("Generating image...\n")], [], [Text("Image created!")], [SONG], []],
            "Image created!",
            id="a painter",
        ),
        pytest.param(
            "drop",
            [Replace("Generating image..."), Replace("Image created!")],
            [[], [Text("Image created!")], []],
            "Image created!",
            id="dropped noise",
        ),
        pytest.param(
            "reasoning",
            [Text("Generating image..."), Replace("Image created!")],
            [[], [Reasoning("Generating image...\n"), Text("Image created!")], []],
            "Image created!",
            id="held noise that is replaced",
        ),
        pytest.param(
            "reasoning",
            [Text("Work"), Replace("Hi")],
            [[], [Text("Hi")], []],
            "Hi",
            id="held text that is replaced was never said",
        ),
        pytest.param(
            "reasoning",
            [Replace("Thinking..."), Replace("Thinking... it helps")],
            [[Reasoning("Thinking...\n")], [Text("Thinking... it helps")], []],
            "Thinking... it helps",
            id="what looked like noise",
        ),
        pytest.param(
            "reasoning",
            [Replace("Thinking...")],
            [[Reasoning("Thinking...\n")], [Text("Thinking...")]],
            "Thinking...",
            id="noise alone is an answer",
        ),
        pytest.param(
            "reasoning",
            [Replace("A1 B1"), Replace("A1 A2 B1"), Replace("A1 A2 B1 B2"), Text("!")],
            [[Text("A1 B1")], [], [], [], [Text("\n\nA1 A2 B1 B2!")]],
            "A1 A2 B1 B2!",
            id="two streams in one are repeated once",
        ),
        pytest.param(
            "reasoning",
            [Text("One"), Replace("Two"), Text(" x"), Replace("One, again"), Text("!")],
            [[Text("One")], [], [], [Text(", again")], [Text("!")], []],
            "One, again!",
            id="back to what was sent",
        ),
        pytest.param(
            "reasoning",
            [Text("One two"), Replace("One"), Text(" t"), Text("wo three")],
            [[Text("One two")], [], [], [Text(" three")], []],
            "One two three",
            id="told again from the start",
        ),
        pytest.param(
            "reasoning",
            [Text("One two"), Replace("One")],
            [[Text("One two")], [], [Text("\n\nOne")]],
            "One",
            id="shortened",
        ),
        pytest.param(
            "reasoning",
            [Text("One \n"), Replace("One")],
            [[Text("One \n")], [], []],
            "One",
            id="nothing but space was taken back",
        ),
        pytest.param(
            "reasoning", [Text("One"), Replace("")], [[Text("One")], [], []], "", id="all taken back"
        ),
        pytest.param(
            "reasoning",
            [Text("One"), Replace("Two"), Finish("stop")],
            [[Text("One")], [], [Text("\n\nTwo"), Finish("stop")], []],
            "Two",
            id="before the finish",
        ),
        pytest.param(
            "show",
            [Replace("Thinking..."), Replace("Thinking...!"), Replace("Hi"), Replace("HiB")],
            [[Text("Thinking...")], [Text("!")], [], [], [Text("\n\nHiB")]],
            "HiB",
            id="shown as it is",
        ),
        pytest.param(
            "buffer",
            [Replace("One"), Replace("Two"), Finish("stop")],
            [[], [], [Text("Two"), Finish("stop")], []],
            "Two",
            id="buffered",
        ),
    ],
)
def test_it_never_unsays_what_it_sent(
    policy: Policy, feeds: list[Event], told: list[list[Event]], text: str
) -> None:
    transcript = Transcript(policy)

    assert [*(transcript.feed([event]) for event in feeds), transcript.end()] == told
    assert transcript.text == text


@pytest.mark.parametrize(
    ("texts", "reasoning"),
    [
        (["> a\n> b", "> a\n> b\n> c\n\nHi"], "a\nb\nc"),
        (["> a\n> b", "Hm", "> a\n> b\n> c\n\nHi"], "a\nb\nThinking...\n\nc"),
        (["> a\n> bad", "> a\n> better\n\nHi"], "a\nbad\nbetter"),
        (["> a", "> b", "> b\n> c\n\nHi"], "a\nb\nc"),
    ],
)
def test_it_does_not_repeat_thoughts(texts: list[str], reasoning: str) -> None:
    transcript = Transcript()

    said(transcript, [Replace(f"*Thinking...*\n{text}") for text in texts])

    assert transcript.reasoning == reasoning
    assert transcript.text == "Hi"


@pytest.mark.parametrize(
    ("feeds", "told", "text"),
    [
        pytest.param(
            [CAT, Text("See ![a c"), Text("at][re"), Text("f1], [here](x)")],
            [[], [Text("See !")], [], [Text(f"[a cat]({CAT.url}), [here](x)"), CAT], []],
            f"See ![a cat]({CAT.url}), [here](x)",
            id="the file first",
        ),
        pytest.param(
            [CAT, Text("![x][ref1]"), Text(" [y][ref1]")],
            [[], [Text(f"![x]({CAT.url})"), CAT], [Text(f" [y]({CAT.url})")], []],
            f"![x]({CAT.url}) [y]({CAT.url})",
            id="referenced twice, passed on once",
        ),
        pytest.param(
            [Text("![x][ref1]"), CAT, Text(" Hi")],
            [[Text("![x][ref1]")], [], [Text(" Hi")], [CAT_UNREFERENCED]],
            "![x][ref1] Hi",
            id="the file too late",
        ),
        pytest.param(
            [Text("Hi "), CAT, Text("![x][ref1]")],
            [[Text("Hi ")], [], [Text(f"![x]({CAT.url})"), CAT], []],
            f"Hi ![x]({CAT.url})",
            id="the file just in time",
        ),
        pytest.param([CAT, Text("Hi")], [[], [Text("Hi")], [CAT_UNREFERENCED]], "Hi", id="never referenced"),
        pytest.param(
            [CAT, Text("Hi [x][")],
            [[], [Text("Hi ")], [Text("[x]["), CAT_UNREFERENCED]],
            "Hi [x][",
            id="unfinished",
        ),
        pytest.param(
            [CAT, Text("[x][other]"), Text("[" + "y" * 201)],
            [[], [Text("[x][other]")], [Text("[" + "y" * 201)], [CAT_UNREFERENCED]],
            "[x][other][" + "y" * 201,
            id="no reference",
        ),
        pytest.param([SONG, SONG], [[SONG], [], []], "", id="sent again with every event"),
        pytest.param(
            [CAT, Replace("Generating..."), Replace("![x][ref1]")],
            [[], [Reasoning("Generating...\n")], [Text(f"![x]({CAT.url})"), CAT], []],
            f"![x]({CAT.url})",
            id="in a replacement",
        ),
        pytest.param(
            [CAT, Replace("Hi [x"), Replace("Hi [x][ref1] B")],
            [[], [Text("Hi ")], [Text(f"[x]({CAT.url}) B"), CAT], []],
            f"Hi [x]({CAT.url}) B",
            id="what was held back was not sent",
        ),
        pytest.param(
            [CAT, Replace("Hi [x"), Replace("B"), Replace("Hi [x][ref1]")],
            [[], [Text("Hi ")], [], [Text(f"[x]({CAT.url})"), CAT], []],
            f"Hi [x]({CAT.url})",
            id="what was held back when it was replaced was not sent",
        ),
        pytest.param(
            [CAT, Replace("![x][ref1]"), Replace("Done")],
            [[], [Text(f"![x]({CAT.url})"), CAT], [], [Text("\n\nDone"), CAT_UNREFERENCED]],
            "Done",
            id="the final text does not show it any more",
        ),
    ],
)
def test_it_resolves_references_to_files(feeds: list[Event], told: list[list[Event]], text: str) -> None:
    transcript = Transcript()

    assert [*(transcript.feed([event]) for event in feeds), transcript.end()] == told
    assert transcript.text == text


def test_it_resolves_every_reference_when_it_buffers() -> None:
    feeds: list[Event] = [Text("![x][ref1]"), SONG, CALL, CAT, Finish("tool_calls")]

    told = tell(*feeds, policy="buffer")

    assert told[:-2] == [[], [], [], []]
    assert told[-2] == [Text(f"![x]({CAT.url})"), CAT, SONG, CALL, Finish("tool_calls")]
    assert told[-1] == []


def test_reading_the_text_early_changes_nothing() -> None:
    transcript = Transcript("buffer")
    transcript.feed([CAT, Text("![x][ref1]")])

    early = transcript.text

    assert early == f"![x]({CAT.url})"
    assert [*transcript.feed([Replace("Hi")]), *transcript.end()] == [Text("Hi"), CAT_UNREFERENCED]


def test_it_passes_reasoning_tool_calls_and_finish_through_in_order() -> None:
    transcript = Transcript()
    feed: list[Event] = [
        Reasoning("hm"),
        Text("Work"),
        CALL,
        Text("ing"),
        ToolCall(0, arguments="x"),
        Finish("tool_calls"),
    ]

    told = said(transcript, feed)

    assert told == feed
    assert (transcript.text, transcript.reasoning) == ("Working", "hm")


def test_noise_may_be_described_otherwise() -> None:
    noise = Noise(starters=("Painting",), headings=("Painting",))
    transcript = Transcript(noise=noise)

    said(transcript, [Text("Painting... (1s elapsed)*Painting...*\n> blue\nThinking...\nHi")])

    assert transcript.reasoning == "Painting...\nblue"
    assert transcript.text == "Thinking...\nHi"


def test_without_starters_nothing_but_ticks_is_noise() -> None:
    transcript = Transcript(noise=Noise(starters=(), icons=""))

    said(transcript, [Text("(1s elapsed) Thinking...\nHi")])

    assert transcript.text == "Thinking...\nHi"


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        (f"{THOUGHTS}Hi\n> q\n", "Hi\n> q\n"),
        ("Thinking... (1s elapsed)Thinking... (2s elapsed)Hi", "Hi"),
        ("Generating image...\n\nImage created!", "Image created!"),
        (THOUGHTS, ""),
        ("Thinking...", "Thinking..."),
        (" \n Hi\n*Thinking...*\n> q\n", " \n Hi\n*Thinking...*\n> q\n"),
        ("> q", "> q"),
        ("", ""),
    ],
)
def test_it_strips_reasoning_from_history(text: str, stripped: str) -> None:
    assert strip_reasoning(text) == stripped


# Words that are noise, nearly noise, and the characters around them.
SCRAPS = [
    *(
        "Thinking",
        "thinking",
        "Generating image",
        "Work",
        "ing",
        "思考中",
        "s",
        "Hello",
        "A",
        "x" * 30,
        " " * 30,
    ),
    *(
        "...",
        "..",
        ".",
        "…",
        "。",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "*",
        "**",
        "_",
        ">",
        "> ",
        "🔍",
        "\ufe0f",
    ),
    *(
        " (1s elapsed)",
        "(",
        ")",
        "1",
        "2s",
        " elapsed",
        "el",
        "40%",
        "%",
        "(40%)",
        "(5s)",
        "[a]",
        "[ref1]",
        "![",
        "]",
    ),
    *(
        "*Thinking...*\n",
        "Thinking...\n",
        "*Thinking... (1s elapsed)*",
        "> a thought\n",
        "Thinking... (3s elapsed)",
    ),
]
answers = st.one_of(
    st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join),
    st.text(alphabet="*_. \n>(Tt1s)…h", max_size=40),
    st.text(max_size=40),
)
policies = st.sampled_from(["reasoning", "drop", "buffer", "show"])


@st.composite
def chunked(draw: st.DrawFn) -> list[str]:
    """An answer, cut anywhere."""
    answer = draw(answers)
    cuts = sorted(draw(st.sets(st.integers(0, len(answer)), max_size=len(answer))))
    return [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]


@settings(max_examples=200, deadline=None)
@given(chunks=chunked(), policy=policies, data=st.data())
def test_appending_and_retelling_read_the_same(
    chunks: list[str], policy: Policy, data: st.DataObject
) -> None:
    appended: list[Event] = [Text(chunk) for chunk in chunks]
    retold: list[Event] = [Replace(text) for text in accumulate(chunks)]
    mixed = [data.draw(st.sampled_from(pair)) for pair in zip(appended, retold, strict=True)]
    expected = final("".join(chunks), policy)

    for events in (appended, retold, mixed):
        transcript = Transcript(policy)
        told = said(transcript, events)

        assert content(told) == transcript.text == expected
        assert not [event for event in told if not isinstance(event, Text | Reasoning) or not event.text]


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(answers, min_size=1, max_size=6), policy=policies)
def test_the_text_is_what_the_bot_said_last(texts: list[str], policy: Policy) -> None:
    transcript = Transcript(policy)

    told = content(said(transcript, [Replace(text) for text in texts]))

    assert transcript.text == final(texts[-1], policy)
    sent = told.removesuffix(transcript.text)
    if sent and transcript.text.rstrip() != told.rstrip():
        assert sent.endswith("\n\n") or not transcript.text
    assert any(sent.removesuffix("\n\n") in text for text in texts)


@settings(max_examples=200, deadline=None)
@given(chunks=chunked(), policy=policies, data=st.data())
def test_what_is_let_through_is_as_good_as_fed(
    chunks: list[str], policy: Policy, data: st.DataObject
) -> None:
    others: list[Event] = [CAT, CALL, Replace("Hi"), Reasoning("hm"), Finish("stop")]
    said: list[Event] = [data.draw(st.sampled_from([Text(chunk), *others])) for chunk in ["Hello ", *chunks]]
    fed, let_through = Transcript(policy), Transcript(policy)

    for events in ([event] for event in said):
        told = fed.feed(events)
        if let_through.lets_through(events):
            assert told == events
            let_through.let_through(events)
        else:
            assert let_through.feed(events) == told

    assert let_through.text == fed.text
    assert let_through.end() == fed.end()
    assert let_through.text == fed.text


@given(
    reads=st.lists(st.lists(st.sampled_from([*SCRAPS, "Hello "]), min_size=1, max_size=5), max_size=6),
    policy=policies,
)
def test_what_came_together_is_as_good_as_one_by_one(reads: list[list[str]], policy: Policy) -> None:
    together, apart = Transcript(policy), Transcript(policy)
    for read in reads:
        words = Words("".join(read), [json.dumps(each).encode() for each in read if each])
        told = together.feed([words] if words.text else [])

        assert one_by_one(told) == apart.feed([Text(each) for each in read])
    assert together.end() == apart.end()
    assert together.text == apart.text


def test_the_text_may_be_looked_at_while_it_flows() -> None:
    transcript = Transcript()
    transcript.feed([Text("Hello ")])
    transcript.let_through([Text("you")])

    assert transcript.text == transcript.text == "Hello you"
    transcript.let_through([Text("!")])
    transcript.end()
    assert transcript.text == "Hello you!"


@pytest.mark.parametrize("is_fed", [True, False])
def test_words_that_flowed_are_not_kept_one_by_one(is_fed: bool) -> None:
    """Each takes 80 bytes as an object of its own, in each of a thousand streams."""
    transcript = Transcript()
    transcript.feed([Text("Hello ")])
    first = "".join(["wor", "ld "])
    held_by_none = sys.getrefcount(first)
    words = [first, *(f"{n} " for n in range(2 * MOST_PIECES))]

    for word in words:
        if is_fed:
            assert transcript.feed([Text(word)]) == [Text(word)]
        else:
            transcript.let_through([Text(word)])
    del word
    words[0] = ""

    assert sys.getrefcount(first) == held_by_none
    assert transcript.text == "Hello world " + "".join(words)
    # What flowed is what the bot's whole text is compared with.
    assert transcript.feed([Replace(transcript.text + "more")]) == [Text("more")]
    assert transcript.end() == []
    assert transcript.text == "Hello world " + "".join(words) + "more"


@settings(max_examples=200, deadline=None)
@given(chunks=chunked())
def test_references_do_not_depend_on_chunks(chunks: list[str]) -> None:
    chunks = ["! ", *chunks, "![cat][ref1]"]
    transcript = Transcript()
    at_once = Transcript()

    said(at_once, [Text("! "), CAT, Text("".join(chunks[1:]))])
    told = said(transcript, [Text("! "), CAT, *map(Text, chunks[1:])])

    assert content(told) == transcript.text == at_once.text
    assert told.count(CAT) == 1


@settings(max_examples=200, deadline=None)
@given(text=answers)
def test_stripping_twice_strips_once(text: str) -> None:
    stripped = strip_reasoning(text)

    assert strip_reasoning(stripped) == stripped
    assert text.endswith(stripped)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(min_size=1).filter(
        lambda text: text[0].isalpha() and text[:1].lower() not in "tgscplwardbfu思正生搜"
    )
)
def test_stripping_leaves_plain_text_alone(text: str) -> None:
    assert strip_reasoning(text) == text
    assert strip_reasoning(THOUGHTS + text) == text


def test_a_long_answer_is_not_joined_for_every_chunk() -> None:
    transcript = Transcript()
    chunk = Text("word ")

    told = said(transcript, [chunk] * 10_000)

    assert all(event is chunk for event in told[1:])
    assert transcript.text == "word " * 10_000
