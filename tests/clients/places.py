"""Where a client lives: an environment of its own below var/clients, with what it needs and nothing of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clients.stage import ROOT, Stage

HOME = ROOT / "var" / "clients"
SCRIPTS = Path(__file__).parent / "scripts"
SECONDS = 240


class Failed(Exception):
    """A client did not do what it was to do; the message is the end of what it said."""


class CannotInstall(Exception):
    """A client could not be installed here; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A client's environment, and an empty folder to work in."""

    installed: Path
    work: Path

    def python(self, *arguments: str | Path, stage: Stage, **environment: str) -> str:
        return self.run(self.installed / "bin" / "python", *arguments, stage=stage, **environment)

    def program(self, name: str, *arguments: str | Path, stage: Stage, **environment: str) -> str:
        """One that the client's packages brought."""
        folders = (self.installed / "bin", self.installed / "node_modules" / ".bin")
        found = next(folder / name for folder in folders if (folder / name).exists())
        return self.run(found, *arguments, stage=stage, **environment)

    def run(self, *command: str | Path, stage: Stage, **environment: str) -> str:
        """What it prints, on either channel. Failed if it says that it has."""
        try:
            done = subprocess.run(
                [str(part) for part in command],
                cwd=self.work,
                env={**self._environment(stage), **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            said = late.stdout.decode(errors="replace") if late.stdout else ""
            raise Failed(f"{said[-1500:]}\nnot done after {SECONDS} s") from None
        if done.returncode:
            raise Failed(done.stdout[-3000:])
        return done.stdout

    def _environment(self, stage: Stage) -> dict[str, str]:
        """Nobody's home and nobody's keys."""
        return {
            "PATH": f"{self.installed / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.work),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "RELAY": stage.url,
            "TOKEN": stage.token,
        }


def python_place(name: str, packages: Sequence[str], *, version: str = "") -> Path:
    """A virtual environment with these packages, made anew when they change."""
    folder, wanted = HOME / name, "\n".join(packages)
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        interpreter = sys.executable if not version else shutil.which(f"python{version}")
        if interpreter is None:
            raise CannotInstall(f"it needs Python {version}, and there is no python{version} here")
        _install([interpreter, "-m", "venv", "--clear", str(folder)])
        _install([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
        stamp.write_text(wanted)
    return folder


def node_place(name: str, packages: Sequence[str], *, scripts: Sequence[str] = ()) -> Path:
    """A folder with these packages in node_modules; `scripts` of theirs finish an installation."""
    folder, wanted = HOME / name, "\n".join(packages)
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        if shutil.which("npm") is None:
            raise CannotInstall("it needs npm, which is not here")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
        _install(["npm", "install", *quiet, *packages], folder)
        for script in scripts:
            _install(["node", script], folder)
        stamp.write_text(wanted)
    return folder


def interpreter_of(installed: Path, *, node: bool) -> str:
    """What a client there runs under, such as "Python 3.11.7"."""
    program = "node" if node else str(installed / "bin" / "python")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().replace("v", "Node ") if node else done.stdout.strip()


def _install(command: Sequence[str], folder: Path | None = None) -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotInstall((done.stdout + done.stderr).strip()[-300:])
