"""bench.peers without its peers: what it says of figures, and its own yardsticks on a few requests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import report, run, servers, tools, works
from bench.peers import __main__ as peers
from bench.peers import places, streams, then
from bench.peers.known import BARE, OBVIOUS, PEERS, Peer
from bench.report import Result
from bench.run import Around, Measured
from bench.scale import Held
from bench.servers import Server
from bench.works import Figures, Target

from .test_bench import ONE, TINY, needs_gcc

PORTKEY = "Portkey"


@needs_gcc
@pytest.mark.parametrize("name", [OBVIOUS, BARE])
def test_a_yardstick_answers_every_work_to_the_last_chunk(name: str, tmp_path: Path) -> None:
    programs = tools.build(tmp_path / "bench")
    (yardstick,) = [peer for peer in PEERS if peer.name == name]

    with (
        servers.upstream(programs.upstream, tmp_path) as mock,
        yardstick.start(yardstick.install(), Around(mock, tmp_path, None)) as (target, server),
    ):
        asked = replace(target, pids=server.pids())
        seen = [works.measure(work, asked, programs.loadgen, tmp_path) for work in TINY]

    assert [figures.failure for figures in seen] == [""] * len(TINY)
    assert [figures.requests for figures in seen] == [works.requests for works in TINY]


def test_a_peer_is_asked_where_and_as_it_wants_to_be(tmp_path: Path) -> None:
    target = Target("peer", 80, "t", path="/openai/x", model_prefix="models::", headers=("x-up: a", "x-b: c"))

    command = works.asking(TINY[0], target, Path("loadgen"), tmp_path, 1)

    assert command[command.index("-u") + 1] == "/openai/x"
    assert command[command.index("-H") + 1] == "Authorization: Bearer t\r\nx-up: a\r\nx-b: c"
    body = Path(command[command.index("-b") + 1]).read_text()
    assert body.startswith('{"model": "models::c20d0"')


def test_the_time_of_a_servers_children_is_its_own(tmp_path: Path) -> None:
    # The shell says the child's number, and waits for it.
    with servers.process(["sh", "-c", "sleep 60 & echo $!; wait"], tmp_path / "log", core=None) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())

        pids = Server(0, child.pid).pids()

        subprocess.run(["kill", str(grandchild)], check=True)
    assert pids == (child.pid, grandchild)


def test_a_servers_time_is_that_of_the_work_that_it_did(tmp_path: Path) -> None:
    work = "import time\nwhile time.process_time() < 0.2: pass\nprint(1, flush=True); time.sleep(60)"
    with servers.process([sys.executable, "-c", work], tmp_path / "log", core=None) as child:
        assert child.stdout is not None
        child.stdout.readline()

        assert 0.15 < Server(0, child.pid).cpu_seconds() < 1


@pytest.mark.parametrize(("used", "looks"), [([0.0, 0.0], 2), ([0.0, 0.5, 1.0, 1.0], 4)])
def test_the_next_one_waits_until_a_server_has_done_with_what_was_asked(
    used: list[float], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "QUIET_SECONDS", 0.001)
    left = iter(used)
    server: Any = SimpleNamespace(cpu_seconds=lambda: next(left))

    run._until_quiet(server, most_seconds=10)

    assert len(used) - len(list(left)) == looks


def test_whoever_cannot_be_installed_is_named_and_the_others_are_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse() -> Path:
        raise places.CannotInstall("there is no npm")

    there = Peer("there", lambda: tmp_path, lambda place, around: nullcontext((Target("t", 1), Server(1, 1))))

    found = peers.installed([Peer("away", refuse, there.start), there])

    assert list(found) == ["there"]
    assert capsys.readouterr().err == "SKIPPED: away is NOT measured: there is no npm\n"


def test_it_mends_the_one_line_of_portkeys(tmp_path: Path) -> None:
    program = tmp_path / "start-server.js"
    program.write_text(f"before;{places.BROKEN};after")

    places.mend(program)

    assert program.read_text() == f"before;{places.MENDED};after"
    with pytest.raises(places.CannotInstall, match="not where it was"):
        places.mend(program)


def test_no_lock_says_where_its_packages_are_fetched_from() -> None:
    locks = [*places.LOCKS.glob("*.txt"), places.LOCKS / "package-lock.json"]

    assert len(locks) == 3
    for lock in locks:
        assert '"resolved"' not in lock.read_text()
        assert "--index-url" not in lock.read_text().replace("--no-emit-index-url", "")


RELAY = Result(
    "relay on SQLite",
    {"ns": [replace(ONE, cpu_us_per_request=2100)], "burst": [replace(ONE, cpu_us_per_chunk=16)]},
    database="SQLite",
    start_seconds=1.0,
)


def _peer(name: str, request_us: float | None, chunk_us: float | None) -> Result:
    of_work = {
        "ns": [replace(ONE, cpu_us_per_request=request_us)],
        "burst": [replace(ONE, cpu_us_per_chunk=chunk_us)],
    }
    return Result(name, of_work, yardstick=True)


@pytest.mark.parametrize(
    ("request_us", "chunk_us", "said"),
    [
        # A machine that is twice as slow for both shows nothing against the relay.
        (2 * 2144, 2 * 20.8, ["ok   {} (at most 0.489739): 0.49", "ok   {} (at most 0.384615): 0.385"]),
        # As fast as then, for the peer alone.
        (2144, 20.8, ["MISS {} (at most 0.489739): 0.979", "MISS {} (at most 0.384615): 0.769"]),
        (
            None,
            None,
            ["MISS {} (at most 0.489739): not measured", "MISS {} (at most 0.384615): not measured"],
        ),
    ],
)
def test_a_goal_is_a_share_of_what_a_peer_takes_in_the_same_rounds(
    request_us: float | None, chunk_us: float | None, said: list[str]
) -> None:
    seen = [str(goal) for goal in peers.goals([RELAY, _peer(PORTKEY, request_us, chunk_us)], [])]

    of = "relay on SQLite / Portkey"
    assert seen == [
        said[0].format(f"{of}: ns, CPU µs / request (1,050 / 2,144)"),
        said[1].format(f"{of}: burst, CPU µs / chunk (8 / 20.8)"),
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [(25_600, 25_600, "ok"), (20_362, 25_600, "MISS"), (25_600, 23_328, "MISS"), (20_362, 23_328, "MISS")],
)
def test_gaps_count_only_beside_each_other_when_both_keep_up(ours: float, theirs: float, said: str) -> None:
    relay = replace(RELAY, rounds={"paced": [replace(ONE, chunks_per_s=ours, gap_p99_ms=20)]})
    bare = Result(BARE, {"paced": [replace(ONE, chunks_per_s=theirs, gap_p99_ms=20)]}, yardstick=True)

    (goal,) = peers.goals([relay, bare], [])

    assert str(goal).startswith(said)
    assert str(goal).endswith(": 1.00" if said == "ok" else ": not measured")


@pytest.mark.parametrize(("name", "limit"), [(report.NGINX, 30 / 16), (report.DIRECT, 30 / 11)])
def test_whoever_always_keeps_up_tells_of_gaps_and_of_nothing_else(name: str, limit: float) -> None:
    paced = replace(ONE, chunks_per_s=25_600, gap_p99_ms=20)
    relay = replace(RELAY, rounds={**RELAY.rounds, "paced": [replace(paced, gap_p99_ms=40)]})
    yardstick = Result(name, {"ns": [ONE], "burst": [ONE], "ttft": [ONE], "paced": [paced]}, yardstick=True)

    (goal,) = peers.goals([relay, yardstick], [])

    assert (goal.seen, goal.is_met) == (2.0, limit >= 2)


def test_what_was_not_to_be_measured_and_who_is_not_known_from_then_have_no_goals() -> None:
    only_ns = replace(RELAY, rounds={"ns": RELAY.rounds["ns"]})

    goals = peers.goals([only_ns, _peer(PORTKEY, 1, 1), _peer(report.NGINX, 1, 1)], [])

    assert len(goals) == 1


def test_it_tells_the_machines_slowness_and_what_the_relay_would_have_taken_then() -> None:
    results = [RELAY, _peer(PORTKEY, 2 * 2144, 20.8), _peer(OBVIOUS, 4 * 5375, 88.3)]

    text = peers.markdown(results, "machine", [])

    assert "| Portkey | ns, CPU µs / request | 2,144 | 4,288 | 2.00 | 0.49 | 0.49 |" in text
    assert (
        "by 2 peers, on the machine of 2026-11-22 it would be 788 (525 to 1,050); asked for: 1,050." in text
    )
    # Nobody was asked for the first token.
    assert "ttft" not in text


class Everybody:
    """A stage on which everybody holds as many streams as `holds` says."""

    def __init__(self, **holds: int) -> None:
        self.holds = holds
        self.asked: list[tuple[str, int]] = []
        self.everyone = [
            Measured(Target(name, 1), replace(RELAY, name=name) if name == "relay" else Result(name))
            for name in holds
        ]

    def measure(self, work: works.Work, each: Measured) -> Figures:
        name = each.result.name
        self.asked.append((name, work.at_once))
        gap = 50.0 if work.at_once <= self.holds[name] else 500.0
        return replace(ONE, chunks_per_s=work.at_once * 20, gap_p99_ms=gap)


def test_streams_are_tried_in_turns_until_they_are_not_held() -> None:
    stage: Any = Everybody(relay=1000, Portkey=250, nginx=5000)

    found = streams.tried(stage)

    assert stage.asked == [
        ("relay", 500),
        ("Portkey", 250),
        ("relay", 750),
        ("Portkey", 375),
        ("relay", 1000),
        ("relay", 1200),
    ]
    assert [str(goal) for goal in streams.goals(found)] == [
        "ok   relay / Portkey: streams held (1,000 / 500) (at least 2): 4.00"
    ]
    assert "| Portkey | 375 |" in streams.markdown(found)


@pytest.mark.parametrize(
    ("ours", "theirs", "is_met"), [(1000, 500, True), (750, 500, False), (500, 0, True), (0, 0, False)]
)
def test_a_relay_that_holds_nothing_beats_nobody(ours: int, theirs: int, is_met: bool) -> None:
    assert then.streams_goal("relay", ours, PORTKEY, theirs).is_met is is_met


def test_what_fails_holds_nothing() -> None:
    broken = replace(ONE, chunks_per_s=500 * 20, gap_p99_ms=1.0, failure="1 refused")
    tried = streams.Tried(Measured(Target("p", 1), Result("p")), (500, 750), [Held("p", 500, broken)])

    assert (tried.next, tried.most) == (None, 0)


def test_npm_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "HOME", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)

    with pytest.raises(places.CannotInstall, match="needs node and npm"):
        places.portkey_place()
