"""How far a worker goes, and what a second one adds: streams held at once, long prompts, two cores, idle streams.

`python -m bench.scale [--quick] [--sqlite] [--postgres]` prints figures and goals; the exit status is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from bench import machine, quiet, servers, tools
from bench.faults import rig
from bench.goals import Goal, at_least, at_most
from bench.quiet import QuietMachine
from bench.servers import CannotStart, Cores, RelayServer, Server
from bench.works import Figures, Target, Work, asking, measure

LEAST_STREAMS, LEAST_DELIVERED, MOST_GAP_MS = 1000, 99.0, 100.0
MOST_MB, MOST_THREADS = 200.0, 20
MOST_PROMPT_RATIO = 1.2
LEAST_SPEEDUP = 1.7
MOST_IDLE_KB, MOST_FIRST_BYTE_MS = 30.0, 50.0
SAMPLE_SECONDS = 0.25
# Until streams that were hung up on have ended, or all that were asked for have begun.
SETTLE_SECONDS, OPEN_SECONDS = 15.0, 90.0
# Of a process beside its two for each stream: database, log, libraries.
OWN_DESCRIPTORS = 200
TICKS = os.sysconf("SC_CLK_TCK")

# An answer outlasts the measurement: chunks 50 ms apart, and nothing else.
HELD = Work("held", "c800d50", 800, streamed=True, at_once=0, warm_seconds=7, seconds=10, ramp_seconds=4)
# Each stream begins again once in the time measured: what reading the prompt costs is shared by 1,000 chunks.
SHORT = Work(
    "short prompt",
    "c1000d10",
    1000,
    streamed=True,
    at_once=96,
    warm_seconds=3,
    seconds=10,
    ramp_seconds=2,
    messages=1,
)
LONG = replace(SHORT, name="long prompt", messages=100)
# As many for each of two workers as `ns` has for one.
BOTH = Work("both", "c20d0", 20, streamed=False, at_once=64, warm_seconds=1, seconds=5)
# A word, and the next one in ten minutes.
IDLE = Work("idle", "c2d600000", 2, streamed=True, at_once=0, warm_seconds=0, seconds=600)
NEWCOMERS = Work(
    "newcomers", "c20d0", 20, streamed=True, at_once=1, warm_seconds=0.5, seconds=8, new_connections=True
)
BOTS = sorted({work.bot for work in (HELD, SHORT, BOTH, IDLE, NEWCOMERS)})


@dataclass(frozen=True, slots=True)
class Sizes:
    streams: tuple[int, ...] = (500, 1000, 1200, 1400)
    idle_streams: int = 10_000
    # A second.
    opened: int = 400
    rounds: int = 3
    # Of the time that each work takes.
    factor: float = 1.0


QUICK = Sizes(streams=(500, 1000), idle_streams=1000, rounds=1, factor=0.3)


@dataclass(frozen=True, slots=True)
class Site:
    """A relay's database and its upstream, for the servers that are started on it."""

    env: dict[str, str]
    token: str
    mock: Server
    loadgen: Path
    directory: Path
    cores: Cores
    quiet_machine: QuietMachine

    @contextmanager
    def relay(self, name: str) -> Iterator[RelayServer]:
        """One worker, on its core."""
        with servers.relay(
            self.env, self.token, self.directory / f"{name}.log", self.cores.server
        ) as running:
            yield running

    def target(self, server: Server) -> Target:
        return Target("relay", server.port, self.token, (server.pid,))

    def measure(self, work: Work, target: Target) -> Figures:
        return self.quiet_machine.measured(lambda: self.measure_now(work, target))

    def measure_now(self, work: Work, target: Target) -> Figures:
        return measure(work, target, self.loadgen, self.directory)


@contextmanager
def site(
    kind: str, cores: Cores, build: Path = tools.BUILD, machine_is: QuietMachine | None = None
) -> Iterator[Site]:
    programs = tools.build(build)
    with ExitStack() as stack:
        stack.enter_context(servers.everything_else_on(cores.rest))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="poe-relay-scale-")))
        url = stack.enter_context(rig.database(kind, directory))
        env = servers.relay_environment(directory / "data", url)
        mock = stack.enter_context(servers.upstream(programs.upstream, directory))
        token = servers.fill(env, f"http://127.0.0.1:{mock.port}/bot/", BOTS)
        servers.set_limits(env)
        machine_is = machine_is or QuietMachine()
        yield Site(env, token, mock, programs.loadgen, directory, cores, machine_is)


def _wait(until: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if until():
            return True
        time.sleep(0.1)
    return until()


def in_flight(port: int) -> int | None:
    """The requests that the relay has now, as it says itself; None if it is too busy to say."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page = answer.read().decode()
    except OSError:
        return None
    found = re.search(r"^poe_relay_requests_in_flight ([\d.]+)", page, re.MULTILINE)
    return int(float(found[1])) if found else 0


# Streams held at once.


@dataclass(frozen=True, slots=True)
class Held:
    """So many streams, 20 chunks a second each, and what the server was like meanwhile."""

    who: str
    streams: int
    figures: Figures
    mb: float | None = None
    threads: int | None = None

    @property
    def delivered(self) -> float:
        """In %."""
        return self.figures.chunks_per_s / (self.streams * 20) * 100

    @property
    def holds(self) -> bool:
        gap = self.figures.gap_p99_ms
        return (
            not self.figures.failure
            and self.delivered >= LEAST_DELIVERED
            and gap is not None
            and gap <= MOST_GAP_MS
        )


class Watching(threading.Thread):
    """The most memory and threads that a server had while the block ran."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._over = threading.Event()
        self.mb, self.threads = server.rss_mb(), server.threads()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.mb = max(self.mb, self._server.rss_mb())
            self.threads = max(self.threads, self._server.threads())

    def __enter__(self) -> Watching:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self.join()


def held(at: Site, server: Server, sizes: Sizes) -> list[Held]:
    """The relay with more and more of them; then the upstream alone with the most, since it too must keep up."""
    found = []
    for streams in sizes.streams:
        work = replace(HELD.shortened(sizes.factor), at_once=streams)
        with Watching(server) as watching:
            figures = at.measure(work, at.target(server))
        found.append(Held("relay", streams, figures, watching.mb, watching.threads))
        _wait(lambda: in_flight(server.port) == 0, SETTLE_SECONDS)
    direct = at.measure(work, Target("direct", at.mock.port))
    return [*found, Held("upstream directly", work.at_once, direct)]


def held_table(found: list[Held]) -> str:
    rows = [
        f"| {each.who} | {each.streams:,} | {each.delivered:.1f} | {_shown(each.figures.gap_p99_ms, 1)} "
        f"| {_shown(each.figures.cpu_us_per_chunk, 1)} | {_shown(each.mb)} | {_shown(each.threads)} "
        f"| {'yes' if each.holds else 'no'} |{each.figures.failure and f' {each.figures.failure}'}"
        for each in found
    ]
    titles = (
        "| 20 chunks/s each | streams | delivered % | gap p99 ms | CPU µs / chunk | RSS MB | threads | held |"
    )
    return "\n".join([titles, "|---|---:|---:|---:|---:|---:|---:|---|", *rows])


def held_goals(found: list[Held]) -> list[Goal]:
    """The highest number that holds; memory and threads at the number asked for, or at the most that was tried if that is less."""
    ours = [each for each in found if each.who == "relay"]
    best = max((each for each in ours if each.holds), key=lambda each: each.streams, default=None)
    then = next((each for each in ours if each.streams >= LEAST_STREAMS), ours[-1])
    return [
        at_least(
            f"streams x 20 chunks/s held with {LEAST_DELIVERED:g} % delivered and gap p99 within {MOST_GAP_MS:g} ms",
            best.streams if best else 0,
            LEAST_STREAMS,
        ),
        at_most(f"RSS MB at {then.streams:,} streams", then.mb, MOST_MB),
        at_most(f"threads at {then.streams:,} streams", then.threads, MOST_THREADS),
    ]


# A long prompt.


@dataclass(frozen=True, slots=True)
class Prompts:
    """CPU µs per chunk by round, after a short prompt and after a long one."""

    short: list[float]
    long: list[float]
    failure: str = ""

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' own."""
        pairs = [long / short for short, long in zip(self.short, self.long, strict=True)]
        return median(pairs) if pairs else None


def prompts(at: Site, server: Server, sizes: Sizes) -> Prompts:
    measured: dict[str, list[float]] = {SHORT.name: [], LONG.name: []}
    for _round in range(sizes.rounds):
        for work in (SHORT, LONG):
            figures = at.measure(work.shortened(sizes.factor), at.target(server))
            if figures.failure or figures.cpu_us_per_chunk is None:
                return Prompts([], [], figures.failure or "no chunk came in the time measured")
            measured[work.name].append(figures.cpu_us_per_chunk)
            _wait(lambda: in_flight(server.port) == 0, SETTLE_SECONDS)
    return Prompts(measured[SHORT.name], measured[LONG.name])


def prompts_table(found: Prompts) -> str:
    if found.failure:
        return f"prompts: {found.failure}"
    return (
        "| prompt | one message | 100 messages of 500 characters | ratio |\n|---|---:|---:|---:|\n"
        f"| CPU µs / chunk | {median(found.short):.1f} | {median(found.long):.1f} | {_shown(found.ratio, 2)} |"
    )


def prompts_goals(found: Prompts) -> list[Goal]:
    return [
        at_most(
            "CPU per chunk after 100 messages of 500 characters, over that after one",
            found.ratio,
            MOST_PROMPT_RATIO,
        )
    ]


# Two workers.


@dataclass(frozen=True, slots=True)
class Run:
    """How many requests were answered a second, and who had the cores meanwhile."""

    requests_per_s: float
    cpu_us_per_request: float
    # Of two cores: of the workers, and of everything else on the machine.
    workers: float
    others: float

    @property
    def on_two_whole_cores(self) -> float:
        """What the workers would have answered if nobody else had run there."""
        return self.requests_per_s / (1 - self.others)


@dataclass(frozen=True, slots=True)
class TwoWorkers:
    one: list[Run]
    two: list[Run]
    failure: str = ""

    def speedup(self, *, given_back: bool) -> float | None:
        """The median of the rounds' own, with or without what the others took of the cores given back to two workers."""
        pairs = [
            (two.on_two_whole_cores if given_back else two.requests_per_s) / one.requests_per_s
            for one, two in zip(self.one, self.two, strict=True)
        ]
        return median(pairs) if pairs else None


def two_workers(at: Site, one: Server, sizes: Sizes) -> TwoWorkers:
    """One worker has a core of its own. Two share both with the load generator, the upstream and PostgreSQL."""
    work = BOTH.shortened(sizes.factor)
    found = TwoWorkers([], [])
    with _both(at) as (port, pids):
        for _round in range(sizes.rounds):
            for runs, asked in (
                (found.one, at.target(one)),
                (found.two, Target("two workers", port, at.token, pids)),
            ):
                run = at.quiet_machine.measured(partial(_run, at, work, asked))
                if isinstance(run, str):
                    return TwoWorkers([], [], run)
                runs.append(run)
                time.sleep(0.3)
    return found


def _run(at: Site, work: Work, asked: Target) -> Run | str:
    """Or how it failed."""
    began, busy, ours = time.monotonic(), busy_seconds(at.cores), cpu_seconds(asked.pids)
    figures = at.measure_now(work, asked)
    most = len(_used(at.cores)) * (time.monotonic() - began)
    if figures.failure or figures.cpu_us_per_request is None:
        return figures.failure or "no request was answered in the time measured"
    workers = cpu_seconds(asked.pids) - ours
    others = max(0.0, busy_seconds(at.cores) - busy - workers)
    # On a machine where others leave next to nothing there is nothing to learn.
    return Run(figures.requests_per_s, figures.cpu_us_per_request, workers / most, min(others / most, 0.9))


@contextmanager
def _both(at: Site) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Two workers on two cores: their port, and their process ids."""
    log = at.directory / "two.log"
    cores = [str(core) for core in (at.cores.server, at.cores.rest) if core is not None]
    pinned = ["taskset", "-c", ",".join(cores)] if cores else []
    command = [*pinned, sys.executable, "-m", "manage", "serve", "--port", "0", "--workers", "2"]
    with servers.process(command, log, core=None, env=at.env) as child:
        port = servers.await_address(child, log)
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        if not _wait(lambda: _share(port, _pids(children)), servers.START_SECONDS):
            raise CannotStart(f"two workers did not start:\n{log.read_text()[-2000:]}")
        yield port, _pids(children)


def _pids(children: Path) -> tuple[int, ...]:
    return tuple(map(int, children.read_text().split()))


def _share(port: int, pids: tuple[int, ...]) -> bool:
    """Whether two workers take connections."""
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        time.sleep(0.05)
        return len(pids) == 2 and all(accepted(pid, port) for pid in pids)


def accepted(pid: int, port: int) -> int:
    """The open connections to this port that the process has."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    number = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            number += os.readlink(path).removeprefix("socket:[").removesuffix("]") in inodes
    return number


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """Since they began."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def busy_seconds(cores: Cores) -> float:
    """Of the cores that are measured on, by anybody, since the machine began."""
    used, busy = _used(cores), 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if re.fullmatch(r"cpu\d+", name) and int(name[3:]) in used:
            user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(int, ticks[:8])
            busy += user + nice + system + sum(interrupts_and_stolen)
    return busy / TICKS


def _used(cores: Cores) -> set[int]:
    named = {core for core in (cores.server, cores.rest) if core is not None}
    return named or os.sched_getaffinity(0)


def two_workers_table(found: TwoWorkers) -> str:
    if found.failure:
        return f"two workers: {found.failure}"
    rows = [
        f"| {name} | {median(run.requests_per_s for run in runs):,.0f} | {median(run.cpu_us_per_request for run in runs):,.0f} "
        f"| {median(run.workers for run in runs):.0%} | {median(run.others for run in runs):.0%} |"
        for name, runs in (("one worker", found.one), ("two workers", found.two))
    ]
    titles = "| ns, 64 at once | requests/s | CPU µs / request | of two cores: workers | everything else |"
    ratios = [
        f"\nTwo over one: {_shown(found.speedup(given_back=False), 2)} as measured, "
        f"{_shown(found.speedup(given_back=True), 2)} with everything else's share of the cores given back."
    ]
    return "\n".join([titles, "|---|---:|---:|---:|---:|", *rows, *ratios])


def two_workers_goals(found: TwoWorkers) -> list[Goal]:
    return [
        at_least(
            "two workers on two cores, requests/s over one's, the load generator's share given back",
            found.speedup(given_back=True),
            LEAST_SPEEDUP,
        )
    ]


# Idle streams.


@dataclass(frozen=True, slots=True)
class Idle:
    wanted: int
    streams: int
    mb_before: float
    mb_with: float
    before: Figures
    beside: Figures

    @property
    def kb_each(self) -> float | None:
        return (self.mb_with - self.mb_before) * 1024 / self.streams if self.streams else None


def idle(at: Site, sizes: Sizes) -> Idle:
    """On a relay of its own: memory that others freed would be taken for none."""
    wanted = min(sizes.idle_streams, most_streams())
    newcomers = NEWCOMERS.shortened(sizes.factor)
    with at.relay("idle") as server:
        before = at.measure(newcomers, at.target(server))
        mb_before = server.rss_mb()
        with _idle_streams(at, server, wanted, wanted / sizes.opened):
            _wait(lambda: (in_flight(server.port) or 0) >= wanted, OPEN_SECONDS)
            # The last one's word comes right after it was counted.
            time.sleep(1)
            streams, mb_with = in_flight(server.port) or 0, server.rss_mb()
            # They are not held until the machine is quiet.
            beside = at.measure_now(newcomers, at.target(server))
            streams = min(streams, in_flight(server.port) or 0)
    return Idle(sizes.idle_streams, streams, mb_before, mb_with, before, beside)


@contextmanager
def _idle_streams(at: Site, server: Server, number: int, ramp_seconds: float) -> Iterator[None]:
    """Begun one after the other, and hung up when the block ends."""
    work = replace(IDLE, at_once=number, ramp_seconds=ramp_seconds)
    uncounted = Target("idle", server.port, at.token)
    command = [*asking(work, uncounted, at.loadgen, at.directory, work.seconds), "-n", str(number)]
    with servers.process(command, at.directory / "idle-clients.log", core=None):
        yield


def most_streams() -> int:
    """A stream is two open files of the relay: that of its client and that of its upstream."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if hard == resource.RLIM_INFINITY else (hard - OWN_DESCRIPTORS) // 2


@contextmanager
def many_open_files() -> Iterator[None]:
    """For all that is started in the block: as many as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def idle_table(found: Idle) -> str:
    titles = "| a new request, over a connection of its own | first byte p50 ms | p99 ms |\n|---|---:|---:|"
    rows = [
        f"| {name} | {_shown(figures.ttft_p50_ms, 2)} | {_shown(figures.ttft_p99_ms, 2)} |{figures.failure and f' {figures.failure}'}"
        for name, figures in (("alone", found.before), (f"beside {found.streams:,} idle", found.beside))
    ]
    memory = (
        f"\nRSS MB: {found.mb_before:.0f} without, {found.mb_with:.0f} with {found.streams:,} idle streams."
    )
    if found.streams < found.wanted:
        memory += f" Not {found.wanted:,}: this machine lets a process have {most_streams():,} at most (ulimit -Hn)."
    return "\n".join([titles, *rows, memory])


def idle_goals(found: Idle) -> list[Goal]:
    wanted = min(found.wanted, most_streams())
    return [
        at_least("idle streams", found.streams, wanted),
        at_most(f"KB for each of {found.streams:,} idle streams", found.kb_each, MOST_IDLE_KB),
        at_most(
            "a new request's first byte beside them, p99 ms",
            None if found.beside.failure else found.beside.ttft_p99_ms,
            MOST_FIRST_BYTE_MS,
        ),
    ]


# The command line.


def _shown(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def measure_on(
    kind: str,
    sizes: Sizes,
    cores: Cores,
    build: Path = tools.BUILD,
    machine_is: QuietMachine | None = None,
) -> list[Goal]:
    print(f"\n{kind}\n", flush=True)
    with many_open_files(), site(kind, cores, build, machine_is) as at:
        with at.relay("one") as one:
            streams = held(at, one, sizes)
            goals = _tell(held_table(streams), held_goals(streams))
            long = prompts(at, one, sizes)
            goals += _tell(prompts_table(long), prompts_goals(long))
            pairs = two_workers(at, one, sizes)
            goals += _tell(two_workers_table(pairs), two_workers_goals(pairs))
        waiting = idle(at, sizes)
        goals += _tell(idle_table(waiting), idle_goals(waiting))
    return goals


def _tell(table: str, goals: list[Goal]) -> list[Goal]:
    print(f"{table}\n", *goals, "", sep="\n", flush=True)
    return goals


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--sqlite", action="store_true", help="on SQLite (the default)")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL")
    quiet.add_arguments(parser)
    said = parser.parse_args(given)
    machine_is = quiet.asked_for(said)
    wanted = [kind for kind, asked in ((rig.SQLITE, said.sqlite), (rig.POSTGRES, said.postgres)) if asked]
    cores, load_before = Cores.of_this_machine(), os.getloadavg()[0]
    sizes = QUICK if said.quick else Sizes()
    try:
        goals = [
            goal
            for kind in wanted or [rig.SQLITE]
            for goal in measure_on(kind, sizes, cores, machine_is=machine_is)
        ]
    except (tools.CannotBuild, CannotStart) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped.", file=sys.stderr)
        return 130
    with tempfile.TemporaryDirectory() as name:
        print(machine.line(cores, load_before, Path(name)) + machine_is.line())
    return 0 if all(goal.is_met for goal in goals) else 1


if __name__ == "__main__":
    # As Ctrl-C does: every server is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
