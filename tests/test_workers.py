"""Several processes on one socket: the supervisor by itself with workers made up for it, then the relay's own workers."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from proxy_site import config, workers
from relay.models import UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.conftest import ROOT, DemoPoe, Served, connections_of, knock, port_of, wait_for, workers_of

# A worker that does what `plan` says, one line for each start and the last one from then on, and writes what it sees.
MADE_UP = f"""
import os, select, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from proxy_site.workers import Seat

folder, seat = sys.argv[1], Seat.of(sys.argv[3])
def saw(what):
    with open(folder + "/seen", "a") as seen:
        seen.write(f"{{os.getpid()}} {{what}}\\n")

saw("started")
with open(folder + "/seen") as seen:
    starts = seen.read().count("started")
with open(folder + "/plan") as plan:
    steps = plan.read().split()
step = steps[min(starts, len(steps)) - 1]
if step == "fails":
    sys.exit("it cannot start")
if step == "is-killed":
    os.kill(os.getpid(), signal.SIGKILL)
if step == "starts-for-ever":
    time.sleep(60)
if step == "ready-when-stopped":
    signal.signal(signal.SIGTERM, lambda *_: (seat.is_ready(), time.sleep(0.2), sys.exit(0)))
    saw("waiting")
    time.sleep(60)
woken, waking = os.pipe()
os.set_blocking(waking, False)
signal.set_wakeup_fd(waking)
for each in (signal.SIGTERM, signal.SIGINT):
    signal.signal(each, lambda *_: None)
saw("ready")
seat.is_ready()
if step == "dies":
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
readable, _, _ = select.select([woken, seat.control], [], [])
if woken in readable:
    saw("signal %d" % os.read(woken, 1)[0])
    if step == "drains":
        saw("signal %d" % os.read(woken, 1)[0])
else:
    saw("dismissed")
sys.exit(3 if step == "ends-badly" else 0)
"""


@dataclass
class Supervised:
    process: subprocess.Popen[str]
    folder: Path

    def seen(self) -> list[tuple[int, str]]:
        """What the workers wrote: who, and what."""
        file = self.folder / "seen"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(pid), what) for pid, what in (line.split(" ", 1) for line in lines)]

    def those(self, what: str) -> list[int]:
        return [pid for pid, seen in self.seen() if seen == what]

    def wait_for(self, what: str, number: int) -> list[int]:
        assert wait_for(lambda: len(self.those(what)) >= number), self.seen()
        return self.those(what)

    def is_gone(self) -> bool:
        return not any(map(lives, self.those("started")))

    def end(self, *signals: int) -> tuple[int, str]:
        """Its exit status, and all it said."""
        for each in signals:
            self.process.send_signal(each)
        said, _ = self.process.communicate(timeout=10)
        return self.process.returncode, said


Supervise = Callable[..., Supervised]
Ask = Callable[[int], list[threading.Thread]]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    running: list[Supervised] = []

    def start(plan: str, number: int = 2, stdin: int | None = None) -> Supervised:
        (tmp_path / "plan").write_text(plan)
        (tmp_path / "worker.py").write_text(MADE_UP)
        python = tmp_path / "python"
        python.symlink_to(sys.executable)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            process = subprocess.Popen(
                [
                    *(
                        sys.executable,
                        "-I",
                        workers.__file__,
                        str(listening.fileno()),
                        str(number),
                        "it is ready",
                        str(tmp_path / "metrics"),
                    ),
                    *(str(python), "-I", str(tmp_path / "worker.py"), str(tmp_path)),
                ],
                pass_fds=[listening.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                stdin=stdin,
            )
        running.append(Supervised(process, tmp_path))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.communicate()
    for each in running:
        assert wait_for(each.is_gone), "a worker outlived its supervisor"


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_runs_so_many_and_says_once_that_it_is_ready(supervise: Supervise) -> None:
    supervised = supervise("serves", number=3)
    ready = supervised.wait_for("ready", 3)

    assert supervised.end(signal.SIGTERM) == (0, "it is ready\n")
    assert sorted(supervised.those("signal 15")) == sorted(set(ready)) == sorted(supervised.those("started"))


def test_what_keeps_the_first_from_starting_is_said_once_and_ends_it(supervise: Supervise) -> None:
    assert supervise("fails", number=4).end() == (1, "it cannot start\n")


def test_a_first_one_that_is_killed_before_it_can_say_anything_is_told_of(supervise: Supervise) -> None:
    supervised = supervise("is-killed")
    supervised.wait_for("started", 1)

    status, said = supervised.end()

    assert status == 1 and said.count("was killed by signal 9") == 1


def test_one_that_dies_is_started_again_after_longer_and_longer_pauses(supervise: Supervise) -> None:
    supervised = supervise("serves dies dies dies serves")
    supervised.wait_for("ready", 5)
    status, said = supervised.end(signal.SIGTERM)

    assert status == 0
    assert re.findall(r"was killed by signal 9\n.* another starts in (\S+) s", said) == ["0.1", "0.2", "0.4"]


def test_one_that_cannot_start_any_more_does_not_stop_the_others(supervise: Supervise) -> None:
    supervised = supervise("serves fails")
    supervised.wait_for("started", 4)
    status, said = supervised.end(signal.SIGTERM)

    assert status == 0
    assert said.count("it cannot start") >= said.count("ended with 1\n") >= 2


def test_it_goes_on_while_the_system_lets_it_start_nothing(supervise: Supervise) -> None:
    """As when an upgrade replaces Python: what it starts is gone for a while."""
    supervised = supervise("serves")
    first, second = supervised.wait_for("ready", 2)
    python, away = supervised.folder / "python", supervised.folder / "away"
    python.rename(away)
    supervised.process.send_signal(signal.SIGHUP)
    os.kill(first, signal.SIGKILL)
    time.sleep(0.4)
    assert supervised.process.poll() is None and lives(second)
    away.rename(python)
    supervised.wait_for("ready", 3)
    status, said = supervised.end(signal.SIGTERM)

    assert status == 0 and said.count("no worker can be started") >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_the_second_one_too(supervise: Supervise, number: int) -> None:
    supervised = supervise("drains")
    supervised.wait_for("ready", 2)
    supervised.process.send_signal(number)
    supervised.wait_for(f"signal {int(number)}", 2)

    assert supervised.process.poll() is None
    assert supervised.end(number)[0] == 0
    assert Counter(what for _, what in supervised.seen())[f"signal {int(number)}"] == 4


def test_one_that_did_not_drain_is_told_and_makes_the_status_1(supervise: Supervise) -> None:
    supervised = supervise("serves ends-badly")
    supervised.wait_for("ready", 2)
    status, said = supervised.end(signal.SIGTERM)

    assert status == 1
    assert said.count("ended with 3 instead of draining") == 1


def test_one_that_still_starts_is_stopped_at_once(supervise: Supervise) -> None:
    supervised = supervise("serves starts-for-ever")
    supervised.wait_for("started", 2)

    assert supervised.end(signal.SIGINT)[0] == 0


def test_one_that_is_ready_too_late_is_joined_by_no_others(supervise: Supervise) -> None:
    supervised = supervise("ready-when-stopped")
    supervised.wait_for("waiting", 1)

    assert supervised.end(signal.SIGTERM) == (0, "")
    assert len(supervised.those("started")) == 1


def test_a_hang_up_replaces_one_after_the_other_without_a_signal(supervise: Supervise) -> None:
    supervised = supervise("serves")
    old = supervised.wait_for("ready", 2)
    supervised.process.send_signal(signal.SIGHUP)
    supervised.wait_for("dismissed", 2)
    seen = supervised.seen()

    assert supervised.those("dismissed") == old
    first, second = supervised.those("ready")[2:]
    assert seen.index((first, "ready")) < seen.index((old[0], "dismissed"))
    assert seen.index((first, "ready")) < seen.index((second, "started"))
    assert wait_for(lambda: not any(map(lives, old))) and lives(first) and lives(second)
    assert supervised.end(signal.SIGTERM) == (0, "it is ready\n")


def test_the_old_ones_go_on_when_a_new_one_does_not_start(supervise: Supervise) -> None:
    supervised = supervise("serves serves fails")
    old = supervised.wait_for("ready", 2)
    supervised.process.send_signal(signal.SIGHUP)
    supervised.wait_for("started", 3)
    time.sleep(0.2)

    assert supervised.those("dismissed") == [] and all(map(lives, old))
    assert len(supervised.those("started")) == 3
    status, said = supervised.end(signal.SIGTERM)
    assert status == 0 and "before it was ready: the old ones go on" in said


def test_no_worker_outlives_a_supervisor_that_was_killed(supervise: Supervise) -> None:
    supervised = supervise("serves")
    ready = supervised.wait_for("ready", 2)
    supervised.process.kill()

    assert sorted(supervised.wait_for("dismissed", 2)) == sorted(ready)
    assert wait_for(lambda: not any(map(lives, ready)))


def test_a_closed_terminal_stops_it(supervise: Supervise) -> None:
    ours, theirs = pty.openpty()
    supervised = supervise("serves", stdin=theirs)
    os.close(theirs)
    supervised.wait_for("ready", 2)
    os.close(ours)

    assert supervised.end(signal.SIGHUP)[0] == 0
    assert len(supervised.those("signal 15")) == 2


# Whose turn it is.


@pytest.mark.parametrize(
    ("mine", "others", "is_ahead"),
    [
        (5, [], False),
        (1, [0], False),
        (2, [0], True),
        (2, [0, 7], True),
        (17, [16], False),
        (20, [16], True),
        (500, [450], False),
        (520, [450], True),
    ],
)
def test_a_worker_that_has_more_than_its_share_lets_others_go_first(
    mine: int, others: list[int], is_ahead: bool
) -> None:
    seats = workers.Seats.fresh(8)
    with socket.socket() as listening, socket.socket() as control:
        seat = workers.Seat(7, seats, listening, control)
        seat.has(mine)
        for number, connections in enumerate(others):
            seats.put(number, connections)

        assert seat.is_ahead(mine) is is_ahead

    os.close(seats.descriptor)


# The configuration.


@pytest.mark.parametrize(("value", "number"), [(1, 1), ("8", 8), ("auto", "auto"), (256, 256)])
def test_the_number_of_workers_is_a_number_or_auto(value: object, number: object) -> None:
    assert config.number_of_workers(value) == number


@pytest.mark.parametrize("value", [0, "0", -1, 257, "many", "", 1.5, True, None])
def test_it_refuses_another_number_of_workers(
    value: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="from 1 up to 256"):
        config.number_of_workers(value)
    monkeypatch.setenv("POE_RELAY_SERVER__WORKERS", str(value))

    with pytest.raises(config.ConfigError, match="bad value for server.workers: .*from 1 up to 256, or"):
        config.load()


# The relay's own.


def spread_of(served: Served, pause: float) -> list[int]:
    """How many of 32 connections each worker has."""
    clients = []
    for _ in range(32):
        clients.append(knock(port_of(served)))
        time.sleep(pause)
    for client in clients:
        assert client.recv(65536).endswith(b"ok")
    spread = [connections_of(pid, port_of(served)) for pid in workers_of(served)]
    for client in clients:
        client.close()
    assert wait_for(lambda: not any(connections_of(pid, port_of(served)) for pid in workers_of(served)))
    return spread


@pytest.mark.parametrize("pause", [0.0, 0.005])
def test_32_connections_are_spread_over_two_workers(two_workers: Served, pause: float) -> None:
    # Other tests beside this one may keep a worker from its core for a moment.
    tries = iter(lambda: spread_of(two_workers, pause), None)
    spread = next(has for has, _try in zip(tries, range(5), strict=False) if min(has) >= 0.4 * 32)

    assert sum(spread) == 32
    # The supervisor has nothing of what the workers have loaded.
    status = Path(f"/proc/{two_workers.process.pid}/status").read_text()
    assert int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) < 25_000


@pytest.fixture
def ask(two_workers: Served, demo: DemoPoe, cast: Cast) -> Ask:
    """Starts so many streams of about a second, each on a connection of its own; all are under way when it returns."""
    demo.script("slow", *[("text", {"text": f"{n} "}) for n in range(10)], ("done", {}), delay=0.1)
    people.mapping("slow", "slow")

    def read() -> None:
        httpx2.post(
            f"{two_workers.url}/v1/chat/completions",
            json={"model": "slow", "messages": [{"role": "user", "content": "x"}], "stream": True},
            headers={"Authorization": f"Bearer {cast.bob.plain}"},
            timeout=20,
        )

    def start(number: int) -> list[threading.Thread]:
        readers = [threading.Thread(target=read) for _ in range(number)]
        for reader in readers:
            reader.start()
        assert wait_for(lambda: UsageRecord.objects.filter(outcome="open").count() == number)
        return readers

    return start


def ended(readers: list[threading.Thread]) -> list[str]:
    """How, when all of them have."""
    for reader in readers:
        reader.join(10)
    return [record.outcome for record in UsageRecord.objects.all()]


def test_both_end_their_streams_and_the_supervisor_after_them(two_workers: Served, ask: Ask) -> None:
    readers = ask(8)
    two_workers.process.send_signal(signal.SIGTERM)

    assert two_workers.process.wait(10) == 0
    assert ended(readers) == ["done"] * 8


def test_a_hang_up_replaces_both_and_refuses_nobody(two_workers: Served, ask: Ask) -> None:
    old = workers_of(two_workers)
    readers = ask(4)
    two_workers.process.send_signal(signal.SIGHUP)
    answered = 0
    while any(map(lives, old)):
        with knock(port_of(two_workers)) as client:
            assert client.recv(65536).endswith(b"ok")
        answered += 1
        time.sleep(0.005)

    assert answered > 20
    assert wait_for(lambda: len(workers_of(two_workers)) == 2)
    assert not set(old) & set(workers_of(two_workers))
    assert ended(readers) == ["done"] * 4


def test_streams_end_though_the_supervisor_was_killed(two_workers: Served, ask: Ask) -> None:
    pids = workers_of(two_workers)
    readers = ask(4)
    two_workers.process.kill()

    assert wait_for(lambda: not any(map(lives, pids)), 10)
    assert ended(readers) == ["done"] * 4


def test_a_worker_that_dies_is_replaced(two_workers: Served) -> None:
    first, second = workers_of(two_workers)
    os.kill(first, signal.SIGKILL)

    assert wait_for(lambda: len(set(workers_of(two_workers)) - {first}) == 2)
    assert second in workers_of(two_workers)
    assert httpx2.get(f"{two_workers.url}/healthz").text == "ok"
