"""`make test-clients`: each client in an environment of its own does a task with the relay; the report is docs/clients.md.

Names of clients, or parts of them, run those only, and leave the other rows of the report as they are.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.clients.clients import CLIENTS, Client
from tests.clients.places import (
    CannotInstall,
    Failed,
    Place,
    interpreter_of,
    node_place,
    python_place,
)
from tests.clients.stage import ROOT, Stage, relay

REPORT = ROOT / "docs" / "clients.md"
HEAD = """# Clients

What real clients did with the relay, each in an environment of its own, over the demo Poe server, whose bots call the tools that they
are offered. `make test-clients` does it again and writes this page; nothing here is written by hand.

| client | version | ran on | under | task | result |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    client: Client
    passed: bool
    told: str
    under: str = "-"

    @property
    def row(self) -> str:
        said = re.sub(r"[\s|]+", " ", self.told)[:400]
        verdict = "passed" if self.passed else "**failed**"
        of = f"| {self.client.name} | {self.client.version} | {datetime.now(UTC).date()} | {self.under} "
        return f"{of}| {self.client.task} | {verdict}: {said} |\n"


def place_of(client: Client) -> Path:
    # Clients with the same packages share an environment.
    name = re.sub(r"[^a-z0-9]+", "-", client.packages[0].lower()).strip("-")
    if client.node:
        return node_place(name, client.packages, scripts=client.finish)
    return python_place(name, client.packages, version=client.python)


def ask(client: Client, stage: Stage) -> Outcome:
    try:
        installed = place_of(client)
    except CannotInstall as failed:
        return Outcome(client, False, str(failed))
    under = interpreter_of(installed, node=client.node)
    try:
        with tempfile.TemporaryDirectory(prefix="client-", ignore_cleanup_errors=True) as work:
            return Outcome(client, True, client.do(stage, Place(installed, Path(work))), under)
    except (Failed, CannotInstall) as failed:
        return Outcome(client, False, str(failed), under)


def report(outcomes: list[Outcome]) -> None:
    """Write the page, with the rows that it has of clients which did not run now."""
    rows = {
        row.split(" | ")[0][2:]: row for row in REPORT.read_text().splitlines(True) if row.startswith("| ")
    }
    rows |= {outcome.client.name: outcome.row for outcome in outcomes}
    REPORT.write_text(HEAD + "".join(rows[each.name] for each in CLIENTS if each.name in rows))


def main(names: list[str]) -> int:
    chosen = [each for each in CLIENTS if not names or any(n.lower() in each.name.lower() for n in names)]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="relay-") as folder, relay(Path(folder)) as stage:
        for client in chosen:
            began = time.monotonic()
            outcome = ask(client, stage)
            outcomes.append(outcome)
            verdict = "passed" if outcome.passed else "FAILED"
            print(
                f"{client.name} {client.version}: {verdict} after {time.monotonic() - began:.0f} s\n  {outcome.told}",
                flush=True,
            )
    report(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
