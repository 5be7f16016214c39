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
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine, report, servers, tools
from bench.report import Result
from bench.servers import Cores, RelayServer, Server
from bench.works import WORKS, Target, Work, measure

QUICK = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    works: tuple[Work, ...] = WORKS
    rounds: int = 3
    postgres: bool = False
    nginx: bool = True
    cores: Cores = field(default_factory=Cores)
    build: Path = tools.BUILD
    # Between measurements: a server still lets go of the streams that the last one cut.
    pause_seconds: float = 0.3


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


def run(plan: Plan) -> tuple[list[Result], str]:
    """Everything from compiling to the last count; the results, and the line about the machine."""
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
            _rounds(plan, everyone, programs, directory)
            for each in everyone:
                _look(each)
        # The relays have settled what they had in flight when they were stopped; PostgreSQL still runs.
        for each in everyone:
            if each.env:
                each.result.outcomes = servers.outcomes(each.env)
        return [each.result for each in everyone], machine.line(plan.cores, load_before, directory)


def _start(
    plan: Plan, programs: tools.Tools, databases: dict[str, str | None], directory: Path, running: ExitStack
) -> list[Measured]:
    mock = running.enter_context(servers.upstream(programs.upstream, directory))
    everyone = [Measured(Target(report.DIRECT, mock.port), Result(report.DIRECT))]
    if plan.nginx and shutil.which("nginx"):
        proxy = running.enter_context(servers.nginx(mock, directory, plan.cores.server))
        target = Target(report.NGINX, proxy.port, pids=(proxy.pid,))
        everyone.append(Measured(target, Result(report.NGINX, idle_mb=proxy.rss_mb()), proxy))
    bots = sorted({work.bot for work in plan.works})
    for kind, url in databases.items():
        name = f"relay on {kind}"
        env = servers.relay_environment(directory / kind, url)
        token = servers.fill(env, f"http://127.0.0.1:{mock.port}/bot/", bots)
        servers.set_limits(env)
        for stubbed in (False, True):
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


def _rounds(plan: Plan, everyone: list[Measured], programs: tools.Tools, directory: Path) -> None:
    """Every work on every target before the next round: what disturbs the machine disturbs all of them."""
    for number in range(1, plan.rounds + 1):
        for work in plan.works:
            _say(f"round {number} of {plan.rounds}: {work.name}")
            for each in [each for each in everyone if each.does(work)]:
                figures = measure(work, each.target, programs.loadgen, directory)
                each.result.rounds.setdefault(work.name, []).append(figures)
                time.sleep(plan.pause_seconds)


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
    arguments = parser.parse_args(given)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def main(given: list[str] | None = None) -> int:
    arguments = _arguments(given)
    works = tuple(work.shortened(QUICK) for work in WORKS) if arguments.quick else WORKS
    rounds = 1 if arguments.quick else arguments.rounds
    plan = Plan(works, rounds, postgres=arguments.postgres, cores=Cores.of_this_machine())
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
    failures = [failure for result in results for failure in result.failures()]
    for failure in failures:
        _say(f"FAILED: {failure}")
    return 0 if not failures and all(goal.is_met for goal in report.goals(results)) else 1


if __name__ == "__main__":
    # As Ctrl-C does: every server is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
