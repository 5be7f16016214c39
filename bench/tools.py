"""The C programs of the bench, compiled when they are missing or older than their source."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"


class CannotBuild(Exception):
    """One sentence for whoever started the bench."""


@dataclass(frozen=True, slots=True)
class Tools:
    upstream: Path
    loadgen: Path
    latency: Path


def build(directory: Path = BUILD) -> Tools:
    """The compiled programs, or CannotBuild."""
    directory.mkdir(parents=True, exist_ok=True)
    return Tools(*(_compiled(name, directory) for name in ("upstream", "loadgen", "latency")))


def _compiled(name: str, directory: Path) -> Path:
    source, program = HERE / f"{name}.c", directory / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    if shutil.which("gcc") is None:
        raise CannotBuild("the bench needs gcc: apt-get install gcc libc6-dev")
    done = subprocess.run(
        ["gcc", "-O2", "-w", "-o", str(program), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotBuild(f"gcc cannot compile bench/{name}.c:\n{done.stderr.strip()}")
    return program
