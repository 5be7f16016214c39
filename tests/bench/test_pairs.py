from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench import pairs, servers
from bench.faults import rig
from bench.pairs import Compared
from bench.servers import CannotStart
from bench.works import Figures, Work
from tests.bench.test_bench import ONE, TINY, needs_gcc

NS, BURST, _PACED, TTFT = TINY


def test_the_median_of_the_pairs_ratios_counts() -> None:
    """Not the ratio of the medians: an hour in which both were twice as slow says nothing of either."""
    compared = Compared("ns", "CPU µs / request", [(100, 90), (200, 190), (400, 300), (100, 110), (800, 640)])

    assert compared.row() == (
        "| ns, CPU µs / request | 200.00 | 190.00 | **0.900** | 0.775 to 1.025 | 4 of 5 |"
    )


def test_one_pair_is_told_too() -> None:
    assert "**0.500** | 0.500 to 0.500 | 1 of 1 |" in Compared("ttft", "ms", [(2, 1)]).row()


@pytest.mark.parametrize(
    ("work", "unit", "found"),
    [
        (NS, "CPU µs / request", ONE.cpu_us_per_request),
        (BURST, "CPU µs / chunk", ONE.cpu_us_per_chunk),
        (TTFT, "ms", ONE.ttft_p50_ms),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_each_work_has_its_figure(work: Work, unit: str, found: float) -> None:
    assert pairs.figure(work, ONE) == (unit, found)


@pytest.mark.parametrize(
    "figures", [replace(ONE, failure="3 refused"), replace(ONE, cpu_us_per_request=None)]
)
def test_a_work_that_failed_is_not_compared(figures: Figures) -> None:
    with pytest.raises(CannotStart, match="^ns failed: "):
        pairs.figure(NS, figures)


def test_each_checkout_runs_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "whose.py").write_text("print('the other one')")

    assert servers.output_of(dict(os.environ), "whose", root=tmp_path) == "the other one\n"


@needs_gcc
def test_both_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "IDLE_SECONDS", 0)
    monkeypatch.setattr(pairs, "PAUSE_SECONDS", 0)

    (ns,) = pairs.compare(servers.ROOT, rig.SQLITE, [NS], rounds=2)

    assert ns.work == "ns" and len(ns.pairs) == 2
    assert all(other > 0 and this > 0 for other, this in ns.pairs)
