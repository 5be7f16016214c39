"""What the peers did on 2026-11-22 (shared/bench/PEERS.md), and what issue 4 asks of the relay in the same units: as ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench import report
from bench.goals import Goal, at_least, at_most
from bench.peers.known import BARE, OBVIOUS
from bench.report import Column, Result, compared, middle
from bench.works import PACED_OFFERED

REQUEST_US, CHUNK_US, GAP_MS, FIRST_TOKEN_MS = (
    next(column for column in report.COLUMNS if (column.work, column.figure) == wanted)
    for wanted in (
        ("ns", "cpu_us_per_request"),
        ("burst", "cpu_us_per_chunk"),
        ("paced", "gap_p99_ms"),
        ("ttft", "ttft_p50_ms"),
    )
)


@dataclass(frozen=True, slots=True)
class Then:
    """None: not measured, or not comparable."""

    request_us: float | None
    chunk_us: float | None
    first_token_ms: float | None
    # Only of what kept up with the 25,600 chunks a second: the gaps of what is overloaded say nothing.
    gap_ms: float | None = None
    streams: int | None = None

    def of(self, column: Column) -> float | None:
        return {
            REQUEST_US: self.request_us,
            CHUNK_US: self.chunk_us,
            GAP_MS: self.gap_ms,
            FIRST_TOKEN_MS: self.first_token_ms,
        }[column]


THEN = {
    "TensorZero": Then(215, 13.3, 0.99, streams=500),
    # Before its first chunk it waits for 25 ms, on a slow machine as on a fast one.
    "Portkey": Then(2144, 20.8, None, streams=500),
    "LiteLLM": Then(19_333, 757, 24.0, streams=20),
    OBVIOUS: Then(5375, 88.3, 5.1, streams=100),
    BARE: Then(628, 5.0, 0.86, gap_ms=23),
    # They do nothing that a relay does, and always keep up: only their gaps tell of the machine.
    report.NGINX: Then(None, None, None, gap_ms=16),
    report.DIRECT: Then(None, None, None, gap_ms=11),
}
STREAMS = 1000


def wanted(column: Column, database: str) -> float:
    """Of the relay, on the machine of that day."""
    return {
        REQUEST_US: report.MOST_REQUEST_US[database],
        CHUNK_US: report.MOST_CHUNK_US,
        GAP_MS: report.MOST_GAP_MS,
        FIRST_TOKEN_MS: report.MOST_FIRST_TOKEN_MS[database],
    }[column]


@dataclass(frozen=True, slots=True)
class Compared:
    """The relay's figure beside a peer's: then, as it was to be, and now."""

    relay: Result
    peer: Result
    column: Column
    then: float

    @property
    def most(self) -> float:
        return wanted(self.column, self.relay.database) / self.then

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' own. None if these are gaps and one of the two did not keep up."""
        if self.column == GAP_MS and not (_keeps_up(self.relay) and _keeps_up(self.peer)):
            return None
        return compared(self.relay, self.peer)[self.column.key]

    @property
    def now(self) -> float | None:
        return middle(self.column.values(self.peer))

    @property
    def slower(self) -> float | None:
        return None if self.now is None else self.now / self.then

    @property
    def goal(self) -> Goal:
        text = f"{self.relay.name} / {self.peer.name}: {self.column.work}, {self.column.title}"
        asked = f"{wanted(self.column, self.relay.database):,g} / {self.then:,g}"
        return at_most(f"{text} ({asked})", self.ratio, self.most)


def _keeps_up(result: Result) -> bool:
    delivered = middle(figures.chunks_per_s for figures in result.rounds.get(GAP_MS.work, []))
    return delivered is not None and delivered >= PACED_OFFERED * report.LEAST_DELIVERED / 100


def comparisons(results: Sequence[Result]) -> list[Compared]:
    """Of every work that was measured: one that was skipped is no miss."""
    found = []
    for column in (REQUEST_US, CHUNK_US, GAP_MS, FIRST_TOKEN_MS):
        for relay in (each for each in results if each.database and column.work in each.rounds):
            for peer in (each for each in results if each.name in THEN):
                then = THEN[peer.name].of(column)
                if then is not None:
                    found.append(Compared(relay, peer, column, then))
    return found


def table(results: Sequence[Result]) -> list[str]:
    """How slow the machine is for each kind of program, and what the relays take of a peer's figure on it."""
    by_row: dict[tuple[str, str], list[Compared]] = {}
    for each in comparisons(results):
        by_row.setdefault((each.peer.name, each.column.key), []).append(each)
    titles = ["peer", "figure", "then", "now", "now / then"]
    for relay in dict.fromkeys(each.relay.name for row in by_row.values() for each in row):
        titles += [f"{relay} / peer", "at most"]
    return report.table(titles, [_row(row) for row in by_row.values()])


def _row(beside: list[Compared]) -> list[str]:
    """Of one peer and one figure, beside each relay."""
    first = beside[0]
    digits = first.column.digits
    cells = [first.peer.name, f"{first.column.work}, {first.column.title}", report.number(first.then, digits)]
    cells += [report.number(first.now, digits), report.number(first.slower, 2)]
    for each in beside:
        cells += [report.ratio(each.ratio), report.ratio(each.most)]
    return cells


def on_that_day(results: Sequence[Result]) -> list[str]:
    """What the relay's figures would have been on the machine of that day, by the peers that were measured: to be read, not judged."""
    by_figure: dict[tuple[str, str], list[Compared]] = {}
    for each in comparisons(results):
        by_figure.setdefault((each.relay.name, each.column.key), []).append(each)
    return [line for beside in by_figure.values() if (line := _on_that_day(beside))]


def _on_that_day(beside: list[Compared]) -> str:
    first = beside[0]
    known = [each.ratio * each.then for each in beside if each.ratio is not None]
    if not known:
        return ""
    digits = first.column.digits
    least, middle_one, most = (report.number(pick(known), digits) for pick in (min, median, max))
    asked = report.number(wanted(first.column, first.relay.database), digits)
    return (
        f"- {first.relay.name}: {first.column.work}, {first.column.title}: by {len(known)} peers, on the machine of 2026-11-22 "
        f"it would be {middle_one} ({least} to {most}); asked for: {asked}."
    )


def streams_goal(relay: str, ours: int, peer: str, theirs: int) -> Goal:
    """A peer that holds none is beaten by whatever holds one."""
    then = THEN[peer].streams
    assert then is not None
    return at_least(
        f"{relay} / {peer}: streams held ({STREAMS:,} / {then:,})",
        ours / theirs if theirs else float(ours > 0) * STREAMS,
        STREAMS / then,
    )
