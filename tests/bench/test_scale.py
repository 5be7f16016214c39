"""The short form of bench/scale.py, with a few streams each; and what counts as held, reached and given back."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from bench import scale, servers
from bench.faults import rig
from bench.goals import Goal, at_most
from bench.quiet import QuietMachine
from bench.scale import Held, Idle, Prompts, Run, TwoWorkers
from bench.servers import Cores
from bench.works import Figures

SHORT = scale.Sizes(streams=(4, 8), idle_streams=20, opened=200, rounds=1, factor=0.06)
ONE = Figures(10, 100.0, 20_000.0, 50.0, 2.5, 1.0, 2.0, 3.0, 4.0, 60.0)


@pytest.mark.skipif(
    shutil.which("gcc") is None, reason="gcc is missing: the bench's programs were NOT compiled and NOT tried"
)
def test_it_measures_streams_prompts_workers_and_idle_streams(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(servers, "IDLE_SECONDS", 0)
    for name in ("SHORT", "LONG", "BOTH"):
        monkeypatch.setattr(scale, name, replace(getattr(scale, name), at_once=8))

    goals = scale.measure_on(rig.SQLITE, SHORT, Cores(), tmp_path)

    seen = {goal.text.split(" (")[0]: goal for goal in goals}
    assert [text for text, goal in seen.items() if goal.seen is None] == []
    assert seen["idle streams"].seen == 20
    assert any(text.startswith("KB for each of 20 idle streams") for text in seen)
    text = capsys.readouterr().out
    assert "| relay | 8 |" in text
    assert "| upstream directly | 8 |" in text
    assert "| two workers |" in text


def _held(streams: int, **changed: float | None | str) -> Held:
    figures = replace(ONE, chunks_per_s=streams * 20.0)
    return Held("relay", streams, replace(figures, **changed), 150.0, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        ({}, True),
        ({"chunks_per_s": 19_800.0}, True),
        ({"chunks_per_s": 19_799.0}, False),
        ({"gap_p99_ms": 100.0}, True),
        ({"gap_p99_ms": 100.1}, False),
        ({"gap_p99_ms": None}, False),
        ({"failure": "1 refused"}, False),
    ],
)
def test_streams_are_held_if_nearly_all_comes_in_time(
    changed: dict[str, float | None | str], holds: bool
) -> None:
    assert _held(1000, **changed).holds is holds


def test_the_highest_number_that_holds_is_named_and_what_those_took_that_are_asked_for() -> None:
    direct = replace(_held(1400), who="upstream directly", mb=None, threads=None)
    asked_for = replace(_held(1000), mb=201.0, threads=21)

    goals = scale.held_goals([_held(500), asked_for, _held(1200), _held(1400, gap_p99_ms=130.0), direct])

    assert [(goal.seen, goal.is_met) for goal in goals] == [(1200, True), (201.0, False), (21, False)]


def test_if_none_holds_the_goal_is_missed() -> None:
    goals = scale.held_goals([_held(400, gap_p99_ms=130.0), _held(500, gap_p99_ms=180.0)])

    assert (goals[0].seen, goals[0].is_met) == (0, False)
    assert goals[1].text.startswith("RSS MB at 500 streams")


def test_a_long_prompts_ratio_is_taken_within_a_round() -> None:
    # Noise doubles the second round for both.
    found = Prompts([10.0, 20.0, 10.0], [11.0, 22.0, 14.0])

    (goal,) = scale.prompts_goals(found)

    assert found.ratio == pytest.approx(1.1)
    assert goal.is_met
    assert not scale.prompts_goals(Prompts([10.0], [12.1]))[0].is_met
    assert not scale.prompts_goals(Prompts([], [], "1 refused"))[0].is_met


def test_what_others_took_of_the_cores_is_given_back_to_two_workers() -> None:
    one = Run(1000.0, 950.0, workers=0.5, others=0.1)
    two = Run(1600.0, 980.0, workers=0.8, others=0.2)
    found = TwoWorkers([one], [two])

    assert found.speedup(given_back=False) == pytest.approx(1.6)
    assert found.speedup(given_back=True) == pytest.approx(2.0)
    assert scale.two_workers_goals(found)[0].is_met
    slower = TwoWorkers([one], [replace(two, requests_per_s=1300.0)])
    assert not scale.two_workers_goals(slower)[0].is_met


@pytest.mark.parametrize(
    ("streams", "mb_with", "p99", "missed"),
    [
        (1024, 130.0, 50.0, []),
        (1023, 129.0, 50.0, ["idle streams"]),
        (1024, 130.1, 50.0, ["KB for each of 1,024 idle streams"]),
        (1024, 130.0, 50.1, ["a new request's first byte beside them, p99 ms"]),
        (1024, 130.0, None, ["a new request's first byte beside them, p99 ms"]),
    ],
)
def test_idle_streams_have_goals(streams: int, mb_with: float, p99: float | None, missed: list[str]) -> None:
    found = Idle(1024, streams, 100.0, mb_with, ONE, replace(ONE, ttft_p99_ms=p99))

    goals = scale.idle_goals(found)

    assert [goal.text.split(" (at")[0] for goal in goals if not goal.is_met] == missed


def test_it_says_when_open_files_do_not_suffice_for_all_idle_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "most_streams", lambda: 500)
    found = Idle(1024, 500, 100.0, 110.0, ONE, ONE)

    assert "Not 1,024: this machine lets a process have 500 at most" in scale.idle_table(found)
    assert scale.idle_goals(found)[0].is_met


def test_it_sees_whose_connections_are_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert scale.accepted(os.getpid(), port) == 0

        with socket.create_connection(("127.0.0.1", port)), listening.accept()[0]:
            assert scale.accepted(os.getpid(), port) == 1


def test_its_exit_status_says_whether_a_goal_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure_on(kind: str, sizes: scale.Sizes, cores: Cores, *, machine_is: QuietMachine) -> list[Goal]:
        asked.append((kind, sizes))
        assert machine_is.most_ns is None
        return [at_most("something", 1.0, 2.0 if kind == rig.SQLITE else 0.5)]

    monkeypatch.setattr(scale, "measure_on", measure_on)

    assert scale.main([]) == 0
    assert scale.main(["--quick", "--sqlite", "--postgres"]) == 1
    assert asked == [(rig.SQLITE, scale.Sizes()), (rig.SQLITE, scale.QUICK), (rig.POSTGRES, scale.QUICK)]
