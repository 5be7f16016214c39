"""The short form of bench/faults/soak.py, on the database of this run; and its straight line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from django.db import connections

from bench.faults import rig, soak
from bench.faults.soak import Held, Slope
from tests.conftest import database_url

# What so short a time says of an hour is nothing.
SHORT = soak.Sizes(
    seconds=2.5, warm_seconds=1.0, at_once=12, faults=0.2, most_mb_per_hour=float("inf"), block=2
)


def test_nothing_piles_up_under_everything_at_once(
    transactional_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "SAMPLE_SECONDS", 0.1)
    monkeypatch.setattr(soak, "LOOK_SECONDS", 0.3)
    kind = rig.SQLITE if connections["default"].vendor == "sqlite" else rig.POSTGRES
    findings = rig.Findings()

    async def told() -> None:
        async with rig.site(kind, database_url(), tmp_path) as site:
            await soak.tell(site, findings, SHORT)

    asyncio.run(told())

    assert findings.missed == []


@pytest.mark.parametrize("mb_per_hour", [0.0, 1.0, -3.0])
def test_a_line_through_samples_has_their_slope(mb_per_hour: float) -> None:
    samples = [(float(second), 150 + mb_per_hour * second / 3600) for second in range(600)]

    slope = Slope.of(samples, block=10)

    assert slope.mb_per_hour == pytest.approx(mb_per_hour, abs=1e-6)
    assert slope.error == pytest.approx(0, abs=1e-6)


def test_what_jumps_up_and_down_has_no_slope_but_an_error() -> None:
    samples = [(float(second), 150.0 + second // 10 % 2) for second in range(600)]

    slope = Slope.of(samples, block=10)

    assert abs(slope.mb_per_hour) < slope.error


def test_too_few_samples_are_no_line() -> None:
    with pytest.raises(ValueError, match="5 samples are too few"):
        Slope.of([(float(second), 150.0) for second in range(5)], block=2)


def test_memory_that_grows_is_a_miss() -> None:
    findings = rig.Findings()
    samples = [(float(second), 150 + second / 60) for second in range(1800)]

    soak.claim_level(findings, samples, soak.Sizes())

    assert len(findings.missed) == 1
    assert "+60.00 ± 0.00 MB an hour" in findings.missed[0]


WHOLE = "event: x\n\n" + "data: " + "hello" * 60 + "data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("model", "streamed", "status", "text", "is_right"),
    [
        ("answers", True, 200, WHOLE, True),
        ("answers", True, 200, WHOLE.removesuffix("data: [DONE]\n\n"), False),
        ("answers", False, 200, "hello" * 60, True),
        ("answers", False, 200, "hello" * 59, False),
        ("answers", False, 503, '{"error": {}}', False),
        ("resets", True, 502, '{"error": {}}', True),
        ("resets", True, 200, 'data: {"error": {}}', False),
        ("breaks", True, 200, 'data: {"error": {}}', True),
        ("breaks", True, 502, '{"error": {}}', True),
        ("breaks", True, 200, "data: hello", False),
        ("breaks", False, 200, '{"error": {}}', False),
        ("breaks", False, 502, '{"error": {}}', True),
        ("breaks", False, 500, '{"error": {}}', False),
    ],
)
def test_an_answer_is_whole_or_says_that_it_failed(
    model: str, streamed: bool, status: int, text: str, is_right: bool
) -> None:
    assert soak.is_right(model, streamed, status, text) is is_right


@pytest.mark.parametrize(
    ("after", "is_within"), [(Held(30, 1), True), (Held(31, 1), False), (Held(30, 2), False)]
)
def test_what_is_held_in_the_end_is_at_most_what_was_held_before(after: Held, is_within: bool) -> None:
    assert after.is_within(Held(30, 1)) is is_within
