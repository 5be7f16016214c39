"""How a bot's status lines look: what the beginning of a line is, status noise, perhaps status noise, or none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache


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


@dataclass(frozen=True, slots=True)
class Finding:
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


class Patterns:
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

    def judge(self, text: str, at: int) -> Finding | None:
        """What the line that starts at `at` is. None: no noise, whatever follows."""
        line = text[at : at + self.longest + _MARKS + 1]
        return self._find_tick(line) or self._find_line(line) or self._find_beginning(line)

    def _find_tick(self, line: str) -> Finding | None:
        match = self._tick.match(line)
        if match is None or match.end() > self.longest:
            return None
        if match["close"] or match["early"]:
            return self._found(match, match.end(), closed=True)
        marks, rest = match["em"] or "", line[match.end() :]
        may_close = len(rest) < len(marks) and marks.startswith(rest)
        return self._found(match, match.end(), closed=not may_close)

    def _find_line(self, line: str) -> Finding | None:
        match = self._line.match(line)
        if match is None or match.start("stop") > self.longest:
            return None
        return self._found(match, match.end(), closed=match["stop"] == "\n")

    def _found(self, match: re.Match[str], end: int, *, closed: bool) -> Finding:
        says = (match["says"] or "").replace("*", "").strip(" \t_")
        is_closed = bool(match["close"] or match["early"])
        is_heading = is_closed and says.lower().startswith(self._headings)
        return Finding(says, end, closed, is_heading)

    def _find_beginning(self, line: str) -> Finding | None:
        if len(line) > self.longest:
            return None
        lead = self._lead.match(line)
        word = line[lead.end() if lead else 0 :].lower()
        if any(starter.startswith(word) for starter in self._starters) or self._begun.match(line):
            return Finding()
        return None


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


@cache
def patterns_of(noise: Noise) -> Patterns:
    return Patterns(noise)
