"""Figures of a quiet machine: neighbours on the same chip come and go within minutes, and change every figure by half.

A measurement counts if the machine was quiet when it began and when it ended; what came of it has no say in that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench import machine

T = TypeVar("T")
LOOK_AGAIN_SECONDS = 2.0
PATIENCE_MINUTES = 30.0


@dataclass(slots=True)
class QuietMachine:
    """Waits until a load that misses the caches takes at most `most_ns` nanoseconds; None: any machine will do."""

    most_ns: int | None = None
    # So long, in all, it is waited and measured again. From then on everything counts.
    seconds_left: float = 0.0
    # Measurements that did not count, and those that did without a quiet machine.
    dropped: int = 0
    noisy: int = 0
    look: Callable[[], int] = machine.memory_ns
    _began: float = field(default=0.0, init=False)
    _was_quiet: bool = field(default=True, init=False)

    def wait(self) -> None:
        began = time.monotonic()
        while not (quiet := self._is_quiet()) and time.monotonic() - began < self.seconds_left:
            time.sleep(LOOK_AGAIN_SECONDS)
        self._was_quiet = quiet
        self._began = time.monotonic()
        self.seconds_left = max(0.0, self.seconds_left - (self._began - began))

    def counts(self) -> bool:
        """Whether what was measured since `wait` does."""
        if self._was_quiet and self._is_quiet():
            return True
        if self.seconds_left > 0:
            self.seconds_left = max(0.0, self.seconds_left - (time.monotonic() - self._began))
            self.dropped += 1
            return False
        self.noisy += 1
        return True

    def tries(self) -> Iterator[None]:
        """Each is one to measure in; what came of the last one counts."""
        while True:
            self.wait()
            yield
            if self.counts():
                return

    def measured(self, measure: Callable[[], T]) -> T:
        for _ in self.tries():
            found = measure()
        return found

    def _is_quiet(self) -> bool:
        return self.most_ns is None or self.look() <= self.most_ns

    # A process of its own that measures in between is given what is left, and tells what it did with it.

    def arguments(self) -> list[str]:
        if self.most_ns is None:
            return []
        return ["--quiet", str(self.most_ns), "--patience", str(self.seconds_left / 60)]

    def went(self) -> dict[str, Any]:
        return {"seconds_left": self.seconds_left, "dropped": self.dropped, "noisy": self.noisy}

    def went_on(self, seconds_left: float, dropped: int, noisy: int) -> None:
        self.seconds_left = seconds_left
        self.dropped += dropped
        self.noisy += noisy

    def line(self) -> str:
        """What `machine.line` is followed by; nothing if any machine would do."""
        if self.most_ns is None:
            return ""
        return (
            f"; measured while it was at most {self.most_ns} ns, before and after: {self.dropped} measurements dropped, "
            f"{self.noisy} counted all the same"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quiet",
        type=int,
        metavar="NS",
        help="count only what was measured while a load that misses the caches takes at most so long",
    )
    parser.add_argument(
        "--patience",
        type=float,
        metavar="MINUTES",
        default=PATIENCE_MINUTES,
        help=f"wait for that at most so long in all, then count everything (default: {PATIENCE_MINUTES:g})",
    )


def asked_for(arguments: argparse.Namespace) -> QuietMachine:
    return QuietMachine(arguments.quiet, arguments.patience * 60 if arguments.quiet else 0.0)
