"""Parts what a bot says into status noise, thoughts and the answer, as it comes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from relay.events import Reasoning, Text
from relay.noise import Patterns


@dataclass(frozen=True, slots=True)
class Status:
    """A status line without its numbers, emphasis and line end."""

    line: str


Said = Text | Reasoning | Status

_SPACE = re.compile(r"[ \t\r\n]*")
_MARGIN = re.compile(r"[ \t\r]*")


class Reader:
    """Parts a text into status noise, thoughts and the answer, while it grows.

    How the text was cut into chunks makes no difference. Whatever follows the first character of the answer
    is the answer. `start` is where in the text it starts.
    """

    def __init__(self, patterns: Patterns, *, answering: bool = False) -> None:
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

    def read(self, chunk: str) -> list[Said]:
        if self.answering:
            return [Text(chunk)]
        self._held += chunk
        parts: list[Said] = []
        while self._read_quote(parts) if self._quoting else self._read_line(parts):
            pass
        self._drop_done()
        return parts

    def settle(self, *, noise_is_answer: bool) -> list[Said]:
        """Decide on what is held, because no more text follows."""
        if self.answering or self._quoting or not self._held:
            return []
        parts: list[Said] = []
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

    def status(self, *, headings: bool) -> Status | None:
        """The status line that is held, if it is a whole one, were nothing to follow."""
        if self.answering or self._quoting:
            return None
        body = _end(_SPACE, self._held, 0)
        found = self._patterns.judge(self._held, body) if body < len(self._held) else None
        if found is None or not found.end or (found.is_heading and not headings):
            return None
        return Status(found.says)

    def _drop_done(self) -> None:
        self._held = self._held[self._at :]
        self._read += self._at
        self._at = 0

    def _begin(self, parts: list[Said]) -> bool:
        self.answering = True
        self.start = self._read + self._at
        parts.append(Text(self._held[self._at :]))
        self._at = len(self._held)
        return False

    def _read_line(self, parts: list[Said]) -> bool:
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

    def _read_heading(self, parts: list[Said], says: str, end: int) -> bool:
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

    def _take_noise(self, parts: list[Said], says: str, end: int) -> None:
        self._at, self._after_noise = end, True
        self._same_line = self._held[end - 1] != "\n"
        if says:
            parts.append(Status(says))

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

    def _read_quote(self, parts: list[Said]) -> bool:
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
