"""Counts what an answer says, and cuts it at its limit. Knows events and tokens, nothing of who asks."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from relay import counting
from relay.events import Attachment, Event, Reasoning, Text, ToolCall, one_by_one
from relay.pieces import MOST_PIECES, Pieces

# What follows may split the last word that was counted otherwise: "import" is one token, "importr" three.
SEAM_TOKENS = 16


class OutputMeter:
    """`limit` and `images_limit` may be raised while the answer comes; None: no limit.

    A text has at most as many tokens as UTF-8 bytes, and pieces have, but for the seams, at least as many tokens as the
    whole: so almost always a cheap upper bound tells that the limit is still far, and only what came since the last
    count is counted to lower it, up to a place where the tokens surely end: then it need not be counted again at the end. The
    whole is counted when the bound reaches the limit.
    """

    __slots__ = (
        "_counted",
        "_is_exact",
        "_said",
        "_since",
        "_since_bytes",
        "_thought",
        "has_tool_calls",
        "images",
        "images_limit",
        "is_full",
        "limit",
    )

    def __init__(self, limit: int | None, images_limit: int | None = None) -> None:
        self.limit = limit
        self.images_limit = images_limit
        self.images = 0
        self.has_tool_calls = False
        self.is_full = False
        self._said = Pieces()
        self._thought = Pieces()
        # All before `_since` has at most so many tokens, or just as many; `_since` has so many bytes.
        self._counted = 0
        self._is_exact = True
        self._since = Pieces()
        self._since_bytes = 0

    def take(self, events: list[Event]) -> bool:
        """Count all of these if they are mere text and surely fit, as almost always; False: nothing was done."""
        if self.is_full:
            return False
        if len(events) == 1 and isinstance(word := events[0], Text):  # as a word comes that is waited for
            if not word.text or (self.limit is not None and not self._surely_takes(word.text)):
                return False
            pieces = self._said
            pieces.append(word.text)
            if len(pieces) - pieces.blocks >= MOST_PIECES:  # `is_long`, without its frame
                pieces.join()
            return True
        said: list[str] = []
        thought: list[str] = []
        for event in events:
            if isinstance(event, Text) and event.text:
                said.append(event.text)
            elif isinstance(event, Reasoning) and event.text:
                thought.append(event.text)
            else:
                return False
        if self.limit is not None and not self._surely_takes("".join([*said, *thought])):
            return False
        self._said += said
        self._thought += thought
        for pieces in (self._said, self._thought):
            if pieces.is_long:
                pieces.join()
        return True

    def _surely_takes(self, text: str) -> bool:
        assert self.limit is not None
        # What `_surely_fits` asks first, without its frame: this runs for each word.
        size = len(text) if text.isascii() else _bytes(text)
        if self._counted + self._since_bytes + size > self.limit and not self._surely_fits(size):
            return False
        pieces = self._since
        pieces.append(text)
        if len(pieces) - pieces.blocks >= MOST_PIECES:
            pieces.join()
        self._since_bytes += size
        return True

    def is_near_its_limit(self, events: list[Event]) -> bool:
        """Whether these may not fit; sure only when it says no."""
        if self.limit is not None and not self._surely_fits(sum(_bytes(_text(event)) for event in events)):
            return True
        return self.images_limit is not None and self.images + count_images(events) > self.images_limit

    def cut(self, events: list[Event]) -> list[Event]:
        """The events up to the limit; nothing once it is reached."""
        kept: list[Event] = []
        for event in one_by_one(events):
            if self.is_full:
                break
            match event:
                case Text(text) | Reasoning(text):
                    said = self._room(text, self._said if isinstance(event, Text) else self._thought)
                    self.is_full = said != text
                    if said:
                        kept.append(replace(event, text=said) if self.is_full else event)
                case ToolCall(name=name, arguments=arguments):
                    self.has_tool_calls = True
                    piece = name + arguments
                    # Half a piece is no use to anybody: it is kept whole or not at all.
                    self.is_full = not self._fits(piece, self._said)
                    if not self.is_full:
                        self._add(piece, self._said)
                        kept.append(event)
                case Attachment() if is_image(event):
                    self.is_full = self.images_limit is not None and self.images >= self.images_limit
                    if not self.is_full:
                        self.images += 1
                        kept.append(event)
                case _:
                    kept.append(event)
        return kept

    def _room(self, text: str, said: list[str]) -> str:
        """How much of the text still fits."""
        if self.limit is not None and not self._fits(text, said):
            before = "".join(said)
            whole = counting.head(before + text, max(0, self.limit - self._count_others(said)))
            text = whole[len(before) :]
        self._add(text, said)
        return text

    def _add(self, text: str, said: list[str]) -> None:
        said.append(text)
        if self.limit is not None:
            self._since.append(text)
            self._since_bytes += _bytes(text)

    def _fits(self, text: str, said: list[str]) -> bool:
        if self.limit is None or self._surely_fits(_bytes(text)):
            return True
        counted = self._count_others(said) + counting.count("".join([*said, text]))
        if counted > self.limit:
            return False
        # Of what was said before, this is no less than the tokens; `text` is added to the rest by its bytes.
        self._since, self._since_bytes = Pieces(), 0
        self._counted, self._is_exact = counted + SEAM_TOKENS, False
        return True

    def _surely_fits(self, more_bytes: int) -> bool:
        assert self.limit is not None
        if self._counted + self._since_bytes + more_bytes <= self.limit:
            return True
        if not self._since:
            return False
        since = "".join(self._since)
        tokens, end = counting.count_settled(since)
        rest = since[end:]
        self._counted += tokens
        self._since, self._since_bytes = Pieces(rest), _bytes(rest)
        if self._counted + self._since_bytes + more_bytes <= self.limit:
            return True
        self._counted += min(self._since_bytes, counting.count(rest) + SEAM_TOKENS)
        self._since, self._since_bytes = Pieces(), 0
        self._is_exact = False
        return self._counted + more_bytes <= self.limit

    def _count_others(self, said: list[str]) -> int:
        return counting.count("".join(self._said if said is self._thought else self._thought))

    @property
    def characters(self) -> int:
        """Of what was said, thoughts aside."""
        return sum(map(len, self._said))

    def counted(self) -> int:
        if (left := self._left()) is not None:
            return self._counted + counting.count(left)
        return counting.count("".join(self._said)) + counting.count("".join(self._thought))

    async def usage(self) -> dict[str, int]:
        if (left := self._left()) is not None:
            said = self._counted + await counting.count_off_loop(left)
            return {"completion_tokens": said, "reasoning_tokens": 0}
        thought = await counting.count_off_loop("".join(self._thought))
        said = await counting.count_off_loop("".join(self._said))
        return {"completion_tokens": said + thought, "reasoning_tokens": thought}

    def _left(self) -> str | None:
        """What is not counted yet, if all before it is, as part of the one text that there is."""
        return "".join(self._since) if self._counted and self._is_exact and not self._thought else None


def is_image(event: Event) -> bool:
    return isinstance(event, Attachment) and event.content_type.startswith("image/")


def count_images(events: Iterable[Event]) -> int:
    return sum(map(is_image, events))


def count(events: Iterable[Event]) -> int:
    """An upper bound of the tokens that these events add."""
    return counting.count("".join(map(_text, events))) + SEAM_TOKENS


def _text(event: Event) -> str:
    match event:
        case Text(text) | Reasoning(text):
            return text
        case ToolCall(name=name, arguments=arguments):
            return name + arguments
        case _:
            return ""


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
