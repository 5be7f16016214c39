"""The relay's speed against the mock upstream itself and against nginx, in interleaved rounds, and whether it is enough."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import machine, quiet, report, servers, tools
from bench.goals import Goal
from bench.quiet import QuietMachine
from bench.report import Result
from bench.servers import Cores, RelayServer, Server
from bench.works import WORKS, Figures, Target, Work, measure

QUICK = 0.2
# A server that uses less than a tenth of its core over so long has done with what it was asked.
QUIET_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Around:
    """What a target of somebody else's needs to be started."""

    mock: Server
    directory: Path
    core: int | None


Starting = Callable[[Around], AbstractContextManager[tuple[Target, Server]]]


@dataclass(frozen=True, slots=True)
class Plan:
    works: tuple[Work, ...] = WORKS
    rounds: int = 3
    postgres: bool = False
    nginx: bool = True
    # Also a relay whose ledger writes nothing.
    stubbed: bool = True
    # By name: whoever else is asked the same.
    beside: dict[str, Starting] = field(default_factory=dict)
    # What the relay's upstream is to say, beside what the works need.
    bots: tuple[str, ...] = ()
    cores: Cores = field(default_factory=Cores)
    build: Path = tools.BUILD
    # Between measurements: a server still lets go of the streams that the last one cut.
    pause_seconds: float = 0.3
    # The longest that the next one waits until it has, when the pause may not be enough.
    quiet_seconds: float = 0.0
    quiet_machine: QuietMachine = field(default_factory=QuietMachine)


@dataclass(slots=True)
class Measured:
    """A target, the server behind it, and what came of it."""

    target: Target
    result: Result
    server: Server | None = None
    # Of a relay that keeps usage records.
    env: dict[str, str] = field(default_factory=dict)
    # None: all.
    works: frozenset[str] | None = None

    def does(self, work: Work) -> bool:
        return self.works is None or work.name in self.works


@dataclass(frozen=True, slots=True)
class Stage:
    """Everybody who is measured, running."""

    plan: Plan
    everyone: list[Measured]
    programs: tools.Tools
    directory: Path

    def measure(self, work: Work, each: Measured) -> Figures:
        return self.plan.quiet_machine.measured(lambda: self._measure(work, each))

    def _measure(self, work: Work, each: Measured) -> Figures:
        target = replace(each.target, pids=each.server.pids()) if each.server else each.target
        figures = measure(work, target, self.programs.loadgen, self.directory)
        time.sleep(self.plan.pause_seconds)
        if each.server:
            _until_quiet(each.server, self.plan.quiet_seconds)
        return figures


def _until_quiet(server: Server, most_seconds: float) -> None:
    """What a server goes on doing for clients that have hung up is not to be taken from the next one, on the same core."""
    deadline = time.monotonic() + most_seconds
    used, busy = server.cpu_seconds(), True
    while busy and time.monotonic() < deadline:
        time.sleep(QUIET_SECONDS)
        before, used = used, server.cpu_seconds()
        busy = used - before > QUIET_SECONDS / 10


def run(plan: Plan, then: Callable[[Stage], None] | None = None) -> tuple[list[Result], str]:
    """Everything from compiling to the last count; the results, and the line about the machine. `then` comes after the rounds."""
    programs = tools.build(plan.build)
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="poe-relay-bench-")))
        stack.enter_context(servers.everything_else_on(plan.cores.rest))
        databases: dict[str, str | None] = {"SQLite": None}
        if plan.postgres:
            from tests import postgres

            with servers.uninterrupted():
                databases["PostgreSQL"] = stack.enter_context(postgres.server())
        with ExitStack() as running:
            everyone = _start(plan, programs, databases, directory, running)
            stage = Stage(plan, everyone, programs, directory)
            _rounds(stage)
            if then is not None:
                then(stage)
            for each in everyone:
                _look(each)
        # The relays have settled what they had in flight when they were stopped; PostgreSQL still runs.
        for each in everyone:
            if each.env:
                each.result.outcomes = servers.outcomes(each.env)
        where = machine.line(plan.cores, load_before, directory) + plan.quiet_machine.line()
        return [each.result for each in everyone], where


def _start(
    plan: Plan, programs: tools.Tools, databases: dict[str, str | None], directory: Path, running: ExitStack
) -> list[Measured]:
    mock = running.enter_context(servers.upstream(programs.upstream, directory))
    everyone = [Measured(Target(report.DIRECT, mock.port), Result(report.DIRECT, yardstick=True))]
    if plan.nginx and shutil.which("nginx"):
        proxy = running.enter_context(servers.nginx(mock, directory, plan.cores.server))
        target = Target(report.NGINX, proxy.port, pids=(proxy.pid,))
        everyone.append(Measured(target, Result(report.NGINX, idle_mb=proxy.rss_mb(), yardstick=True), proxy))
    for name, start in plan.beside.items():
        _say(f"starts {name}")
        target, server = running.enter_context(start(Around(mock, directory, plan.cores.server)))
        everyone.append(Measured(target, Result(name, idle_mb=server.rss_mb(), yardstick=True), server))
    bots = sorted({*plan.bots, *(work.bot for work in plan.works)})
    for kind, url in databases.items():
        name = f"relay on {kind}"
        env = servers.relay_environment(directory / kind, url)
        token = servers.fill(env, f"http://127.0.0.1:{mock.port}/bot/", bots)
        servers.set_limits(env)
        for stubbed in (False, True)[: 1 + plan.stubbed]:
            module = "bench.stubbed" if stubbed else "manage"
            log = directory / f"{kind}-{module}.log"
            server = running.enter_context(servers.relay(env, token, log, plan.cores.server, module))
            everyone.append(_stubbed(name, server) if stubbed else _measured_relay(name, kind, server, env))
    return everyone


def _measured_relay(name: str, kind: str, server: RelayServer, env: dict[str, str]) -> Measured:
    result = Result(name, start_seconds=server.start_seconds, idle_mb=server.idle_mb, database=kind)
    return Measured(_target(name, server), result, server, env)


def _stubbed(name: str, server: RelayServer) -> Measured:
    """The same with a ledger that writes nothing: what the commit costs is the difference."""
    name = report.stubbed(name)
    return Measured(_target(name, server), Result(name), works=frozenset({"ttft"}))


def _target(name: str, server: RelayServer) -> Target:
    return Target(name, server.port, server.token, (server.pid,))


def _rounds(stage: Stage) -> None:
    """Every work on every target before the next round: what disturbs the machine disturbs all of them."""
    plan = stage.plan
    for number in range(1, plan.rounds + 1):
        for work in plan.works:
            _say(f"round {number} of {plan.rounds}: {work.name}")
            for each in [each for each in stage.everyone if each.does(work)]:
                each.result.rounds.setdefault(work.name, []).append(stage.measure(work, each))


def _look(each: Measured) -> None:
    if each.server is not None:
        each.result.end_mb, each.result.threads = each.server.rss_mb(), each.server.threads()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="interleaved rounds (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one short round, under 40 seconds")
    parser.add_argument(
        "--postgres", action="store_true", help="also the relay on PostgreSQL, out of a wheel"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every figure of every round to this file"
    )
    quiet.add_arguments(parser)
    arguments = parser.parse_args(given)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def main(given: list[str] | None = None) -> int:
    arguments = _arguments(given)
    works = tuple(work.shortened(QUICK) for work in WORKS) if arguments.quick else WORKS
    rounds = 1 if arguments.quick else arguments.rounds
    plan = Plan(
        works,
        rounds,
        postgres=arguments.postgres,
        cores=Cores.of_this_machine(),
        quiet_machine=quiet.asked_for(arguments),
    )
    try:
        results, where = run(plan)
    except (tools.CannotBuild, servers.CannotStart) as exc:
        _say(f"bench: {exc}")
        return 2
    except KeyboardInterrupt:
        _say("bench: stopped.")
        return 130
    print(report.markdown(results, where))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(results, where), indent=2))
    return exit_status(results, report.goals(results))


def exit_status(results: list[Result], goals: Iterable[Goal]) -> int:
    """0, or 1 if a goal was missed or any request failed, which is said."""
    failures = [failure for result in results for failure in result.failures()]
    for failure in failures:
        _say(f"FAILED: {failure}")
    return 0 if not failures and all(goal.is_met for goal in goals) else 1


if __name__ == "__main__":
    # As Ctrl-C does: every server is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
