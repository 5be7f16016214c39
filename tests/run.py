"""`make test`: the whole suite on SQLite, then on a PostgreSQL of its own all that asks a database. Arguments go to pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import psycopg

from tests import postgres

# What runs without a database, beside one of its own, or whatever its database is, needs no second time. Nor does what a browser
# shows and does: that all pages answer, and what their forms write, is asked without one on both.
ONCE = (
    "browser",
    "upstreams",
    "wire",
    "shaping",
    "bench/test_bench.py",
    "bench/test_pairs.py",
    "bench/test_peers.py",
    "bench/test_proof.py",
    "bench/test_scale.py",
    "demo",
    "deploy",
    "pool/test_simulator.py",
    "test_access_log.py",
    "test_run.py",
    "test_server.py",
    "test_smuggling.py",
    "test_workers.py",
    "test_connection.py",
    "test_replies.py",
    "test_transcript.py",
    "test_specifications.py",
)

# As many as there are cores: some tests say how long something may take. Whoever is idle takes what another has not begun.
PROCESSES = ("-n", "auto", "--dist", "worksteal")


def run(title: str, environment: dict[str, str], *options: str) -> int:
    print(f"== {title}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", *PROCESSES, *options, *sys.argv[1:]]
    # A hundred servers are started: without bytecode on disk, each compiles the whole relay first.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment}
    return subprocess.run(command, env=environment, check=False).returncode


def need_not_sync(address: str) -> None:
    """Tests kill PostgreSQL's clients, never the machine: what is written need not have reached the disk."""
    with psycopg.connect(address, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")


def bring_chromium() -> None:
    """Debian's, if there is none and whoever runs this may install it. Without it, tests in a browser are skipped and say so."""
    if shutil.which("chromium") or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    print("== Chromium, for the tests in a browser", flush=True)
    patience = [
        "-o",
        "Acquire::Retries=0",
        "-o",
        "Acquire::http::Timeout=20",
        "-o",
        "Acquire::https::Timeout=20",
    ]
    for wanted in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        command = ["apt-get", "-qq", *patience, *wanted]
        subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False)


def main() -> int:
    bring_chromium()
    first = run("SQLite", {})
    with postgres.server() as address:
        need_not_sync(address)
        without = [f"--ignore=tests/{each}" for each in ONCE]
        second = run("PostgreSQL 18", {"POE_RELAY_DATABASE__URL": address}, *without)
    return first or second


if __name__ == "__main__":
    sys.exit(main())
