"""What the relay counts, for Prometheus: whichever worker is asked, it tells of all that share a directory of small files.

The library looks at the environment when it is imported, so it is imported only when the directory is there.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram, Metric

    from proxy_site.log_writer import LogWriter
    from relay.pipeline import Relay
    from relay.visit import Visit

# The library's own name for it.
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# What is counted is written so long after it came, all at once: a third of what it costs request by request. A worker that is
# killed has not written that much.
SAMPLE_SECONDS = 0.25
# The wire of what no wire format has read: pages, unknown routes, what was refused before.
NO_WIRE = "none"
# Of a Poe key.
STATES = ("enabled", "disabled", "unreadable")
SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
LONG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


# The directory, with little of the standard library alone: a supervisor is to stay small.


def prepare(parent: Path) -> Path:
    """Make a directory for this process and the workers it starts, as long as it lives; remove those of the killed.

    Its address goes to the environment, where workers find it.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(parent):
        for child in parent.iterdir():
            if child.is_dir() and not _is_in_use(child):
                _remove(child)
        directory = parent / f"{os.getpid()}-{time.time_ns()}"
        directory.mkdir(mode=0o700)
        # Open, and so locked, until the process ends.
        _lock(directory, fcntl.LOCK_EX)
    atexit.register(_remove, directory)
    os.environ[DIRECTORY] = str(directory)
    return directory


def forget(pid: int) -> None:
    """This worker is dead: what it counted stays, what it was doing does not."""
    if directory := os.environ.get(DIRECTORY):
        for path in Path(directory).glob(f"gauge_live*_{pid}.db"):
            path.unlink(missing_ok=True)


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    descriptor = _lock(parent, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def _is_in_use(directory: Path) -> bool:
    try:
        os.close(_lock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except OSError:
        return True
    return False


def _remove(directory: Path) -> None:
    try:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    except OSError:
        pass  # somebody looks into it right now, or it is another's: the next start tries again


def _lock(directory: Path, how: int) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Metrics:
    """The counters of this process, and the page that tells of all."""

    def __init__(self, relay: Relay, log: LogWriter) -> None:
        data_dir = relay.config.data_dir
        given = os.environ.get(DIRECTORY)
        # No supervisor made one: this process serves alone.
        self._directory = Path(given) if given else prepare(data_dir / "metrics")
        self._relay = relay
        self._log = log
        self._spool = data_dir / "spool"
        self._running = 0
        self._ended: list[Visit] = []
        self._sampling: asyncio.TimerHandle | None = None
        self._dropped = self._transactions = self._written = 0
        self._counters: dict[tuple[str, int, str], Counter] = {}
        self._durations: dict[str, Histogram] = {}
        self._first_bytes: dict[str, Histogram] = {}
        self._define()
        self._reserve_disk()

    def _define(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._requests = Counter(
            "poe_relay_requests", "Requests that ended.", ("wire", "status", "outcome"), registry=None
        )
        self._duration = Histogram(
            "poe_relay_request_seconds",
            "From a request's arrival to its end.",
            ("wire",),
            buckets=LONG,
            registry=None,
        )
        self._first_byte = Histogram(
            "poe_relay_first_byte_seconds",
            "From a streamed request's arrival to the first byte of its answer.",
            ("wire",),
            buckets=LONG,
            registry=None,
        )
        self._in_flight = Gauge(
            "poe_relay_requests_in_flight", "Requests now.", registry=None, multiprocess_mode="livesum"
        )
        self._upstream_errors = Counter(
            "poe_relay_upstream_errors", "Failures of Poe, each try counted.", ("code",), registry=None
        )
        self._admit = Histogram(
            "poe_relay_admit_seconds",
            "How long the ledger took to admit or refuse a request.",
            buckets=SHORT,
            registry=None,
        )
        self._ledger_transactions = Counter(
            "poe_relay_ledger_transactions", "Transactions that the ledger committed.", registry=None
        )
        self._ledger_items = Counter(
            "poe_relay_ledger_items",
            "What was in them: by transactions, the size of a batch.",
            registry=None,
        )
        self._directory_version = Gauge(
            "poe_relay_directory_version",
            "The newest version of the directory that a worker has.",
            registry=None,
            multiprocess_mode="livemax",
        )
        self._directory_read = Gauge(
            "poe_relay_directory_read_timestamp_seconds",
            "When a worker last saw that its directory is the database's.",
            registry=None,
            multiprocess_mode="livemax",
        )
        self._poe_keys = Gauge(
            "poe_relay_poe_keys",
            "Poe keys by state; unreadable: the encryption key is another one.",
            ("state",),
            registry=None,
            multiprocess_mode="livemostrecent",
        )
        for state in STATES:
            self._poe_keys.labels(state)
        self._log_dropped = Counter(
            "poe_relay_log_lines_dropped", "Log lines that stderr did not take.", registry=None
        )

    def _reserve_disk(self) -> None:
        """A disk that fills up later must not kill this process: its counters are memory that the disk backs."""
        for path in self._directory.glob(f"*_{os.getpid()}.db"):
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)

    # Counting, on the event loop.

    def begin(self) -> None:
        self._running += 1
        self._sample_soon()

    def end(self) -> None:
        self._running -= 1
        self._sample_soon()

    def count(self, visit: Visit) -> None:
        """This request has ended."""
        self._ended.append(visit)
        self._sample_soon()

    def _sample_soon(self) -> None:
        if self._sampling is None:
            self._sampling = asyncio.get_running_loop().call_later(SAMPLE_SECONDS, self.sample)

    def _count(self, visit: Visit) -> None:
        wire = visit.wire or NO_WIRE
        self._counter(wire, visit.status, visit.outcome).inc()
        self._of_wire(self._durations, self._duration, wire).observe(visit.total_seconds)
        if visit.streamed and visit.first_byte_seconds is not None:
            self._of_wire(self._first_bytes, self._first_byte, wire).observe(visit.first_byte_seconds)
        if visit.admit_seconds is not None:
            self._admit.observe(visit.admit_seconds)
        for code in visit.upstream_errors:
            self._upstream_errors.labels(code).inc()

    def _counter(self, wire: str, status: int, outcome: str) -> Counter:
        key = (wire, status, outcome)
        found = self._counters.get(key)
        if found is None:
            # What the library's own look-up costs is twice the counting.
            found = self._counters[key] = self._requests.labels(*key)
        return found

    def _of_wire(self, known: dict[str, Histogram], histogram: Histogram, wire: str) -> Histogram:
        found = known.get(wire)
        if found is None:
            found = known[wire] = histogram.labels(wire)
        return found

    def sample(self) -> None:
        """Write what was counted, and what does not change with a request."""
        if self._sampling is not None:
            self._sampling.cancel()
            self._sampling = None
        ended, self._ended = self._ended, []
        for visit in ended:
            self._count(visit)
        self._in_flight.set(self._running)
        directory = self._relay.directory
        if directory.read_at is not None:
            self._directory_version.set(directory.version)
            self._directory_read.set(directory.read_at)
            for state, number in _states(self._relay).items():
                self._poe_keys.labels(state).set(number)
        transactions, written = self._relay.ledger_work
        self._ledger_transactions.inc(max(0, transactions - self._transactions))
        self._ledger_items.inc(max(0, written - self._written))
        self._transactions, self._written = transactions, written
        self._log_dropped.inc(self._log.dropped - self._dropped)
        self._dropped = self._log.dropped

    # The page, off the event loop.

    @cached_property
    def _registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]
        registry.register(Machine(self._directory, self._spool))
        return registry

    def page(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


def _states(relay: Relay) -> dict[str, int]:
    states = dict.fromkeys(STATES, 0)
    accounts = relay.directory.accounts
    for key in relay.directory.keys.values():
        account = accounts.get(key.account_id)
        if not key.enabled or account is None or not account.enabled:
            states["disabled"] += 1
        else:
            states["enabled" if key.secret else "unreadable"] += 1
    return states


class Machine:
    """What can be seen from outside of the processes that share the directory, by whichever is asked."""

    def __init__(self, directory: Path, spool: Path) -> None:
        self._directory = directory
        self._spool = spool

    def collect(self) -> Iterable[Metric]:
        return [self._waits_on_disk(), *self._processes()]

    def _waits_on_disk(self) -> Metric:
        from prometheus_client.metrics_core import GaugeMetricFamily

        waits = "What waits on disk until the database takes it; of all processes here."
        size = sum(_size(path) for path in self._spool.glob("*.jsonl"))
        return GaugeMetricFamily("poe_relay_spool_bytes", waits, size)

    def _processes(self) -> Iterable[Metric]:
        """The library's own figures of a process, of each worker."""
        from prometheus_client import Metric, ProcessCollector

        found: dict[str, Metric] = {}
        for pid in self._pids():
            for one in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                all_ = found.setdefault(one.name, Metric(one.name, one.documentation, one.type))
                for sample in one.samples:
                    all_.add_sample(sample.name, {"pid": pid}, sample.value)
        return found.values()

    def _pids(self) -> list[str]:
        """Of all workers that are not known to be dead."""
        return sorted(path.stem.rpartition("_")[2] for path in self._directory.glob("gauge_livesum_*.db"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
