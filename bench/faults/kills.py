"""`kill -9` of the server under 200 streams, again and again: nothing that was asked of the upstream is unaccounted for.

`python -m bench.faults.kills [--quick] [--sqlite | --postgres]`
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from bench import servers
from bench.faults import rig
from bench.faults.rig import Findings, Reply, Site

# A client that finds nobody listening asks again so soon.
ASK_AGAIN_SECONDS = 0.25
SETTLED_SECONDS = 60.0
SETTLE_SECONDS = 1.0
ASKS_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Sizes:
    kills: int = 100
    streams: int = 200
    # A server is killed so long after it first asked the upstream, at random.
    most_seconds: float = 1.0


SIZES = {False: Sizes(), True: Sizes(kills=10)}


@dataclass(frozen=True, slots=True)
class Kill:
    began: float
    gone: float

    def met(self, reply: Reply) -> bool:
        """Whether this request was under way."""
        return reply.sent <= self.gone and reply.ended >= self.began


@dataclass(slots=True)
class Crowd:
    """Clients that never stop asking, each time for a model of another name."""

    site: Site
    port: int
    is_over: bool = False
    replies: list[Reply] = field(default_factory=list)

    async def run(self, streams: int) -> None:
        numbers = itertools.count()
        dice = random.Random(9)

        async def client() -> None:
            while not self.is_over:
                bot = f"c{dice.randint(1, 60)}d{dice.choice((0, 5, 20))}w{dice.choice((0, 50))}"
                reply = await rig.ask(self.port, self.site.token, f"{bot}-{next(numbers)}")
                self.replies.append(reply)
                if reply.status == 0:
                    await asyncio.sleep(ASK_AGAIN_SECONDS)

        await asyncio.gather(*(client() for _ in range(streams)))


async def story(site: Site, findings: Findings, quick: bool) -> None:
    await kill_again_and_again(site, findings, SIZES[quick])
    await rig.claim_in_order(site, findings)


async def kill_again_and_again(site: Site, findings: Findings, sizes: Sizes) -> None:
    dice = random.Random(17)
    # A budget that nobody reaches: answers are reserved for and grow their reservations, as with a real one.
    site.write("UPDATE accounts_team SET points_per_day = 1000000000")
    site.write(
        "UPDATE relay_botmapping SET points_per_request = 1, points_per_1000_output_tokens = 1000, "
        "default_output_tokens = 100"
    )
    server = await asyncio.to_thread(site.start, servers.free_port())
    crowd = Crowd(site, server.port)
    running = asyncio.create_task(crowd.run(sizes.streams))
    starts, kills = [], []
    for _kill in range(sizes.kills):
        await _asks(site)
        await asyncio.sleep(dice.uniform(0, sizes.most_seconds))
        began = time.monotonic()
        await asyncio.to_thread(site.kill, server)
        kills.append(Kill(began, time.monotonic()))
        server = await asyncio.to_thread(site.start, server.port)
        starts.append(time.monotonic() - kills[-1].gone)
    crowd.is_over = True
    settled = await site.seconds_until_settled(SETTLED_SECONDS)
    await running

    findings.note(
        f"{sizes.kills} kills under {sizes.streams} streams: {len(crowd.replies)} requests, "
        f"{Counter((reply.status, reply.is_whole) for reply in crowd.replies)}; started again after "
        f"{rig.percentile(starts, 0.5):.2f} s p50, {max(starts):.2f} s at most"
    )
    _account(site, findings, crowd, kills)
    _whole_answers(site, findings, crowd, kills)
    after = time.monotonic() - kills[-1].gone if settled is None else settled + starts[-1]
    findings.claim(
        f"all records ended and all slots free within {SETTLED_SECONDS:.0f} s of the last kill",
        settled is not None and after <= SETTLED_SECONDS,
        f"{'after' if settled is not None else 'not after'} {after:.2f} s, {starts[-1]:.2f} s of them until it served again",
    )


async def _asks(site: Site) -> None:
    """Until the server asks the upstream; raises TimeoutError."""
    before = len(site.upstream.asked)
    async with asyncio.timeout(ASKS_SECONDS):
        while len(site.upstream.asked) == before:
            await asyncio.sleep(0.005)


def _account(site: Site, findings: Findings, crowd: Crowd, kills: list[Kill]) -> None:
    """Each request's name is in the upstream's notes, in its usage record's model and in its client's reply."""
    asked = Counter(each.model for each in site.upstream.asked)
    rows = site.read("SELECT model, outcome, error_code FROM relay_usagerecord")
    recorded = Counter(model for model, _outcome, _error in rows)
    findings.note(
        f"the upstream was asked {asked.total()} times; {len(rows)} usage records: {site.outcomes()}"
    )
    wrong = [model for model in asked if (asked[model], recorded[model]) != (1, 1)]
    findings.claim(
        "each request to the upstream has exactly one usage record",
        not wrong,
        f"all but {len(wrong)} of {len(asked)}",
    )
    more = [model for model, records in recorded.items() if records > 1]
    findings.claim("no request has two", not more, f"{len(more)} of {len(recorded)} have")
    alone = {model: (outcome, error) for model, outcome, error in rows if model not in asked}
    kinds = Counter(alone.values())
    fits = {outcome for outcome, _error in kinds} <= {"lost", "failed"}
    findings.claim("records without such a request are lost or failed", fits, dict(kinds) or "there are none")
    in_flight = {reply.model for reply in crowd.replies if any(kill.met(reply) for kill in kills)}
    findings.claim(
        "and were in flight at a kill",
        alone.keys() <= in_flight,
        f"{len(alone.keys() & in_flight)} of {len(alone)} were, {len(in_flight)} requests in all",
    )


def _whole_answers(site: Site, findings: Findings, crowd: Crowd, kills: list[Kill]) -> None:
    """A settlement waits in memory for the next transaction: a kill in between makes a whole answer a lost one.

    What the dead server had sent is read after its death: an answer may be whole a little later than the kill.
    """
    lost = {model for (model,) in site.read("SELECT model FROM relay_usagerecord WHERE outcome = 'lost'")}
    waits = [
        min((abs(kill.gone - reply.ended) for kill in kills), default=float("inf"))
        for reply in crowd.replies
        if reply.is_whole and reply.model in lost
    ]
    findings.claim(
        f"an answer that was whole {SETTLE_SECONDS:g} s before a kill is recorded as done",
        all(wait <= SETTLE_SECONDS for wait in waits),
        f"{len(waits)} were lost, whole for {max(waits, default=0) * 1000:.0f} ms at most",
    )
    odd = Counter((reply.status, reply.code) for reply in crowd.replies if reply.status not in (0, 200, 503))
    findings.claim("whoever was answered was told 200 or 503", not odd, dict(odd) or "yes")


if __name__ == "__main__":
    sys.exit(rig.main(story, __doc__ or ""))
