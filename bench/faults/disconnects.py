"""Clients that hang up in the middle of a stream: Poe is let go of at once, and what was relayed is charged for.

`python -m bench.faults.disconnects [--quick] [--sqlite | --postgres]`
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from bench.faults import rig
from bench.faults.rig import WORDS_PER_CHUNK, Asked, Findings, Leaving, Reply, Site

MOST_SECONDS = 0.1
RECORDS = "SELECT model, outcome, completion_tokens, points FROM relay_usagerecord WHERE model LIKE ?"


@dataclass(frozen=True, slots=True)
class Sizes:
    disconnects: int = 1000
    at_once: int = 50
    chunks: int = 30
    pause_ms: int = 50
    unread: int = 50


SIZES = {False: Sizes(), True: Sizes(disconnects=100)}


@dataclass(frozen=True, slots=True)
class Ended:
    """A request as its client, the upstream and the ledger saw it."""

    reply: Reply
    asked: Asked | None
    outcome: str
    tokens: int
    points: int


async def story(site: Site, findings: Findings, quick: bool) -> None:
    await asyncio.to_thread(site.start)
    await within_a_stream(site, findings, SIZES[quick])
    await before_it_begins(site, findings, SIZES[quick])
    await before_it_is_read(site, findings, SIZES[quick])
    await rig.claim_in_order(site, findings)


async def within_a_stream(site: Site, findings: Findings, sizes: Sizes) -> None:
    """At a random moment after the first token. One point for each token, so that points are tokens."""
    site.write("UPDATE relay_botmapping SET points_per_1000_output_tokens = 1000")
    dice = random.Random(5)
    # A little longer than the stream, so that some meet its very end.
    length = 1.02 * sizes.chunks * sizes.pause_ms / 1000

    def leaving() -> Leaving:
        return Leaving(after_first_token=dice.uniform(0, length), hard=dice.random() < 0.5)

    ended = await _hang_up(site, sizes, f"c{sizes.chunks}d{sizes.pause_ms}", leaving)
    cut = [each for each in ended if each.asked is not None and each.asked.left is not None]
    outcomes = Counter(each.outcome for each in ended)
    findings.note(
        f"{len(ended)} disconnects within a stream of {sizes.chunks} chunks, {sizes.pause_ms} ms and {WORDS_PER_CHUNK} "
        f"tokens each: {dict(outcomes)}, {len(cut)} cut short at the upstream"
    )
    _claim_let_go(findings, cut)
    findings.claim(
        "a usage record for each: disconnected, or done if the stream had ended first",
        outcomes.total() == sizes.disconnects and all(_is_told_right(each) for each in ended),
        dict(outcomes),
    )
    _claim_charged(findings, ended)


async def before_it_begins(site: Site, findings: Findings, sizes: Sizes) -> None:
    """Before the first token, some of them before anything was asked of the upstream."""
    dice = random.Random(6)
    wait_ms = 400

    def leaving() -> Leaving:
        return Leaving(after_asking=dice.uniform(0, wait_ms / 1000), hard=dice.random() < 0.5)

    ended = await _hang_up(site, sizes, f"c{sizes.chunks}d{sizes.pause_ms}w{wait_ms}", leaving)
    cut = [each for each in ended if each.asked is not None]
    outcomes = Counter(each.outcome for each in ended)
    findings.note(
        f"{len(ended)} disconnects within {wait_ms} ms before it: {dict(outcomes)}, {len(cut)} reached the upstream"
    )
    _claim_let_go(findings, cut)
    uncounted = [each for each in cut if each.outcome != "disconnected"]
    findings.claim(
        "each that reached the upstream is disconnected", not uncounted, f"all but {len(uncounted)}"
    )
    charged = [each for each in ended if each.points or each.tokens]
    findings.claim("nothing was relayed, so nothing is charged", not charged, f"{len(charged)} were")


async def before_it_is_read(site: Site, findings: Findings, sizes: Sizes) -> None:
    """The relay, busy with something else, finds the request and the reset together. The bot thinks for long."""
    bot = f"c{sizes.chunks}d{sizes.pause_ms}w60000-unread"
    replies: list[asyncio.Task[Reply]] = []
    with site.running[0].frozen():
        for number in range(sizes.unread):
            leaving = Leaving(after_asking=0.01, hard=True)
            asking = rig.ask(site.running[0].port, site.token, f"{bot}{number}", leaving)
            replies.append(asyncio.create_task(asking))
        await asyncio.gather(*replies)
    await asyncio.sleep(MOST_SECONDS)
    # Whatever was to be asked has been asked when this one is answered.
    await rig.ask(site.running[0].port, site.token, "c1d0-after")
    await asyncio.sleep(MOST_SECONDS)
    held = [each for each in site.upstream.asked if each.model.startswith(bot) and each.left is None]
    findings.note(f"{sizes.unread} requests that were reset before they were read")
    findings.claim("none of them is held at the upstream", not held, f"{len(held)} are")


async def _hang_up(site: Site, sizes: Sizes, bot: str, leaving: Callable[[], Leaving]) -> list[Ended]:
    numbers = iter(range(sizes.disconnects))
    replies: list[Reply] = []

    async def client() -> None:
        for number in numbers:
            replies.append(await rig.ask(site.running[0].port, site.token, f"{bot}-{number}", leaving()))

    await asyncio.gather(*(client() for _ in range(sizes.at_once)))
    await site.seconds_until_settled(5)
    asked = {each.model: each for each in site.upstream.asked}
    rows = {model: rest for model, *rest in site.read(RECORDS, f"{bot}-%")}
    return [
        Ended(reply, asked.get(reply.model), *rows.get(reply.model, ("no record", 0, 0))) for reply in replies
    ]


def _claim_let_go(findings: Findings, cut: list[Ended]) -> None:
    """From the client's close until the upstream saw its own connection gone; the clock of both is the same."""
    waits = [
        each.asked.left - each.reply.left if each.asked.left is not None else float("inf")
        for each in cut
        if each.asked is not None and each.reply.left is not None
    ]
    held = sum(wait == float("inf") for wait in waits)
    seen = " ".join(
        f"{name} {rig.percentile(waits, share) * 1000:.1f} ms"
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    )
    findings.claim(
        f"the upstream is let go of within {MOST_SECONDS * 1000:.0f} ms, p99",
        bool(waits) and rig.percentile(waits, 0.99) <= MOST_SECONDS,
        seen,
    )
    findings.claim("and in the end always", not held, f"{held} of {len(waits)} are held still")


def _is_told_right(each: Ended) -> bool:
    if each.outcome == "disconnected":
        return each.reply.left is not None
    return each.outcome == "done" and each.asked is not None and each.asked.ended is not None


def _claim_charged(findings: Findings, ended: list[Ended]) -> None:
    """At least what had been said when the client hung up, but for one chunk that was on its way; and all it received.

    Until the relay learns of the hang-up it goes on relaying: at most what the upstream said until it was let go of.
    """
    wrong, exact = [], 0
    for each in ended:
        assert each.asked is not None
        closed = each.reply.left if each.reply.left is not None else each.reply.ended
        said = each.asked.tokens_until(closed)
        exact += each.tokens == said
        least = max(each.reply.tokens, said - WORDS_PER_CHUNK)
        if not least <= each.tokens <= each.asked.tokens or each.points != each.tokens:
            wrong.append((each.reply.tokens, said, each.tokens, each.points))
    findings.claim(
        "the tokens charged are at most one chunk less than the upstream had said at the hang-up, and no more than it said",
        not wrong,
        f"{exact} of {len(ended)} to the token" + (f"; wrong: {wrong[:5]}" if wrong else ""),
    )


if __name__ == "__main__":
    sys.exit(rig.main(story, __doc__ or ""))
