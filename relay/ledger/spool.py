"""Settlements that the database could not take, kept on disk; and whose process is alive, told by a file lock.

Each process has one file, `<process>.jsonl`, locked as long as it lives. A file whose lock is free is a dead process's.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from relay.ledger.items import Settlement

log = logging.getLogger(__name__)
SUFFIX = ".jsonl"
# What piled up while the database was down is written in transactions of this many.
SETTLEMENTS_AT_ONCE = 200


def new_process_name() -> str:
    return f"{socket.gethostname()[:30]}:{os.getpid()}:{uuid.uuid4().hex[:8]}".replace("/", "-")


class Spool:
    """This process's file. Settlements are on disk when `append` returns."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.process = new_process_name()
        self._directory = directory
        self._unreadable: set[Path] = set()
        self._path = directory / f"{self.process}{SUFFIX}"
        # Locked before it has its name: nobody takes it for an orphan in between.
        fresh = directory / f".{self.process}"
        self._file = fresh.open("ab", buffering=0)
        fresh.chmod(0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        fresh.rename(self._path)
        _sync_directory(directory)

    @property
    def size(self) -> int:
        """In bytes; 0 when the database has everything."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, settlements: list[Settlement]) -> None:
        lines = b"".join(map(_line, settlements))
        before = self.size
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(before)
            raise

    def clear(self) -> None:
        """The database has taken all of it."""
        self._file.truncate(0)

    def close(self) -> None:
        """Sign off. What is left in it may be adopted by another process."""
        if not self.size:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def orphans(self) -> list[Orphan]:
        """The files of dead processes, each locked now: nobody else adopts it."""
        found = []
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            try:
                if path != self._path and (orphan := _adopt(path)) is not None:
                    found.append(orphan)
            except OSError as exc:  # such as of another user's: the others are not to wait for it
                if path not in self._unreadable:
                    self._unreadable.add(path)
                    log.error("the spool %s cannot be read: %s", path.name, exc.strerror)
        return found


def _line(settlement: Settlement) -> bytes:
    try:
        return msgspec.json.encode(settlement) + b"\n"
    except ValueError:  # half a surrogate pair: no database takes it either
        log.error("the settlement of %s cannot be written down", settlement.id)
        return b""


@dataclass(slots=True)
class Orphan:
    process: str
    settlements: list[Settlement]
    _path: Path
    _file: BinaryIO

    def remove(self) -> None:
        """The database has taken all of it."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def release(self) -> None:
        """Another may adopt it."""
        self._file.close()


def _adopt(path: Path) -> Orphan | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists():  # adopted and removed by another while we looked
            raise BlockingIOError
    except BlockingIOError:
        file.close()
        return None
    try:
        return Orphan(path.name.removesuffix(SUFFIX), read(file.read(), path.name), path, file)
    except OSError:
        file.close()
        raise


def read(content: bytes, name: str) -> list[Settlement]:
    """A process that died while it wrote leaves half a line at the end."""
    settlements = []
    for line in content.splitlines():
        try:
            settlements.append(msgspec.json.decode(line, type=Settlement))
        except msgspec.MsgspecError:
            log.error("the spool %s holds a line that is no settlement: left out", name)
    return settlements


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
