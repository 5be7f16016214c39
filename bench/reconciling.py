"""The proof that what the relay counts is what Poe charges: requests through a real server to the demo server's accounts,
then one `manage.py reconcile`. `python -m bench.reconciling [--quick] [--sqlite | --postgres]`; exit status 1 on a miss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from bench import servers
from bench.faults import rig
from bench.faults.rig import Findings, Site

LEAST_MATCHED = 0.99
ASK_SECONDS = 60.0
# Bots with their answers' words and pause; those without are the demo server's own.
SCRIPTED = {"Poet": (40, 0.0), "Clerk": (3, 0.0), "Slow-Writer": (12, 0.02)}
BOTS = ("Demo-Echo", "Demo-Thinker", "Demo-Replacer", "Demo-Painter", "Demo-Tools", *SCRIPTED)
# Near what the demo server takes, as a rate card is.
RATE_CARD = {
    "points_per_1000_input_tokens": 80,
    "points_per_1000_output_tokens": 450,
    "points_per_image": 150,
}
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "rain",
    "falls",
    "on",
    "seven",
    "old",
    "roofs",
]
TOKENS = 5


@dataclass(frozen=True, slots=True)
class Sizes:
    requests: int = 10_000
    at_once: int = 20


QUICK = Sizes(requests=600)
# Whose each key is: three accounts, or two keys of one and another account.
LAYOUTS = {
    "3 keys, each of an account of its own": ("a", "b", "c"),
    "3 keys, two of one account": ("a", "a", "b"),
}


@dataclass(frozen=True, slots=True)
class Key:
    secret: str
    account: str
    name: str


def keys_of(accounts: Sequence[str]) -> list[Key]:
    return [
        Key(secrets.token_hex(16), account, f"key {number}") for number, account in enumerate(accounts, 1)
    ]


# The demo server, as a process of its own.

DEMO = """
import json, sys
from relay.demo.account import DemoKey
from relay.demo.server import serve
keys = [DemoKey(**each) for each in json.load(sys.stdin)]
serve(keys, host="127.0.0.1", port=0, ready=lambda url: print(url, flush=True), with_parent=True)
"""


@contextmanager
def demo_server(keys: Sequence[Key]) -> Iterator[str]:
    """Where it listens. The keys go by its standard input: what is on a command line, everybody may read."""
    child = subprocess.Popen(
        [sys.executable, "-c", DEMO],
        cwd=servers.ROOT,
        env={**os.environ, "PYTHONPATH": str(servers.ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        with child.stdin:
            json.dump([{"secret": k.secret, "account": k.account, "name": k.name} for k in keys], child.stdin)
        url = child.stdout.readline().strip()
        if not url:
            raise servers.CannotStart("the demo Poe server did not start")
        for bot, (words, pause) in SCRIPTED.items():
            _script(url, keys[0].secret, bot, words, pause)
        yield url
    finally:
        child.terminate()
        child.wait(servers.STOP_SECONDS)
        child.stdout.close()


def _script(url: str, secret: str, bot: str, words: int, pause: float) -> None:
    said = [["text", {"text": f" {WORDS[number % len(WORDS)]}"}] for number in range(words)]
    body = {"bot": bot, "events": [*said, ["done", {}]], "delay": pause}
    headers = {"Authorization": f"Bearer {secret}"}
    httpx2.post(f"{url}/demo/script", json=body, headers=headers).raise_for_status()


@dataclass(frozen=True, slots=True)
class Told:
    """What the demo accounts say: their charges, and the points that are gone from their balances."""

    charges: int
    points: int
    spent: int


def told_by(url: str, keys: Sequence[Key]) -> Told:
    from relay.demo.account import GRANT

    charges = points = spent = 0
    with httpx2.Client(base_url=url, timeout=30) as client:
        for key in {key.account: key for key in keys}.values():
            headers = {"Authorization": f"Bearer {key.secret}"}
            spent += (
                GRANT - client.get("/usage/current_balance", headers=headers).json()["current_point_balance"]
            )
            after = ""
            while True:
                page = client.get(f"/usage/points_history?limit=100{after}", headers=headers).json()
                charges += page["length"]
                points += sum(row["cost_points"] for row in page["data"])
                if not page["has_more"]:
                    break
                after = f"&starting_after={page['data'][-1]['query_id']}"
    return Told(charges, points, spent)


# The relay.


def fill(env: dict[str, str], url: str, keys: Sequence[Key]) -> list[str]:
    """Migrate and fill a database; the access tokens."""
    given = {"url": url, "keys": [[k.secret, k.account, k.name] for k in keys]}
    done = subprocess.run(
        [sys.executable, "-m", "bench.reconciling", "fill"],
        cwd=servers.ROOT,
        env=env,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise servers.CannotStart(f"the database was not filled:\n{done.stderr.strip()[-2000:]}")
    tokens = json.loads(done.stdout)
    assert isinstance(tokens, list)
    return tokens


def store(url: str, keys: Sequence[Sequence[str]]) -> list[str]:
    """In the relay, each key has an account: that two are one, it has to find out."""
    from accounts.models import AccessToken, Team, User
    from bench.installation import UNLIMITED
    from relay.models import BotMapping, PoeAccount, PoeKey

    teams = [Team.objects.create(name=f"team {number}") for number in (1, 2)]
    tokens = []
    for number in range(TOKENS):
        user = User.objects.create_user(f"user {number}", team=teams[number % len(teams)])
        tokens.append(AccessToken.objects.issue(user, "bench")[1])
    for secret, _account, name in keys:
        account = PoeAccount.objects.create(
            name=f"account of {name}",
            base_url=f"{url}/bot/",
            upload_url=f"{url}/poe_api/",
            api_url=url,
            requests_per_minute=UNLIMITED,
        )
        key = PoeKey(account=account, name=f"stored {name}", requests_in_flight=UNLIMITED)
        key.store(secret)
        key.save()
    for bot in BOTS:
        BotMapping.objects.create(model=bot.lower(), bot=bot, **RATE_CARD)
    return tokens


@dataclass(slots=True)
class Crowd:
    """Clients that ask so many at once, each time somebody else something else."""

    url: str
    tokens: Sequence[str]
    sizes: Sizes
    chance: random.Random

    async def ask(self) -> Counter[int | str]:
        """How many answers there were of each status."""
        seen: Counter[int | str] = Counter()
        numbers = iter(range(self.sizes.requests))
        limits = httpx2.Limits(max_connections=self.sizes.at_once)
        async with httpx2.AsyncClient(base_url=self.url, timeout=ASK_SECONDS, limits=limits) as client:

            async def one_after_the_other() -> None:
                for number in numbers:
                    seen[await self._ask(client, number)] += 1

            await asyncio.gather(*(one_after_the_other() for _ in range(self.sizes.at_once)))
        return seen

    async def _ask(self, client: httpx2.AsyncClient, number: int) -> int | str:
        words = self.chance.choices(WORDS, k=self.chance.randint(2, 60))
        body = {
            "model": self.chance.choice(BOTS).lower(),
            "stream": self.chance.random() < 0.5,
            "messages": [{"role": "user", "content": f"{number}: {' '.join(words)}"}],
        }
        headers = {"Authorization": f"Bearer {self.chance.choice(self.tokens)}"}
        try:
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        except httpx2.HTTPError as exc:
            return type(exc).__name__
        return answer.status_code


def reconcile(env: dict[str, str]) -> str:
    """`manage.py reconcile --force`: what it printed."""
    done = subprocess.run(
        [sys.executable, "manage.py", "reconcile", "--force"],
        cwd=servers.ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise servers.CannotStart(f"reconcile failed:\n{done.stdout}{done.stderr.strip()[-2000:]}")
    return done.stdout.strip()


# The proof.


async def prove(site: Site, keys: Sequence[Key], url: str, sizes: Sizes, findings: Findings) -> None:
    tokens = await asyncio.to_thread(fill, site.env, url, keys)
    server = await asyncio.to_thread(site.start)
    began = time.monotonic()
    crowd = Crowd(f"http://127.0.0.1:{server.port}", tokens, sizes, random.Random(5))
    statuses = await crowd.ask()
    took = time.monotonic() - began
    findings.note(f"{sizes.requests / took:,.0f} requests a second")
    findings.claim("every request was answered", statuses == {200: sizes.requests}, dict(statuses))
    await site.seconds_until_settled(10)
    told = await asyncio.to_thread(told_by, url, keys)
    reckoned = site.number("SELECT sum(points) FROM relay_usagerecord")
    began = time.monotonic()
    said = await asyncio.to_thread(reconcile, site.env)
    findings.note(f"`manage.py reconcile --force` took {time.monotonic() - began:.1f} s and said:")
    for line in said.splitlines():
        findings.note(f"  {line}")
    _claim_to_the_point(site, told, reckoned, findings)
    await rig.claim_in_order(site, findings)


def _claim_to_the_point(site: Site, told: Told, reckoned: int, findings: Findings) -> None:
    stored = site.number("SELECT count(*) FROM relay_poecharge")
    findings.claim("every charge is stored once", stored == told.charges, f"{stored:,} of {told.charges:,}")
    matched = site.number("SELECT count(*) FROM relay_poecharge WHERE match = 'matched'")
    share = matched / max(1, told.charges)
    findings.claim(
        f"at least {LEAST_MATCHED:.0%} of the charges are matched", share >= LEAST_MATCHED, f"{share:.2%}"
    )
    records = site.number("SELECT sum(points) FROM relay_usagerecord")
    charged = site.number("SELECT sum(points) FROM relay_poecharge WHERE match = 'matched'")
    findings.note(f"before, the records said {reckoned:,} points")
    findings.claim(
        "records, charges, histories and balances say the same points",
        records == charged == told.points == told.spent,
        f"{records:,} {charged:,} {told.points:,} {told.spent:,}",
    )
    meters = site.number("SELECT sum(month_points) FROM relay_meter WHERE id LIKE 'team:%'")
    findings.claim("so do the teams' meters", meters == records, f"{meters:,}")


async def prove_on(
    kind: str, database_url: str, directory: Path, layout: str, sizes: Sizes, findings: Findings
) -> None:
    env = servers.relay_environment(directory / "data", database_url)
    keys = keys_of(LAYOUTS[layout])
    with demo_server(keys) as url:
        site = Site(kind, database_url, env, directory, rig.Upstream(), "")
        try:
            await prove(site, keys, url, sizes, findings)
        finally:
            await asyncio.to_thread(site.stop_all)


def tell(kind: str, layout: str, sizes: Sizes, findings: Findings) -> None:
    with tempfile.TemporaryDirectory(prefix="poe-relay-reconciling-") as name:
        directory = Path(name)
        with rig.database(kind, directory) as url:
            asyncio.run(prove_on(kind, url, directory, layout, sizes, findings))


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.reconciling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.requests} requests")
    parser.add_argument("--sqlite", action="store_true", help="only on SQLite")
    parser.add_argument("--postgres", action="store_true", help="only on PostgreSQL")
    said = parser.parse_args(given)
    wanted = [kind for kind, only in ((rig.SQLITE, said.sqlite), (rig.POSTGRES, said.postgres)) if only]
    findings = Findings()
    for kind in wanted or [rig.SQLITE, rig.POSTGRES]:
        for layout in LAYOUTS:
            began = time.monotonic()
            print(f"== {kind}, {layout}, load average {os.getloadavg()[0]:.2f}", flush=True)
            tell(kind, layout, QUICK if said.quick else Sizes(), findings)
            findings.note(f"took {time.monotonic() - began:.0f} s")
    for miss in findings.missed:
        print(f"MISSED {miss}", file=sys.stderr)
    return 1 if findings.missed else 0


def fill_from_standard_input() -> None:
    """In a process of its own: Django's settings belong to one data directory."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    import django
    from django.core.management import call_command

    django.setup()
    given = json.load(sys.stdin)
    call_command("migrate", interactive=False, verbosity=0)
    print(json.dumps(store(given["url"], given["keys"])))


if __name__ == "__main__":
    if sys.argv[1:] == ["fill"]:
        fill_from_standard_input()
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        sys.exit(main())
