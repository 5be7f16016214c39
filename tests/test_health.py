"""/healthz and /readyz: what they say, what they cost, and that they tell nothing of the database's troubles."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from django.conf import settings as django_settings
from django.db import DatabaseError

from proxy_site import health
from proxy_site.draining import draining
from proxy_site.health import Page, Readiness
from relay import directory
from relay.errors import Unavailable
from relay.pipeline import Relay
from tests.cast import Cast
from tests.conftest import DemoPoe, Served, wait_for

PASSWORD = "of-the-database"


async def asked(page: Page, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    said: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    status = await page({"method": method}, send)

    start, body = said
    assert start["status"] == status and len(said) == 2
    return status, dict(start["headers"]), body["body"]


class Counting:
    """A relay whose database is asked, and answers as the test wants it."""

    spool_bytes = 512

    def __init__(self, *, fails: Exception | None = None, seconds: float = 0.0) -> None:
        self.times = 0
        self.fails, self.seconds = fails, seconds
        self.directory = SimpleNamespace(version=3, read_at=None, refresh=self.refresh)

    async def refresh(self) -> None:
        self.times += 1
        await asyncio.sleep(self.seconds)
        if self.fails is not None:
            raise self.fails
        self.directory.read_at = time.time()


def readiness(relay: Any) -> Readiness:
    return Readiness(relay)


@pytest.mark.asyncio
async def test_a_server_with_a_database_is_ready() -> None:
    status, headers, body = await asked(readiness(Counting()).page)

    assert status == 200
    assert headers[b"content-type"] == b"application/json" and headers[b"cache-control"] == b"no-store"
    assert json.loads(body) == {
        "status": "ready",
        "checks": {
            "database": {"ok": True},
            "directory": {"ok": True, "version": 3, "age_seconds": 0.0},
            "spool": {"bytes": 512},
        },
    }


@pytest.mark.asyncio
async def test_head_is_get_without_the_body() -> None:
    page = readiness(Counting()).page
    status, headers, body = await asked(page)

    assert await asked(page, "HEAD") == (status, headers, b"")
    assert int(headers[b"content-length"]) == len(body)
    status, headers, _body = await asked(page, "POST")
    assert status == 405 and headers[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize("failure", [Unavailable(PASSWORD), TimeoutError(PASSWORD), RuntimeError(PASSWORD)])
@pytest.mark.asyncio
async def test_without_its_database_it_is_not_ready_and_does_not_say_why(failure: Exception) -> None:
    relay = Counting()
    page = readiness(relay).page
    assert (await asked(page))[0] == 200
    relay.fails = failure
    relay.directory.read_at = time.time() - 90
    page = readiness(relay).page

    status, _headers, body = await asked(page)

    said = json.loads(body)
    assert status == 503 and said["status"] == "not ready"
    assert said["checks"]["database"] == {"ok": False}
    assert said["checks"]["directory"] == {"ok": True, "version": 3, "age_seconds": pytest.approx(90, abs=1)}
    assert PASSWORD.encode() not in body


@pytest.mark.asyncio
async def test_a_database_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "DATABASE_SECONDS", 0.05)
    began = time.monotonic()

    status, _headers, body = await asked(readiness(Counting(seconds=30)).page)

    assert status == 503 and json.loads(body)["checks"]["directory"]["ok"] is False
    assert time.monotonic() - began < 1


@pytest.mark.asyncio
async def test_a_flood_costs_one_check_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Counting(seconds=0.02)
    page = readiness(relay).page

    for _ in range(3):
        answers = await asyncio.gather(*(asked(page) for _ in range(200)))
        assert {status for status, _headers, _body in answers} == {200}
    assert relay.times == 1

    monkeypatch.setattr(health, "KEPT_SECONDS", 0.0)
    relay.fails = Unavailable("away")
    assert (await asked(page))[0] == 503
    assert relay.times == 2


@pytest.mark.asyncio
async def test_whoever_asked_first_may_leave() -> None:
    relay = Counting(seconds=0.05)
    page = readiness(relay).page
    first = asyncio.create_task(asked(page))
    second = asyncio.create_task(asked(page))
    await asyncio.sleep(0.01)
    first.cancel()

    assert (await second)[0] == 200
    assert relay.times == 1


@pytest.mark.asyncio
async def test_a_server_that_drains_is_not_ready_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "is_on", True)
    relay = Counting()

    status, _headers, body = await asked(readiness(relay).page)

    assert (status, json.loads(body), relay.times) == (503, {"status": "draining"}, 0)


# The real directory.


@pytest_asyncio.fixture
async def relay(cast: Cast) -> AsyncIterator[Relay]:
    made = Relay(django_settings.CONFIG)
    yield made
    await made.stop()


@pytest.mark.asyncio
async def test_a_database_that_comes_back_makes_it_ready(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEPT_SECONDS", 0.0)
    read = directory.read_changes

    def away(known: int) -> None:
        raise DatabaseError(PASSWORD)

    monkeypatch.setattr(directory, "read_changes", away)
    page = readiness(relay).page
    status, _headers, body = await asked(page)
    assert status == 503 and PASSWORD.encode() not in body
    assert json.loads(body)["checks"]["directory"] == {"ok": False, "version": -1, "age_seconds": None}

    monkeypatch.setattr(directory, "read_changes", read)
    status, _headers, body = await asked(page)
    assert status == 200
    assert json.loads(body)["checks"]["directory"]["version"] == relay.directory.version >= 0


def test_a_server_says_that_it_is_ready_until_it_is_told_to_stop(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = serve(POE_RELAY_SERVER__DRAIN_NOTICE_SECONDS="1.5")
    with httpx2.Client(base_url=served.url) as client:
        assert client.get("/healthz").text == "ok"
        ready = client.get("/readyz")
        assert ready.status_code == 200 and ready.json()["checks"]["database"] == {"ok": True}
        # None of Django's middleware had it.
        assert "vary" not in ready.headers and "x-frame-options" not in ready.headers
        head = client.head("/readyz")
        assert head.status_code == 200 and head.content == b""

    served.process.send_signal(signal.SIGTERM)

    assert wait_for(lambda: httpx2.get(f"{served.url}/readyz").status_code == 503)
    assert httpx2.get(f"{served.url}/readyz").json() == {"status": "draining"}
    assert httpx2.get(f"{served.url}/healthz").text == "ok"
    assert served.process.wait(10) == 0
