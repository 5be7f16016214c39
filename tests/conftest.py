from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import httpx2
import openai
import pytest
import pytest_asyncio
import uvicorn
from django.conf import settings as django_settings
from django.db import connections, transaction
from django.test import Client, TransactionTestCase
from django.utils import timezone, translation
from playwright.async_api import Browser, async_playwright

from proxy_site.config import Config
from proxy_site.lean import LeanHandler
from relay.pipeline import Relay
from tests import cast as people
from tests import tables
from tests.specifications import Witness

T = TypeVar("T")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Tests kill processes, never the machine: what the cast is written with need not have reached the disk."""
    options = django_settings.DATABASES["default"]["OPTIONS"]
    if "init_command" in options:
        options["init_command"] = options["init_command"].replace("synchronous=FULL", "synchronous=OFF")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _case: tables.empty())
        yield


@pytest.fixture(autouse=True)
def quick_passwords(settings: Any) -> None:
    """Real password hashing takes a tenth of a second for each person of the cast."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def plain_static_files(settings: Any) -> None:
    """Hashed names need a collectstatic first."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": plain}


@pytest.fixture(autouse=True)
def nothing_of_a_request_is_left_behind() -> Iterator[None]:
    """Its language and time zone stay active in its thread, which is the tests' own."""
    yield
    translation.deactivate()
    timezone.deactivate()


@pytest.fixture
def client() -> Client:
    """A browser on this machine: the pages do not answer to Django's made-up host `testserver`."""
    return Client(SERVER_NAME="127.0.0.1")


@pytest.fixture
def cast(transactional_db: None) -> people.Cast:
    with transaction.atomic():
        return people.make()


# The demo Poe server, in a thread.


@dataclass
class DemoPoe:
    url: str
    key: str

    def script(
        self,
        bot: str,
        *events: tuple[str, object],
        delay: float = 0.0,
        later: Sequence[Sequence[tuple[str, object]]] = (),
    ) -> None:
        """Make `bot` say exactly these server-sent events, and those of `later` when it is asked again."""
        body = {"bot": bot, "events": events, "delay": delay, "later": later}
        httpx2.post(
            f"{self.url}/demo/script", json=body, headers={"Authorization": f"Bearer {self.key}"}
        ).raise_for_status()


@pytest.fixture(scope="session")
def demo_server() -> Iterator[DemoPoe]:
    from relay.demo import app

    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    key = secrets.token_hex(16)
    server = uvicorn.Server(
        uvicorn.Config(app.make(key, public_url=url), log_level="error", lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield DemoPoe(url, key)
    server.should_exit = server.force_exit = True
    thread.join(5)
    listening.close()


@pytest.fixture
def demo(demo_server: DemoPoe, cast: people.Cast) -> DemoPoe:
    """The demo server as a Poe account, and a mapping for each of its bots."""
    from relay.demo.bots import BOTS

    key = people.poe_key(
        demo_server.key,
        name="demo",
        base_url=f"{demo_server.url}/bot/",
        upload_url=f"{demo_server.url}/poe_api/",
        api_url=demo_server.url,
    )
    assert key.account.team is None
    with transaction.atomic():
        for bot in BOTS:
            people.mapping(bot.lower(), bot)
    return demo_server


# The relay in this process, on the test's own event loop.


@dataclass
class Api:
    http: httpx2.AsyncClient
    relay: Relay

    def openai(self, token: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            api_key=token, base_url="http://relay.test/v1", http_client=self.http, max_retries=0
        )

    def anthropic(self, token: str) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            auth_token=token, base_url="http://relay.test", http_client=self.http, max_retries=0
        )

    async def chat(
        self, token: str, model: str, text: str = "Hello there", **body: object
    ) -> httpx2.Response:
        return await self.http.post(
            "/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": text}], **body},
            headers={"Authorization": f"Bearer {token}"},
        )


@pytest.fixture
def config() -> Config:
    """A test may ask for another one by a fixture of the same name."""
    found: Config = django_settings.CONFIG
    return found


@pytest.fixture
def witness() -> Iterator[Witness]:
    """Whatever the API answers is held against what OpenAI and Anthropic publish."""
    witness = Witness()
    yield witness
    assert not witness.problems


@pytest_asyncio.fixture
async def api(cast: people.Cast, config: Config, witness: Witness) -> AsyncIterator[Api]:
    relay = Relay(config)
    transport = httpx2.ASGITransport(
        app=LeanHandler(relay, "relay.api.urls"),  # type: ignore[arg-type]
        client=("192.0.2.7", 4711),
    )
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://relay.test", event_hooks={"response": [witness.hear]}
    ) as client:
        yield Api(client, relay)
    await relay.stop()


# The relay as a process of its own, under the hardened Daphne.


@dataclass
class Served:
    url: str
    process: subprocess.Popen[str]
    witness: Witness

    def openai(self, token: str) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=token,
            base_url=f"{self.url}/v1",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [self.witness.overhear]}),
        )


def database_url() -> str:
    """The test database, as another process reaches it."""
    names = connections["default"].settings_dict
    if connections["default"].vendor == "sqlite":
        return f"sqlite:///{names['NAME']}"
    return f"postgresql://postgres:@/{names['NAME']}?host={names['OPTIONS']['host']}"


@pytest.fixture
def serve(transactional_db: None, witness: Witness) -> Iterator[Callable[..., Served]]:
    """Starts servers on free ports; stops them by their process id."""
    running: list[subprocess.Popen[str]] = []

    def start(**environment: str) -> Served:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "serve", "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "POE_RELAY_DATABASE__URL": database_url(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"listens on (http\S+)", line):
                return Served(found.group(1), process, witness)
        raise AssertionError("the server did not start")

    yield start
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


# Several of them behind one socket.


def workers_of(served: Served) -> list[int]:
    """Those that serve: they have told so."""
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def connections_of(pid: int, port: int) -> int:
    """How many established connections of this port the process holds."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    here = [row for row in rows if row[3] == "01" and row[1].endswith(f":{port:04X}")]
    return sum(f"socket:[{row[9]}]" in sockets for row in here)


def port_of(served: Served) -> int:
    return int(served.url.rpartition(":")[2])


def knock(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


@pytest.fixture
def two_workers(serve: Callable[..., Served], cast: people.Cast) -> Served:
    """Both of them accept."""
    served = serve(POE_RELAY_SERVER__WORKERS="2")
    assert wait_for(lambda: len(workers_of(served)) == 2)

    def both_accept() -> bool:
        clients = [knock(port_of(served)) for _ in range(4)]
        for client in clients:
            client.recv(65536)
        has = [connections_of(pid, port_of(served)) for pid in workers_of(served)]
        for client in clients:
            client.close()
        return min(has) > 0

    assert wait_for(both_accept, 20)
    assert wait_for(lambda: not any(connections_of(pid, port_of(served)) for pid in workers_of(served)))
    return served


# A browser.


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, started once: for tests marked `asyncio(loop_scope="session")`."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("NOT TESTED: there is no Chromium here (apt-get install chromium)")
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        await started.close()


async def in_database(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run this with the ORM from an async test: in a thread, on a connection that is closed after."""

    def run() -> T:
        try:
            return function(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)


def wait_for(condition: Callable[[], object], seconds: float = 5) -> object:
    """Poll until the condition holds; the last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value
