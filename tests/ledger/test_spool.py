"""The spool: what is in it when a process dies at any moment, and who may take it over."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.ledger import spool as spools
from relay.ledger.items import Settlement
from relay.ledger.spool import Orphan, Spool, read
from tests.conftest import ROOT
from tests.ledger.making import admission, settlement


@pytest.fixture
def spool_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Spool]]:
    """Makes spools, and closes them and what they adopted in the end."""
    opened: list[Any] = []
    adopt = spools._adopt

    def remembered(path: Path) -> Orphan | None:
        orphan = adopt(path)
        opened.append(orphan._file if orphan else None)
        return orphan

    def make(directory: Path) -> Spool:
        spool = Spool(directory)
        opened.append(spool)
        return spool

    monkeypatch.setattr(spools, "_adopt", remembered)
    yield make
    for each in opened:
        file = each._file if isinstance(each, Spool) else each
        try:
            if file is not None:
                file.close()
        except OSError:
            pass  # the disk is full still


MakeSpool = Callable[[Path], Spool]


def some(count: int) -> list[Settlement]:
    return [settlement(admission(), completion_tokens=i, bot="Bôt-机器人\n\u2028") for i in range(count)]


def path_of(spool: Spool) -> Path:
    (path,) = spool_files(spool)
    return path


def spool_files(spool: Spool) -> list[Path]:
    return [each for each in spool._directory.iterdir() if spool.process in each.name]


def die(spool: Spool) -> None:
    """As the kernel does it: the file is closed, nothing else happens."""
    spool._file.close()


def test_what_was_appended_is_on_disk(tmp_path: Path, spool_of: MakeSpool) -> None:
    spool = spool_of(tmp_path / "var" / "spool")
    first, second = some(3), some(2)

    spool.append(first)
    spool.append(second)

    assert read(path_of(spool).read_bytes(), "x") == [*first, *second]
    assert spool.size == path_of(spool).stat().st_size
    assert stat.S_IMODE(path_of(spool).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "var" / "spool").stat().st_mode) == 0o700
    spool.close()


def test_every_field_survives(tmp_path: Path, spool_of: MakeSpool) -> None:
    spool = spool_of(tmp_path)
    full = settlement(
        admission(), "failed", error_code="e", finish_reason="f", images=3, points=2**40, first_byte_ms=None
    )
    spool.append([full])
    die(spool)

    (orphan,) = spool_of(tmp_path).orphans()

    assert orphan.settlements == [full]


def test_a_cleared_spool_begins_anew(tmp_path: Path, spool_of: MakeSpool) -> None:
    spool = spool_of(tmp_path)
    spool.append(some(5))
    spool.clear()
    assert spool.size == 0

    last = some(1)
    spool.append(last)
    assert read(path_of(spool).read_bytes(), "x") == last
    spool.close()


def test_only_a_file_with_something_in_it_is_left_behind(tmp_path: Path, spool_of: MakeSpool) -> None:
    empty, cleared, full = spool_of(tmp_path), spool_of(tmp_path), spool_of(tmp_path)
    cleared.append(some(1))
    cleared.clear()
    full.append(some(1))
    for each in (empty, cleared, full):
        each.close()

    assert [path.name for path in tmp_path.iterdir()] == [f"{full.process}.jsonl"]


# Orphans.


def test_only_the_dead_are_adopted_and_nobody_adopts_itself(tmp_path: Path, spool_of: MakeSpool) -> None:
    dead, alive, heir = spool_of(tmp_path), spool_of(tmp_path), spool_of(tmp_path)
    left = some(4)
    dead.append(left)
    alive.append(some(1))
    die(dead)

    (orphan,) = heir.orphans()

    assert (orphan.process, orphan.settlements) == (dead.process, left)
    for each in (alive, heir):
        each.close()


def test_a_dead_process_without_settlements_is_told_too(tmp_path: Path, spool_of: MakeSpool) -> None:
    """Its open records are to be swept."""
    dead = spool_of(tmp_path)
    die(dead)
    (orphan,) = spool_of(tmp_path).orphans()
    assert (orphan.process, orphan.settlements) == (dead.process, [])


def test_who_holds_an_orphan_has_it_alone(tmp_path: Path, spool_of: MakeSpool) -> None:
    dead, one, other = spool_of(tmp_path), spool_of(tmp_path), spool_of(tmp_path)
    dead.append(some(1))
    die(dead)

    (orphan,) = one.orphans()
    assert other.orphans() == []
    assert one.orphans() == []

    orphan.release()
    (orphan,) = other.orphans()
    orphan.remove()
    assert one.orphans() == []
    assert not (tmp_path / f"{dead.process}.jsonl").exists()


def test_many_who_look_at_once_share_out_the_dead(tmp_path: Path, spool_of: MakeSpool) -> None:
    for _ in range(12):
        dead = spool_of(tmp_path)
        dead.append(some(1))
        die(dead)
    heirs = [spool_of(tmp_path) for _ in range(4)]
    barrier, found = threading.Barrier(len(heirs)), []

    def look(heir: Spool) -> None:
        barrier.wait()
        for orphan in heir.orphans():
            found.append(orphan)
            if len(found) % 2:
                orphan.remove()

    threads = [threading.Thread(target=look, args=(heir,)) for heir in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    names = [orphan.process for orphan in found]
    assert len(names) == len(set(names)) == 12


def test_a_file_that_another_adopted_and_removed_meanwhile_is_no_orphan(
    tmp_path: Path, spool_of: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, heir = spool_of(tmp_path), spool_of(tmp_path)
    die(dead)
    locked = fcntl.flock

    def after_another(file: Any, how: int) -> None:
        (tmp_path / f"{dead.process}.jsonl").unlink(missing_ok=True)
        locked(file, how)

    monkeypatch.setattr(fcntl, "flock", after_another)

    assert heir.orphans() == []


def test_a_process_that_is_killed_lets_go_of_its_file_and_its_children_do_not_hold_it(
    tmp_path: Path, spool_of: MakeSpool
) -> None:
    code = (
        "import os, subprocess, sys; from pathlib import Path; from relay.ledger.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1])); "
        "child = subprocess.Popen(['sleep', '30'], close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(spool.process, child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    process, child = done.stdout.split()

    try:
        assert [orphan.process for orphan in spool_of(tmp_path).orphans()] == [process]
    finally:
        os.kill(int(child), 9)


# Half lines.


def test_a_write_that_was_cut_anywhere_loses_only_its_last_line() -> None:
    whole = some(3)
    lines = [msgspec.json.encode(each) + b"\n" for each in whole]
    content, ends = b"".join(lines), [len(b"".join(lines[: i + 1])) for i in range(3)]

    for cut in range(len(content)):
        # The end of a line is not its newline.
        complete = sum(end - 1 <= cut for end in ends)
        assert read(content[:cut], "x") == whole[:complete]


@pytest.mark.parametrize("bad", [b"", b"{}", b"null", b"\xff\xfe", b"{" * 50, b"[1]", b'{"id": 7}'])
def test_a_line_that_nobody_can_read_does_not_hide_the_others(bad: bytes) -> None:
    first, last = some(2)
    content = b"\n".join([msgspec.json.encode(first), bad, msgspec.json.encode(last), b""])
    assert read(content, "x") == [first, last]


def test_who_appends_to_half_a_line_does_not_lose_what_is_appended(
    tmp_path: Path, spool_of: MakeSpool
) -> None:
    """A file cannot be adopted and appended to: whoever adopts reads it to the end and removes it."""
    dead = spool_of(tmp_path)
    dead.append(some(2))
    path = path_of(dead)
    die(dead)
    path.write_bytes(path.read_bytes()[:-30])

    (orphan,) = spool_of(tmp_path).orphans()

    assert len(orphan.settlements) == 1


# A disk that is full.


class SmallDisk(io.FileIO):
    """Takes so many bytes, then no more."""

    room = 10**9

    def write(self, data: Any) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(bytes(data)[: self.room])
        self.room -= written
        return written


@pytest.fixture
def on_small_disk(tmp_path: Path, spool_of: MakeSpool) -> Callable[[int], tuple[Spool, SmallDisk]]:
    def make(room: int) -> tuple[Spool, SmallDisk]:
        spool = spool_of(tmp_path)
        disk = SmallDisk(path_of(spool), "ab")
        disk.room = room
        fcntl.flock(spool._file, fcntl.LOCK_UN)
        spool._file.close()
        spool._file = disk
        fcntl.flock(disk, fcntl.LOCK_EX)
        return spool, disk

    return make


@pytest.mark.parametrize("room", [0, 100, 700])
def test_a_full_disk_is_told_and_nothing_is_lost_once_it_has_room(
    room: int, on_small_disk: Callable[[int], tuple[Spool, SmallDisk]]
) -> None:
    spool, disk = on_small_disk(room)
    kept = some(5)
    with pytest.raises(OSError, match="No space left"):
        spool.append(kept)

    disk.room = 10**9
    spool.append(kept)

    found = read(path_of(spool).read_bytes(), "x")
    assert {each.id for each in found} == {each.id for each in kept}


def test_a_full_disk_does_not_prevent_clearing(
    on_small_disk: Callable[[int], tuple[Spool, SmallDisk]],
) -> None:
    """The database is back and has everything: what could not be put on disk is not missed."""
    spool, disk = on_small_disk(100)
    with pytest.raises(OSError, match="No space left"):
        spool.append(some(5))

    spool.clear()
    assert spool.size == 0

    disk.room = 10**9
    last = some(1)
    spool.append(last)
    assert read(path_of(spool).read_bytes(), "x") == last


def test_an_orphan_says_what_it_is(tmp_path: Path, spool_of: MakeSpool) -> None:
    dead = spool_of(tmp_path)
    die(dead)
    (orphan,) = spool_of(tmp_path).orphans()
    assert isinstance(orphan, Orphan)
    orphan.remove()
    orphan.remove()  # harmless
