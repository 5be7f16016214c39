"""What only a server can do to the ledger: locks that others hold, deadlocks, connections that are cut anywhere."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connections
from msgspec.structs import replace

from relay.directory import read_version
from relay.errors import Unavailable
from relay.ledger import Admission, Admitted, Ledger, Settlement, opening, pipe, postgres, sweep, writer
from relay.limits import Limits
from relay.models import Meter, UsageRecord
from tests.conftest import in_database
from tests.ledger import making
from tests.ledger.conftest import Ledgers
from tests.ledger.making import reservation, settlement

IS_POSTGRES = "postgresql" in str(django_settings.DATABASES["default"]["ENGINE"])
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not IS_POSTGRES, reason="PostgreSQL's own locks and connections"),
]


async def admission(*reservations: Any, **fields: Any) -> Admission:
    return making.admission(*reservations, version=await in_database(read_version), **fields)


async def ask(ledger: Ledger, one: Admission) -> Admitted | BaseException:
    (answer,) = await asyncio.gather(ledger.admit(one), return_exceptions=True)
    return answer


def another() -> Any:
    """A connection of the tests' own."""
    import psycopg

    names = connections["default"].settings_dict
    return psycopg.connect(
        dbname=names["NAME"], user=names["USER"], host=names["OPTIONS"]["host"], autocommit=True
    )


def sql(statement: str, *values: object) -> list[Any]:
    with another() as connection:
        found: list[Any] = connection.execute(statement, values).fetchall()
    return found


# The ledgers' backends, and none of the tests' own: Django empties the tables through one.
MINE = f"datname = current_database() AND application_name = '{postgres.APPLICATION_NAME}'"


def waiting_for_a_lock() -> bool:
    return bool(sql(f"SELECT 1 FROM pg_stat_activity WHERE {MINE} AND wait_event_type = 'Lock'"))  # noqa: S608


async def blocked() -> None:
    for _ in range(100):
        if await asyncio.to_thread(waiting_for_a_lock):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


def terminate() -> int:
    """Every backend of a ledger."""
    return len(sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {MINE}"))  # noqa: S608


@contextmanager
def held(*meter_ids: str) -> Iterator[Any]:
    """Somebody who looks at these meters and does not end the transaction."""
    connection = another()
    connection.execute("BEGIN")
    for id_ in meter_ids:
        connection.execute("SELECT id FROM relay_meter WHERE id = %s FOR UPDATE", (id_,))
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's deadlines, a tenth as long."""
    shorter = postgres.SESSION.replace("timeout=1000", "timeout=100").replace("timeout=2000", "timeout=200")
    assert shorter != postgres.SESSION
    monkeypatch.setattr(postgres, "SESSION", f"{shorter} -c deadlock_timeout=30")
    monkeypatch.setattr(writer, "RETRY_FIRST", 0.01)


@pytest.fixture
def primed(short: None, ledgers: Ledgers) -> Callable[[], Any]:
    """A ledger whose meters exist, and an admission for it."""

    async def prime() -> tuple[Ledger, Admission]:
        ledger = ledgers.open()
        one = await admission(reservation(points=3), of_team=Limits(points_per_day=1000))
        await ledger.admit(one)
        ledger.settle(settlement(one, points=0))
        assert await asyncio.to_thread(ledger.flush, 5)
        return ledger, replace(one, id=uuid.uuid4())

    return prime


async def clean(ledger: Ledger) -> None:
    """Nothing is open, nothing is held, and it serves."""
    assert await asyncio.to_thread(ledger.flush, 5)

    def look() -> None:
        assert not UsageRecord.objects.filter(outcome="open").exists()
        assert {meter.in_flight for meter in Meter.objects.all()} <= {0}

    await in_database(look)
    assert ledger.spool_bytes == 0
    assert isinstance(await ask(ledger, await admission()), Admitted)


# Round trips.


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of statements in each round trip to the server."""
    made: list[int] = []
    plain = pipe.Pipe._synchronize

    def counted(self: pipe.Pipe, count: int) -> Any:
        made.append(count)
        return plain(self, count)

    monkeypatch.setattr(pipe.Pipe, "_synchronize", counted)
    # No heartbeat while they are counted, and no settlement that goes by itself.
    monkeypatch.setattr(sweep, "HEARTBEAT_SECONDS", 300.0)
    monkeypatch.setattr(writer, "PATIENT_SECONDS", 300.0)
    return made


async def written(ledger: Ledger) -> None:
    assert await asyncio.to_thread(ledger.flush, 5)


async def test_a_batch_takes_two_round_trips(primed: Any, trips: list[int]) -> None:
    ledger, one = await primed()
    trips.clear()

    await ledger.admit(one)
    assert len(trips) == 2
    ledger.settle(settlement(one))
    await written(ledger)
    assert len(trips) == 4


async def test_an_admission_that_needs_what_a_waiting_settlement_gives_back_takes_three(
    primed: Any, trips: list[int]
) -> None:
    ledger, one = await primed()
    scarce = {"of_user": Limits(requests_in_flight=1)}
    first, second = [replace(await admission(**scarce), id=uuid.uuid4()) for _ in range(2)]
    await ledger.admit(first)
    ledger.settle(settlement(first), may_wait=True)
    trips.clear()

    assert isinstance(await ask(ledger, second), Admitted)

    assert len(trips) == 3


async def test_nobody_is_locked_out_while_a_settlement_is_made(primed: Any, trips: list[int]) -> None:
    """It may have a long text to count."""
    ledger, _one = await primed()
    scarce = {"of_user": Limits(requests_in_flight=1)}
    first, second = [replace(await admission(**scarce), id=uuid.uuid4()) for _ in range(2)]
    await ledger.admit(first)
    locked: list[bool] = []

    def made() -> Settlement:
        locked.append(ledger._store._pipe.is_in_transaction)
        return settlement(first)

    ledger.settle(made, may_wait=True)

    assert isinstance(await ask(ledger, second), Admitted)
    assert locked == [False]


async def test_a_settlement_of_a_key_that_was_never_used_takes_three(primed: Any, trips: list[int]) -> None:
    """It names another key than its record has: that one's meter is known after the record is read."""
    ledger, one = await primed()
    await ledger.admit(one)
    trips.clear()

    ledger.settle(replace(settlement(one), key_id=2))
    await written(ledger)

    assert len(trips) == 3
    assert not await in_database(lambda: UsageRecord.objects.filter(outcome="open").exists())


# Locks.


async def test_a_lock_that_ends_in_time_is_waited_for(primed: Any) -> None:
    ledger, one = await primed()
    with held("team:1"):
        task = asyncio.create_task(ask(ledger, one))
        await asyncio.to_thread(time.sleep, 0.15)  # longer than lock_timeout: it was tried again
        assert not task.done()
    assert isinstance(await task, Admitted)


async def test_a_lock_that_does_not_end_is_a_503_and_no_hang(primed: Any) -> None:
    ledger, one = await primed()
    with held("team:1"):
        began = time.monotonic()
        refused = await ask(ledger, one)
        assert isinstance(refused, Unavailable) and refused.retry_after == 2
        assert time.monotonic() - began < 1
    await clean(ledger)


async def test_a_settlement_behind_a_lock_waits_on_disk(primed: Any) -> None:
    ledger, one = await primed()
    await ledger.admit(one)
    with held("user:1"):
        ledger.settle(settlement(one))
        for _ in range(100):
            if ledger.spool_bytes:
                break
            await asyncio.sleep(0.01)
        assert ledger.spool_bytes
    await clean(ledger)


async def test_the_deadlines_of_the_session_are_short(transactional_db: None, ledgers: Ledgers) -> None:
    """Four tries of a lock take no longer than a client is told to wait, and then some."""
    assert "lock_timeout=1000" in postgres.SESSION and "statement_timeout=2000" in postgres.SESSION
    assert "idle_in_transaction_session_timeout=2000" in postgres.SESSION


async def test_a_host_that_froze_in_a_transaction_stops_nobody_for_long(
    primed: Any, ledgers: Ledgers
) -> None:
    """The server ends a transaction in which nothing happens."""
    ledger, one = await primed()
    frozen = opening.open_store("elsewhere:1:frozen")
    page = frozen.begin(["account:1", "key:1", "team:1", "token:1", "user:1"], [])

    assert isinstance(await ask(ledger, one), Admitted)

    with pytest.raises(Exception, match=r"terminat|closed|idle"):
        frozen.commit(page)
    assert frozen.begin(["team:1"], []).meters  # it comes back
    frozen.rollback()
    frozen.close()


async def test_a_deadlock_is_tried_again(primed: Any) -> None:
    ledger, one = await primed()
    with held("user:1") as connection:
        task = asyncio.create_task(ask(ledger, one))
        await blocked()  # it holds the team's, and waits for the user's
        connection.execute("SET deadlock_timeout = '10s'")
        await asyncio.to_thread(
            connection.execute, "SELECT id FROM relay_meter WHERE id = 'team:1' FOR UPDATE"
        )
    assert isinstance(await task, Admitted)


async def test_a_statement_that_is_cancelled_is_tried_again(primed: Any) -> None:
    ledger, one = await primed()
    with held("team:1"):
        task = asyncio.create_task(ask(ledger, one))
        await blocked()
        cancel = f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {MINE}"  # noqa: S608
        await asyncio.to_thread(sql, cancel)
    assert isinstance(await task, Admitted)


async def test_two_processes_in_opposite_orders_do_not_stop_each_other(ledgers: Ledgers) -> None:
    here, there = ledgers.open(), ledgers.open()
    base = await admission()
    people = [
        replace(base, id=uuid.uuid4(), token_id=n % 5, user_id=-n % 5, team_id=n % 3) for n in range(1, 61)
    ]
    tasks = [ask((here, there)[i % 2], each) for i, each in enumerate(people)]
    tasks += [
        ask((there, here)[i % 2], replace(each, id=uuid.uuid4())) for i, each in enumerate(people[::-1])
    ]
    assert {type(answer) for answer in await asyncio.gather(*tasks)} == {Admitted}


# Connections.


async def test_an_idle_connection_that_was_ended_is_a_503_at_most_once(primed: Any) -> None:
    ledger, one = await primed()
    await asyncio.to_thread(terminate)
    first, second = await ask(ledger, one), await ask(ledger, replace(one, id=uuid.uuid4()))
    assert isinstance(first, Admitted | Unavailable) and isinstance(second, Admitted)


async def test_a_backend_that_is_ended_while_it_waits(primed: Any) -> None:
    ledger, one = await primed()
    with held("team:1"):
        task = asyncio.create_task(ask(ledger, one))
        await blocked()
        await asyncio.to_thread(terminate)
        began = time.monotonic()
        assert isinstance(await task, Unavailable)
        assert time.monotonic() - began < 1
    await clean(ledger)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_backend_that_is_ended_around_a_commit(
    when: str, primed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, one = await primed()
    ended = await admission(reservation(points=3))
    await ledger.admit(ended)
    store, commit, left = ledger._store, ledger._store.commit, [1]

    def ending(page: Any) -> None:
        import psycopg

        if when == "after":
            commit(page)
        if left and (page.inserted or page.updated):
            left.pop()
            terminate()
            if when == "after":
                raise psycopg.OperationalError("the connection was lost")
        if when == "before":
            commit(page)

    monkeypatch.setattr(store, "commit", ending)
    task = asyncio.create_task(ask(ledger, one))
    ledger.settle(settlement(ended, points=2))

    assert isinstance(await task, Unavailable | Admitted)

    ledger.settle(settlement(one, points=0))
    await clean(ledger)
    assert await in_database(lambda: UsageRecord.objects.get(pk=ended.id).points) == 2


# A connection that is cut after so many bytes.


@dataclass
class Cutter:
    """Stands between the ledger and the server: cuts a connection after so many bytes of the server's, or keeps them."""

    directory: Path
    behind: str
    after: int | None = None

    def __post_init__(self) -> None:
        self.count, self.is_silent = 0, False
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.directory / ".s.PGSQL.5432"))
        self._listening.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.behind)
            self._open += [client, server]
            for source, to, counts in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, to, counts), daemon=True).start()

    def _pump(self, source: socket.socket, to: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(4096):
                if counts and self.after is not None:
                    data, self.after = data[: self.after], self.after - len(data)
                if not (counts and self.is_silent):
                    to.sendall(data)
                if self.after is not None and self.after <= 0:
                    self.after, self.count = None, self.count + 1
                    break
        except OSError:
            pass
        for each in (source, to):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        for each in (self._listening, *self._open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()


@pytest.fixture
def cutter(transactional_db: None, tmp_path: Path) -> Iterator[Cutter]:
    host = Path(connections["default"].settings_dict["OPTIONS"]["host"])
    made = Cutter(tmp_path, str(next(host.glob(".s.PGSQL.*[0-9]"))))
    yield made
    made.close()


@pytest.fixture
def behind_the_cutter(
    cutter: Cutter, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Ledger]:
    def make() -> Ledger:
        monkeypatch.setattr(writer, "RETRY_FIRST", 0.005)
        monkeypatch.setattr(writer, "RETRY_MOST", 0.01)
        with monkeypatch.context() as patched:
            patched.setitem(connections["default"].settings_dict["OPTIONS"], "host", str(cutter.directory))
            return ledgers.open()

    return make


@pytest.mark.parametrize("seed", range(3))
async def test_a_connection_that_is_cut_anywhere_loses_nothing(
    seed: int, cutter: Cutter, behind_the_cutter: Callable[[], Ledger]
) -> None:
    base = await admission(reservation(points=3), of_team=Limits(points_per_day=10_000))
    ledger = behind_the_cutter()
    chance, told = random.Random(seed), dict[uuid.UUID, str]()

    async def one() -> None:
        each = replace(base, id=uuid.uuid4())
        try:
            await ledger.admit(each)
        except Unavailable:
            told[each.id] = "unavailable"
            return
        told[each.id] = "done"
        ledger.settle(settlement(each, points=2))

    for _ in range(10):
        await one()  # it is connected
        cutter.after = chance.randint(1, 1200)
        await asyncio.gather(*[one() for _ in range(4)])
        await one()
        cutter.after = None
    await clean(ledger)

    outcomes = await in_database(lambda: dict(UsageRecord.objects.values_list("pk", "outcome")))
    for id_, answer in told.items():
        assert outcomes.get(id_, "none") in (("done",) if answer == "done" else ("none", "failed"))
    done = list(told.values()).count("done")
    # The last one was to see whether it serves.
    assert (await in_database(Meter.objects.get, pk="team:1")).day_points == 2 * done + 1
    assert cutter.count >= 5 and done >= 10


@pytest.mark.parametrize("when", ["begin", "commit"])
async def test_a_server_that_says_nothing_any_more_is_given_up(
    when: str, cutter: Cutter, behind_the_cutter: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears, it works, and its answers are lost."""
    from relay.ledger import pipe

    monkeypatch.setattr(pipe, "ANSWER_SECONDS", 0.2)
    ledger, one = behind_the_cutter(), await admission()
    whole = getattr(ledger._store, when)

    def silent(*args: Any) -> Any:
        cutter.is_silent = True
        try:
            return whole(*args)
        finally:
            cutter.is_silent = False

    monkeypatch.setattr(ledger._store, when, silent)
    began = time.monotonic()
    assert isinstance(await ask(ledger, one), Unavailable)
    assert time.monotonic() - began < 1

    monkeypatch.setattr(ledger._store, when, whole)
    await clean(ledger)
