"""Turns what a bot says (texts, replacements, status noise) into text that never has to be unsaid.

What was sent to a client cannot be taken back, but bots write over what they said: "Thinking... (12s elapsed)"
becomes an answer, and some bots repeat the whole answer with every event. So everything the bot says goes through
four steps, and none of them waits longer than it must:

    raw text       what the bot's text is now: Text appends, Replace sets it anew
    _Reader        parts it into status noise, thoughts and the answer, as it comes
    _Echo          after a text was told anew: lets through only what goes beyond what was sent
    _References    `![title][ref]` becomes `![title](url)` once the bot has sent the file

It knows nothing of wire formats, tokens or limits.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from msgspec.structs import replace

from relay.events import Attachment, Event, Finish, Reasoning, Replace, Text, ToolCall, one_by_one
from relay.pieces import MOST_PIECES

Policy = Literal["reasoning", "drop", "buffer", "show"]


@dataclass(frozen=True, slots=True)
class Noise:
    """How a bot's status lines look. Nobody documents them, so every word of it may be set otherwise.

    A status line is a starter, perhaps more words, three dots or an ellipsis, perhaps a progress: "Generating
    image... 40%". A tick is a starter with "(12s elapsed)" and needs no line of its own. A heading is an emphasised
    status that begins with one of `headings`; quoted lines below it are the bot's thoughts.
    """

    starters: tuple[str, ...] = (
        *("Thinking", "Reasoning", "Generating", "Searching", "Creating", "Processing", "Loading", "Working"),
        *("Analyzing", "Analysing", "Browsing", "Fetching", "Rendering", "Drawing", "Preparing", "Uploading"),
        *("思考中", "正在思考", "正在生成", "正在搜索", "正在处理", "生成中", "搜索中"),
    )
    headings: tuple[str, ...] = ("Thinking", "Reasoning", "思考中", "正在思考")
    icons: str = "🤔💭🧠🔍🔎🌐🎨🖼⏳⌛"
    longest: int = 80


DEFAULT_NOISE = Noise()


# What the beginning of a line is: status noise, perhaps status noise, or none.


@dataclass(frozen=True, slots=True)
class _Finding:
    """Status noise at the start of a line. `end` is 0 while it only may become some; `closed` once nothing that
    follows can change it any more."""

    says: str = ""
    end: int = 0
    closed: bool = False
    is_heading: bool = False


_MARKS = 3  # the longest emphasis: ***both***
_TIME = r"\d[\d.:hmsecond \t]{0,12}"
_ELAPSED_BEGUN = r"(?:e(?:l(?:a(?:p(?:s(?:ed?)?)?)?)?)?)?"
_DOTS = r"(?:\.{3,}|…+|。{3,})"
_WORDS = r"(?:[^\r\n.…。(]|\.(?=[^\s.…。]))*?"
_PROGRESS = rf"(?:\({_TIME}\)|\(?\d{{1,3}}(?:[.,]\d+)?[ ]?%\)?)?"
_PROGRESS_BEGUN = r"(?:\((?:\d[^()\r\n]{0,24}\)?)?|\d[\d.,]*[ ]?%?\)?)?"
_CLOSE = r"(?(em)(?P<close>(?P=em))?)"
_CLOSE_EARLY = r"(?(em)(?P<early>(?P=em))?)"  # *Thinking...* (12s elapsed)


class _Patterns:
    """The expressions of one `Noise`, made once."""

    def __init__(self, noise: Noise) -> None:
        # "Thinkings" is no starter, but Chinese has no word ends to look for.
        words = (re.escape(word) + ("(?![a-z0-9])" if word[-1:].isascii() else "") for word in noise.starters)
        starters = "|".join(words) or "(?!)"
        icon = rf"(?:[{re.escape(noise.icons)}]\ufe0f?[ \t]*)?" if noise.icons else ""
        lead = rf"{icon}(?P<em>\*{{1,{_MARKS}}}|_{{1,{_MARKS}}})?{icon}"
        status = rf"(?P<says>(?:{starters}){_WORDS}"
        self.longest = noise.longest
        self._starters = tuple(word.lower() for word in noise.starters)
        self._headings = tuple(word.lower() for word in noise.headings)
        self._lead = re.compile(lead)
        self._tick = _compile(rf"{lead}(?:{status}{_DOTS}?){_CLOSE_EARLY}[ \t]*)?\({_TIME}elapsed\){_CLOSE}")
        self._line = _compile(
            rf"{lead}{status}{_DOTS}){_CLOSE_EARLY}[ \t]*{_PROGRESS}{_CLOSE}[ \t\r]*(?P<stop>\n|\Z)"
        )
        self._begun = _compile(
            rf"{lead}(?:\((?:{_TIME}{_ELAPSED_BEGUN})?\Z"
            rf"|{status})(?:\.{{1,2}}\Z|。{{1,2}}\Z|{_DOTS}?[*_]*[ \t]*{_PROGRESS_BEGUN}[*_ \t\r]*\Z))"
        )

    def judge(self, text: str, at: int) -> _Finding | None:
        """What the line that starts at `at` is. None: no noise, whatever follows."""
        line = text[at : at + self.longest + _MARKS + 1]
        return self._find_tick(line) or self._find_line(line) or self._find_beginning(line)

    def _find_tick(self, line: str) -> _Finding | None:
        match = self._tick.match(line)
        if match is None or match.end() > self.longest:
            return None
        if match["close"] or match["early"]:
            return self._found(match, match.end(), closed=True)
        marks, rest = match["em"] or "", line[match.end() :]
        may_close = len(rest) < len(marks) and marks.startswith(rest)
        return self._found(match, match.end(), closed=not may_close)

    def _find_line(self, line: str) -> _Finding | None:
        match = self._line.match(line)
        if match is None or match.start("stop") > self.longest:
            return None
        return self._found(match, match.end(), closed=match["stop"] == "\n")

    def _found(self, match: re.Match[str], end: int, *, closed: bool) -> _Finding:
        says = (match["says"] or "").replace("*", "").strip(" \t_")
        is_closed = bool(match["close"] or match["early"])
        is_heading = is_closed and says.lower().startswith(self._headings)
        return _Finding(says, end, closed, is_heading)

    def _find_beginning(self, line: str) -> _Finding | None:
        if len(line) > self.longest:
            return None
        lead = self._lead.match(line)
        word = line[lead.end() if lead else 0 :].lower()
        if any(starter.startswith(word) for starter in self._starters) or self._begun.match(line):
            return _Finding()
        return None


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


@cache
def _patterns(noise: Noise) -> _Patterns:
    return _Patterns(noise)


# From the raw text to its parts.


@dataclass(frozen=True, slots=True)
class _Status:
    """A status line without its numbers, emphasis and line end."""

    line: str


_Part = Text | Reasoning | _Status

_SPACE = re.compile(r"[ \t\r\n]*")
_MARGIN = re.compile(r"[ \t\r]*")


class _Reader:
    """Parts a text into status noise, thoughts and the answer, while it grows.

    How the text was cut into chunks makes no difference. Whatever follows the first character of the answer
    is the answer. `start` is where in the text it starts.
    """

    def __init__(self, patterns: _Patterns, *, answering: bool = False) -> None:
        self.answering = answering
        self.start = 0
        self._patterns = patterns
        self._held = ""  # what nobody can tell yet
        self._at = 0  # how much of it is done with
        self._read = 0  # where in the whole text it starts
        self._after_noise = False
        self._same_line = False  # a tick ended, but not its line
        self._quoting = False
        self._line_start = True
        self._skip_space = False
        self._breaks = 0  # line ends since the last thought, said only if another one follows
        self._has_thought = False

    def read(self, chunk: str) -> list[_Part]:
        if self.answering:
            return [Text(chunk)]
        self._held += chunk
        parts: list[_Part] = []
        while self._read_quote(parts) if self._quoting else self._read_line(parts):
            pass
        self._drop_done()
        return parts

    def settle(self, *, noise_is_answer: bool) -> list[_Part]:
        """Decide on what is held, because no more text follows."""
        if self.answering or self._quoting or not self._held:
            return []
        parts: list[_Part] = []
        status = self.status(headings=True)
        if status and (self._after_noise or not noise_is_answer):
            self._at, self._after_noise = len(self._held), True
            self._drop_done()
            return [status]
        if self._after_noise and not self._held.strip(" \t\r\n"):
            return []
        self._begin(parts)
        self._drop_done()
        return parts

    def status(self, *, headings: bool) -> _Status | None:
        """The status line that is held, if it is a whole one, were nothing to follow."""
        if self.answering or self._quoting:
            return None
        body = _end(_SPACE, self._held, 0)
        found = self._patterns.judge(self._held, body) if body < len(self._held) else None
        if found is None or not found.end or (found.is_heading and not headings):
            return None
        return _Status(found.says)

    def _drop_done(self) -> None:
        self._held = self._held[self._at :]
        self._read += self._at
        self._at = 0

    def _begin(self, parts: list[_Part]) -> bool:
        self.answering = True
        self.start = self._read + self._at
        parts.append(Text(self._held[self._at :]))
        self._at = len(self._held)
        return False

    def _read_line(self, parts: list[_Part]) -> bool:
        """Read one status off the held text. False: more text is needed, or the answer has begun."""
        if self._after_noise:
            self._skip_blank_lines()
        body = _end(_SPACE, self._held, self._at)
        if body - self._at > self._patterns.longest:
            return self._begin(parts)
        if body == len(self._held):
            return False
        found = self._patterns.judge(self._held, body)
        if found is None:
            return self._begin(parts)
        if not found.closed:
            return False
        end = body + found.end
        if found.is_heading:
            return self._read_heading(parts, found.says, end)
        self._take_noise(parts, found.says, end)
        return True

    def _read_heading(self, parts: list[_Part], says: str, end: int) -> bool:
        """Whether a heading has quoted lines shows at the next character that is not blank."""
        following = _end(_SPACE, self._held, end)
        if following - end > self._patterns.longest:
            self._take_noise(parts, says, end)
            return True
        if following == len(self._held):
            return False
        if self._held[following] == ">" and "\n" in self._held[end - 1 : following]:
            self._at, self._quoting, self._line_start = following, True, True
            return True
        self._take_noise(parts, says, end)
        return True

    def _take_noise(self, parts: list[_Part], says: str, end: int) -> None:
        self._at, self._after_noise = end, True
        self._same_line = self._held[end - 1] != "\n"
        if says:
            parts.append(_Status(says))

    def _skip_blank_lines(self) -> None:
        """Past the blanks that part noise from what follows; the indentation of a line is part of the line."""
        if self._same_line:
            self._at = _end(_MARGIN, self._held, self._at)
            if self._held[self._at : self._at + 1] != "\n":
                return
            self._same_line = False
        while True:
            margin = _end(_MARGIN, self._held, self._at)
            if margin - self._at > self._patterns.longest or self._held[margin : margin + 1] != "\n":
                return
            self._at = margin + 1

    def _read_quote(self, parts: list[_Part]) -> bool:
        """Read a piece of a quoted line: its start, or as much of its text as there is."""
        if self._line_start:
            return self._read_quote_mark()
        if self._at == len(self._held):
            return False
        if self._skip_space:
            self._skip_space = False
            self._at += self._held[self._at] == " "
            return True
        stop = self._held.find("\n", self._at)
        end = len(self._held) if stop < 0 else stop
        if end > self._at:
            parts.append(Reasoning("\n" * self._breaks + self._held[self._at : end]))
            self._breaks, self._has_thought = 0, True
        self._at = end
        if stop >= 0:
            self._end_quoted_line(stop)
        return True

    def _read_quote_mark(self) -> bool:
        margin = _end(_MARGIN, self._held, self._at)
        too_far = margin - self._at > self._patterns.longest
        if margin == len(self._held) and not too_far:
            return False
        if not too_far and self._held[margin] == "\n":
            self._end_quoted_line(margin)
            return True
        if too_far or self._held[margin] != ">":
            self._quoting, self._after_noise, self._same_line = False, True, False
            return True
        self._at, self._line_start, self._skip_space = margin + 1, False, True
        return True

    def _end_quoted_line(self, stop: int) -> None:
        self._at, self._line_start = stop + 1, True
        self._breaks += self._has_thought


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


# What may be sent.


class _Echo:
    """Holds a text that is told anew against what was told before."""

    def __init__(self, told: str) -> None:
        self.told = told
        self.at = 0  # up to here both are equal
        self.is_astray = False

    @property
    def is_over(self) -> bool:
        return self.at == len(self.told)

    def beyond(self, piece: str) -> str:
        """What of the next piece goes beyond what was told. Goes astray at the first difference, for good."""
        left = len(self.told) - self.at
        if not self.is_astray and len(piece) <= left and self.told.startswith(piece, self.at):
            self.at += len(piece)
            return ""
        if not self.is_astray and len(piece) > left and piece.startswith(self.told[self.at :]):
            self.at = len(self.told)
            return piece[left:]
        self.is_astray = True
        return ""


_REFERENCE = re.compile(r"(\[[^\[\]\n]{0,200}\])\[([^\[\]\n]{1,90})\]")
_REFERENCE_BEGUN = re.compile(r"\[[^\[\]\n]{0,200}(?:\](?:\[[^\[\]\n]{0,90})?)?\Z")


class _References:
    """Puts the addresses of files where a text refers to them by `[title][ref]`."""

    def __init__(self) -> None:
        self.files: dict[str, Attachment] = {}
        self.held = ""  # perhaps the beginning of a reference
        self.used: list[Attachment] = []

    def read(self, text: str) -> str:
        if not self.files or not (self.held or "[" in text):
            return text
        text = self.held + text
        whole = 0
        for match in _REFERENCE.finditer(text):
            whole = match.end()
        begun = _REFERENCE_BEGUN.search(text, whole)
        end = begun.start() if begun else len(text)
        self.held = text[end:]
        return self.use(text[:end])

    def use(self, text: str) -> str:
        """Resolve a text that is sent."""
        for _, name in _REFERENCE.findall(text):
            if name in self.files and self.files[name] not in self.used:
                self.used.append(self.files[name])
        return self.resolve(text)

    def resolve(self, text: str) -> str:
        return _REFERENCE.sub(self._put_url, text)

    def _put_url(self, match: re.Match[str]) -> str:
        file = self.files.get(match[2])
        return match[0] if file is None else f"{match[1]}({file.url})"

    def give_up(self) -> str:
        held, self.held = self.held, ""
        return held


class Transcript:
    """One answer of one bot. `feed` it the bot's events as they come, then `end` it; both give what a client is told.

    `buffer` gives nothing but reasoning before the end. Streamed or not, `text` is the final text, exactly.
    """

    __slots__ = (
        "_buffered",
        "_called_tools",
        "_echo",
        "_files",
        "_flowed",
        "_is_buffering",
        "_is_flowing",
        "_new",
        "_patterns",
        "_policy",
        "_raw",
        "_reader",
        "_reasoning",
        "_references",
        "_statuses",
        "_text",
        "_thought_echo",
        "_thoughts",
        "_unreferenced",
    )

    def __init__(self, policy: Policy = "reasoning", *, noise: Noise = DEFAULT_NOISE) -> None:
        self._policy = policy
        self._patterns = _patterns(noise)
        self._new: list[Event] = []  # what the call at hand gives
        self._raw: list[str] = []
        self._reader = self._make_reader()
        self._is_buffering = policy == "buffer"
        self._echo: _Echo | None = None  # the client holds a text that the answer does not continue (yet)
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._statuses: set[str] = set()
        self._thoughts: list[str] = []
        self._thought_echo: _Echo | None = None
        self._references = _References()
        self._files: list[Attachment] = []
        self._unreferenced: list[Attachment] = []  # the text may yet refer to them
        self._buffered: list[Event] = []
        self._called_tools = False
        self._is_flowing = self._flows()
        # The end of both `_raw` and `_text`, not in them yet: joined onto both when it is long, before any event that does not
        # flow, and when somebody looks.
        self._flowed: list[str] = []

    @property
    def text(self) -> str:
        """The answer's final text; complete after `end`."""
        self._note_what_flowed()
        if self._echo is not None or self._is_buffering:
            return self._references.resolve(self._answer())
        self._text = ["".join(self._text)]
        return self._text[0]

    @property
    def reasoning(self) -> str:
        self._reasoning = ["".join(self._reasoning)]
        return self._reasoning[0]

    def lets_through(self, events: list[Event]) -> bool:
        """Whether `feed` gives these back as they are."""
        if not self._is_flowing:
            return False
        for event in events:  # noqa: SIM110 this runs for each word, and a generator costs more than the word
            if not isinstance(event, Text) or not event.text:
                return False
        return True

    def let_through(self, events: list[Event]) -> None:
        """What `feed` does with these, when it `lets_through`."""
        for event in events:
            assert isinstance(event, Text)
            self._flowed.append(event.text)
        if len(self._flowed) >= MOST_PIECES:
            self._note_what_flowed()

    def feed(self, events: list[Event]) -> list[Event]:
        new = self._new = []
        if not self._is_flowing:
            events = one_by_one(events)
        for event in events:
            # Nearly every event: keep it to a few operations.
            if self._is_flowing and isinstance(event, Text):
                if event.text:
                    self._flowed.append(event.text)
                    new.append(event)
                continue
            self._note_what_flowed()
            self._take(event)
            self._is_flowing = self._flows()
        if len(self._flowed) >= MOST_PIECES:
            self._note_what_flowed()
        return new

    def end(self) -> list[Event]:
        """What was held back. Called once, after the bot's last event."""
        self._new = []
        self._note_what_flowed()
        self._settle()
        return self._new

    def _note_what_flowed(self) -> None:
        if self._flowed:
            text = "".join(self._flowed)
            self._raw.append(text)
            self._text.append(text)
            self._flowed.clear()

    def _make_reader(self) -> _Reader:
        return _Reader(self._patterns, answering=self._policy == "show")

    def _flows(self) -> bool:
        """Whether text may go through untouched."""
        is_held = self._echo is not None or self._is_buffering or self._references.files
        return self._reader.answering and not is_held

    def _answer(self) -> str:
        """The bot's answer as it is now, references not resolved."""
        return "".join(self._raw)[self._reader.start :] if self._reader.answering else ""

    def _take(self, event: Event) -> None:
        match event:
            case Text(text):
                self._append(text)
            case Replace(text):
                self._replace(text)
            case Reasoning(text):
                self._reason(text)
            case Attachment():
                self._attach(event)
            case ToolCall():
                self._called_tools = True
                self._say_parts(self._reader.settle(noise_is_answer=False))
                self._say_text(self._references.give_up())
                self._pass_on(event)
            case Finish():
                self._settle()
                self._pass_on(event)

    # What the bot's text is.

    def _append(self, text: str) -> None:
        if text:
            self._raw.append(text)
            self._say_parts(self._reader.read(text))

    def _replace(self, text: str) -> None:
        raw = "".join(self._raw)
        self._raw = [raw]
        if text.startswith(raw):
            self._append(text[len(raw) :])
        else:
            self._read_again(text)
        self._say_status(self._reader.status(headings=False))

    def _read_again(self, text: str) -> None:
        self._say_status(self._reader.status(headings=True))
        sent = self._sent()
        self._echo = _Echo(sent) if sent else None
        self._thought_echo = _Echo("".join(self._thoughts)) if self._thoughts else None
        self._references.give_up()
        self._reader = self._make_reader()
        self._raw = []
        self._append(text)

    def _sent(self) -> str:
        """What the client holds, as the bot said it."""
        if self._is_buffering:
            return ""
        if self._echo is not None:
            return self._echo.told
        answer = self._answer()
        return answer[: len(answer) - len(self._references.held)]

    # What the client is told.

    def _say_parts(self, parts: list[_Part]) -> None:
        for part in parts:
            match part:
                case Text(text):
                    self._say_answer(text)
                case Reasoning(text):
                    self._say_thought(text)
                case _Status():
                    self._say_status(part)

    def _say_answer(self, text: str) -> None:
        if self._is_buffering:
            return
        if self._echo is not None:
            text = self._echo.beyond(text)
            if self._echo.is_over:
                self._echo = None
        self._say_text(self._references.read(text))

    def _say_text(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._new.append(Text(text))
        self._pass_on_used_files()

    def _say_status(self, status: _Status | None) -> None:
        """Once each: bots repeat the same line with other numbers."""
        if status is None or not status.line or self._policy == "drop":
            return
        key = re.sub(r"\d+", "#", status.line).rstrip(".…。").lower()
        if key in self._statuses:
            return
        self._statuses.add(key)
        self._reason(f"{self._line_end()}{status.line}\n")

    def _say_thought(self, text: str) -> None:
        if self._thought_echo is None:
            self._thoughts.append(text)
            self._reason(text)
            return
        echo = self._thought_echo
        known = echo.told[: echo.at]
        text_beyond = echo.beyond(text)
        if echo.is_astray:
            self._rethink(known + text, echo.told)
        elif text_beyond:
            self._thought_echo = None
            self._say_thought(text_beyond)

    def _rethink(self, thoughts: str, told: str) -> None:
        """Say other thoughts than before, from the first line that differs."""
        common = len(os.path.commonprefix([thoughts, told]))
        line = thoughts.rfind("\n", 0, common) + 1
        self._thoughts, self._thought_echo = [thoughts], None
        self._reason(self._line_end() + thoughts[line:])

    def _line_end(self) -> str:
        return "\n" if self._reasoning and not self._reasoning[-1].endswith("\n") else ""

    def _reason(self, text: str) -> None:
        if text:
            self._reasoning.append(text)
            self._new.append(Reasoning(text))

    def _pass_on(self, event: Event) -> None:
        (self._buffered if self._is_buffering else self._new).append(event)

    # Files.

    def _attach(self, file: Attachment) -> None:
        if file in self._files:
            return
        self._files.append(file)
        if file.inline_ref is None:
            self._pass_on(file)
            return
        self._unreferenced.append(file)
        if f"][{file.inline_ref}]" not in self._sent():
            self._references.files.setdefault(file.inline_ref, file)

    def _pass_on_used_files(self) -> None:
        for file in self._references.used:
            if file in self._unreferenced:
                self._unreferenced.remove(file)
                self._pass_on(file)

    # The end.

    def _settle(self) -> None:
        is_alone = not self._files and not self._called_tools
        self._say_parts(self._reader.settle(noise_is_answer=is_alone))
        if self._echo is not None:
            self._say_anew(self._echo.told)
        if self._is_buffering:
            self._is_buffering = False
            self._say_text(self._references.use(self._answer()))
        self._say_text(self._references.give_up())
        self._new.extend(self._without_reference(self._unreferenced))
        self._new.extend(self._buffered)
        self._unreferenced, self._buffered = [], []

    def _say_anew(self, sent: str) -> None:
        """The bot took back what the client holds: say the final answer below it, once."""
        answer = self._answer()
        text = self._references.use(answer)
        self._echo, self._text = None, []
        if answer.rstrip() != sent.rstrip() and answer:
            self._new.append(Text(f"\n\n{text}"))
        self._text = [text]
        self._pass_on_used_files()
        # A file that only the text before showed must not be missing from an answer that is not streamed.
        self._new.extend(self._without_reference(f for f in self._references.used if f.url not in text))

    @staticmethod
    def _without_reference(files: Iterator[Attachment] | list[Attachment]) -> list[Event]:
        return [replace(file, inline_ref=None) for file in files]


def strip_reasoning(text: str) -> str:
    """An assistant's message without what `Transcript` would give as reasoning: for a conversation's history."""
    reader = _Reader(_patterns(DEFAULT_NOISE))
    reader.read(text)
    reader.settle(noise_is_answer=True)
    return text[reader.start :] if reader.answering else ""
