"""Turns what a bot says (texts, replacements, status noise) into text that never has to be unsaid.

What was sent to a client cannot be taken back, but bots write over what they said: "Thinking... (12s elapsed)"
becomes an answer, and some bots repeat the whole answer with every event. So everything the bot says goes through
four steps, and none of them waits longer than it must:

    raw text       what the bot's text is now: Text appends, Replace sets it anew
    Reader         parts it into status noise, thoughts and the answer, as it comes
    _Echo          after a text was told anew: lets through only what goes beyond what was sent
    _References    `![title][ref]` becomes `![title](url)` once the bot has sent the file

It knows nothing of wire formats, tokens or limits.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from typing import Literal

from msgspec.structs import replace

from relay.events import Attachment, Event, Finish, Reasoning, Replace, Text, ToolCall, one_by_one
from relay.noise import DEFAULT_NOISE, Noise, patterns_of
from relay.pieces import MOST_PIECES
from relay.reader import Reader, Said, Status

Policy = Literal["reasoning", "drop", "buffer", "show"]


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
        self._patterns = patterns_of(noise)
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

    def _make_reader(self) -> Reader:
        return Reader(self._patterns, answering=self._policy == "show")

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

    def _say_parts(self, parts: list[Said]) -> None:
        for part in parts:
            match part:
                case Text(text):
                    self._say_answer(text)
                case Reasoning(text):
                    self._say_thought(text)
                case Status():
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

    def _say_status(self, status: Status | None) -> None:
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
    reader = Reader(patterns_of(DEFAULT_NOISE))
    reader.read(text)
    reader.settle(noise_is_answer=True)
    return text[reader.start :] if reader.answering else ""
