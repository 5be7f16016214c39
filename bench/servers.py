"""Starts what the bench needs on 127.0.0.1, each on its core, and stops it by its process id however the bench ends."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 15.0
TICKS = os.sysconf("SC_CLK_TCK")
# Between "ready" and the look at its memory.
IDLE_SECONDS = 0.5


class CannotStart(Exception):
    """One sentence for whoever started the bench."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the server that is measured, and the core of everything else. None: not pinned."""

    server: int | None = None
    rest: int | None = None

    @classmethod
    def of_this_machine(cls) -> Cores:
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2 or shutil.which("taskset") is None:
            return cls()
        return cls(usable[0], usable[1])


@contextmanager
def everything_else_on(core: int | None) -> Iterator[None]:
    """This process, and whatever it starts without saying otherwise, runs on this core."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds back Ctrl-C and SIGTERM until the block ends, for a start that would leave a process behind if it were cut."""
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {each: signal.getsignal(each) for each in signals}
    came: list[int] = []
    for each in signals:
        signal.signal(each, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    if came:
        raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Server:
    port: int
    pid: int

    def rss_mb(self) -> float:
        return self._status("VmRSS") / 1024

    def threads(self) -> int:
        return self._status("Threads")

    def pids(self) -> tuple[int, ...]:
        """Its own, and those of the processes that it has started."""
        found = [self.pid]
        for pid in found:
            for listed in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, listed.read_text().split())
        return tuple(found)

    def cpu_seconds(self) -> float:
        return sum(_cpu_seconds(pid) for pid in self.pids())

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        return int(found.group(1)) if found else 0


def _cpu_seconds(pid: int) -> float:
    # The name, in brackets, may hold anything.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / TICKS


@dataclass(frozen=True, slots=True)
class RelayServer(Server):
    token: str
    start_seconds: float
    idle_mb: float


@contextmanager
def process(
    command: list[str],
    log: Path,
    *,
    core: int | None,
    env: dict[str, str] | None = None,
    # Whoever says more there than a line or two has nobody to read it.
    stdout: int = subprocess.PIPE,
    root: Path = ROOT,
) -> Iterator[subprocess.Popen[str]]:
    """Runs until the block ends. It has a session of its own: Ctrl-C reaches the bench alone, which then stops it."""
    pinned = command if core is None else ["taskset", "-c", str(core), *command]
    with log.open("w") as complaints:
        child = subprocess.Popen(
            pinned,
            cwd=root,
            env=env,
            stdout=stdout,
            stderr=complaints,
            text=True,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


@contextmanager
def upstream(program: Path, directory: Path) -> Iterator[Server]:
    port = free_port()
    log = directory / "upstream.log"
    with process([str(program), str(port)], log, core=None) as child:
        await_listener(child, port, log)
        yield Server(port, child.pid)


NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}/nginx-body; proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi; uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    keepalive_requests 1000000000;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@contextmanager
def nginx(behind: Server, directory: Path, core: int | None) -> Iterator[Server]:
    """nginx as a plain proxy: what a program that reads nothing of what it passes on costs."""
    port = free_port()
    conf, log = directory / "nginx.conf", directory / "nginx.log"
    conf.write_text(NGINX.format(directory=directory, upstream=behind.port, port=port))
    command = ["nginx", "-p", str(directory), "-c", str(conf), "-e", "stderr"]
    with process(command, log, core=core) as child:
        await_listener(child, port, log)
        yield Server(port, child.pid)


def relay_environment(data: Path, database_url: str | None) -> dict[str, str]:
    """An installation of its own: nothing of whoever runs the bench."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("POE_RELAY_")}
    env |= {"POE_RELAY_CONFIG": os.devnull, "POE_RELAY_DATA_DIR": str(data)}
    # The balances of its Poe accounts are not asked for at Poe.
    env["POE_RELAY_POE__API_URL"] = "http://127.0.0.1:9"
    # WhiteNoise warns of static files that were not collected; no page is asked for here.
    env["PYTHONWARNINGS"] = "ignore::UserWarning"
    return env if database_url is None else env | {"POE_RELAY_DATABASE__URL": database_url}


def fill(env: dict[str, str], base_url: str, bots: list[str], *, root: Path = ROOT) -> str:
    """Migrate and fill a database, as the checkout in `root` does; the access token."""
    return str(_installation(env, base_url, *bots, root=root))


def set_limits(env: dict[str, str], *, root: Path = ROOT) -> None:
    """All five, on everybody who may use the relay, so high that nothing is refused."""
    output_of(env, "bench.ledger_alone", "limits", root=root)


def outcomes(env: dict[str, str]) -> dict[str, int]:
    counted = _installation(env, "outcomes")
    assert isinstance(counted, dict)
    return counted


def _installation(env: dict[str, str], *arguments: str, root: Path = ROOT) -> object:
    return json.loads(output_of(env, "bench.installation", *arguments, root=root))


def output_of(env: dict[str, str], module: str, *arguments: str, root: Path = ROOT) -> str:
    """What a module of the bench prints that works on the relay's database."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotStart(f"{module} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


@contextmanager
def relay(
    env: dict[str, str],
    token: str,
    log: Path,
    core: int | None,
    module: str = "manage",
    *,
    root: Path = ROOT,
) -> Iterator[RelayServer]:
    """`manage.py serve` of the checkout in `root`, or that of a module in its place, with the time from its start to its readiness and its memory
    before the first request."""
    began = time.monotonic()
    command = [sys.executable, "-m", module, "serve", "--port", "0"]
    with process(command, log, core=core, env=env, root=root) as child:
        port = await_address(child, log)
        start_seconds = time.monotonic() - began
        time.sleep(IDLE_SECONDS)
        idle_mb = Server(port, child.pid).rss_mb()
        yield RelayServer(port, child.pid, token, start_seconds, idle_mb)


def await_address(child: subprocess.Popen[str], log: Path) -> int:
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], START_SECONDS)
    line = child.stdout.readline() if readable else ""
    found = re.search(r"listens on http://127\.0\.0\.1:(\d+)", line)
    if found is None:
        raise CannotStart(f"{child.args!r} did not start:\n{line}{log.read_text()[-2000:]}")
    return int(found.group(1))


def await_listener(child: subprocess.Popen[str], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise CannotStart(f"{child.args!r} did not start:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
