"""The stage of the clients: an installation with the demo Poe server, set up as the README says, in a process of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# Names by which some clients tell what a model can do, and those of the OpenAPI page's examples.
MODELS = {
    "gpt-5-thinker": "Demo-Thinker",
    "claude-sonnet-4-thinker": "Demo-Thinker",
    "gpt-4o": "Demo-Tools",
    "claude-sonnet-4.5": "Demo-Tools",
    "gemini-3.8-flash": "Demo-Echo",
    "flux-2-pro": "Demo-Painter",
    "nano-banana": "Demo-Painter",
    "elevenlabs-v3": "Demo-Speaker",
    "veo-4": "Demo-Filmer",
}


@dataclass(frozen=True, slots=True)
class Stage:
    url: str
    token: str
    log: Path


@contextmanager
def relay(folder: Path) -> Iterator[Stage]:
    port, demo_port = free_port(), free_port()
    environment = {**os.environ, "POE_RELAY_DATA_DIR": str(folder), "POE_RELAY_DEMO__PORT": str(demo_port)}
    log = folder / "relay.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "run", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            token = _token_said_by(process)
            for model, bot in MODELS.items():
                _manage(environment, "setmapping", model, bot, "--account", "demo")
            yield Stage(f"http://127.0.0.1:{port}", token, log)
        finally:
            process.terminate()
            process.communicate(timeout=30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _token_said_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"Access token\s+(\S+)", line):
            return found.group(1)
    raise RuntimeError("the relay did not start")


def _manage(environment: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "manage.py", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
