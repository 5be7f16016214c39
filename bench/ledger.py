"""What exactness costs: the ledger alone in a process, and the relay with it against the same relay without.

`python -m bench.ledger [--quick] [--sqlite | --postgres] [--proof FILE]` prints figures and goals; the exit status is 1 if one
is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from bench import ledger_alone, machine, proof, quiet, servers, tools
from bench.faults import rig
from bench.goals import Goal
from bench.ledger_alone import Figures
from bench.proof import Figure, Proof, Yardstick
from bench.quiet import QuietMachine
from bench.servers import CannotStart, Cores, Server
from bench.works import WORKS, Target, Work, measure

MOST_CPU_US = 150.0
MOST_BUSY_P99_MS = 15.0
MOST_FIRST_TOKEN_MS = {rig.SQLITE: 1.0, rig.POSTGRES: 2.0}
# A process on SQLite was promised nothing; it is shown.
LEAST_PER_SECOND = {rig.POSTGRES: 4000.0}
AT_ONCE, ONE_BY_ONE = (next(work for work in WORKS if work.name == name) for name in ("ns", "ttft"))
ROUNDS, QUICK_ROUNDS, QUICK = 5, 2, 0.4
PAUSE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Cost:
    """The relay with its ledger and with the stub: medians of the rounds, and of the rounds' own differences."""

    figure: str
    ours: float
    stubbed: float
    difference: float

    @classmethod
    def of(cls, figure: str, rounds: list[tuple[float, float]]) -> Cost:
        ours, stubbed = zip(*rounds, strict=True)
        return cls(figure, median(ours), median(stubbed), median(a - b for a, b in rounds))


# The ledger alone.


def alone(kind: str, quick: bool, machine_is: QuietMachine) -> list[Figures]:
    """On an empty database of its own."""
    with _database(kind) as (url, directory):
        env = servers.relay_environment(directory / "data", url)
        said = servers.output_of(
            env, "bench.ledger_alone", *machine_is.arguments(), *(["--quick"] if quick else [])
        )
    found = json.loads(said)
    machine_is.went_on(**found["machine"])
    return [Figures(**each) for each in found["figures"]]


def alone_goals(found: list[Figures], yardstick: Yardstick) -> list[Goal]:
    by_name = {figures.name: figures for figures in found}
    p99 = by_name[ledger_alone.MANY_BUSY].admit_p99_ms
    goals = [
        yardstick.at_most(
            "admit, 32 at once, loop at 80 %, p99 ms", p99, MOST_BUSY_P99_MS, lambda its: its.busy_p99_ms
        )
    ]
    if least := LEAST_PER_SECOND.get(yardstick.kind):
        rate = by_name[ledger_alone.FULL].requests_per_s
        goals.append(
            yardstick.at_least("admitted and settled per second", rate, least, lambda its: its.per_second)
        )
    return goals


def alone_table(found: list[Figures]) -> str:
    titles = (
        "| the ledger alone | admit p50 ms | p99 ms | requests/s | CPU µs / request | ledger's thread | loop's share "
        "| items / transaction | locks held p50 ms | p99 ms | µs / item |\n|---|" + "---:|" * 10
    )
    rows = [
        f"| {each.name} | {each.admit_p50_ms:.2f} | {each.admit_p99_ms:.2f} | {each.requests_per_s:,.0f} "
        f"| {each.cpu_us:.0f} | {each.ledger_cpu_us:.0f} | {each.loop_share:.0%} | {each.batch_mean:.1f} "
        f"| {each.held_p50_ms:.2f} | {each.held_p99_ms:.2f} | {each.held_us_per_item:.0f} |"
        for each in found
    ]
    return "\n".join([titles, *rows])


# The whole relay.


def whole(kind: str, quick: bool, cores: Cores, machine_is: QuietMachine) -> list[Cost]:
    """Two relays on one database, one of them with the stub, asked in turns."""
    programs = tools.build()
    factor, rounds = (QUICK, QUICK_ROUNDS) if quick else (1.0, ROUNDS)
    with ExitStack() as stack:
        stack.enter_context(servers.everything_else_on(cores.rest))
        url, directory = stack.enter_context(_database(kind))
        env = servers.relay_environment(directory / "data", url)
        mock = stack.enter_context(servers.upstream(programs.upstream, directory))
        token = servers.fill(env, f"http://127.0.0.1:{mock.port}/bot/", [AT_ONCE.bot])
        servers.set_limits(env)
        relays = [
            stack.enter_context(_relay(program, env, directory / f"{name}.log", cores.server))
            for name, program in (("ledger", ["manage.py"]), ("stubbed", ["-m", "bench.stubbed"]))
        ]
        targets = [Target(kind, relay.port, token, (relay.pid,)) for relay in relays]
        works = [replace(work.shortened(factor), bot=AT_ONCE.bot) for work in (AT_ONCE, ONE_BY_ONE)]
        measured = [
            [
                machine_is.measured(partial(_pair, work, targets, programs.loadgen, directory))
                for work in works
            ]
            for _ in range(rounds)
        ]
    return [
        Cost.of("CPU µs per request, 32 at once", [at_once[0] for at_once, _one in measured]),
        Cost.of("first token p50 ms, one at a time", [one[1] for _at_once, one in measured]),
    ]


def _pair(
    work: Work, targets: list[Target], loadgen: Path, directory: Path
) -> tuple[tuple[float, float], tuple[float, float]]:
    """CPU µs per request and first token in ms, each of the relay and of the one with the stub."""
    found = []
    for target in targets:
        figures = measure(work, target, loadgen, directory)
        if figures.failure:
            raise CannotStart(f"the relay failed: {figures.failure}")
        found.append((figures.cpu_us_per_request or 0.0, figures.ttft_p50_ms or 0.0))
        time.sleep(PAUSE_SECONDS)
    (our_cpu, our_token), (stub_cpu, stub_token) = found
    return (our_cpu, stub_cpu), (our_token, stub_token)


def whole_goals(costs: list[Cost], yardstick: Yardstick) -> list[Goal]:
    limits: tuple[tuple[float, Figure], ...] = (
        (MOST_CPU_US, lambda its: its.cpu_us),
        (MOST_FIRST_TOKEN_MS[yardstick.kind], lambda its: its.one_p50_ms),
    )
    return [
        yardstick.at_most(f"the ledger's share of: {cost.figure}", cost.difference, *limit)
        for cost, limit in zip(costs, limits, strict=True)
    ]


def whole_table(costs: list[Cost]) -> str:
    titles = "| the whole relay | with the ledger | stubbed | difference |\n|---|---:|---:|---:|"
    rows = [f"| {c.figure} | {c.ours:,.2f} | {c.stubbed:,.2f} | {c.difference:+,.2f} |" for c in costs]
    return "\n".join([titles, *rows])


@contextmanager
def _relay(program: list[str], env: dict[str, str], log: Path, core: int | None) -> Iterator[Server]:
    command = [sys.executable, *program, "serve", "--port", "0"]
    with servers.process(command, log, core=core, env=env) as child:
        yield Server(servers.await_address(child, log), child.pid)


@contextmanager
def _database(kind: str) -> Iterator[tuple[str, Path]]:
    """The address of an empty database, and a directory."""
    with tempfile.TemporaryDirectory(prefix="poe-relay-ledger-") as name:
        directory = Path(name)
        with rig.database(kind, directory) as url:
            yield url, directory


def _proof(file: Path, kind: str) -> Proof:
    with _database(kind) as (url, _directory):
        return proof.measure(file, kind, url)


def measure_on(
    kind: str, quick: bool, cores: Cores, machine_is: QuietMachine, file: Path | None
) -> list[Goal]:
    """With the proof in `file` before, between and after."""
    proofs: list[Proof] = []

    def look_at_the_proof() -> None:
        if file is not None:
            proofs.append(machine_is.measured(partial(_proof, file, kind)))

    print(f"\n{kind}\n", flush=True)
    look_at_the_proof()
    figures = alone(kind, quick, machine_is)
    print(alone_table(figures) + "\n", flush=True)
    look_at_the_proof()
    costs = whole(kind, quick, cores, machine_is)
    print(whole_table(costs) + "\n", flush=True)
    look_at_the_proof()
    yardstick = Yardstick(kind, Proof.median_of(proofs) if proofs else None)
    if yardstick.now is not None:
        print(proof.table(kind, yardstick.now) + "\n", flush=True)
    goals = [*alone_goals(figures, yardstick), *whole_goals(costs, yardstick)]
    print("\n".join(map(str, goals)), flush=True)
    return goals


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--sqlite", action="store_true", help="only on SQLite")
    parser.add_argument("--postgres", action="store_true", help="only on PostgreSQL")
    parser.add_argument(
        "--proof", type=Path, metavar="FILE", help="judge shares of what ledger_spike.py takes beside it"
    )
    quiet.add_arguments(parser)
    said = parser.parse_args(given)
    machine_is = quiet.asked_for(said)
    wanted = [kind for kind, only in ((rig.SQLITE, said.sqlite), (rig.POSTGRES, said.postgres)) if only]
    cores, load_before = Cores.of_this_machine(), os.getloadavg()[0]
    try:
        goals = [
            goal
            for kind in wanted or [rig.SQLITE, rig.POSTGRES]
            for goal in measure_on(kind, said.quick, cores, machine_is, said.proof)
        ]
    except (tools.CannotBuild, CannotStart) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped.", file=sys.stderr)
        return 130
    with tempfile.TemporaryDirectory() as name:
        print("\n" + machine.line(cores, load_before, Path(name)) + machine_is.line())
    return 0 if all(goal.is_met for goal in goals) else 1


if __name__ == "__main__":
    # As Ctrl-C does: every server is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
