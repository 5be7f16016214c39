"""Live traffic: who may watch, what is seen of all workers, and that what is stopped ends; over real servers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from django.conf import settings as django_settings
from django.test import Client

from proxy_site import hosts
from relay.models import Cancellation, UsageRecord
from tests import cast as people
from tests.accounts.test_second_factor import with_factor
from tests.cast import Cast
from tests.conftest import ROOT, Api, DemoPoe, Served, in_database, wait_for

SLOW = {"delay": 1, "repeat": 30}


def cookie_of(person: people.Person) -> str:
    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(person.user)
    return str(client.cookies[django_settings.SESSION_COOKIE_NAME].value)


def without_the_code(person: people.Person) -> str:
    with_factor(person.user)
    return cookie_of(person)


class Watching:
    """The page's end of a WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.rows: dict[str, dict[str, Any]] = {}

    async def until(self, condition: Callable[[list[dict[str, Any]]], object], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition(list(self.rows.values())):
                said = await self.socket.receive()
                assert said.type is aiohttp.WSMsgType.TEXT, said
                for row in json.loads(said.data)["rows"]:
                    self.rows[row["id"]] = row


@asynccontextmanager
async def watching(served: Served, cookie: str, **headers: str) -> AsyncIterator[Watching]:
    name = str(django_settings.SESSION_COOKIE_NAME)
    async with aiohttp.ClientSession(cookies={name: cookie}) as session:
        given = {"Origin": served.url, **headers}
        async with session.ws_connect(f"{served.url}/ws/live/", headers=given) as socket:
            yield Watching(socket)


async def ask_slowly(served: Served, token: str) -> str:
    """What came, or the code of the error that ended it."""
    async with openai.AsyncOpenAI(api_key=token, base_url=f"{served.url}/v1", max_retries=0) as client:
        try:
            stream = await client.chat.completions.create(
                model="demo-echo",
                messages=[{"role": "user", "content": "one two"}],
                stream=True,
                extra_body=SLOW,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        except openai.APIError as exc:
            return str(exc.code)


def is_open(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["outcome"] == "open"]


@pytest.mark.asyncio
async def test_all_workers_requests_are_seen_and_one_is_stopped(
    two_workers: Served, cast: Cast, demo: DemoPoe
) -> None:
    cookie = await in_database(cookie_of, cast.root)
    async with watching(two_workers, cookie) as page:
        asking: list[asyncio.Task[str]] = []
        processes: set[str] = set()
        # A worker that a busy machine does not let run leaves all of the first to the other.
        while len(processes) < 2 and len(asking) < 24:
            asking.extend(
                asyncio.create_task(ask_slowly(two_workers, who.plain))
                for who in (cast.bob, cast.charlie) * 3
            )
            await page.until(lambda rows: len(is_open(rows)) == len(asking))
            processes = await in_database(
                lambda: set(UsageRecord.objects.filter(outcome="open").values_list("process", flat=True))
            )
        wanted = next(row for row in is_open(list(page.rows.values())) if row["user_name"] == "charlie")

        await page.socket.send_json({"stop": wanted["id"]})
        await page.until(lambda rows: page.rows[wanted["id"]]["outcome"] == "failed")

        assert len(processes) == 2  # both workers had some
        assert page.rows[wanted["id"]]["error_code"] == "stopped_by_administrator"
        assert page.rows[wanted["id"]]["points"] >= 0
        assert {row["team_name"] for row in page.rows.values()} == {"Physics", "Chemistry"}
        done, left = await asyncio.wait(asking, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == ["stopped_by_administrator"]
        assert len(is_open(list(page.rows.values()))) == len(asking) - 1
        for task in left:
            task.cancel()
        await page.until(lambda rows: not is_open(rows))  # those who hung up


@pytest.mark.asyncio
async def test_only_administrators_may_watch(serve: Callable[..., Served], cast: Cast) -> None:
    served = serve()
    for who in (cast.bob, cast.alice, cast.charlie):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with watching(served, await in_database(cookie_of, who)):
                pass
        assert refused.value.status == 403
    for cookie, headers in (
        ("nobody", {}),
        (await in_database(cookie_of, cast.root), {"Origin": "https://evil.example"}),
        (await in_database(without_the_code, cast.root), {}),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with watching(served, cookie, **headers):
                pass
        assert refused.value.status == 403


@pytest.mark.asyncio
async def test_who_is_no_administrator_any_more_stops_nothing(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = serve()
    async with watching(served, await in_database(cookie_of, cast.root)) as page:
        asking = asyncio.create_task(ask_slowly(served, cast.bob.plain))
        await page.until(is_open)
        (row,) = is_open(list(page.rows.values()))

        def demote() -> None:
            cast.root.user.is_superuser = False
            cast.root.user.save(update_fields=["is_superuser"])

        await in_database(demote)
        await page.socket.send_json({"stop": row["id"]})

        async with asyncio.timeout(5):
            while (said := await page.socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert said.type is aiohttp.WSMsgType.CLOSE and page.socket.close_code == 4403
        assert not await in_database(Cancellation.objects.exists)
        asking.cancel()


@pytest.mark.asyncio
async def test_a_page_that_watches_does_not_hold_up_a_stop(serve: Callable[..., Served], cast: Cast) -> None:
    served = serve()
    async with watching(served, await in_database(cookie_of, cast.root)) as page:
        await page.socket.receive()

        served.process.send_signal(signal.SIGTERM)

        assert await asyncio.to_thread(served.process.wait, 8) == 0


def opening(served: Served, cookie: str, path: str = "/ws/live/") -> socket.socket:
    """A WebSocket that has been asked for, and not yet answered."""
    host, port = served.url.removeprefix("http://").split(":")
    name = django_settings.SESSION_COOKIE_NAME
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {served.url}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Cookie: {name}={cookie}\r\n\r\n".encode()
    )
    return connection


@pytest.mark.asyncio
async def test_a_page_that_is_just_connecting_does_not_keep_the_server_from_stopping(
    serve: Callable[..., Served], cast: Cast
) -> None:
    served = serve()
    cookie = await in_database(cookie_of, cast.root)

    def open_and_stop() -> int:
        with ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(opening(served, cookie))
            time.sleep(0.02)  # some are known to the server, and none of them has been looked up
            served.process.send_signal(signal.SIGTERM)
            return served.process.wait(8)

    assert await asyncio.to_thread(open_and_stop) == 0
    assert served.process.stdout is not None
    log = served.process.stdout.read()
    assert "Traceback" not in log and "rror" not in log, log


@pytest.mark.asyncio
async def test_what_no_application_sees_of_a_web_socket_is_one_line_of_the_log(
    serve: Callable[..., Served], cast: Cast
) -> None:
    served = serve()

    def asked() -> bytes:
        with opening(served, "nobody", "/ws/live/#fragment") as connection:
            return connection.recv(1000)

    assert (await asyncio.to_thread(asked)).startswith(b"HTTP/1.1 400 ")
    served.process.terminate()
    assert await asyncio.to_thread(served.process.wait, 8) == 0
    assert served.process.stdout is not None
    log = served.process.stdout.read()
    assert "Traceback" not in log and log.count("GET /ws/live/") == 1 and " 400 refused" in log, log


@pytest.mark.asyncio
async def test_a_page_that_connects_while_the_server_gives_notice_is_turned_away(
    serve: Callable[..., Served], cast: Cast
) -> None:
    served = serve(POE_RELAY_SERVER__DRAIN_NOTICE_SECONDS="1.5", POE_RELAY_SERVER__DRAIN_SECONDS="30")
    cookie = await in_database(cookie_of, cast.root)

    served.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with watching(served, cookie):
            pass

    assert refused.value.status == 503
    assert await asyncio.to_thread(served.process.wait, 8) == 0
    assert served.process.stdout is not None
    log = served.process.stdout.read()
    assert "Traceback" not in log and "GET /ws/live/ 503 refused" in log, log


@pytest.mark.asyncio
async def test_an_answer_that_is_not_streamed_is_stopped_too(api: Api, cast: Cast, demo: DemoPoe) -> None:
    asking = asyncio.create_task(api.chat(cast.bob.plain, "demo-echo", "one two", delay=1, repeat=30))

    def stop() -> bool:
        record = wait_for(lambda: UsageRecord.objects.filter(outcome="open").first())
        assert isinstance(record, UsageRecord)
        return Cancellation.objects.wish(record.id, by="root")

    assert await in_database(stop)
    refused = await asyncio.wait_for(asking, 5)

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "stopped_by_administrator")
    record = await in_database(lambda: wait_for(lambda: UsageRecord.objects.filter(outcome="failed").first()))
    assert isinstance(record, UsageRecord) and (record.error_code, record.points) == (
        "stopped_by_administrator",
        0,
    )


@pytest.mark.asyncio
async def test_what_has_ended_is_not_stopped(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await api.chat(cast.bob.plain, "demo-echo")

    def stop() -> bool:
        record = wait_for(lambda: UsageRecord.objects.filter(outcome="done").first())
        assert isinstance(record, UsageRecord)
        return Cancellation.objects.wish(record.id, by="root")

    assert not await in_database(stop)


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("http://127.0.0.1:3700", "127.0.0.1:3700", True),
        ("http://127.0.0.1:3700", "127.0.0.1:3701", False),
        ("https://relay.example.org", "10.0.0.1:3700", True),
        ("https://relay.example.org:8443", "relay.example.org:8443", True),
        ("https://evil.example", "evil.example", False),
        ("https://evil.example", "127.0.0.1:3700", False),
        ("null", "127.0.0.1:3700", False),
        ("", "", False),
        ("http://[", "[", False),
    ],
)
def test_a_web_socket_is_for_our_own_pages(
    origin: str, host: str, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_names", lambda: frozenset({"localhost", "relay.example.org"}))
    monkeypatch.setattr(hosts, "_public_name", lambda: "relay.example.org")

    assert hosts.is_own_origin(origin, host) is is_own


def test_the_page_is_for_administrators(client: Client, cast: Cast) -> None:
    for who in (cast.bob, cast.alice, cast.charlie):
        client.force_login(who.user)
        assert client.get("/admin/relay/live/").status_code in (302, 403)
    client.force_login(cast.root.user)
    page = client.get("/admin/relay/live/")
    assert page.status_code == 200 and b"live.js" in page.content


def test_the_address_of_the_page_is_the_one_that_it_asks() -> None:
    """Read, not imported: asgi.py would count and log in this process from then on."""
    served = re.search(r'"/ws/\S+?"', (ROOT / "proxy_site" / "asgi.py").read_text())

    assert served is not None
    assert served[0] in (ROOT / "relay" / "static" / "panel" / "live.js").read_text()
