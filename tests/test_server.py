"""The hardened Daphne as a process: what it serves, and stopping. What it does for each connection is in test_connection.py."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from django.core.management import call_command

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


def collect_static_files(settings: Any) -> None:
    """As an installation has them: the pages of a server process name them by their hashes."""
    hashed = "whitenoise.storage.CompressedManifestStaticFilesStorage"
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": hashed}}
    call_command("collectstatic", interactive=False, verbosity=0)


def test_pages_and_health_are_served(serve: Callable[..., Served], cast: Cast, settings: Any) -> None:
    collect_static_files(settings)
    served = serve()

    assert memory_mb(served) < 150
    assert httpx2.get(f"{served.url}/healthz").text == "ok"
    home = httpx2.get(f"{served.url}/")
    assert home.status_code == 200 and home.headers["x-frame-options"] == "DENY"
    # Both at once would be how one request is smuggled behind another.
    assert "content-length" in home.headers and "transfer-encoding" not in home.headers
    assert len(home.headers.get_list("server")) == 1
    assert httpx2.get(f"{served.url}/admin/", follow_redirects=False).status_code == 302
    style = re.search(r"/static/portal/portal\.[0-9a-f]{12}\.css", home.text)
    assert (
        style is not None and "immutable" in httpx2.get(served.url + style.group()).headers["cache-control"]
    )
    assert httpx2.get(f"{served.url}/nothing").status_code == 404


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


def test_what_fails_under_twisted_is_logged() -> None:
    """Where no code of ours stands above it: in a timer, while bytes arrive."""
    script = """
import django
django.setup()
from proxy_site.server import hear_failures
from twisted.logger import Logger
hear_failures()
try:
    raise ValueError("seen by nobody")
except ValueError:
    Logger("test").failure("a timer failed")
Logger("test").info("a connection was made")
"""
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "proxy_site.settings"}
    ran = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)

    assert "a timer failed" in ran.stderr and "ValueError: seen by nobody" in ran.stderr
    assert "a connection was made" not in ran.stderr
