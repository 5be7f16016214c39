"""Where a peer lives: an environment of its own below var/peers, with the packages of its lock and nothing of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.servers import ROOT

HOME = ROOT / "var" / "peers"
LOCKS = Path(__file__).parent


class CannotInstall(Exception):
    """A peer could not be installed here; the message says why."""


def python_place(name: str) -> Path:
    """A virtual environment with what its lock says, made anew when that changes."""
    folder, lock = HOME / name, LOCKS / f"{name}.txt"
    if not _is_there(folder, lock):
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
        _run([*pip, "-r", str(lock)])
        _finish(folder, lock)
    return folder


def portkey_place() -> Path:
    """Portkey's gateway, mended: as it is published, streams are answered with 500 under Node 20 and newer."""
    folder, lock = HOME / "portkey", LOCKS / "package-lock.json"
    if not _is_there(folder, lock):
        if shutil.which("npm") is None:
            raise CannotInstall("it needs node and npm, which are not here")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LOCKS / name, folder)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        mend(folder / PORTKEY)
        _finish(folder, lock)
    return folder


PORTKEY = "node_modules/@portkey-ai/gateway/build/start-server.js"
# It adds headers to the upstream's own answer, whose headers cannot be changed: they must be a copy's.
BROKEN = "this.updateHeaders(i,n.cacheStatus,o)"
MENDED = "this.updateHeaders(i=new Response(i.body,i),n.cacheStatus,o)"


def mend(program: Path) -> None:
    text = program.read_text()
    if text.count(BROKEN) != 1:
        raise CannotInstall("the line that breaks its streams is not where it was: it cannot be mended")
    program.write_text(text.replace(BROKEN, MENDED))


def _is_there(folder: Path, lock: Path) -> bool:
    stamp = folder / "installed.txt"
    return stamp.exists() and stamp.read_text() == lock.read_text()


def _finish(folder: Path, lock: Path) -> None:
    (folder / "installed.txt").write_text(lock.read_text())


def _run(command: list[str], folder: Path | None = None) -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotInstall((done.stdout + done.stderr).strip()[-300:])
