"""What only has to be different each time is, in each thread and each process."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from relay.chance import SIZE, chance


def drawn(count: int) -> list[bytes]:
    return [chance() for _ in range(count)]


def test_it_is_never_the_same() -> None:
    with ThreadPoolExecutor(8) as threads:
        some = [each for part in threads.map(drawn, [2_000] * 8) for each in part]

    assert len(set(some)) == 16_000 and {len(each) for each in some} == {SIZE}


def test_a_forked_process_draws_its_own() -> None:
    chance()  # so that some are ready
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.write(theirs, b"".join(drawn(200)))
        os._exit(0)
    os.waitpid(child, 0)
    of_child = os.read(ours, 200 * SIZE)
    os.close(ours)
    os.close(theirs)

    assert len(of_child) == 200 * SIZE
    assert not {of_child[start : start + SIZE] for start in range(0, len(of_child), SIZE)} & set(drawn(200))
