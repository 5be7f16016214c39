"""`make test`: the whole suite twice, on SQLite and on a PostgreSQL of its own. Arguments go to pytest."""

from __future__ import annotations

import os
import subprocess
import sys

from tests import postgres


def run(title: str, environment: dict[str, str]) -> int:
    print(f"== {title}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def main() -> int:
    first = run("SQLite", {})
    with postgres.server() as address:
        second = run("PostgreSQL 18", {"POE_RELAY_DATABASE__URL": address})
    return first or second


if __name__ == "__main__":
    sys.exit(main())
