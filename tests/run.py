"""`make test`: the whole suite on SQLite, then on a PostgreSQL of its own all that asks a database. Arguments go to pytest."""

from __future__ import annotations

import os
import subprocess
import sys

from tests import postgres

# What runs without a database, beside one of its own, or whatever its database is, needs no second time.
ONCE = (
    "upstreams",
    "wire",
    "shaping",
    "demo",
    "deploy",
    "pool/test_simulator.py",
    "test_access_log.py",
    "test_server.py",
    "test_smuggling.py",
    "test_workers.py",
    "test_connection.py",
    "test_replies.py",
    "test_transcript.py",
    "test_specifications.py",
)


def run(title: str, environment: dict[str, str], *options: str) -> int:
    print(f"== {title}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", *options, *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def main() -> int:
    first = run("SQLite", {})
    with postgres.server() as address:
        without = [f"--ignore=tests/{each}" for each in ONCE]
        second = run("PostgreSQL 18", {"POE_RELAY_DATABASE__URL": address}, *without)
    return first or second


if __name__ == "__main__":
    sys.exit(main())
