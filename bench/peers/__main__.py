"""The relay beside its peers, in the same interleaved rounds: `python -m bench.peers`.

Figures of two days cannot be compared on a machine that others share. What issue 4 asks in µs is judged here as a share of what a
peer takes in the same run: the limit is the goal over the peer's figure of the day when the goal was set.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench import report, run, servers, tools
from bench.goals import Goal
from bench.peers import places, streams, then
from bench.peers.known import ABSENT, BOTS, PEERS, Peer
from bench.report import Result
from bench.run import Plan, Stage, Starting
from bench.servers import Cores
from bench.works import WORKS

STREAMS = "streams"
# Until streams that nobody reads any more have ended of themselves: 360 chunks, 50 ms apart.
QUIET_SECONDS = 20.0


def installed(peers: list[Peer]) -> dict[str, Starting]:
    """Those that can be installed here. The others are named, with the reason."""
    found: dict[str, Starting] = {}
    for peer in peers:
        try:
            found[peer.name] = partial(peer.start, peer.install())
        except places.CannotInstall as exc:
            _say(f"SKIPPED: {peer.name} is NOT measured: {exc}")
    return found


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    names = [work.name for work in WORKS]
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="interleaved rounds (default: 3)")
    parser.add_argument("--works", nargs="+", choices=[*names, STREAMS], default=names, metavar="WORK")
    parser.add_argument(
        "--peers", nargs="+", default=[], metavar="NAME", help="only those whose names begin so"
    )
    parser.add_argument("--postgres", action="store_true", help="also the relay on PostgreSQL")
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a measurement")
    parser.add_argument("--install", action="store_true", help="install the peers, and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round there")
    arguments = parser.parse_args(given)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def _chosen(beginnings: list[str]) -> list[Peer]:
    wanted = tuple(beginning.lower() for beginning in beginnings) or ("",)
    return [peer for peer in PEERS if peer.name.lower().startswith(wanted)]


def _plan(arguments: argparse.Namespace, beside: dict[str, Starting]) -> Plan:
    factor = run.QUICK if arguments.quick else 1.0
    return Plan(
        tuple(work.shortened(factor) for work in WORKS if work.name in arguments.works),
        1 if arguments.quick else arguments.rounds,
        postgres=arguments.postgres,
        stubbed=False,
        beside=beside,
        bots=tuple(BOTS),
        cores=Cores.of_this_machine(),
        quiet_seconds=QUIET_SECONDS,
    )


def markdown(results: list[Result], where: str, tried: list[streams.Tried]) -> str:
    parts = [where, ""]
    columns = [column for column in report.COLUMNS if any(column.work in result.rounds for result in results)]
    if columns:
        parts += [*report.figures(results, columns), "", *report.ratios(results, columns), ""]
        parts += [*then.table(results), "", *then.on_that_day(results), ""]
    if tried:
        parts += [streams.markdown(tried), ""]
    parts += map(str, goals(results, tried))
    return "\n".join(parts)


def goals(results: list[Result], tried: list[streams.Tried]) -> list[Goal]:
    return [*(each.goal for each in then.comparisons(results)), *streams.goals(tried)]


def main(given: list[str] | None = None) -> int:
    arguments = _arguments(given)
    for name, why in ABSENT.items():
        _say(f"SKIPPED: {name} is NOT measured: {why}")
    beside = installed(_chosen(arguments.peers))
    if arguments.install:
        return 0
    plan = _plan(arguments, beside)
    tried: list[streams.Tried] = []

    def after_the_rounds(stage: Stage) -> None:
        if STREAMS in arguments.works:
            tried.extend(streams.tried(stage, run.QUICK if arguments.quick else 1.0))

    try:
        results, where = run.run(plan, after_the_rounds)
    except (tools.CannotBuild, servers.CannotStart) as exc:
        _say(f"bench: {exc}")
        return 2
    except KeyboardInterrupt:
        _say("bench: stopped.")
        return 130
    print(markdown(results, where, tried))
    if arguments.json:
        held = [asdict(held) for each in tried for held in each.seen]
        arguments.json.write_text(json.dumps(report.as_json(results, where) | {"streams": held}, indent=2))
    return run.exit_status(results, goals(results, tried))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # As Ctrl-C does: every server is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
