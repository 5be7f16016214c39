"""Writes log lines to stderr from a thread of its own, so that no request waits for a slow pipe or a full disk.

Until `start`, as in every command but the server, a line is written where it is logged. Knows nothing of what a line says.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache

import msgspec

log = logging.getLogger(__name__)

# Formatted where it is written, if it is not ready: that is not on the event loop.
Line = bytes | Callable[[], bytes]

STDERR = 2
# So many lines wait for a reader that is slow; what comes then is dropped and counted.
MOST_WAITING = 10_000
# So long a line waits for company: to wake the thread for each would cost the event loop more than the line itself.
COMPANY_SECONDS = 0.05
# The system never tears a write of so many bytes apart: the lines of several processes on one pipe stay whole.
WHOLE_BYTES = 4096
CLOSE_SECONDS = 1.0


class LogWriter:
    def __init__(self, descriptor: int = STDERR, most_waiting: int = MOST_WAITING) -> None:
        self._descriptor = descriptor
        self._most_waiting = most_waiting
        self._waiting: deque[Line] = deque()
        self._has_lines = threading.Event()
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._untold = 0
        # Since this process began.
        self.dropped = 0

    def start(self) -> None:
        """Write from a thread from now on; does nothing the second time."""
        if self._thread is None:
            self._is_closing.clear()
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def put(self, line: Line) -> None:
        """From any thread. It never waits, unless nothing was started."""
        if self._thread is None:
            self._write(_ready(line))
        elif len(self._waiting) >= self._most_waiting:
            # Not exact when two threads come at once: it tells how bad it is.
            self.dropped += 1
            self._untold += 1
        else:
            self._waiting.append(line)
            if not self._has_lines.is_set():
                self._has_lines.set()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, as far as that is possible in this time, and go on without the thread."""
        if self._thread is None:
            return
        atexit.unregister(self.close)
        self._is_closing.set()
        self._has_lines.set()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._thread = None
            self._write_all()

    # In the thread.

    def _run(self) -> None:
        while not self._is_closing.is_set():
            self._has_lines.wait()
            self._is_closing.wait(COMPANY_SECONDS)
            self._has_lines.clear()
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        some: list[bytes] = []
        size = 0
        while self._waiting:
            line = _ready(self._waiting.popleft())
            if size + len(line) > WHOLE_BYTES:
                self._write(b"".join(some))
                some, size = [], 0
            some.append(line)
            size += len(line)
        self._write(b"".join(some))
        if self._untold:
            untold, self._untold = self._untold, 0
            log.warning("%d log lines were dropped: stderr is not read fast enough", untold)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                # Whoever shares this stderr made it non-blocking.
                select.select([], [self._descriptor], [], 1)
            except OSError:
                # Nobody can read it any more: there is no place to say so.
                self.dropped += data.count(b"\n")
                return


def _ready(line: Line) -> bytes:
    if isinstance(line, bytes):
        return line
    try:
        return line()
    except Exception as exc:
        return f"a log line cannot be written: {type(exc).__name__}\n".encode()


writer = LogWriter()


class Handler(logging.Handler):
    """Python's logging through the same writer, so that both come in one order."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            writer.put(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:
            self.handleError(record)


class JsonFormatter(logging.Formatter):
    """One line of JSON, whatever is in the message."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def utc(moment: float) -> str:
    """2026-11-23T10:15:01.042Z."""
    return f"{_utc_second(int(moment))}.{int(moment % 1 * 1000):03}Z"


def local(moment: float) -> str:
    """2026-11-23 10:15:01,042, as Python's logging writes it."""
    return f"{_local_second(int(moment))},{int(moment % 1 * 1000):03}"


# Most lines are of the same second as the one before.


@lru_cache(maxsize=2)
def _utc_second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


@lru_cache(maxsize=2)
def _local_second(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
