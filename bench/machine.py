"""One line about the machine that was measured on: figures without it mean little."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import tools
from bench.servers import ROOT, Cores

SYNCS = 20


def line(cores: Cores, load_before: float, directory: Path) -> str:
    pinned = (
        "not pinned" if cores.server is None else f"server on core {cores.server}, the rest on {cores.rest}"
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}; {os.cpu_count()} × {_processor()}, "
        f"{pinned}; {platform.system()} {platform.release()}, Python {platform.python_version()} of {sys.base_prefix}; "
        f"load average {load_before:.2f} before, {os.getloadavg()[0]:.2f} after; fsync {fsync_ms(directory):.2f} ms, "
        f"a load that misses the caches {memory_ns(directory)} ns"
    )


def memory_ns(directory: Path = tools.BUILD) -> int:
    """Neighbours on the same chip take its cache away: Python, which touches much memory, suffers from that like nothing else."""
    done = subprocess.run([tools.build(directory).latency], capture_output=True, text=True, check=True)
    return int(done.stdout)


def fsync_ms(directory: Path) -> float:
    """The median time of a small write that reaches the disk: each request waits for at least one."""
    took = []
    with (directory / "synced").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _commit() -> str:
    """The commit that is checked out, and whether the files differ from it."""
    try:
        hash_ = _git("rev-parse", "--short", "HEAD")
        return f"{hash_} with changes" if _git("status", "--porcelain") else hash_
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
