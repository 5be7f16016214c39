"""Several worker processes on one listening socket: starts them, restarts, replaces and stops them.

Nothing of Django: whoever supervises stays small, and each worker is a fresh process with code and configuration of its own.
"""

from __future__ import annotations

import mmap
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# A worker that ended is started again after the first, then after twice as long, and so on up to the last.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
# Whoever lived so long had no trouble starting.
LIFE_SECONDS = 60.0
READY = b"r"
# In the place of a number of connections: accepts none.
AWAY = 2**32 - 1
# A worker with more connections than the one with the fewest, by more than this and this share of them, lets others go first.
SLACK, SLACK_SHARE = 1, 8


class Seats:
    """How many connections each worker has, in memory that all of them see."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._counts = memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size)).cast("I")

    @classmethod
    def fresh(cls, number: int) -> Seats:
        descriptor = os.memfd_create("poe-relay-seats")
        os.write(descriptor, AWAY.to_bytes(4, "little") * number)
        return cls(descriptor)

    def put(self, seat: int, connections: int) -> None:
        self._counts[seat] = connections

    def fewest(self) -> int:
        return min(self._counts)


@dataclass(slots=True)
class Seat:
    """A worker's place beside the others: what its supervisor left open for it."""

    number: int
    seats: Seats
    listening: socket.socket
    control: socket.socket

    @classmethod
    def of(cls, written: str) -> Seat:
        number, seats, listening, control = map(int, written.split(","))
        return cls(number, Seats(seats), socket.socket(fileno=listening), socket.socket(fileno=control))

    def is_ready(self) -> None:
        """Tell the supervisor."""
        self.control.send(READY)

    def has(self, connections: int) -> None:
        self.seats.put(self.number, connections)

    def leaves(self) -> None:
        self.seats.put(self.number, AWAY)

    def is_ahead(self, connections: int) -> bool:
        """Whether another worker has so few connections that the next one should be its own."""
        fewest = self.seats.fewest()
        return connections > fewest + max(SLACK, fewest // SLACK_SHARE)


@dataclass(slots=True)
class Worker:
    process: subprocess.Popen[bytes]
    # Its end of file tells the worker to leave: that of a supervisor which was killed, too.
    control: socket.socket
    seat: int
    began: float
    is_ready: bool = False


@dataclass(slots=True)
class Post:
    """One of the N that serve: who does, who is about to take over, and when the next is started if nobody does."""

    worker: Worker | None = None
    successor: Worker | None = None
    pause: float = 0.0
    start_at: float | None = None


class Supervisor:
    """Runs `command` so many times, each with a `--seat` of its own, until it is told to stop."""

    def __init__(
        self,
        command: Sequence[str],
        listening: socket.socket,
        number: int,
        *,
        ready: Callable[[], None],
        gone: Callable[[int], None],
    ) -> None:
        self._command = command
        self._listening = listening
        self._number = number
        self._ready = ready
        self._gone = gone
        # Alone until it is ready: what keeps it from starting would keep all of them, and is said once.
        self._posts = [Post(start_at=time.monotonic())]
        self._leaving: list[Worker] = []
        self._to_replace: list[Post] = []
        # For those who serve, as many who leave, and a successor.
        self._seats = Seats.fresh(2 * number + 1)
        self._selector = selectors.DefaultSelector()
        self._has_terminal = os.isatty(0)
        self._was_ready = False
        self._is_stopping = False
        self._has_failed = False

    def run(self) -> int:
        """The exit status: 0 if every worker ended well when it was told to."""
        woken, waking = socket.socketpair()
        waking.setblocking(False)
        woken.setblocking(False)
        self._selector.register(woken, selectors.EVENT_READ, None)
        before = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        handlers = {each: signal.signal(each, lambda *_: None) for each in handled}
        try:
            while self._posts or self._leaving:
                self._turn(woken)
        finally:
            signal.set_wakeup_fd(before)
            for each, handler in handlers.items():
                signal.signal(each, handler)
            woken.close()
            waking.close()
            self._selector.close()
        return int(self._has_failed)

    def _turn(self, woken: socket.socket) -> None:
        for key, _events in self._selector.select(self._seconds_to_wait()):
            if isinstance(key.data, Worker):
                self._hear(key.data)
                continue
            for number in woken.recv(4096):
                self._on_signal(number)
        self._reap()
        for post in self._posts:
            if post.start_at is not None and post.start_at <= time.monotonic():
                post.start_at, post.worker = None, self._start()
                if post.worker is None:
                    self._start_later(post)
        self._replace_next()
        if self._is_stopping:
            self._posts = [post for post in self._posts if post.worker or post.successor]

    def _seconds_to_wait(self) -> float | None:
        moments = [post.start_at for post in self._posts if post.start_at is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _processes(self) -> list[Worker]:
        serving = [each for post in self._posts for each in (post.worker, post.successor) if each is not None]
        return serving + self._leaving

    # Starting, and what workers tell.

    def _start(self) -> Worker | None:
        """None if the system does not let it: while Python itself is replaced by an upgrade, say."""
        taken = {worker.seat for worker in self._processes()}
        seat = next(number for number in range(2 * self._number + 1) if number not in taken)
        ours, theirs = socket.socketpair()
        inherited = (self._seats.descriptor, self._listening.fileno(), theirs.fileno())
        written = ",".join(map(str, (seat, *inherited)))
        # A session of its own: Ctrl-C reaches the supervisor alone, which passes it on.
        try:
            process = subprocess.Popen(  # noqa: S603 our own program
                [*self._command, "--seat", written], pass_fds=inherited, start_new_session=True
            )
        except OSError as exc:
            ours.close()
            _say(f"no worker can be started: {exc}")
            return None
        finally:
            theirs.close()
        worker = Worker(process, ours, seat, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _start_later(self, post: Post) -> None:
        if not self._was_ready:
            # Why is said already.
            self._has_failed = True
            self._posts = []
            return
        post.pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, post.pause * 2))
        post.start_at = time.monotonic() + post.pause
        _say(f"another starts in {post.pause:g} s")

    def _hear(self, worker: Worker) -> None:
        try:
            is_ready = worker.control.recv(1) == READY
        except OSError:
            is_ready = False
        if not is_ready:
            # It ends, or has; that is seen when it is reaped.
            self._selector.unregister(worker.control)
            return
        worker.is_ready = True
        if not self._was_ready and not self._is_stopping:
            self._was_ready = True
            # Nobody may be there to read it.
            with suppress(OSError):
                self._ready()
            self._posts += [Post(start_at=time.monotonic()) for _ in range(self._number - 1)]
        for post in self._posts:
            if post.successor is worker:
                self._take_over(post)

    # Ending.

    def _reap(self) -> None:
        for worker in self._processes():
            if worker.process.poll() is None:
                continue
            self._forget(worker)
            if worker in self._leaving:
                self._leaving.remove(worker)
                self._note_end(worker)
            for post in list(self._posts):
                if post.worker is worker:
                    post.worker = None
                    self._worker_ended(post, worker)
                elif post.successor is worker:
                    post.successor = None
                    self._successor_ended(post, worker)

    def _forget(self, worker: Worker) -> None:
        if worker.control.fileno() in self._selector.get_map():
            self._selector.unregister(worker.control)
        worker.control.close()
        self._seats.put(worker.seat, AWAY)
        self._gone(worker.process.pid)

    def _note_end(self, worker: Worker) -> None:
        """Whoever was told to end: one that was still starting ends by the signal itself."""
        if worker.is_ready and worker.process.returncode != 0:
            self._has_failed = self._has_failed or self._is_stopping
            _say(f"worker {_how(worker)} instead of draining")

    def _worker_ended(self, post: Post, worker: Worker) -> None:
        if self._is_stopping:
            self._note_end(worker)
            return
        # Why it could not start it has said itself, unless it was killed.
        if self._was_ready or worker.process.returncode < 0:
            _say(f"worker {_how(worker)}")
        if time.monotonic() - worker.began > LIFE_SECONDS:
            post.pause = 0.0
        if post.successor is None:
            self._start_later(post)

    def _successor_ended(self, post: Post, worker: Worker) -> None:
        if self._is_stopping:
            return
        self._to_replace = []
        _say(f"the new worker {_how(worker)} before it was ready: the old ones go on")
        if post.worker is None:
            self._start_later(post)

    # Being told.

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(number)
        elif number == signal.SIGHUP and self._has_terminal and not os.isatty(0):
            # Nobody asks for a restart: the terminal that it was started in was closed.
            self._stop(signal.SIGTERM)
        elif number == signal.SIGHUP and self._was_ready and not self._is_stopping:
            self._to_replace = list(self._posts)

    def _stop(self, number: int) -> None:
        """Pass it on; a second one too. A worker that is still starting has nothing to drain: it ends at once."""
        if not self._is_stopping:
            self._is_stopping = True
            self._to_replace = []
            # Closed for good when the last worker stops accepting: nobody waits where nobody answers.
            self._listening.close()
            for post in self._posts:
                post.start_at = None
        for worker in self._processes():
            worker.process.send_signal(number if worker.is_ready else signal.SIGTERM)

    def _replace_next(self) -> None:
        """One after the other: a new one on the same socket, and when it is ready the old one leaves.

        There are never more who leave than who serve: a worker takes memory for as long as its last answer goes on.
        """
        is_under_way = any(post.successor for post in self._posts)
        if not self._to_replace or is_under_way or len(self._leaving) >= self._number:
            return
        post = self._to_replace.pop(0)
        post.start_at = None
        post.successor = self._start()
        if post.successor is None:
            self._to_replace = []
            if post.worker is None:
                self._start_later(post)

    def _take_over(self, post: Post) -> None:
        old, post.worker, post.successor = post.worker, post.successor, None
        post.pause = 0.0
        if old is not None:
            self._leaving.append(old)
            if old.is_ready:
                # Its end of file: no signal, since nobody need be told that this relay stops.
                old.control.shutdown(socket.SHUT_WR)
            else:
                old.process.terminate()


def _how(worker: Worker) -> str:
    code = worker.process.returncode
    ending = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return f"{worker.process.pid} {ending}"


def _say(text: str) -> None:
    # As Django's settings have it for all who log.
    now = time.time()
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    try:
        print(
            f"{moment},{int(now % 1 * 1000):03} WARNING proxy_site.workers {text}",
            file=sys.stderr,
            flush=True,
        )
    except OSError:
        pass  # the terminal was closed; workers are still to be stopped


def main(arguments: list[str]) -> int:
    descriptor, number, text, directory, *command = arguments
    from proxy_site import metrics

    metrics.prepare(Path(directory))
    listening = socket.socket(fileno=int(descriptor))
    return Supervisor(
        command, listening, int(number), ready=lambda: print(text, flush=True), gone=metrics.forget
    ).run()


def become_supervisor(
    command: Sequence[str], listening: socket.socket, number: int, *, text: str, metrics: Path
) -> NoReturn:
    """Supervise instead of whatever this process was, and without the memory that it took. Says `text` when ready."""
    os.set_inheritable(listening.fileno(), True)
    arguments = [str(listening.fileno()), str(number), text, str(metrics), *command]
    # Isolated: the modules beside this one are none of the standard library's.
    os.execv(sys.executable, [sys.executable, "-I", __file__, *arguments])  # noqa: S606


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main(sys.argv[1:]))
