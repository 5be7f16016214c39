from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report, run, servers, tools, works
from bench.report import Result
from bench.works import Figures, Target, Work

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="gcc is missing: the bench's programs were NOT compiled and NOT tried"
)

# The works as they are, but with a few requests each, however slow the machine is.
REQUESTS = 8
TINY = tuple(
    replace(
        work,
        bot=bot,
        chunks=20,
        at_once=min(work.at_once, 4),
        seconds=10,
        ramp_seconds=0.02,
        requests=REQUESTS,
    )
    for work, bot in zip(works.WORKS, ("c20d0", "c20d0", "c20d5", "c20d0"), strict=True)
)
ONE = Figures(10, 100.0, 2000.0, 50.0, 2.5, 1.0, 2.0, 3.0, 4.0, 5.0)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tools.Tools:
    return tools.build(tmp_path_factory.mktemp("bench"))


@needs_gcc
def test_it_measures_every_work_through_a_real_relay(
    programs: tools.Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "IDLE_SECONDS", 0)
    plan = run.Plan(TINY, rounds=1, nginx=False, build=programs.upstream.parent, pause_seconds=0)

    (direct, relay, stubbed), machine = run.run(plan)

    assert direct.failures() + relay.failures() + stubbed.failures() == []
    assert list(relay.rounds) == list(direct.rounds) == ["ns", "burst", "paced", "ttft"]
    assert list(stubbed.rounds) == ["ttft"]
    for work, (figures,) in relay.rounds.items():
        assert figures.requests == REQUESTS, work
        assert figures.chunks_per_s > 0, work
    assert relay.outcomes == {"done": REQUESTS * len(TINY)}
    assert 0 < (relay.idle_mb or 0) <= (relay.end_mb or 0)
    assert (relay.threads or 0) > 0
    assert len(report.goals([direct, relay, stubbed])) == 5
    assert f"| {relay.name} |" in report.markdown([direct, relay, stubbed], machine)


@needs_gcc
@pytest.mark.parametrize(
    ("work", "failure"),
    [
        (TINY[0], ""),
        (replace(TINY[0], chunks=21), "of another length"),
    ],
)
def test_it_counts_an_answer_of_another_length_as_failed(
    work: Work, failure: str, programs: tools.Tools, tmp_path: Path
) -> None:
    with servers.upstream(programs.upstream, tmp_path) as mock:
        figures = works.measure(work, Target("mock", mock.port), programs.loadgen, tmp_path)

    assert failure in figures.failure
    assert bool(failure) == bool(figures.failure)


@needs_gcc
def test_a_port_where_nobody_listens_is_a_failure(programs: tools.Tools, tmp_path: Path) -> None:
    target = Target("nobody", servers.free_port())

    figures = works.measure(TINY[0], target, programs.loadgen, tmp_path)

    assert "refused" in figures.failure
    assert figures.requests == 0


@needs_gcc
def test_it_compiles_again_only_what_is_older_than_its_source(programs: tools.Tools) -> None:
    compiled_at = programs.loadgen.stat().st_mtime_ns

    tools.build(programs.loadgen.parent)
    assert programs.loadgen.stat().st_mtime_ns == compiled_at

    os.utime(programs.loadgen, (0, 0))
    tools.build(programs.loadgen.parent)
    assert programs.loadgen.stat().st_mtime_ns > compiled_at


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.tools.shutil.which", lambda name: None)

    with pytest.raises(tools.CannotBuild, match="needs gcc"):
        tools.build(tmp_path)


def test_it_stops_a_server_when_the_bench_is_interrupted(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        servers.process(["sleep", "60"], tmp_path / "log", core=None) as child,
    ):
        raise KeyboardInterrupt

    assert child.returncode == -15


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whoever starts a program in the background may have it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_is_held_back_until_a_start_is_complete(interruptible: None) -> None:
    started = False

    with pytest.raises(KeyboardInterrupt), servers.uninterrupted():
        signal.raise_signal(signal.SIGINT)
        started = True

    assert started
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_that_ends_at_once_is_named_with_what_it_said(tmp_path: Path) -> None:
    program = _script(tmp_path, "echo cannot open >&2; exit 1")

    with pytest.raises(servers.CannotStart, match="cannot open"), servers.upstream(program, tmp_path):
        pass


def _script(directory: Path, text: str) -> Path:
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def test_the_relay_has_nothing_of_whoever_runs_the_bench(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POE_RELAY_DATABASE__URL", "postgresql:///precious")
    monkeypatch.setenv("POE_RELAY_SERVER__PORT", "80")

    env = servers.relay_environment(tmp_path, None)

    assert {name for name in env if name.startswith("POE_RELAY_")} == {
        "POE_RELAY_CONFIG",
        "POE_RELAY_DATA_DIR",
        "POE_RELAY_POE__API_URL",
    }


REACHED = Result(
    "relay on SQLite",
    {
        "ns": [replace(ONE, cpu_us_per_request=1050)],
        "burst": [replace(ONE, cpu_us_per_chunk=8.0)],
        "paced": [replace(ONE, chunks_per_s=24_320, gap_p99_ms=30)],
        "ttft": [replace(ONE, ttft_p50_ms=1.8)],
    },
    database="SQLite",
)


@pytest.mark.parametrize(
    ("work", "figures", "missed"),
    [
        ("none", ONE, []),
        ("ns", replace(ONE, cpu_us_per_request=1051), ["ns, CPU µs per request (at most 1,050): 1,051.00"]),
        ("burst", replace(ONE, cpu_us_per_chunk=8.1), ["burst, CPU µs per chunk (at most 8): 8.10"]),
        (
            "paced",
            replace(ONE, chunks_per_s=24_064, gap_p99_ms=31),
            [
                "paced, delivered of 25,600 chunks/s in % (at least 95): 94.00",
                "paced, gap p99 ms (at most 30): 31.00",
            ],
        ),
        ("ttft", replace(ONE, ttft_p50_ms=1.9), ["ttft p50 ms (at most 1.8): 1.90"]),
        ("ttft", replace(ONE, ttft_p50_ms=None), ["ttft p50 ms (at most 1.8): not measured"]),
    ],
)
def test_it_says_which_figures_are_not_reached(work: str, figures: Figures, missed: list[str]) -> None:
    result = replace(REACHED, rounds={**REACHED.rounds, work: [figures]})

    seen = [str(goal) for goal in report.goals([result])]

    assert [line for line in seen if not line.startswith("ok ")] == [
        f"MISS relay on SQLite: {each}" for each in missed
    ]


def test_a_postgresql_may_take_longer_and_what_is_no_relay_has_no_goals() -> None:
    slower = {
        **REACHED.rounds,
        "ns": [replace(ONE, cpu_us_per_request=1150)],
        "ttft": [replace(ONE, ttft_p50_ms=2.6)],
    }

    goals = report.goals([Result(report.DIRECT, slower), Result("relay", slower, database="PostgreSQL")])

    assert [goal.is_met for goal in goals] == [True] * 5


def test_a_missed_goal_is_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(REACHED, rounds={**REACHED.rounds, "ttft": [replace(ONE, ttft_p50_ms=1.9)]})

    monkeypatch.setattr(run, "run", lambda plan: ([REACHED], "machine"))
    assert run.main([]) == 0

    monkeypatch.setattr(run, "run", lambda plan: ([slow], "machine"))
    assert run.main([]) == 1


def test_the_commits_share_is_taken_within_a_round() -> None:
    # Noise doubles the second round for both.
    ours = Result("relay", {"ttft": [_first_token(1.5), _first_token(3.0), _first_token(1.4)]})
    without = Result(
        report.stubbed("relay"), {"ttft": [_first_token(1.0), _first_token(2.5), _first_token(1.0)]}
    )

    text = report.markdown([ours, without], "machine")

    assert "relay: of that, the commit's share in ms: 0.50" in text


def _first_token(milliseconds: float) -> Figures:
    return replace(ONE, ttft_p50_ms=milliseconds)


def test_a_long_prompt_has_a_hundred_different_messages_of_500_characters() -> None:
    messages = works.question(replace(TINY[0], messages=100))["messages"]

    assert {len(each["content"]) for each in messages} == {500}
    assert len({each["content"] for each in messages}) == 100
    assert [each["role"] for each in messages[-3:]] == ["user", "assistant", "user"]


def test_ratios_are_taken_within_a_round() -> None:
    # Noise halves the second round for both: the ratio is 0.1 in each, though the medians say otherwise.
    ours = Result("relay", {"ns": [_rate(100), _rate(50), _rate(10)]}, start_seconds=1.0)
    theirs = Result("direct", {"ns": [_rate(1000), _rate(500), _rate(1000)]})

    assert report.compared(ours, theirs)["ns.requests_per_s"] == 0.1
    assert report.middle(report.COLUMNS[0].values(ours)) == 50


def _rate(rate: float) -> Figures:
    return replace(ONE, requests_per_s=rate)


def test_what_was_not_measured_is_a_dash() -> None:
    nothing = Figures(10, 100.0, 0.0, None, None, None, None, None, None, None)
    direct = Result(report.DIRECT, {"ns": [nothing]})

    row = report.markdown([direct], "machine").splitlines()[4]

    assert row == "| upstream directly | 100 | - | - | - | - | - | - | - | - | - |"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (
            Result(
                "relay", {"ns": [ONE]}, outcomes={"done": 9, "disconnected": 1, "failed (not_started)": 1}
            ),
            [],
        ),
        (Result("relay", {"ns": [ONE, replace(ONE, failure="1 refused")]}), ["relay, ns: 1 refused"]),
        (
            Result("relay", {"ns": [ONE]}, outcomes={"done": 9, "open": 1, "failed (internal_error)": 2}),
            [
                "relay: usage records that are neither done nor cut short by us: "
                "{'open': 1, 'failed (internal_error)': 2}"
            ],
        ),
    ],
)
def test_its_exit_status_says_whether_a_request_failed(
    result: Result,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(run, "run", lambda plan: ([result], "machine"))

    status = run.main(["--json", str(tmp_path / "figures.json")])

    assert status == (1 if said else 0)
    assert capsys.readouterr().err.splitlines() == [f"FAILED: {each}" for each in said]
    assert '"requests_per_s": 100.0' in (tmp_path / "figures.json").read_text()


@pytest.mark.parametrize(
    ("idle_mb", "ttft", "said"),
    [
        (149.0, 9.9, "idle under 150 MB: yes; first token under 10 ms p50: yes."),
        (150.0, 10.0, "idle under 150 MB: NO (150.0); first token under 10 ms p50: NO (10.0)."),
        (None, None, "idle under 150 MB: not measured; first token under 10 ms p50: not measured."),
    ],
)
def test_it_says_whether_the_promises_are_kept(idle_mb: float | None, ttft: float | None, said: str) -> None:
    rounds = {"ttft": [replace(ONE, ttft_p50_ms=ttft)]}

    text = report.markdown([Result("relay", rounds, start_seconds=1.0, idle_mb=idle_mb)], "machine")

    assert text.endswith(said)
