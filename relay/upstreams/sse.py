"""Cuts a stream of server-sent events into (name, data) pairs, however it arrives; knows nothing of Poe."""

from __future__ import annotations

import re

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# An event as most are. Its length is that of its name, of its data and of the signs around them. It begins a line: where it
# may begin anywhere, a read full of beginnings is looked through once for each.
_ORDINARY = re.compile(rb"^event: ([^\n]*+)\ndata: ([^\n]*+)\n\n", re.MULTILINE)
_SIGNS = len(b"event: \ndata: \n\n")


class EventTooLarge(Exception):
    """An event outgrew the limit; `events` came before it in the same read. The reader is done for."""

    def __init__(self, events: list[tuple[str, bytes]]) -> None:
        super().__init__("an event is over the limit")
        self.events = events


def end_of_event(chunk: bytes) -> int:
    """Where the first blank line of this ends; 0 if it has none."""
    ends = [at + len(blank) for blank in (b"\n\n", b"\r\n\r\n") if (at := chunk.find(blank)) >= 0]
    return min(ends, default=0)


class SSEReader:
    """Reads LF, CRLF and CR alike. As the standard says, an event that the end cuts short is dropped.

    Unlike the standard, an event with a name and no data is told too: a bare `event: done` still means done.
    """

    __slots__ = ("_after_return", "_at_start", "_data", "_limit", "_name", "_partial", "_size")

    def __init__(self, max_event_bytes: int) -> None:
        self._limit = max_event_bytes
        self._partial = bytearray()  # of a line whose end has not arrived
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0  # of the event so far, its partial line not counted
        self._at_start = True
        self._after_return = False

    @property
    def is_in_event(self) -> bool:
        """Whether a part of one has come and its end has not."""
        return bool(self._size or self._partial)

    def may_pass_over(self, chunk: bytes) -> bool:
        """Whether an event begins with this chunk, and none can be too large of those that end in it."""
        return not (self._size or self._partial) and len(chunk) <= self._limit

    def pass_over(self) -> None:
        """Somebody else has read what came: whole events, each with its name and its data."""
        self._at_start = self._after_return = False

    def feed(self, chunk: bytes) -> list[tuple[str, bytes]]:
        """The events that are complete with this chunk. Raises EventTooLarge."""
        is_ordinary = self.may_pass_over(chunk)
        if self._after_return or b"\r" in chunk:
            chunk = self._with_plain_newlines(chunk)
        if is_ordinary:
            ordinary = _ORDINARY.findall(chunk)
            if ordinary and sum([len(name) + len(data) + _SIGNS for name, data in ordinary]) == len(chunk):
                self._at_start = False
                return [(str(name, "utf-8", "replace"), data) for name, data in ordinary]
        lines = chunk.split(b"\n")
        rest = lines.pop()
        events: list[tuple[str, bytes]] = []
        if lines:
            if self._partial or self._at_start:
                self._complete(lines)
            self._read_lines(lines, events)
        if rest:
            self._partial += rest
            if self._size + len(self._partial) > self._limit:
                raise EventTooLarge(events)
        return events

    def _with_plain_newlines(self, chunk: bytes) -> bytes:
        """A CR ends its line at once; an LF that follows it, even in the next chunk, belongs to it."""
        if not chunk:
            return chunk
        if self._after_return and chunk[0] == 10:
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _complete(self, lines: list[bytes]) -> None:
        lines[0] = bytes(self._partial) + lines[0]
        self._partial.clear()
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)

    def _read_lines(self, lines: list[bytes], events: list[tuple[str, bytes]]) -> None:
        """One frame for every line of a read, since there may be many."""
        for line in lines:
            if not line:
                if self._name or self._data:
                    data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    events.append((str(self._name, "utf-8", "replace"), data))
                    self._data = []
                self._name = b""
                self._size = 0
                continue
            self._size += len(line)
            if self._size > self._limit:
                raise EventTooLarge(events)
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
            elif line.startswith(b"event:"):
                self._name = line[7:] if line.startswith(b" ", 6) else line[6:]
            elif line == b"data":
                self._data.append(b"")
