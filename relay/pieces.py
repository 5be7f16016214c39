"""A text that comes word by word and is kept until it ends."""

from __future__ import annotations

# So many words are joined: one of 25 characters takes 80 bytes as an object of its own. A block of them and no more, since
# Python keeps a text as wide as its widest character: one emoji would widen all that a bot says.
MOST_PIECES = 64


class Pieces(list[str]):
    """The text is `"".join` of it. Whoever has appended calls `join` when `is_long`."""

    __slots__ = ("blocks",)

    def __init__(self, *pieces: str) -> None:
        super().__init__(pieces)
        # So many at the beginning are joined already.
        self.blocks = 0

    @property
    def is_long(self) -> bool:
        return len(self) - self.blocks >= MOST_PIECES

    def join(self) -> None:
        self[self.blocks :] = ["".join(self[self.blocks :])]
        self.blocks += 1
