from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from bench import quiet
from bench.quiet import QuietMachine

PATIENCE = 3600.0


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "LOOK_AGAIN_SECONDS", 0.0)


def machine(*looks: int, patience: float = PATIENCE) -> tuple[QuietMachine, Iterator[int]]:
    """One that is found like this, in turn, and what is left of it."""
    left = iter(looks)
    return QuietMachine(130, patience, look=lambda: next(left)), left


def numbered() -> Iterator[int]:
    return iter(range(1, 100))


def test_any_machine_will_do_and_is_not_looked_at() -> None:
    def look() -> int:
        raise AssertionError("looked at")

    any_machine = QuietMachine(look=look)
    assert any_machine.measured(lambda: "found") == "found"
    assert any_machine.line() == ""


def test_waits_until_it_is_quiet() -> None:
    noisy_first, left = machine(180, 131, 130, 130)
    assert noisy_first.measured(lambda: "found") == "found"
    assert list(left) == []
    assert (noisy_first.dropped, noisy_first.noisy) == (0, 0)


def test_what_ended_on_a_noisy_machine_is_dropped_and_measured_again() -> None:
    noisy_in_between, left = machine(120, 180, 120, 180, 120, 120)
    runs = numbered()
    assert noisy_in_between.measured(lambda: next(runs)) == 3
    assert list(left) == []
    assert (noisy_in_between.dropped, noisy_in_between.noisy) == (2, 0)
    assert "2 measurements dropped, 0 counted" in noisy_in_between.line()


def test_without_patience_everything_counts_and_is_told() -> None:
    # Twice it begins noisy, once it ends so; then it is quiet all along.
    never, left = machine(180, 180, 120, 180, 120, 120, patience=0)
    runs = numbered()
    assert [never.measured(lambda: next(runs)) for _ in range(4)] == [1, 2, 3, 4]
    assert list(left) == []
    assert (never.dropped, never.noisy) == (0, 3)
    assert "at most 130 ns" in never.line()
    assert "0 measurements dropped, 3 counted" in never.line()


def test_patience_is_used_up_by_waiting_and_by_what_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("bench.quiet.time.monotonic", lambda: now)
    impatient, _left = machine(180, 120, 180, 120, 180, patience=30)

    def look() -> int:
        nonlocal now
        now += 10  # so long a look takes here
        return next(_left)

    impatient.look = look
    assert impatient.measured(lambda: "found") == "found"
    # 20 s for two looks before it began; then one more, after which it was dropped: nothing is left.
    assert (impatient.dropped, impatient.noisy, impatient.seconds_left) == (1, 1, 0.0)


@pytest.mark.parametrize(
    ("given", "most_ns", "seconds"),
    [([], None, 0.0), (["--quiet", "130"], 130, 1800.0), (["--quiet", "120", "--patience", "5"], 120, 300.0)],
)
def test_asked_for_and_handed_on_to_another_process(
    given: list[str], most_ns: int | None, seconds: float
) -> None:
    parser = argparse.ArgumentParser()
    quiet.add_arguments(parser)
    asked = quiet.asked_for(parser.parse_args(given))
    assert (asked.most_ns, asked.seconds_left) == (most_ns, seconds)
    there = quiet.asked_for(parser.parse_args(asked.arguments()))
    assert (there.most_ns, there.seconds_left) == (most_ns, seconds)

    there.dropped, there.noisy, there.seconds_left = 2, 1, 7.0
    asked.dropped = 1
    asked.went_on(**there.went())
    assert (asked.dropped, asked.noisy, asked.seconds_left) == (3, 1, 7.0)
