"""What was measured, as Markdown: medians of the rounds, ratios of targets that were measured in the same round, and goals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.goals import Goal, at_least, at_most
from bench.works import PACED_OFFERED, Figures

DIRECT, NGINX = "upstream directly", "nginx, plain proxy"
# The load generator hangs up when its time is over: some of its requests are in flight then, some not yet written down.
WELL_ENDED = frozenset({"done", "disconnected", "failed (not_started)"})
# What this kind of machine is to reach (see README.md).
MOST_IDLE_MB, MOST_TTFT_MS = 150.0, 10.0
# With keys, limits, ledger and log, one worker on one core.
MOST_REQUEST_US = {"SQLite": 1050.0, "PostgreSQL": 1150.0}
MOST_FIRST_TOKEN_MS = {"SQLite": 1.8, "PostgreSQL": 2.6}
MOST_CHUNK_US, MOST_GAP_MS, LEAST_DELIVERED = 8.0, 30.0, 95.0


@dataclass(slots=True)
class Result:
    """One target: its figures by work, one for each round, and what its process was like."""

    name: str
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    start_seconds: float | None = None
    idle_mb: float | None = None
    end_mb: float | None = None
    threads: int | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    # Of a relay; there are no goals for anything else.
    database: str = ""
    # What relays are compared with.
    yardstick: bool = False

    @property
    def is_relay(self) -> bool:
        return self.start_seconds is not None

    def failures(self) -> list[str]:
        said = [
            f"{self.name}, {work}: {figures.failure}"
            for work, rounds in self.rounds.items()
            for figures in rounds
            if figures.failure
        ]
        # A record that is still open, or that ended for a reason of ours, is a failed request too.
        odd = {outcome: number for outcome, number in self.outcomes.items() if outcome not in WELL_ENDED}
        if odd:
            said.append(f"{self.name}: usage records that are neither done nor cut short by us: {odd}")
        return said


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    work: str
    figure: str
    digits: int = 0

    @property
    def key(self) -> str:
        return f"{self.work}.{self.figure}"

    def values(self, result: Result) -> list[float | None]:
        return [getattr(figures, self.figure) for figures in result.rounds.get(self.work, [])]


COLUMNS = (
    Column("ns requests/s", "ns", "requests_per_s"),
    Column("CPU µs / request", "ns", "cpu_us_per_request"),
    Column("burst chunks/s", "burst", "chunks_per_s"),
    Column("CPU µs / chunk", "burst", "cpu_us_per_chunk", 2),
    Column("paced chunks/s", "paced", "chunks_per_s"),
    Column("CPU µs / paced chunk", "paced", "cpu_us_per_chunk", 1),
    Column("gap p99 ms", "paced", "gap_p99_ms", 1),
    Column("ttft p50 ms", "ttft", "ttft_p50_ms", 2),
)


def markdown(results: list[Result], machine: str) -> str:
    parts = [machine, "", *figures(results), "", *ratios(results), ""]
    parts += [*map(str, goals(results)), *_shares(results), ""]
    parts += [_process(result) for result in results if result.is_relay]
    parts += [_promises(result) for result in results if result.is_relay]
    return "\n".join(parts)


def as_json(results: list[Result], machine: str) -> dict[str, Any]:
    medians = {result.name: {c.key: middle(c.values(result)) for c in COLUMNS} for result in results}
    ratios = {f"{ours.name} / {theirs.name}": compared(ours, theirs) for ours, theirs in _pairs(results)}
    return {
        "machine": machine,
        "medians": medians,
        "ratios": ratios,
        "goals": [asdict(goal) for goal in goals(results)],
        "targets": [asdict(result) for result in results],
    }


def middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def compared(ours: Result, theirs: Result) -> dict[str, float | None]:
    """The median of the rounds' ratios, not the ratio of medians: noise that both met in a round cancels out."""
    found = {}
    for column in COLUMNS:
        pairs = zip(column.values(ours), column.values(theirs), strict=False)
        found[column.key] = middle(a / b if a is not None and b else None for a, b in pairs)
    return found


def _pairs(results: list[Result]) -> list[tuple[Result, Result]]:
    yardsticks = [result for result in results if result.yardstick]
    return [(ours, theirs) for ours in results if ours.is_relay for theirs in yardsticks]


def figures(results: list[Result], columns: Sequence[Column] = COLUMNS) -> list[str]:
    titles = [*(column.title for column in columns), "RSS MB idle → end", "threads"]
    rows = []
    for result in results:
        cells = [number(middle(column.values(result)), column.digits) for column in columns]
        memory = f"{number(result.idle_mb)} → {number(result.end_mb)}" if result.idle_mb else "-"
        rows.append([result.name, *cells, memory, number(result.threads)])
    return table(["medians", *titles], rows)


def ratios(results: list[Result], columns: Sequence[Column] = COLUMNS) -> list[str]:
    rows = []
    for ours, theirs in _pairs(results):
        found = compared(ours, theirs)
        rows.append([f"{ours.name} / {theirs.name}", *(ratio(found[column.key]) for column in columns)])
    return table(["ratios", *(column.title for column in columns)], rows)


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(titles) - 1), *lines[1:]]


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def goals(results: list[Result]) -> list[Goal]:
    return [goal for result in results if result.database for goal in _goals(result)]


def _goals(result: Result) -> list[Goal]:
    """Every one of them, whether or not it was measured."""

    def seen(work: str, figure: str) -> float | None:
        return middle(getattr(figures, figure) for figures in result.rounds.get(work, []))

    chunks = seen("paced", "chunks_per_s")
    name, database = result.name, result.database
    return [
        at_most(
            f"{name}: ns, CPU µs per request", seen("ns", "cpu_us_per_request"), MOST_REQUEST_US[database]
        ),
        at_most(f"{name}: burst, CPU µs per chunk", seen("burst", "cpu_us_per_chunk"), MOST_CHUNK_US),
        at_least(
            f"{name}: paced, delivered of {PACED_OFFERED:,} chunks/s in %",
            None if chunks is None else chunks / PACED_OFFERED * 100,
            LEAST_DELIVERED,
        ),
        at_most(f"{name}: paced, gap p99 ms", seen("paced", "gap_p99_ms"), MOST_GAP_MS),
        at_most(f"{name}: ttft p50 ms", seen("ttft", "ttft_p50_ms"), MOST_FIRST_TOKEN_MS[database]),
    ]


def stubbed(name: str) -> str:
    return f"{name}, ledger stubbed"


def _shares(results: list[Result]) -> list[str]:
    """What of the first token is the ledger's: with it less without it, round by round."""
    by_name = {result.name: result for result in results}
    lines = []
    for result in results:
        without = by_name.get(stubbed(result.name))
        if without is None:
            continue
        pairs = zip(_first_tokens(result), _first_tokens(without), strict=True)
        share = middle(ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None)
        lines.append(f"     {result.name}: of that, the commit's share in ms: {number(share, 2)}")
    return lines


def _first_tokens(result: Result) -> list[float | None]:
    return [figures.ttft_p50_ms for figures in result.rounds.get("ttft", [])]


def _process(result: Result) -> str:
    ended = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(result.outcomes.items()))
    return (
        f"- {result.name}: ready after {number(result.start_seconds, 2)} s; usage records: {ended or 'none'}."
    )


def _promises(result: Result) -> str:
    """What the project promises of itself, whether or not it is so."""
    ttft = middle(figures.ttft_p50_ms for figures in result.rounds.get("ttft", []))
    idle = result.idle_mb
    kept = [
        f"idle under {MOST_IDLE_MB:.0f} MB: {_kept(idle, MOST_IDLE_MB)}",
        f"first token under {MOST_TTFT_MS:.0f} ms p50: {_kept(ttft, MOST_TTFT_MS)}",
    ]
    return f"- {result.name}: {'; '.join(kept)}."


def _kept(value: float | None, most: float) -> str:
    return "not measured" if value is None else "yes" if value < most else f"NO ({value:.1f})"
