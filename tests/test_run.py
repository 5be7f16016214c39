"""`manage.py run`, as a newcomer meets it: processes of their own on a data directory of their own."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.management.commands.serve import address_of
from tests.conftest import ROOT

Start = Callable[..., subprocess.Popen[str]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def manage(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("POE_RELAY_")}
        process = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={
                **clean,
                "POE_RELAY_CONFIG": os.devnull,
                "POE_RELAY_DATA_DIR": str(tmp_path / "var"),
                "PYTHONUNBUFFERED": "1",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield manage
    for process in running:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def said_until(process: subprocess.Popen[str], last: str) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if last in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    return rest


def test_from_nothing_to_an_answer_and_again(start: Start, tmp_path: Path) -> None:
    port, demo = free_port(), str(free_port())
    first = start("run", "--port", str(port), POE_RELAY_DEMO__PORT=demo)
    said = said_until(first, "with the access token into")

    # The printed line works when pasted.
    curl = re.search(r"^\s+(curl .*)$", said, re.MULTILINE)
    assert curl is not None
    answer = subprocess.run(curl.group(1), shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    assert '"content":"Hello there"' in answer.stdout
    # The other models say what is missing.
    missing = subprocess.run(  # noqa: S602
        curl.group(1).replace("demo-echo", "gpt-4o"), shell=True, capture_output=True, text=True, check=True
    )
    assert '"code":"no_poe_key"' in missing.stdout
    # The password opens the panel.
    password = re.search(r"Password\s+(\S+)", said)
    assert password is not None
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as browser:
        token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', browser.get("/admin/login/").text)
        assert token is not None
        form = {"username": "admin", "password": password.group(1), "csrfmiddlewaretoken": token.group(1)}
        assert browser.post("/admin/login/?next=/admin/", data=form).headers["location"] == "/admin/"
    # What is kept is its owner's alone.
    data = tmp_path / "var"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for name in ("secret_key", "encryption_key", "demo_key"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600
    rest = stop(first)
    assert "Traceback" not in said + rest
    assert not accepts(int(demo))

    before = snapshot(data)
    began = time.monotonic()
    second = start("run", "--port", str(port), POE_RELAY_DEMO__PORT=demo)
    again = said_until(second, "Apps connect")
    seconds = time.monotonic() - began
    again += stop(second)

    assert "sk-poe-" not in again and "Password" not in again
    assert snapshot(data) == before
    # A guard against a start that does everything over again; the bound itself is measured by `make bench`.
    assert seconds < 15


def test_it_runs_as_many_workers_as_configured(start: Start) -> None:
    port, demo = free_port(), free_port()
    process = start("run", "--port", str(port), POE_RELAY_DEMO__PORT=str(demo), POE_RELAY_SERVER__WORKERS="2")
    said = said_until(process, "with the access token into")
    curl = re.search(r"^\s+(curl .*)$", said, re.MULTILINE)
    assert curl is not None
    answer = subprocess.run(curl.group(1), shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    assert '"content":"Hello there"' in answer.stdout
    # The demo server and two workers.
    assert len(children) == 3
    stop(process)
    assert not accepts(port) and not accepts(demo)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def snapshot(data: Path) -> dict[str, Any]:
    import sqlite3

    with sqlite3.connect(data / "poe-relay.sqlite3") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: sorted(map(repr, database.execute(f'SELECT * FROM "{table}"')))  # noqa: S608
            for table in tables
            if not table.startswith("sqlite_")
        }


def test_a_key_added_meanwhile_is_used_without_a_restart(start: Start) -> None:
    """What the panel does, done by the command in another process."""
    port, demo = free_port(), free_port()
    server = start("run", "--port", str(port), POE_RELAY_DEMO__PORT=str(demo))
    said = said_until(server, "with the access token into")
    token = re.search(r"sk-poe-\w{40}", said)
    assert token is not None

    def ask() -> httpx2.Response:
        return httpx2.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json={"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]},
            headers={"Authorization": f"Bearer {token.group()}"},
            timeout=20,
        )

    assert ask().json()["error"]["code"] == "no_poe_key"
    add = subprocess.run(
        [sys.executable, "manage.py", "addpoekey", "mine", "--proxy", f"http://127.0.0.1:{free_port()}"],
        cwd=ROOT,
        env=environment_of(server),
        input="a-poe-key-that-nobody-has-0123456789\n",
        text=True,
        capture_output=True,
        check=True,
    )

    assert "0123456789" not in add.stdout + add.stderr
    # The key is asked with: here its outbound proxy is nowhere, so that nothing leaves this machine.
    assert ask().json()["error"]["code"] in ("upstream_unreachable", "upstream_timeout")
    stop(server)


def environment_of(process: subprocess.Popen[str]) -> dict[str, str]:
    pairs = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if b"=" in pair)


BROKEN = {
    "a busy port": ({}, "is in use"),
    "a bad key": ({"POE_RELAY_SERVER__PORT": "many"}, "server.port"),
    "an unknown key": ({"POE_RELAY_SERVER__PROT": "1"}, "did you mean POE_RELAY_SERVER__PORT"),
    "a data directory that cannot be made": ({"POE_RELAY_DATA_DIR": "/proc/nowhere"}, "POE_RELAY_DATA_DIR"),
    "a database that cannot be reached": (
        {"POE_RELAY_DATABASE__URL": "postgresql://nobody:secretword@127.0.0.1:1/x"},
        "the database cannot be used",
    ),
    "a config file that is not there": ({"POE_RELAY_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
}


@pytest.mark.parametrize("trouble", BROKEN)
@pytest.mark.parametrize("command", ["run", "serve"])
def test_trouble_is_one_sentence(start: Start, trouble: str, command: str) -> None:
    environment, expected = BROKEN[trouble]
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1]) if trouble == "a busy port" else str(free_port())
        process = start(command, "--port", port, **environment)
        said, _ = process.communicate(timeout=20)

    assert process.returncode not in (0, None) and process.returncode > 0
    assert expected in said and "Traceback" not in said and "secretword" not in said
    assert len(said.strip().splitlines()) == 1


def test_a_busy_demo_port_loses_no_secret(start: Start, tmp_path: Path) -> None:
    port = str(free_port())
    with socket.create_server(("127.0.0.1", 0)) as busy:
        demo = str(busy.getsockname()[1])
        refused = start("run", "--port", port, POE_RELAY_DEMO__PORT=demo)
        said, _ = refused.communicate(timeout=20)
    assert refused.returncode == 1 and f"port {demo} is in use" in said and "POE_RELAY_DEMO__PORT" in said
    assert len(said.strip().splitlines()) == 1

    again = start("run", "--port", port, POE_RELAY_DEMO__PORT=demo)
    assert "Password" in said_until(again, "with the access token into")
    stop(again)


def test_a_config_of_the_old_programs_says_how_to_take_it_over(start: Start, tmp_path: Path) -> None:
    old = tmp_path / "config.toml"
    old.write_text('port = 3700\ntokens = ["a-secret-token"]\n[bot]\n"gpt-4" = "GPT-4"\n')
    process = start("run", POE_RELAY_CONFIG=str(old))
    said, _ = process.communicate(timeout=20)

    assert process.returncode == 1 and "importconfig" in said and "a-secret-token" not in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::1", "http://[::1]:1")],  # noqa: S104
)
def test_the_printed_address_opens(host: str, address: str) -> None:
    assert address_of(host, 1) == address


def test_serve_without_a_prepared_database_says_what_to_run(start: Start) -> None:
    process = start("serve", "--port", str(free_port()))
    said, _ = process.communicate(timeout=20)

    assert process.returncode == 1 and "manage.py setup" in said and "Traceback" not in said


def test_setup_without_its_database_is_one_sentence(start: Start) -> None:
    process = start("setup", POE_RELAY_DATABASE__URL="postgresql://nobody:secretword@127.0.0.1:1/x")
    said, _ = process.communicate(timeout=20)

    assert process.returncode == 1 and "the database cannot be used" in said
    assert "Traceback" not in said and "secretword" not in said


def test_serve_without_a_place_for_its_spool_is_one_sentence(start: Start, tmp_path: Path) -> None:
    prepared = start("setup")
    prepared.wait(60)
    (tmp_path / "var" / "spool").write_text("a file in its place")

    process = start("serve", "--port", "0")
    said = process.communicate(timeout=60)[0]

    assert process.returncode == 1 and "Traceback" not in said
    assert f"{tmp_path / 'var' / 'spool'} cannot be written (file exists)" in said
