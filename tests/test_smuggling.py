"""Where a request ends: what may be read in two ways is refused, and nothing is answered that nobody sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.faults import smuggling
from bench.faults.rig import Findings
from bench.faults.smuggling import CASES, Case
from tests.conftest import Served
from tests.wires import Wire


@pytest.mark.parametrize("at_a_time", [None, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_sees_what_a_strict_reader_sees(case: Case, at_a_time: int | None) -> None:
    wire = Wire().send(case.sent, at_a_time=at_a_time)

    assert tuple(wire.lines) == case.seen
    refused = [] if case.refused is None else [case.refused]
    assert wire.statuses == [200] * len(case.seen) + refused
    assert wire.transport.disconnecting or wire.transport.is_half_closed
    assert all(b"smuggled" not in seen.scope["path"].encode() for seen in wire.server.seen)


def test_a_refusal_is_in_the_apis_words_and_ends_the_connection() -> None:
    wire = Wire().send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")

    head, _, body = wire.received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nconnection: close" in head and b"\r\nx-request-id: req_" in head
    assert b"\r\naccess-control-allow-origin: *" in head
    assert b"\r\ncontent-length: %d" % len(body) in head
    assert body.startswith(b'{"error":{"message":"The header host was sent more than once."')


@pytest.mark.asyncio
async def test_a_real_relay_and_nginx_agree_where_a_request_ends(
    serve: Callable[..., Served], cast: object, tmp_path: Path
) -> None:
    findings = Findings()
    port = int(serve().url.rpartition(":")[2])

    await smuggling.directly(findings, port)
    if shutil.which("nginx") is not None:
        await smuggling.behind_nginx(findings, port, tmp_path)

    assert findings.missed == []
