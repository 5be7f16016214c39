"""Which of a process's memory is asked for in large pages, by the kernel's own words about it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proxy_site.memory import full_ranges

MB = 1 << 20


def mapping(start: int, end: int, rights: str = "rw-p", name: str = "", resident: float = 1.0) -> str:
    kilobytes = (end - start) // 1024
    return (
        f"{start:08x}-{end:08x} {rights} 00000000 {'08:01 1234' if name.startswith('/') else '00:00 0'} {name}".rstrip()
        + f"\nSize:           {kilobytes:8} kB\nRss:            {int(kilobytes * resident):8} kB\n"
        + "VmFlags: rd wr mr mw me ac\n"
    )


@pytest.mark.parametrize(
    ("written", "ranges"),
    [
        pytest.param(mapping(2 * MB, 6 * MB), [(2, 6)], id="whole pages"),
        pytest.param(mapping(3 * MB, 9 * MB), [(4, 8)], id="only what whole pages cover"),
        pytest.param(mapping(3 * MB, 5 * MB), [], id="no whole page"),
        pytest.param(mapping(2 * MB, 6 * MB, name="[heap]"), [(2, 6)], id="the heap"),
        pytest.param(mapping(2 * MB, 6 * MB, name="[stack]"), [], id="the stack"),
        pytest.param(mapping(2 * MB, 6 * MB, name="/usr/lib/libc.so.6"), [], id="a library's data"),
        pytest.param(mapping(2 * MB, 6 * MB, rights="rw-s"), [], id="shared"),
        pytest.param(mapping(2 * MB, 6 * MB, rights="r-xp"), [], id="code"),
        pytest.param(mapping(2 * MB, 10 * MB, resident=0.5), [], id="a thread's stack, hardly used"),
        pytest.param(
            mapping(2 * MB, 6 * MB, name="/a") + mapping(8 * MB, 10 * MB) + mapping(12 * MB, 14 * MB),
            [(8, 10), (12, 14)],
            id="several",
        ),
        pytest.param("", [], id="nothing"),
    ],
)
def test_what_is_full_is_found(written: str, ranges: list[tuple[int, int]]) -> None:
    found = list(full_ranges(written.splitlines(keepends=True), 2 * MB))
    assert found == [(start * MB, end * MB) for start, end in ranges]


def test_a_process_with_its_memory_settled_goes_on() -> None:
    """In one of its own: what it does to the collector, and to pages, stays."""
    program = (
        "import gc; kept = [bytes(100) for _ in range(200_000)]\n"
        "from proxy_site.memory import settle_memory; settle_memory()\n"
        "assert gc.get_freeze_count() > 0 and gc.isenabled()\n"
        "assert len(set(map(len, kept))) == 1 and not any(map(any, kept)); print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("fine\n", "")
