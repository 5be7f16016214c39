"""What serving processes do beside their requests: one of them at a time, without an end, and gone when they stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_string
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio
from django.db import DatabaseError

from proxy_site.config import Config
from proxy_site.draining import draining
from relay import background, leases
from relay.background import Background
from relay.models import (
    AccountHealth,
    BalanceReading,
    Lease,
    ModelDay,
    PoeCharge,
    PoeKey,
    PoolEvent,
    Upload,
    UsageHour,
)
from relay.pool import keeping
from relay.pool.health import Standing
from tests import cast as people
from tests.conftest import ROOT, DemoPoe, Served, database_url, in_database, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


class AccountPages:
    """Poe's account pages as far as they are asked for, in a thread; it counts."""

    def __init__(self) -> None:
        self.points = 1000
        self.seconds = 0.0
        self.balances = self.at_once = self.most_at_once = 0
        self.posted: list[Any] = []
        self._lock = threading.Lock()
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                said = pages.balance() if "balance" in self.path else {"data": [], "has_more": False}
                body = json.dumps(said).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                pages.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def balance(self) -> dict[str, int]:
        with self._lock:
            self.balances += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.seconds)
        with self._lock:
            self.at_once -= 1
        return {"current_point_balance": self.points}


@pytest.fixture
def pages() -> Iterator[AccountPages]:
    found = AccountPages()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


# As a process.


@contextmanager
def quick_server() -> Iterator[subprocess.Popen[str]]:
    """`serve` with a lease of four seconds, ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.quick_background", "serve", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "POE_RELAY_DATABASE__URL": database_url()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert any("listens on" in line for line in process.stdout)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def holder() -> int:
    """The process that has the lease; 0 if none has."""
    found = Lease.objects.first()
    return int(found.holder.split(":")[1]) if found and found.until / 1e6 > time.time() - 1 else 0


def test_balances_arrive_in_a_served_installation(serve: Callable[..., Served], demo: DemoPoe) -> None:
    served = serve(POE_RELAY_SERVER__WORKERS="2")

    reading = wait_for(lambda: BalanceReading.objects.first(), 15)
    assert isinstance(reading, BalanceReading) and reading.points > 0
    health = AccountHealth.objects.get()
    assert health.balance == reading.points and health.balance_error == ""
    assert health.grant_at is not None and health.due_at is not None
    assert 260 < (health.due_at - datetime.now(UTC)).total_seconds() < 331
    assert holder() != served.process.pid  # one of the two workers that it supervises
    served.process.terminate()
    assert served.process.wait(10) == 0
    assert Lease.objects.count() == 0


class MailServer(socketserver.StreamRequestHandler):
    """Takes any e-mail."""

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.received.append(b"".join(lines).decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
            if word == b"QUIT":
                return


@pytest.fixture
def mail_server() -> Iterator[socketserver.ThreadingTCPServer]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer)
    server.received = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_served_installation_tells_of_few_points(
    serve: Callable[..., Served], pages: AccountPages, mail_server: socketserver.ThreadingTCPServer
) -> None:
    people.poe_key(account_name="house", api_url=pages.url, low_balance=5000)
    served = serve(
        POE_RELAY_ALERTS__WEBHOOK_URL=f"{pages.url}/hook?token=word",
        POE_RELAY_ALERTS__EMAILS="root@example.org",
        POE_RELAY_MAIL__HOST="127.0.0.1",
        POE_RELAY_MAIL__PORT=str(mail_server.server_address[1]),
        POE_RELAY_MAIL__SECURITY="none",
        POE_RELAY_MAIL__SENDER="relay@example.org",
        POE_RELAY_SERVER__LANGUAGE="en",
    )

    assert wait_for(lambda: PoolEvent.objects.filter(told_at__isnull=False).count(), 15) == 1
    said = "The Poe account “house” has few points: 1,000 points left, fewer than 5,000."
    assert [each["text"] for each in pages.posted] == [said]
    (received,) = mail_server.received  # type: ignore[attr-defined]
    email = message_from_string(received, policy=default)
    assert (email["From"], email["To"]) == ("relay@example.org", "root@example.org")
    assert email["Subject"].strip() == f"poe-relay: {said}"
    served.process.terminate()
    assert served.process.wait(10) == 0
    assert served.process.stdout is not None and "word" not in served.process.stdout.read()


def test_one_of_two_reads_and_the_other_takes_over_when_it_is_killed(pages: AccountPages) -> None:
    people.poe_key(api_url=pages.url)
    with quick_server() as one, quick_server() as other:
        assert wait_for(lambda: pages.balances, 10) == 1
        first = holder()
        assert first in (one.pid, other.pid)
        # Longer than the lease: it is renewed, and what is not due is not read.
        time.sleep(4.5)
        assert (holder(), pages.balances) == (first, 1)

        os.kill(first, signal.SIGKILL)
        began = time.monotonic()
        (one if first == one.pid else other).wait()
        held_until = Lease.objects.get(holder__contains=f":{first}:").until / 1e6
        AccountHealth.objects.update(due_at=None)
        assert wait_for(lambda: pages.balances == 2, 10)
        # When the lease of four seconds has run out, and not before.
        assert time.time() >= held_until and time.monotonic() - began < 8
        assert holder() == ({one.pid, other.pid} - {first}).pop()


# In this process.


class Charges:
    """Instead of relay.charges."""

    def __init__(self) -> None:
        self.polled: list[int] = []

    async def poll(self, account_id: int, accounts: object) -> None:
        self.polled.append(account_id)


@pytest.fixture
def charges(monkeypatch: pytest.MonkeyPatch) -> Charges:
    found = Charges()
    module = ModuleType("relay.charges")
    module.poll = found.poll  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "relay.charges", module)
    return found


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(background, "LOOK_SECONDS", 0.1)


@pytest_asyncio.fixture
async def running(config: Config, charges: Charges) -> AsyncIterator[Background]:
    found = Background(config)
    yield found
    await found.stop()


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Waits for what the database or a thread says."""
    deadline = time.monotonic() + seconds
    while not await in_database(condition):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)


async def make_accounts(pages: AccountPages, number: int) -> list[PoeKey]:
    return [
        await in_database(people.poe_key, name=f"key {n}", api_url=pages.url, low_balance=None)
        for n in range(number)
    ]


@pytest.mark.asyncio
async def test_the_charges_of_an_account_follow_its_balance(
    running: Background, pages: AccountPages, charges: Charges
) -> None:
    (key,) = await make_accounts(pages, 1)
    unreachable = await in_database(people.poe_key, name="other", api_url="http://127.0.0.1:1")
    running.start()

    await until(lambda: charges.polled)
    await until(lambda: AccountHealth.objects.exclude(balance_error="").count())
    assert charges.polled == [key.account_id]
    assert (await in_database(AccountHealth.objects.get, pk=unreachable.account_id)).balance is None


@pytest.mark.asyncio
async def test_two_accounts_are_read_at_once_and_no_more(running: Background, pages: AccountPages) -> None:
    await make_accounts(pages, 6)
    pages.seconds = 0.1
    running.start()

    await until(lambda: AccountHealth.objects.filter(balance=1000).count() == 6)
    assert (pages.balances, pages.most_at_once) == (6, 2)


@pytest.mark.asyncio
async def test_an_account_that_runs_out_is_read_at_once(running: Background, pages: AccountPages) -> None:
    (key,) = await make_accounts(pages, 1)
    running.start()
    await until(lambda: AccountHealth.objects.filter(balance=1000).count())

    pages.points = 0
    empty = Standing("resting", "no points", datetime.now(UTC), datetime.now(UTC), 1)
    await in_database(keeping.change, "account", key.account_id, lambda was, now: empty, empty.since)
    await until(lambda: AccountHealth.objects.filter(balance=0, state="resting").count(), seconds=2)
    pages.points = 500
    await in_database(AccountHealth.objects.update, due_at=None)
    await until(lambda: AccountHealth.objects.filter(balance=500, state="ok").count(), seconds=2)


@pytest.mark.asyncio
async def test_of_two_one_works_until_it_stops(config: Config, charges: Charges) -> None:
    one, other = Background(config), Background(config)
    one.start()
    await until(lambda: Lease.objects.count())
    other.start()
    await asyncio.sleep(0.3)
    assert (one.holds_lease, other.holds_lease) == (True, False)

    await one.stop()
    await until(lambda: other.holds_lease, seconds=2)
    await other.stop()
    assert await in_database(Lease.objects.count) == 0


@pytest.mark.asyncio
async def test_a_drain_gives_the_lease_back_before_the_process_ends(
    running: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.start()
    await until(lambda: Lease.objects.count())

    monkeypatch.setattr(draining, "is_on", True)
    await until(lambda: not Lease.objects.count(), seconds=2)


@pytest.mark.asyncio
async def test_whoever_has_lost_the_lease_stops_its_work(
    running: Background, pages: AccountPages, monkeypatch: pytest.MonkeyPatch, charges: Charges
) -> None:
    """A process that was frozen for a minute, say."""
    monkeypatch.setattr(background, "RENEW_SECONDS", 0.1)
    await make_accounts(pages, 1)
    pages.seconds = 1.5
    running.start()
    await until(lambda: pages.balances)
    await in_database(Lease.objects.update, holder="another")

    await until(lambda: not running.holds_lease, seconds=2)
    await asyncio.sleep(1.6)
    assert charges.polled == [] and await in_database(AccountHealth.objects.count) == 0


@pytest.mark.asyncio
async def test_no_error_ends_it(
    running: Background,
    pages: AccountPages,
    charges: Charges,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    take, failures = leases.take, [DatabaseError("secret words"), OSError(), ValueError()]

    def failing(*args: Any) -> float:
        if failures:
            raise failures.pop()
        return take(*args)

    async def poll(account_id: int, accounts: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(leases, "take", failing)
    monkeypatch.setattr(sys.modules["relay.charges"], "poll", poll)
    await make_accounts(pages, 1)
    running.start()

    await until(lambda: AccountHealth.objects.filter(balance=1000).count())
    await until(lambda: "RuntimeError" in caplog.text)
    pages.points = 7
    await in_database(AccountHealth.objects.update, due_at=None)
    await until(lambda: AccountHealth.objects.filter(balance=7).count())
    assert caplog.text.count("goes on") == 3 and "secret words" not in caplog.text


@pytest.mark.asyncio
async def test_it_does_nothing_between_its_looks(
    running: Background, pages: AccountPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    due = running._balances.due

    async def counted() -> list[int]:
        nonlocal looks
        looks += 1
        return await due()

    monkeypatch.setattr(running._balances, "due", counted)
    await make_accounts(pages, 2)
    running.start()
    await until(lambda: AccountHealth.objects.filter(balance=1000).count() == 2)

    before = looks
    await asyncio.sleep(0.5)
    assert 2 <= looks - before <= 11


@pytest.mark.asyncio
async def test_news_is_told(running: Background, pages: AccountPages) -> None:
    key = await in_database(people.poe_key, api_url=pages.url, low_balance=5000)
    running.start()

    await until(lambda: PoolEvent.objects.filter(account=key.account, told_at__isnull=False).count())


@pytest.mark.asyncio
async def test_what_is_old_is_removed_and_nothing_else(
    running: Background, pages: AccountPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST_CLEAR_SECONDS", 0.0)
    monkeypatch.setattr(background, "ROWS_AT_ONCE", 3)
    key = await in_database(people.poe_key, enabled=False)
    account, now = key.account, datetime.now(UTC)

    def fill() -> None:
        for n in range(1, 8):
            for days in (29, 31, 59, 61):
                at = now - timedelta(days=days, seconds=n)
                PoolEvent.objects.create(at=at, account=account, became="ok", reason=str(days))
                BalanceReading.objects.create(at=at, account=account, points=days)
                PoeCharge.objects.create(
                    query_id=f"{n} {days}", account=account, at=at, bot="b", points=days, read_at=now
                )
            for seconds in (-60, 3600):
                expires_at = now + timedelta(seconds=seconds)
                Upload.objects.create(
                    account=account, digest=f"{n} {seconds}", url="u", expires_at=expires_at
                )

    await in_database(fill)
    running.start()

    await until(lambda: Upload.objects.count() == 7)
    assert await in_database(
        lambda: (
            set(PoolEvent.objects.values_list("reason", flat=True)),
            set(BalanceReading.objects.values_list("points", flat=True)),
            set(PoeCharge.objects.values_list("points", flat=True)),
            (PoolEvent.objects.count(), BalanceReading.objects.count(), PoeCharge.objects.count()),
        )
    ) == ({"29"}, {29}, {29, 31, 59}, (7, 7, 21))


@pytest.mark.asyncio
async def test_days_that_are_over_are_added_up_and_again_when_they_change(
    running: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "ADD_SECONDS", 0.05)
    monkeypatch.setattr(background, "ADD_PAUSE_SECONDS", 0.0)
    cast = await in_database(people.make)

    def use() -> None:
        for days in (2, 3, 5):
            hour = people.used(cast.bob, "gpt-4o", points=days)
            UsageHour.objects.filter(pk=hour.pk).update(hour=hour.hour - timedelta(days=days))

    await in_database(use)
    running.start()

    await until(lambda: set(ModelDay.objects.values_list("points", flat=True)) == {2, 3, 5})
    await in_database(UsageHour.objects.filter(points=5).update, points=7)
    await until(lambda: set(ModelDay.objects.values_list("points", flat=True)) == {2, 3, 7})
