"""The rough proof from whose figures the ledger's goals were set, asked again beside it: how much slower is this machine for both?

It is no part of this repository (`ledger_spike.py`, among the founders' proofs); `bench.ledger --proof FILE` runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from bench.faults import rig
from bench.goals import Goal, at_least, at_most
from bench.servers import CannotStart

MODES = {rig.SQLITE: "sqlite-thread", rig.POSTGRES: "pg-thread"}
IDLE, BUSY = 0.0, 0.8
# The switch interval that DESIGN.md took from it.
SWITCH_SECONDS = 0.0005
AT_ONCE, REQUESTS, ONE_BY_ONE = 32, 3000, 1000
PRINTED = re.compile(
    r"admit p50 (?P<p50>[\d.]+) p99 (?P<p99>[\d.]+) ms; (?P<rate>\d+) req/s; cpu (?P<cpu>\d+) us/req"
)


@dataclass(frozen=True, slots=True)
class Proof:
    """Its admissions' times in ms, 32 at once unless told otherwise; CPU in µs per request."""

    one_p50_ms: float
    cpu_us: float
    busy_p99_ms: float
    per_second: float

    @classmethod
    def median_of(cls, rounds: Sequence[Proof]) -> Proof:
        return cls(*map(median, zip(*map(astuple, rounds), strict=True)))


Figure = Callable[[Proof], float]
FIGURES: dict[str, Figure] = {
    "admit p50 ms, one at a time": lambda its: its.one_p50_ms,
    "CPU µs / request": lambda its: its.cpu_us,
    "admit p99 ms, loop at 80 %": lambda its: its.busy_p99_ms,
    "admitted and settled / s": lambda its: its.per_second,
}
# As its own first lines tell, on the machine of 2026-11-22.
THEN = {rig.SQLITE: Proof(0.31, 57, 4.0, 7600), rig.POSTGRES: Proof(1.05, 91, 9.4, 4400)}


def measure(file: Path, kind: str, url: str) -> Proof:
    """On a database that is empty at first."""
    one = _run(file, kind, url, 1, ONE_BY_ONE, IDLE)
    many = _run(file, kind, url, AT_ONCE, REQUESTS, IDLE)
    busy = _run(file, kind, url, AT_ONCE, REQUESTS, BUSY)
    return Proof(float(one["p50"]), float(many["cpu"]), float(busy["p99"]), float(many["rate"]))


def _run(file: Path, kind: str, url: str, at_once: int, requests: int, busy: float) -> re.Match[str]:
    uri = url.removeprefix("sqlite:///")
    command = [
        sys.executable,
        str(file),
        MODES[kind],
        uri,
        *map(str, (at_once, requests, busy, SWITCH_SECONDS)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = PRINTED.search(done.stdout)
    if found is None:
        raise CannotStart(f"the proof failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
    return found


def table(kind: str, now: Proof) -> str:
    """How slow the machine is for it."""
    rows = [
        f"| {title} | {of(THEN[kind]):,g} | {of(now):,.2f} | {of(now) / of(THEN[kind]):.2f} |"
        for title, of in FIGURES.items()
    ]
    return "\n".join(["| the proof | then | now | now / then |\n|---|---:|---:|---:|", *rows])


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Judges a figure as it is, or as a share of one `of` the proof's, taken beside it."""

    kind: str
    # None: as it is.
    now: Proof | None = None

    def at_most(self, text: str, seen: float, limit: float, of: Figure) -> Goal:
        return at_most(*self._measured(text, seen, limit, of))

    def at_least(self, text: str, seen: float, limit: float, of: Figure) -> Goal:
        return at_least(*self._measured(text, seen, limit, of))

    def _measured(self, text: str, seen: float, limit: float, of: Figure) -> tuple[str, float, float]:
        if self.now is None:
            return text, seen, limit
        then, now = of(THEN[self.kind]), of(self.now)
        return f"{text}, of the proof's ({limit:,g} / {then:,g})", seen / now, limit / then
