"""The short forms of what bench/faults does to connections, on the database of this run."""

from __future__ import annotations

import asyncio

import pytest

from bench.faults import floods, readers, smuggling
from bench.faults.rig import Findings, Site

pytestmark = pytest.mark.asyncio


async def test_who_never_reads_is_cut_and_what_fails_in_the_middle_hangs_nobody(
    site: Site, findings: Findings
) -> None:
    sizes = readers.Sizes(
        clients=20, exceptions=24, at_once=12, most_mb=40, stuck_seconds=1.5, is_shortened=True
    )

    await readers.tell(site, findings, sizes)

    assert findings.missed == []


async def test_a_gigabyte_from_nobody_is_refused_at_its_beginning(site: Site, findings: Findings) -> None:
    server = await asyncio.to_thread(site.start)

    await floods.a_gigabyte(site, findings, server)

    assert findings.missed == []


# What smuggling.py is told by, without a server.


@pytest.mark.parametrize(
    ("came", "is_closed", "said"),
    [
        ([(404, "POST /v1/first")], True, ""),
        ([(404, "POST /v1/first")], False, "the connection is still open"),
        ([], True, "0 answers instead of 1"),
        ([(404, "POST /v1/first"), (400, "")], True, "2 answers instead of 1"),
        ([(200, "POST /v1/first")], True, "200 instead of 404"),
        ([(404, "GET /v1/other")], True, "404 instead of 404"),
        ([(404, "GET /v1/smuggled")], True, "a request was answered that nobody sent"),
    ],
)
async def test_a_wrong_answer_is_one(came: list[tuple[int, str]], is_closed: bool, said: str) -> None:
    case = smuggling.Case("plain", b"", ("POST /v1/first",), None)
    received = b"".join(
        b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
        for status, body in ((status, f"No such route: {line}".encode()) for status, line in came)
    )

    assert smuggling.wrong(case, received, is_closed) == said


async def test_a_tap_keeps_what_the_relay_says() -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 204 " + await reader.read(100))
        await smuggling.hang_up(writer)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with smuggling.tapped(server.sockets[0].getsockname()[1]) as (tap, port):
        received = await smuggling.exchange(port, b"fine\r\n\r\n")
    server.close()

    assert received == (tap.said, True)
    assert smuggling.responses(tap.said) == [(204, "")]
