"""`manage.py demopoe`: its one line, its end, and its one sentence when the port is busy."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "manage.py", "demopoe", "--port"]


def test_it_says_where_it_listens_and_ends_quietly(tmp_path: Path) -> None:
    environment = {**os.environ, "POE_RELAY_DATA_DIR": str(tmp_path)}
    with subprocess.Popen(
        [*COMMAND, "0"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line, _, url = process.stdout.readline().strip().rpartition(" ")
        key = (tmp_path / "demo_key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        balance = httpx.get(f"{url}/usage/current_balance", headers=headers, trust_env=False)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=5)

    assert line == "The demo Poe server listens on"
    assert balance.status_code == 200
    assert (process.returncode, printed) == (0, ("", ""))
    assert not list(tmp_path.glob("*.sqlite3"))


def test_a_busy_port_is_one_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "POE_RELAY_DATA_DIR": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        ended = subprocess.run(
            [*COMMAND, str(port)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30
        )

    told = f"CommandError: The demo Poe server cannot listen on 127.0.0.1:{port}: address already in use."
    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (1, "", told)


def test_a_catalogue_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.json"
    file.write_text("[]")
    ended = subprocess.run(
        [*COMMAND, "0", "--catalogue", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )

    assert ended.returncode == 2
    assert 'is no catalogue: a file of {"data": [...]} is wanted' in ended.stderr
