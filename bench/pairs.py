"""This checkout beside another one of the relay, each work asked of both in turns: what a change costs or brings.

`python -m bench.pairs OTHER [--rounds N] [--works W ...] [--postgres]`; OTHER is the directory of, say, a `git worktree`.
Figures of one hour say little about another's on a machine that is shared, and medians of a few runs no more. Two that are
taken within a second of each other differ by what was changed: the median of their ratios, over many pairs, is what counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from bench import machine, servers, tools
from bench.faults import rig
from bench.report import Result
from bench.run import Measured, Plan, Stage
from bench.servers import ROOT, CannotStart, Cores, Server
from bench.works import WORKS, Figures, Target, Work

ROUNDS = 30
# Of the work as `bench.run` has it: many short pairs tell more than a few long ones.
SHORTENED = 0.3
# Between two: at least, and at most until a server has let go of the streams that the last one cut.
PAUSE_SECONDS, QUIET_SECONDS = 0.4, 5.0


@dataclass(frozen=True, slots=True)
class Compared:
    """One work, asked of the other checkout and of this one: a figure of each for every round."""

    work: str
    unit: str
    pairs: list[tuple[float, float]]

    def row(self) -> str:
        others, ours = zip(*self.pairs, strict=True)
        ratios = [our / other for other, our in self.pairs]
        low, _middle, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
        below = sum(ratio < 1 for ratio in ratios)
        return (
            f"| {self.work}, {self.unit} | {median(others):,.2f} | {median(ours):,.2f} | **{median(ratios):.3f}** "
            f"| {low:.3f} to {high:.3f} | {below} of {len(ratios)} |"
        )


TITLES = (
    "| work | other | this | this / other | half of the pairs | below 1 |\n|---|---:|---:|---:|---:|---:|"
)


def figure(work: Work, figures: Figures) -> tuple[str, float]:
    """What the work is measured by, and its unit."""
    if work.at_once == 1:
        unit, found = "ms", figures.ttft_p50_ms
    elif work.streamed:
        unit, found = "CPU µs / chunk", figures.cpu_us_per_chunk
    else:
        unit, found = "CPU µs / request", figures.cpu_us_per_request
    if figures.failure or not found:
        raise CannotStart(f"{work.name} failed: {figures.failure or 'nothing was measured'}")
    return unit, found


def compare(other: Path, kind: str, works: list[Work], rounds: int) -> list[Compared]:
    programs, cores = tools.build(), Cores.of_this_machine()
    compared: dict[str, Compared] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="poe-relay-pairs-")))
        stack.enter_context(servers.everything_else_on(cores.rest))
        mock = stack.enter_context(servers.upstream(programs.upstream, directory))
        both = [
            stack.enter_context(_relay(root, kind, directory / name, mock, cores.server))
            for name, root in (("other", other), ("this", ROOT))
        ]
        stage = Stage(
            Plan(pause_seconds=PAUSE_SECONDS, quiet_seconds=QUIET_SECONDS), both, programs, directory
        )
        for number in range(rounds):
            for work in works:
                seen = {}
                # Nobody is always first.
                for each in both[:: -1 if number % 2 else 1]:
                    unit, seen[each.target.name] = figure(work, stage.measure(work, each))
                of_work = compared.setdefault(work.name, Compared(work.name, unit, []))
                of_work.pairs.append((seen["other"], seen["this"]))
    return list(compared.values())


@contextmanager
def _relay(root: Path, kind: str, directory: Path, mock: Server, core: int | None) -> Iterator[Measured]:
    """On a database of its own, since the two may not agree on its tables."""
    directory.mkdir()
    with rig.database(kind, directory) as url:
        env = servers.relay_environment(directory / "data", url)
        bots = sorted({work.bot for work in WORKS})
        token = servers.fill(env, f"http://127.0.0.1:{mock.port}/bot/", bots, root=root)
        servers.set_limits(env, root=root)
        with servers.relay(env, token, directory / "log", core, root=root) as server:
            target = Target(directory.name, server.port, token, (server.pid,))
            yield Measured(target, Result(target.name), server)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("other", type=Path, help="the other checkout's directory")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"pairs of each work; {ROUNDS}")
    parser.add_argument(
        "--works", nargs="+", choices=[work.name for work in WORKS], help="all, if none is named"
    )
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL; else on SQLite")
    said = parser.parse_args(given)
    works = [work.shortened(SHORTENED) for work in WORKS if not said.works or work.name in said.works]
    load_before = os.getloadavg()[0]
    try:
        compared = compare(
            said.other.resolve(), rig.POSTGRES if said.postgres else rig.SQLITE, works, max(1, said.rounds)
        )
    except (tools.CannotBuild, CannotStart) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    print("\n".join([TITLES, *(each.row() for each in compared)]))
    with tempfile.TemporaryDirectory() as name:
        print("\n" + machine.line(Cores.of_this_machine(), load_before, Path(name)))
    return 0


if __name__ == "__main__":
    # As Ctrl-C does: every server is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
