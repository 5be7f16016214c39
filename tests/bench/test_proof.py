"""The proof beside the ledger: how it is asked, and what a share of it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import ledger, proof
from bench.faults import rig
from bench.ledger import Cost
from bench.proof import THEN, Proof, Yardstick
from bench.servers import CannotStart

# What `ledger_spike.py` prints, with what it was asked for.
SPIKE = """
import sys
_mode, _uri, at_once, _requests, busy, _switch = sys.argv[1:]
assert sys.argv[1:3] == {asked!r}, sys.argv
p50, p99 = ("6.50", "9.25") if float(busy) else ("1.50", "4.00") if at_once == "32" else ("0.75", "1.25")
print(f"mode           conc  32 busy 0.8 switch 0.0005: admit p50 {{p50}} p99 {{p99}} ms; 5500 req/s; cpu 91 us/req; batch mean 1.0")
"""


@pytest.mark.parametrize(
    ("kind", "url", "asked"),
    [
        (rig.SQLITE, "sqlite:////data/of/it.sqlite3", ["sqlite-thread", "/data/of/it.sqlite3"]),
        (rig.POSTGRES, "postgresql://u@h/d", ["pg-thread", "postgresql://u@h/d"]),
    ],
)
def test_it_is_asked_one_by_one_at_once_and_beside_a_busy_loop(
    kind: str, url: str, asked: list[str], tmp_path: Path
) -> None:
    spike = tmp_path / "spike.py"
    spike.write_text(SPIKE.format(asked=asked))

    assert proof.measure(spike, kind, url) == Proof(0.75, 91, 9.25, 5500)


def test_a_proof_that_fails_says_why(tmp_path: Path) -> None:
    spike = tmp_path / "spike.py"
    spike.write_text("raise SystemExit('no database')")

    with pytest.raises(CannotStart, match="no database"):
        proof.measure(spike, rig.SQLITE, "sqlite:///x")


def test_a_figure_is_judged_as_it_is_where_no_proof_was_asked() -> None:
    goal = Yardstick(rig.SQLITE).at_most("admit", 15.5, 15, lambda its: its.busy_p99_ms)

    assert str(goal) == "MISS admit (at most 15): 15.50"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (30.0, "ok   admit, of the proof's (15 / 4) (at most 3.75): 3.75"),
        (30.1, "MISS admit, of the proof's (15 / 4) (at most 3.75): 3.76"),
    ],
)
def test_a_machine_that_is_slower_for_the_proof_is_slower_for_the_ledger(seen: float, said: str) -> None:
    twice = Proof(0.62, 114, 8.0, 3800)

    assert str(Yardstick(rig.SQLITE, twice).at_most("admit", seen, 15, lambda its: its.busy_p99_ms)) == said


@pytest.mark.parametrize(("seen", "is_met"), [(2000, True), (1999, False)])
def test_as_many_a_second_are_asked_for_as_the_machine_has_for_the_proof(seen: float, is_met: bool) -> None:
    half = Proof(2.1, 182, 18.8, 2200)

    assert (
        Yardstick(rig.POSTGRES, half).at_least("each second", seen, 4000, lambda its: its.per_second).is_met
        is is_met
    )


def test_each_cost_is_measured_against_its_own_figure_of_the_proof() -> None:
    costs = [Cost("CPU", 900, 700, 200), Cost("first token", 2.5, 1.0, 1.5)]
    slower = Proof(0.62, 114, 4.0, 7600)

    goals = ledger.whole_goals(costs, Yardstick(rig.SQLITE, slower))

    assert [goal.seen for goal in goals] == [200 / 114, 1.5 / 0.62]
    assert all(goal.is_met for goal in goals)
    assert not any(goal.is_met for goal in ledger.whole_goals(costs, Yardstick(rig.SQLITE, THEN[rig.SQLITE])))
    assert not any(goal.is_met for goal in ledger.whole_goals(costs, Yardstick(rig.SQLITE)))


def test_what_counts_is_the_median_of_each_figure() -> None:
    rounds = [Proof(1, 30, 5, 300), Proof(2, 10, 6, 100), Proof(9, 20, 7, 200)]

    assert Proof.median_of(rounds) == Proof(2, 20, 6, 200)


def test_the_table_tells_how_much_slower_the_machine_is() -> None:
    told = proof.table(rig.SQLITE, Proof(0.62, 57, 4.0, 3800)).splitlines()

    assert told[2:] == [
        "| admit p50 ms, one at a time | 0.31 | 0.62 | 2.00 |",
        "| CPU µs / request | 57 | 57.00 | 1.00 |",
        "| admit p99 ms, loop at 80 % | 4 | 4.00 | 1.00 |",
        "| admitted and settled / s | 7,600 | 3,800.00 | 0.50 |",
    ]
