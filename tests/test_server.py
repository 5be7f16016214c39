"""The hardened Daphne as a process: limits, back-pressure, broken streams, and stopping."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from django.core.management import call_command

from relay.management.commands.serve import prepare_for_daphne
from relay.models import UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.conftest import DemoPoe, Served, wait_for


def connect(served: Served) -> socket.socket:
    parts = urlsplit(served.url)
    assert parts.hostname is not None and parts.port is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def ask(token: str, model: str, text: str = "hi", **body: object) -> bytes:
    content = json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **body}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def memory_mb(served: Served) -> float:
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def test_pages_and_health_are_served(serve: Callable[..., Served], cast: Cast, settings: Any) -> None:
    hashed = "whitenoise.storage.CompressedManifestStaticFilesStorage"
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": hashed}}
    call_command("collectstatic", interactive=False, verbosity=0)
    served = serve()

    assert memory_mb(served) < 150
    assert httpx2.get(f"{served.url}/healthz").text == "ok"
    home = httpx2.get(f"{served.url}/")
    assert home.status_code == 200 and home.headers["x-frame-options"] == "DENY"
    assert httpx2.get(f"{served.url}/admin/", follow_redirects=False).status_code == 302
    style = re.search(r"/static/portal/portal\.[0-9a-f]{12}\.css", home.text)
    assert (
        style is not None and "immutable" in httpx2.get(served.url + style.group()).headers["cache-control"]
    )
    assert httpx2.get(f"{served.url}/nothing").status_code == 404


def test_a_body_over_the_limit_is_refused_while_it_arrives(serve: Callable[..., Served], cast: Cast) -> None:
    served = serve(POE_RELAY_SERVER__MAX_BODY_MB="1")
    before = memory_mb(served)
    for head in (b"Content-Length: 900000000", b"Transfer-Encoding: chunked"):
        with connect(served) as client:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
            chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n" if b"chunked" in head else b"a" * 65536
            try:
                for _ in range(100):
                    client.sendall(chunk)
            except OSError:
                pass  # refused before all of it was sent
            answer = b""
            try:
                while part := client.recv(65536):
                    answer += part
            except ConnectionResetError:
                pass
        assert answer.startswith(b"HTTP/1.1 413 ") and b'"code":"request_too_large"' in answer
        assert b"x-request-id: req_" in answer and b"access-control-allow-origin: *" in answer
    assert memory_mb(served) - before < 8
    assert httpx2.get(f"{served.url}/healthz").text == "ok"


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n", b"400", b"unsupported_upgrade"),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n", b"400", b"duplicate_header"),
        (
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n",
            b"400",
            b"duplicate_header",
        ),
        (b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n", b"401", b""),
    ],
)
def test_odd_requests_are_refused_in_the_apis_words(
    served_once: Served, lines: bytes, status: bytes, code: bytes
) -> None:
    with connect(served_once) as client:
        client.sendall(lines + b"Connection: close\r\n\r\n")
        answer = b""
        while part := client.recv(65536):
            answer += part

    assert answer.startswith(b"HTTP/1.1 " + status) and code in answer
    assert not lines.startswith(b"HEAD") or answer.endswith(b"\r\n\r\n")


@pytest.fixture
def served_once(serve: Callable[..., Served], cast: Cast) -> Served:
    return serve()


@pytest.fixture
def event_loops_as_before() -> Iterator[None]:
    """What prepares a process for Daphne sets uvloop for all of it: not for the tests that come after."""
    before = asyncio.get_event_loop_policy()
    yield
    asyncio.set_event_loop_policy(before)


@pytest.mark.usefixtures("event_loops_as_before")
def test_a_reader_that_stays_stuck_is_cut(cast: Cast, demo: DemoPoe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline itself, without half a minute of waiting: the server class with a request that cannot write."""
    prepare_for_daphne()
    from proxy_site import server

    class Stuck:
        can_write = asyncio.Event()
        aborted = False

        class channel:  # noqa: N801
            class transport:  # noqa: N801
                @staticmethod
                def abortConnection() -> None:  # noqa: N802
                    Stuck.aborted = True

        def handle_reply(self, message: object) -> None: ...

    monkeypatch.setattr(server, "STUCK_SECONDS", 0.05)
    protocol = Stuck()
    shell = server.RelayServer.__new__(server.RelayServer)
    shell.connections = {protocol: {}}

    with pytest.raises(ConnectionAbortedError):
        asyncio.run(shell.handle_reply(protocol, {"type": "http.response.body"}))

    assert Stuck.aborted


def test_a_reader_that_reads_nothing_costs_no_memory(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    demo.script("flood", *[("text", {"text": "x" * 20_000})] * 3_000, ("done", {}))
    people.mapping("flood", "flood")
    served = serve()
    before = memory_mb(served)

    with connect(served) as client:
        client.sendall(ask(cast.bob.plain, "flood", stream=True))
        time.sleep(1.5)
        assert memory_mb(served) - before < 30
    assert wait_for(lambda: UsageRecord.objects.filter(outcome="disconnected").exists())


def test_a_stopped_server_lets_streams_finish(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    demo.script("slow", *[("text", {"text": f"{n} "}) for n in range(10)], ("done", {}), delay=0.1)
    people.mapping("slow", "slow")
    served = serve()
    said: list[str] = []

    def read() -> None:
        for chunk in served.openai(cast.bob.plain).chat.completions.create(
            model="slow", messages=[{"role": "user", "content": "x"}], stream=True
        ):
            said.append(chunk.choices[0].delta.content or "")

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(lambda: "1 " in said)
    served.process.send_signal(signal.SIGTERM)
    reader.join(10)

    assert "".join(said) == "0 1 2 3 4 5 6 7 8 9 "
    assert served.process.wait(5) == 0
    assert [record.outcome for record in UsageRecord.objects.all()] == ["done"]


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_a_server_stopped_at_once_settles_what_it_cuts(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe, signals: list[signal.Signals]
) -> None:
    served = serve()
    with connect(served) as client:
        client.sendall(ask(cast.bob.plain, "demo-faulty", "endless", stream=True))
        assert b"200 OK" in client.recv(65536)
        for each in signals:
            served.process.send_signal(each)
            time.sleep(0.1)
        assert served.process.wait(5) == 0

    assert [record.outcome for record in UsageRecord.objects.all()] == ["disconnected"]


def test_a_broken_stream_breaks_one_connection(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = serve()
    for _ in range(3):
        with connect(served) as client:
            client.sendall(ask(cast.bob.plain, "demo-faulty", "reset-after-text", stream=True))
            answer = b""
            while b"[DONE]" not in answer and (part := client.recv(65536)):
                answer += part
            assert b'"code":"upstream_broken"' in answer
    response = httpx2.post(
        f"{served.url}/v1/chat/completions",
        json={"model": "demo-echo", "messages": [{"role": "user", "content": "still there?"}]},
        headers={"Authorization": f"Bearer {cast.bob.plain}", "Daphne-Root-Path": "/evil"},
    )
    assert response.json()["choices"][0]["message"]["content"] == "still there?"
