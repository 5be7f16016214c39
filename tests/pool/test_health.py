"""What a failure says about a key or its account, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from relay.errors import (
    AllKeysBusy,
    RelayError,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamOutOfPoints,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnknownBot,
    UpstreamUnreachable,
    UserError,
)
from relay.pool import health
from relay.pool.health import FIRST_PAUSE, FIRST_REST, JITTER, LONGEST_PAUSE, Standing, Verdict

NOW = datetime(2026, 5, 13, 12, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("exc", "whose", "state"),
    [
        (UpstreamUnauthorized("x"), "key", "retired"),
        (UpstreamOutOfPoints("x"), "account", "resting"),
        (UpstreamRateLimited("x", retry_after=7), "account", "cooling"),
    ],
)
def test_some_failures_are_certain_at_once(exc: RelayError, whose: str, state: str) -> None:
    verdict = health.verdict_of(exc)

    assert verdict is not None and health.suspicion_of(exc) is None
    assert (verdict.whose, verdict.state, verdict.retry_after) == (whose, state, exc.retry_after)


@pytest.mark.parametrize("kind", [UpstreamFailed, UpstreamUnreachable, UpstreamTimeout, UpstreamBroken])
def test_some_are_only_a_suspicion(kind: type[RelayError]) -> None:
    suspicion = health.suspicion_of(kind("x"))

    assert health.verdict_of(kind("x")) is None
    assert suspicion is not None and (suspicion.whose, suspicion.state) == ("key", "failing")


@pytest.mark.parametrize("kind", [UpstreamUnauthorized, UpstreamOutOfPoints, UpstreamRateLimited])
def test_what_a_bot_says_in_its_own_words_is_only_a_suspicion(kind: type[UpstreamError]) -> None:
    exc = kind("x")
    exc.is_hearsay = True

    assert health.verdict_of(exc) is None
    suspicion = health.suspicion_of(exc)
    assert suspicion is not None and (suspicion.whose, suspicion.state) == ("key", "failing")


def test_an_account_with_points_does_not_rest() -> None:
    with_points = Standing(points=500)

    assert fare(with_points, "resting") is None
    assert fare(with_points, "cooling") is not None
    assert fare(Standing(points=0), "resting") is not None


@pytest.mark.parametrize("kind", [UserError, UpstreamUnknownBot, AllKeysBusy])
def test_others_are_no_keys_fault(kind: type[RelayError]) -> None:
    assert health.verdict_of(kind("x")) is None
    assert health.suspicion_of(kind("x")) is None


def fare(was: Standing, state: str, asked_at: datetime = NOW, **fields: float) -> Standing | None:
    whose = "key" if state in ("failing", "retired") else "account"
    verdict = Verdict(whose, state, "because", fields.get("retry_after"))  # type: ignore[arg-type]
    return health.after(was, verdict, asked_at=asked_at, now=NOW, chance=lambda: fields.get("chance", 0.5))


@pytest.mark.parametrize(
    ("state", "seconds"), [("failing", FIRST_PAUSE), ("cooling", FIRST_PAUSE), ("resting", FIRST_REST)]
)
def test_each_further_failure_doubles_the_pause(state: str, seconds: float) -> None:
    standing: Standing | None = Standing()
    for number in range(1, 4):
        assert standing is not None
        standing = fare(standing, state, later(number))
        assert standing is not None and standing.until == later(seconds * 2 ** (number - 1))
        assert (standing.state, standing.reason, standing.failures) == (state, "because", number)
        standing = Standing(standing.state, standing.reason, NOW, standing.until, standing.failures)


def test_no_pause_is_longer_than_the_longest() -> None:
    standing = fare(Standing("failing", "x", NOW, NOW, 1000), "failing", later(1))

    assert standing is not None and standing.until == later(LONGEST_PAUSE)


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.999])
def test_keys_that_failed_together_do_not_come_back_together(chance: float) -> None:
    standing = fare(Standing(), "failing", chance=chance)

    assert standing is not None and standing.until == later(FIRST_PAUSE * (1 + JITTER * (2 * chance - 1)))


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_poes_own_word_is_kept(chance: float) -> None:
    standing = fare(Standing("cooling", "x", later(-9), NOW, 7), "cooling", retry_after=60, chance=chance)

    assert standing is not None and standing.until is not None
    assert later(60) <= standing.until <= later(60 * (1 + JITTER))


def test_a_retired_key_has_no_end() -> None:
    standing = fare(Standing(), "retired")

    assert standing is not None and (standing.state, standing.until) == ("retired", None)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("retired", "failing"),
        ("retired", "retired"),
        ("resting", "cooling"),
        ("cooling", "failing"),
    ],
)
def test_the_worse_state_stays(was: str, becomes: str) -> None:
    assert fare(Standing(was, "x", later(-60), None, 1), becomes) is None


def test_what_is_due_again_learns_the_newer_lesson() -> None:
    was = Standing("resting", "x", later(-900), later(-1), 1)

    became = fare(was, "cooling", retry_after=60)

    assert became is not None and became.state == "cooling" and became.until >= later(60)  # type: ignore[operator]


def test_what_was_asked_before_it_was_known_is_no_further_failure() -> None:
    assert fare(Standing("failing", "x", NOW, later(5), 1), "failing", asked_at=later(-1)) is None
    assert fare(Standing("failing", "x", NOW, later(5), 1), "cooling", asked_at=later(-1)) is not None


def test_what_is_well_stays_as_it_is() -> None:
    assert health.well(Standing(), "tested", NOW) is None
    assert health.well(Standing("retired", "x", NOW, None, 3), "tested", NOW) == Standing("ok", "tested", NOW)
