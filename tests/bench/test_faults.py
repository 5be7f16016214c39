"""The short form of bench/faults: the same stories, a few requests each, on the database of this run."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from bench.faults import disconnects, kills, limits, rig
from bench.faults.rig import Findings, Leaving, Site, Upstream
from relay import counting

pytestmark = pytest.mark.asyncio


async def test_limits_are_exact_over_two_processes(site: Site, findings: Findings) -> None:
    sizes = limits.Sizes(
        budget=20,
        budget_requests=120,
        budget_at_once=16,
        rate_seconds=0.7,
        in_flight_seconds=1.0,
        in_flight_at_once=24,
    )
    relays = await site.start_all(2)

    await limits.points_per_day(site, findings, relays, sizes)
    await limits.requests_per_minute(site, findings, relays, sizes)
    await limits.requests_in_flight(site, findings, relays, sizes)

    assert findings.missed == []


async def test_nothing_is_unaccounted_for_after_a_kill(site: Site, findings: Findings) -> None:
    sizes = kills.Sizes(kills=1, streams=40, most_seconds=0.2)

    await kills.kill_again_and_again(site, findings, sizes)
    await rig.claim_in_order(site, findings)

    assert findings.missed == []
    assert site.upstream.asked


async def test_a_disconnect_lets_go_of_poe_and_is_charged_for_what_was_relayed(
    site: Site, findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests run side by side, on every core.
    monkeypatch.setattr(disconnects, "MOST_SECONDS", 1.0)
    sizes = disconnects.Sizes(disconnects=24, at_once=24, chunks=6, pause_ms=100)
    await site.start_all(1)

    await disconnects.within_a_stream(site, findings, sizes)
    await disconnects.before_it_begins(site, findings, sizes)

    assert findings.missed == []


async def test_a_request_that_was_reset_before_it_was_read_holds_no_bot(
    site: Site, findings: Findings
) -> None:
    await site.start_all(1)

    await disconnects.before_it_is_read(site, findings, disconnects.Sizes(unread=5))
    # What it holds it would drain for long.
    await asyncio.to_thread(site.kill, site.running[0])

    assert findings.missed == []


# The rig itself: what it sees, and that a miss is one.


async def test_the_upstream_counts_what_is_asked_said_and_left() -> None:
    async with rig.upstream() as upstream:
        await _ask(upstream, "c3d0-whole")
        await _ask(upstream, "c50d20-cut", leave_after=0.05)

    whole, cut = upstream.asked
    assert (whole.model, whole.tokens, whole.left) == ("c3d0-whole", 3 * rig.WORDS_PER_CHUNK, None)
    assert whole.ended is not None
    assert cut.left is not None and cut.ended is None
    assert cut.tokens_until(cut.began) < cut.tokens < 50 * rig.WORDS_PER_CHUNK
    assert (upstream.in_flight, upstream.most_in_flight) == (0, 1)


async def _ask(upstream: Upstream, bot: str, leave_after: float | None = None) -> None:
    """As the relay asks: over aiohttp."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(upstream.base_url + bot, data=b"{}") as answer,
    ):
        if leave_after is None:
            assert (await answer.read()).endswith(b"event: done\ndata: {}\n\n")
            return
        await asyncio.sleep(leave_after)
        answer.close()
    while upstream.in_flight:
        await asyncio.sleep(0.005)


async def test_nobody_listens_is_a_reply_without_a_status() -> None:
    async with rig.upstream() as upstream:
        port = int(upstream.base_url.split(":")[2].split("/")[0])

    reply = await rig.ask(port, "sk-poe-none", "c1d0", Leaving())

    assert (reply.status, reply.code, reply.is_whole) == (0, "ConnectionRefusedError", False)


@pytest.mark.parametrize("words", [1, 5, 100])
async def test_a_word_is_a_token_wherever_it_stands(words: int) -> None:
    assert counting.count(rig.WORD * words) == words


async def test_a_miss_is_printed_and_makes_the_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []

    def tell(story: rig.Story, kind: str, findings: Findings, *, quick: bool) -> None:
        told.append((kind, quick))
        findings.claim("all is well", kind == rig.SQLITE, "seen")

    async def story(site: Site, findings: Findings, quick: bool) -> None: ...

    monkeypatch.setattr(rig, "tell", tell)

    assert rig.main(story, "about", ["--sqlite"]) == 0
    assert rig.main(story, "about", ["--quick"]) == 1
    assert told == [(rig.SQLITE, False), (rig.SQLITE, True), (rig.POSTGRES, True)]
    assert capsys.readouterr().err == "MISSED all is well: seen\n"


@pytest.mark.parametrize(("quick", "missed"), [(True, 0), (False, 1)])
async def test_what_cannot_be_tried_is_a_miss_of_the_whole_form(quick: bool, missed: int) -> None:
    findings = rig.Findings()

    findings.leave_out("what comes through nginx", "nginx", quick)

    assert len(findings.missed) == missed
