"""`python -m bench.reading`: how long the panel and the reports take to read millions of usage records.

It fills a database of its own with records, rollups and meters, asks for every page and every report, prints a table, and
ends with 1 if one takes longer than it may. Each database is measured in a process of its own, since Django's settings
belong to one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import machine, servers

if TYPE_CHECKING:
    from accounts.models import User
    from relay.reports import Scope

MOST_MS = 300.0
MOST_PRUNE_MS = 50.0
ROUNDS = 5
DAYS = 90
# Who asks: each conversation is of one token, one model, one key, and of so many requests.
CONVERSATION = 5
TEAMS, USERS, TOKENS, MODELS, KEYS = 20, 200, 300, 12, 4
LIST = "/admin/relay/usagerecord/"


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    median_ms: float
    slowest_ms: float
    most_ms: float = MOST_MS

    @property
    def is_missed(self) -> bool:
        return self.median_ms > self.most_ms


# Filling. Numbers are made from the number of a conversation by a rule, so that both databases hold the same.


def _pick(salt: int, number: int, of: str = "i / 5") -> str:
    """One of `number`, evenly, as if by chance; whole numbers only, which both databases divide alike."""
    return f"((({of}) * {104729 + salt * 7919} + {salt * 15485863}) % 1299709 % {number})"


def _skewed(salt: int, number: int) -> str:
    """Few have much: the smaller of two picks."""
    return f"(CASE WHEN {_pick(salt, number)} < {_pick(salt + 1, number)} THEN {_pick(salt, number)} ELSE {_pick(salt + 1, number)} END)"


@dataclass(frozen=True, slots=True)
class Dialect:
    numbers: str
    uuid: str
    # The moment of record i; then the ends of its day and month, from `started_at`.
    started_at: str
    day_ends: str
    month_ends: str
    hour: str
    # As relay.visit makes them, of record i.
    request_id: str
    true: str = "true"


SQLITE = Dialect(
    "WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {rows})",
    "lower(hex(randomblob(16)))",
    "strftime('%Y-%m-%d %H:%M:%f', {start} + {offset}, 'unixepoch')",
    "CAST(strftime('%s', started_at, 'start of day', '+1 day') AS bigint)",
    "CAST(strftime('%s', started_at, 'start of month', '+1 month') AS bigint)",
    "substr(started_at, 1, 13) || ':00:00'",
    "printf('req_%011llx%013llx', CAST(({start} + {offset}) * 1000 AS bigint), i)",
    "1",
)
POSTGRES = Dialect(
    "WITH numbers(i) AS (SELECT generate_series(0::bigint, {rows} - 1))",
    "gen_random_uuid()",
    "to_timestamp({start} + {offset})",
    "CAST(extract(epoch FROM date_trunc('day', started_at, 'UTC') + interval '1 day') AS bigint)",
    "CAST(extract(epoch FROM (date_trunc('month', started_at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC') AS bigint)",
    "date_trunc('hour', started_at, 'UTC')",
    "'req_' || lpad(to_hex(CAST(({start} + {offset}) * 1000 AS bigint)), 11, '0') || lpad(to_hex(i), 13, '0')",
)

COLUMNS = (
    "id, request_id, started_at, token_id, user_id, team_id, key_id, token_prefix, user_name, team_name, key_name, "
    "model, bot, wire, streamed, outcome, error_code, finish_reason, prompt_tokens, completion_tokens, "
    "tokens_estimated, images, points, day_ends, month_ends, own_day_ends, own_month_ends, first_byte_ms, total_ms, process"
)


def _records(dialect: Dialect, rows: int, start: float, seconds: float) -> str:
    """Ids of owners begin at 1. A token's user and a user's team are always the same."""
    offset = f"((i / {CONVERSATION}) * {CONVERSATION} * {seconds / rows!r} + (i % {CONVERSATION}) * 20.0)"
    token = f"{_skewed(1, TOKENS)} + 1"
    chance = _pick(7, 1000, "i")
    return f"""
        INSERT INTO relay_usagerecord ({COLUMNS})
        {dialect.numbers.format(rows=rows)},
        drawn AS (
            SELECT i, {token} AS token_id, {_skewed(3, MODELS)} AS model, {_pick(5, KEYS)} + 1 AS key_id,
                {chance} AS chance, {_pick(9, 4000, "i")} AS size, {_pick(10, 97, "i")} AS slow,
                {dialect.started_at.format(start=repr(start), offset=offset)} AS started_at,
                {dialect.request_id.format(start=repr(start), offset=offset)} AS request_id
            FROM numbers
        )
        SELECT {dialect.uuid}, request_id, started_at, token_id, token_id % {USERS} + 1, token_id % {TEAMS} + 1, key_id,
            'sk-poe-' || (100000 + token_id), 'user' || (token_id % {USERS} + 1), 'Team ' || (token_id % {TEAMS} + 1),
            'key ' || key_id, 'model-' || model, 'Bot-' || model, 'openai-chat', {dialect.true},
            CASE WHEN chance < 1 THEN 'lost' WHEN chance < 20 THEN 'failed' WHEN chance < 60 THEN 'disconnected'
                ELSE 'done' END,
            CASE WHEN chance < 20 THEN 'upstream_error' ELSE '' END, 'stop', size, size / 3, {dialect.true}, 0,
            size / 100 + 1, {dialect.day_ends}, {dialect.month_ends}, {dialect.day_ends}, {dialect.month_ends},
            CASE WHEN chance < 20 THEN NULL ELSE slow * slow * 4 END, slow * slow * 4 + size, 'bench'
        FROM drawn
    """  # noqa: S608


def _rollups(dialect: Dialect) -> str:
    from relay.ledger.rollups import KEY_COLUMNS, SUM_COLUMNS
    from relay.ledger.verify import CONTRIBUTIONS

    keys = ", ".join(KEY_COLUMNS[1:])
    return (
        f"INSERT INTO relay_usagehour ({', '.join((*KEY_COLUMNS, *SUM_COLUMNS))}) "  # noqa: S608
        f"SELECT {dialect.hour}, {keys}, {', '.join(CONTRIBUTIONS)} FROM relay_usagerecord "
        "WHERE outcome <> 'open' GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1"
    )


def _meters() -> Iterator[str]:
    """In the period of each one's last record."""
    for kind in ("token", "user", "team"):
        yield (
            "INSERT INTO relay_meter (id, at, requests_level, tokens_level, in_flight, "  # noqa: S608
            "day_ends, day_points, month_ends, month_points) "
            f"SELECT '{kind}:' || r.{kind}_id, 0, 0, 0, 0, last.day_ends, "
            "sum(CASE WHEN r.day_ends = last.day_ends THEN r.points ELSE 0 END), last.month_ends, "
            "sum(CASE WHEN r.month_ends = last.month_ends THEN r.points ELSE 0 END) "
            f"FROM relay_usagerecord r JOIN (SELECT {kind}_id, max(day_ends) AS day_ends, "
            f"max(month_ends) AS month_ends FROM relay_usagerecord GROUP BY {kind}_id) AS last "
            f"ON last.{kind}_id = r.{kind}_id GROUP BY r.{kind}_id, last.day_ends, last.month_ends"
        )


def fill(rows: int, days: int = DAYS) -> None:
    """Records that end now, and what belongs to them, in a migrated database without records."""
    from django.db import connection

    from relay.ledger import days as adding

    _people()
    dialect = SQLITE if connection.vendor == "sqlite" else POSTGRES
    now = time.time()
    with connection.cursor() as cursor:
        dropped = _drop_indexes(cursor)
        cursor.execute(_records(dialect, rows, now - days * 86400, days * 86400 - 100))
        for statement in dropped:
            cursor.execute(statement)
        for statement in (_rollups(dialect), *_meters()):
            cursor.execute(statement)
        cursor.execute(_refusals(dialect))
        # Noted of each hour; but nothing was added up before.
        cursor.execute("DELETE FROM relay_latehour")
    while adding.add_up():
        pass


def _people() -> None:
    """Rows of their own tables, with the ids that the records name."""
    from accounts.models import AccessToken, Team, User
    from relay.models import BotMapping, PoeAccount, PoeKey

    Team.objects.bulk_create(Team(pk=n, name=f"Team {n}") for n in range(1, TEAMS + 1))
    users = [User(pk=n, username=f"user{n}", team_id=(n - 1) % TEAMS + 1) for n in range(1, USERS + 1)]
    User.objects.bulk_create(users)
    AccessToken.objects.bulk_create(
        AccessToken(
            pk=n, owner_id=n % USERS + 1, name=f"token {n}", prefix=f"sk-poe-{100000 + n}", digest=str(n)
        )
        for n in range(1, TOKENS + 1)
    )
    account = PoeAccount.objects.create(name="bench")
    PoeKey.objects.bulk_create(
        PoeKey(pk=n, account=account, name=f"key {n}", secret="", last_four="") for n in range(1, KEYS + 1)
    )
    for n in range(MODELS):
        BotMapping.objects.create(model=f"model-{n}", bot=f"Bot-{n}")


def _drop_indexes(cursor: Any) -> list[str]:
    """A table is filled much faster without; what makes them again."""
    from django.db import connection

    if connection.vendor == "sqlite":
        found = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'relay_usagerecord'"
    else:
        found = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'relay_usagerecord'"
    cursor.execute(found)
    # The primary key stays.
    indexes = [each for each in cursor.fetchall() if each[0].startswith("relay_usage_")]
    for name, _made_by in indexes:
        cursor.execute(f"DROP INDEX {name}")
    return [made_by for _name, made_by in indexes]


def _refusals(dialect: Dialect) -> str:
    return (
        'INSERT INTO relay_refusalhour (hour, team_id, user_id, token_id, "limit", refusals) '  # noqa: S608
        f"SELECT {dialect.hour}, team_id, user_id, token_id, 'requests_per_minute', count(*) "
        "FROM relay_usagerecord WHERE outcome = 'disconnected' GROUP BY 1, 2, 3, 4"
    )


# Measuring.


def measure(figure: str, ask: Callable[[], object], most_ms: float = MOST_MS) -> Figure:
    ask()
    took = []
    for _round in range(ROUNDS):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return Figure(figure, statistics.median(took), max(took), most_ms)


def figures(rows: int) -> Iterator[Figure]:
    yield from _pages()
    yield from _lists()
    yield from _reports()
    yield from _commands(rows)


def pages() -> list[tuple[str, str]]:
    """Every way to look at the list; what is asked, by name."""
    from relay.models import UsageRecord
    from relay.panel.paging import Place

    in_order = UsageRecord.objects.order_by("-started_at", "-id")
    middle, last = (Place.of(in_order[UsageRecord.objects.count() * part // 100]) for part in (50, 99))
    week = f"started_at_from_0={datetime.now(UTC) - timedelta(days=40):%Y-%m-%d}"
    return [
        ("first page", ""),
        ("half way down", f"older={middle}"),
        ("near the end", f"older={last}"),
        ("newer than half way", f"newer={middle}"),
        *((f"outcome {each}", f"outcome={each}") for each in ("done", "open", "failed", "lost")),
        ("team", "team=3"),
        ("a team that is nowhere", "team=999"),
        ("user", "user=user7"),
        ("a user name that is gone", "user=nobody"),
        ("token", "token=sk-poe-100007"),
        ("model", "model=model-3"),
        ("a model that is nowhere", "model=none"),
        ("key", "key=2"),
        ("not streamed (none is)", "streamed=0"),
        ("from a day", f"{week}"),
        ("team, failed, a model, from a day", f"team=3&outcome=failed&model=model-3&{week}"),
        ("a team's lost", "team=3&outcome=lost"),
        ("search: user", "q=user7"),
        ("search: team", "q=Team+3"),
        ("search: token", "q=sk-poe-100007"),
        ("search: request", f"q={UsageRecord.objects.get(pk=middle.id).request_id}"),
        ("search: what is no request", "q=req_77"),
        ("search: record", f"q={middle.id}"),
        ("search: part of a model", "q=del-11"),
        ("search: nowhere", "q=nowhere"),
        ("search: nowhere, of a team, half way down", f"q=nowhere&team=3&older={middle}"),
    ]


def _pages() -> Iterator[Figure]:
    from django.test import Client

    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(administrator())

    def page(query: str) -> None:
        response = client.get(f"{LIST}?{query}")
        assert response.status_code == 200, (query, response.status_code)

    yield measure("the panel's first page", lambda: client.get("/admin/"))
    for name, query in pages():
        yield measure(f"list: {name}", partial(page, query))


def administrator() -> User:
    from accounts.models import User

    rights = {"team_id": 1, "is_staff": True, "is_superuser": True}
    return User.objects.get_or_create(pk=USERS + 1, username="root", defaults=rights)[0]


def _lists() -> Iterator[Figure]:
    """What a person's and a team's own pages ask."""
    from relay.models import UsageRecord

    month = datetime.now(UTC) - timedelta(days=30)
    token = UsageRecord.objects.filter(token_id=7)
    team = UsageRecord.objects.filter(team_id=3, started_at__gte=month)
    yield measure("this token's last 50", lambda: list(token[:50]))
    yield measure("this team's month, 50 of it", lambda: list(team[:50]))
    yield measure("this team's month, its end", lambda: list(team.order_by("started_at")[:50]))


def reports_of(scope: Scope) -> dict[str, Callable[[], object]]:
    from relay import reports

    return {
        "totals": lambda: reports.totals(scope),
        "by day": lambda: reports.by_day(scope, "Asia/Shanghai"),
        "by model": lambda: reports.by_model(scope),
        "by user": lambda: reports.by_user(scope),
        "by token": lambda: reports.by_token(scope),
        "by team": lambda: reports.by_team(scope),
        "by hour": lambda: reports.slots(scope, "hour", "Asia/Shanghai"),
        "refused": lambda: reports.refused(scope),
    }


def _reports() -> Iterator[Figure]:
    from relay.reports import Scope

    until = datetime.now(UTC) + timedelta(hours=1)
    for days in (30, 90):
        since = until - timedelta(days=days)
        for whose, scope in (("", Scope(since, until)), (" of a team", Scope(since, until, team_id=3))):
            for name, ask in reports_of(scope).items():
                yield measure(f"{days} days{whose}: {name}", ask)


def _commands(rows: int) -> Iterator[Figure]:
    """How long a check takes is only told; of the pruning the transactions count."""
    from relay.ledger.prune import prune
    from relay.ledger.verify import verify

    began = time.perf_counter()
    verified = verify()
    took = (time.perf_counter() - began) * 1000
    assert not verified.differences, verified.differences[:3]
    yield Figure("ledger verify", took, took, float("inf"))
    # Some of the oldest: so that each transaction works on the whole table.
    pruned = prune(datetime.now(UTC) - timedelta(days=DAYS) * (1 - min(1.0, 20_000 / rows)))
    took_ms = sorted(seconds * 1000 for seconds in pruned.took)
    # The disk or the machine may stall any one of them: one in a hundred, and at least one, does not count.
    ignored = max(1, len(took_ms) // 100)
    name = f"pruneusage: a transaction of {pruned.records:,} records, 99th percentile"
    yield Figure(name, took_ms[-1 - ignored], took_ms[-1], MOST_PRUNE_MS)


# Running.


def prepare(rows: int) -> None:
    """The database of Django's settings, filled."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    # Hashed names of static files need a collectstatic first.
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": plain}
    call_command("migrate", interactive=False, verbosity=0)
    from relay.models import UsageHour, UsageRecord

    began = time.perf_counter()
    if not UsageRecord.objects.exists():
        fill(rows)
        if connection.vendor == "postgresql":
            # As autovacuum does where records come one after the other.
            with connection.cursor() as cursor:
                cursor.execute("VACUUM ANALYZE")
    print(
        f"\n{connection.vendor}: {UsageRecord.objects.count():,} records and {UsageHour.objects.count():,} rollups "
        f"of {DAYS} days, filled in {time.perf_counter() - began:.0f} s\n",
        flush=True,
    )


def told(figures: Iterator[Figure]) -> int:
    """1 if one was missed."""
    print("| | median ms | slowest ms |\n|---|---:|---:|", flush=True)
    missed = 0
    for figure in figures:
        missed += figure.is_missed
        print(_line(figure), flush=True)
    return int(missed > 0)


def in_process(rows: int) -> int:
    prepare(rows)
    return told(figures(rows))


def _line(figure: Figure) -> str:
    said = f" MISSED: at most {figure.most_ms:.0f}" if figure.is_missed else ""
    return f"| {figure.name} | {figure.median_ms:.0f} | {figure.slowest_ms:.0f} |{said}"


def main(given: list[str] | None = None) -> int:
    return on_each_database("bench.reading", __doc__, in_process, given)


def on_each_database(
    module: str, description: str | None, in_process: Callable[[int], int], given: list[str] | None
) -> int:
    """Each in a process of its own, which the module is asked for anew."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--rows", type=int, default=2_000_000, metavar="N")
    parser.add_argument("--sqlite", action="store_true", help="only on SQLite")
    parser.add_argument("--postgres", action="store_true", help="only on PostgreSQL")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIRECTORY",
        help="fill the databases there, or take those that are there",
    )
    parser.add_argument("--fill", action="store_true", help="and measure nothing yet: filling disturbs")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.fill and arguments.keep is None:
        parser.error("--fill is for --keep")
    if arguments.in_process and arguments.fill:
        prepare(arguments.rows)
        return 0
    if arguments.in_process:
        return in_process(arguments.rows)
    everything = arguments.sqlite == arguments.postgres
    with ExitStack() as stack:
        directory = arguments.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="poe-relay-reading-"))
        )
        urls: dict[str, str | None] = {"sqlite": None} if arguments.sqlite or everything else {}
        if arguments.postgres or everything:
            from tests import postgres

            (directory / "postgresql").mkdir(parents=True, exist_ok=True)
            with servers.uninterrupted():
                urls["postgresql"] = stack.enter_context(postgres.server_in(directory / "postgresql"))
        load_before = os.getloadavg()[0]
        options = ["--rows", str(arguments.rows), *(["--fill", "--keep", "."] if arguments.fill else [])]
        status = max(_measured(module, directory / name, url, options) for name, url in urls.items())
        print(f"\n{machine.line(servers.Cores(), load_before, directory)}", flush=True)
        return status


def _measured(module: str, data: Path, url: str | None, options: list[str]) -> int:
    return subprocess.run(
        [sys.executable, "-m", module, "--in-process", *options],
        cwd=servers.ROOT,
        env=servers.relay_environment(data, url),
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
