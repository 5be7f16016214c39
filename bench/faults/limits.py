"""Limits over two server processes: a budget of points, requests per minute and requests in flight, each exact.

`python -m bench.faults.limits [--quick] [--sqlite | --postgres]`
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass

from bench.faults import rig
from bench.faults.rig import Asked, Findings, Leaving, Reply, Server, Site

BUDGET = 500
PER_MINUTE = 120
# So many times as long as was planned, if it takes so long to come to N.
MOST_SLOW = 20
IN_FLIGHT = 8
OWNERS = (
    "SELECT id, day_points, month_points FROM relay_meter "
    "WHERE id LIKE 'token:%' OR id LIKE 'user:%' OR id LIKE 'team:%'"
)
FLIGHTS = "SELECT model FROM relay_usagerecord WHERE model LIKE '%-flight%'"


@dataclass(frozen=True, slots=True)
class Sizes:
    budget: int = BUDGET
    budget_requests: int = 4000
    budget_at_once: int = 64
    rate_seconds: float = 30.0
    rate_at_once: int = 16
    in_flight_seconds: float = 30.0
    in_flight_at_once: int = 48


SIZES = {False: Sizes(), True: Sizes(budget_requests=1000, rate_seconds=6.0, in_flight_seconds=6.0)}


async def story(site: Site, findings: Findings, quick: bool) -> None:
    relays = await site.start_all(2)
    await points_per_day(site, findings, relays, SIZES[quick])
    await requests_per_minute(site, findings, relays, SIZES[quick])
    await requests_in_flight(site, findings, relays, SIZES[quick])
    await rig.claim_in_order(site, findings)


async def points_per_day(site: Site, findings: Findings, relays: list[Server], sizes: Sizes) -> None:
    """One point each, many more requests than points."""
    site.write("UPDATE accounts_team SET points_per_day = ?, time_zone = ?", sizes.budget, rig.noon_zone())
    site.write("UPDATE relay_botmapping SET points_per_request = 1")
    numbers = iter(range(sizes.budget_requests))
    replies: list[Reply] = []

    async def client() -> None:
        for number in numbers:
            port = relays[number % len(relays)].port
            replies.append(await rig.ask(port, site.token, "c1d0-budget"))

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(sizes.budget_at_once)))
    took = time.monotonic() - began
    await site.seconds_until_settled(10)
    site.write("UPDATE accounts_team SET points_per_day = NULL")
    site.write("UPDATE relay_botmapping SET points_per_request = NULL")

    findings.note(
        f"{sizes.budget} points a day, one each: {len(replies)} requests, {sizes.budget_at_once} at once, "
        f"{len(relays)} processes, {took:.1f} s"
    )
    answers = Counter((reply.status, reply.code) for reply in replies)
    wanted = {(200, ""): sizes.budget, (429, "insufficient_quota"): sizes.budget_requests - sizes.budget}
    findings.claim(
        f"{sizes.budget} are admitted, the rest is 429 insufficient_quota", answers == wanted, dict(answers)
    )
    rows = site.outcomes("c1d0-budget")
    findings.claim(f"{sizes.budget} usage records, all done", rows == {"done": sizes.budget}, rows)
    asked = len(site.upstream.asked)
    findings.claim(f"the upstream was asked {sizes.budget} times", asked == sizes.budget, asked)
    meters = {row[0]: row[1:] for row in site.read(OWNERS)}
    exact = len(meters) == 3 and set(meters.values()) == {(sizes.budget, sizes.budget)}
    findings.claim(
        f"the meters of token, user and team say {sizes.budget}, by day and by month", exact, meters
    )


async def requests_per_minute(site: Site, findings: Findings, relays: list[Server], sizes: Sizes) -> None:
    """As many as N at once, then N a minute: N + floor(N t / 60), by the database's own clock.

    t is from the first admission to the last one, as the meter wrote both down. Between two clients that never stop
    asking the rate's tokens never lie unused, so that the number must be reached and not only be kept.
    """
    site.write("UPDATE accounts_accesstoken SET requests_per_minute = ?", PER_MINUTE)
    began = time.monotonic()
    replies = [await rig.ask(relays[0].port, site.token, "c1d0-rate")]
    first = _token_meter_at(site)
    turns = itertools.count()

    def goes_on() -> bool:
        """A slow machine comes to N later: the limit must be met."""
        seconds = time.monotonic() - began
        is_met = replies[-1].status == 429
        return seconds < sizes.rate_seconds or (not is_met and seconds < MOST_SLOW * sizes.rate_seconds)

    async def client() -> None:
        while goes_on():
            port = relays[next(turns) % len(relays)].port
            replies.append(await rig.ask(port, site.token, "c1d0-rate"))

    await asyncio.gather(*(client() for _ in range(sizes.rate_at_once)))
    outside = time.monotonic() - began
    seconds = (_token_meter_at(site) - first) / 1_000_000
    await site.seconds_until_settled(10)
    site.write("UPDATE accounts_accesstoken SET requests_per_minute = NULL")

    findings.note(
        f"{PER_MINUTE} a minute: {len(replies)} requests, {sizes.rate_at_once} at once, t = {seconds:.6f} s by the "
        f"meter, {outside:.3f} s by the clients' clock"
    )
    answers = Counter((reply.status, reply.code) for reply in replies)
    admitted = answers[200, ""]
    wanted = _allowed(seconds)
    findings.claim(f"N + floor(N t / 60) = {wanted} are admitted", admitted == wanted, admitted)
    findings.claim(
        f"at most {_allowed(outside)} by the clients' clock", admitted <= _allowed(outside), admitted
    )
    others = {answer for answer in answers if answer != (200, "")}
    findings.claim(
        "the rest is 429 rate_limit_exceeded", others == {(429, "rate_limit_exceeded")}, dict(answers)
    )
    rows = site.outcomes("c1d0-rate")
    findings.claim("as many usage records, all done", rows == {"done": admitted}, rows)


def _token_meter_at(site: Site) -> int:
    return site.number("SELECT at FROM relay_meter WHERE id LIKE 'token:%'")


def _allowed(seconds: float) -> int:
    return PER_MINUTE + math.floor(PER_MINUTE * seconds / 60)


async def requests_in_flight(site: Site, findings: Findings, relays: list[Server], sizes: Sizes) -> None:
    """Never above N at the upstream, though a third of the clients hang up somewhere in between."""
    site.write("UPDATE accounts_team SET requests_in_flight = ?", IN_FLIGHT)
    site.upstream.most_in_flight = 0
    before = len(site.upstream.asked)
    until = time.monotonic() + sizes.in_flight_seconds
    replies: list[Reply] = []
    turns = itertools.count()
    dice = random.Random(3)

    async def client() -> None:
        while time.monotonic() < until:
            turn = next(turns)
            port = relays[turn % len(relays)].port
            bot = f"c{dice.randint(1, 10)}d{dice.choice((0, 10, 30))}w{dice.choice((0, 0, 20))}"
            leaving = Leaving(after_asking=dice.uniform(0, 0.2), hard=dice.random() < 0.5)
            model = f"{bot}-flight{turn}"
            reply = await rig.ask(port, site.token, model, leaving if dice.random() < 1 / 3 else rig.NEVER)
            replies.append(reply)
            if reply.status == 429:
                await asyncio.sleep(0.005)

    await asyncio.gather(*(client() for _ in range(sizes.in_flight_at_once)))
    freed = await site.seconds_until_settled(10)
    site.write("UPDATE accounts_team SET requests_in_flight = NULL")

    asked = site.upstream.asked[before:]
    answers = Counter((reply.status, reply.code) for reply in replies if reply.left is None)
    left = sum(reply.left is not None for reply in replies)
    findings.note(
        f"{IN_FLIGHT} in flight: {len(replies)} requests, {sizes.in_flight_at_once} clients, {left} hung up; the "
        f"upstream was asked {len(asked)} times and cut short {sum(each.left is not None for each in asked)} times"
    )
    most = site.upstream.most_in_flight
    findings.claim(
        f"never above {IN_FLIGHT} at the upstream, and {IN_FLIGHT} were reached", most == IN_FLIGHT, most
    )
    known = {(200, ""), (429, "rate_limit_exceeded")}
    findings.claim("who stayed was told 200 or 429 rate_limit_exceeded", set(answers) == known, dict(answers))
    findings.claim(
        "all slots are free again", freed is not None, f"after {freed:.2f} s" if freed is not None else "no"
    )
    _one_record_each(site, findings, asked, {reply.model for reply in replies if reply.left is not None})


def _one_record_each(site: Site, findings: Findings, asked: list[Asked], left: set[str]) -> None:
    rows = Counter(model for (model,) in site.read(FLIGHTS))
    wrong = [each.model for each in asked if rows[each.model] != 1]
    findings.claim(
        "each that was asked has one usage record", not wrong, f"all but {len(wrong)} of {len(asked)}"
    )
    more = rows.keys() - {each.model for each in asked}
    seen = f"{len(more)} of {rows.total()} were not asked, {len(more - left)} of them without having hung up"
    findings.claim(
        "further records are of clients that hung up before the bot was reached", more <= left, seen
    )


if __name__ == "__main__":
    sys.exit(rig.main(story, __doc__ or ""))
