"""`make fuzz`: spoiled bodies over each parse, then Schemathesis over the OpenAPI page of a relay with the demo Poe server.

What is found is printed as the shortest body that shows it, or as the request to repeat.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import httpx2
from hypothesis import HealthCheck, given, settings

from relay.errors import BadRequest
from tests.clients.places import python_place
from tests.clients.stage import ROOT, Stage, relay
from tests.fuzz.bodies import PARSES, bodies

CHECKS = Path(__file__).parent / "scripts" / "checks.py"
SCHEMATHESIS = "schemathesis==4.32.5"
METHODS = {"get", "post", "delete", "put", "patch", "head"}


def over_parse(name: str, count: int) -> str:
    """Raises what hypothesis found; says how many bodies were read, and how many refused."""
    wire, read, refused = PARSES[name], 0, 0

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(bodies(wire.examples))
    def ask(body: bytes) -> None:
        nonlocal read, refused
        try:
            wire.read(body)
            read += 1
        except BadRequest:
            refused += 1

    began = time.monotonic()
    ask()
    return f"{name}: {read} bodies read, {refused} refused, in {time.monotonic() - began:.0f} s"


def over_parses(count: int) -> bool:
    """So many bodies, spread over the parses."""
    well, each = True, -(-count // len(PARSES))
    # A process for each core that there may be: they share nothing.
    with get_context("spawn").Pool(2) as pool:
        asked = [(name, pool.apply_async(over_parse, (name, each))) for name in PARSES]
        for name, answer in asked:
            try:
                print(answer.get(), flush=True)
            except Exception as found:
                well = False
                print(
                    f"{name}: {type(found).__name__}: {found}\n{getattr(found, '__notes__', '')}", flush=True
                )
    return well


def over_api(stage: Stage, count: int) -> bool:
    """So many cases, spread over the operations; each answer is judged by scripts/checks.py, where Schemathesis lives."""
    page = f"{stage.url}/v1/openapi.json"
    operations = sum(len(METHODS & set(each)) for each in httpx2.get(page).json()["paths"].values())
    program = python_place("schemathesis", [SCHEMATHESIS]) / "bin" / "schemathesis"
    options: Sequence[str] = (
        "--phases=fuzzing",
        "--workers=2",
        f"--max-examples={-(-count // operations)}",
        "--checks=not_a_server_error,answers_in_its_own_words",
        "--mode=all",
        "--continue-on-failure",
        "--request-timeout=60",
        "--suppress-health-check=all",
        "--warnings=off",
        f"--header=Authorization:Bearer {stage.token}",
    )
    environment = {"PATH": "/usr/bin:/bin", "SCHEMATHESIS_HOOKS": str(CHECKS), "PYTHONUNBUFFERED": "1"}
    command = [str(program), "run", page, f"--url={stage.url}", *options]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bodies", type=int, default=100_000, help="over all parses together (default: 100000)"
    )
    parser.add_argument("--cases", type=int, default=20_000, help="over the whole API (default: 20000)")
    asked = parser.parse_args()
    well = over_parses(asked.bodies) if asked.bodies else True
    if asked.cases:
        with tempfile.TemporaryDirectory(prefix="relay-") as folder, relay(Path(folder)) as stage:
            well = over_api(stage, asked.cases) and well
            kept = ROOT / "var" / "fuzz.log"
            kept.write_bytes(stage.log.read_bytes())
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
