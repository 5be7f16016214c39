"""The official SDKs for Node, each in a process of its own, against a relay in another."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cast import Cast
from tests.conftest import ROOT, DemoPoe, Served

HERE = Path(__file__).parent
# `make test` puts them there, by tests/sdk/package-lock.json.
INSTALLED = ROOT / ".venv" / "node" / "node_modules"


def ask(script: str, served: Served, token: str, tmp_path: Path) -> str:
    """What the script prints; it has failed if it says so."""
    node = shutil.which("node")
    if node is None or not INSTALLED.is_dir():
        pytest.skip("the Node SDKs are not installed: they need node and npm, then `make test` fetches them")
    # Node looks for packages beside the script.
    shutil.copy(HERE / script, tmp_path)
    (tmp_path / "node_modules").symlink_to(INSTALLED.resolve())
    done = subprocess.run(
        [node, script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "RELAY": served.url, "TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def parts_done(said: str) -> list[str]:
    return [line.removeprefix("ok ") for line in said.splitlines()]


def test_the_openai_sdk(serve: Callable[..., Served], cast: Cast, demo: DemoPoe, tmp_path: Path) -> None:
    said = ask("openai.mjs", serve(), cast.bob.plain, tmp_path)

    assert parts_done(said) == ["models", "chat", "tools", "responses", "functions", "images", "files"]


def test_the_anthropic_sdk(serve: Callable[..., Served], cast: Cast, demo: DemoPoe, tmp_path: Path) -> None:
    said = ask("anthropic.mjs", serve(), cast.bob.plain, tmp_path)

    assert parts_done(said) == ["models", "messages", "tools", "counting"]
