"""Where a request ends: what may be read in two ways is refused, and nothing is answered that nobody sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.faults import smuggling
from bench.faults.rig import Findings
from bench.faults.smuggling import CASES, Case
from proxy_site.connection import HEAD_BYTES
from proxy_site.framing import plain_head
from proxy_site.replies import REPLY
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


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            (
                *(
                    "Host: x",
                    "host:y",
                    "Content-Length: 3",
                    "content-length: 03",
                    "Content-Length: +3",
                    "A:",
                    ":a",
                ),
                *(
                    "Transfer-Encoding: chunked",
                    "transfer-encoding:\tCHUNKED ",
                    "Transfer-Encoding: identity",
                    "",
                ),
                *(
                    "Connection: close",
                    "Upgrade: websocket",
                    "Expect: 100-continue",
                    "X-Forwarded-For: 1.2.3.4",
                ),
                *(
                    "Content-Encoding: gzip",
                    " folded",
                    "No colon",
                    "Sp ace: x",
                    "X-Odd: \x85",
                    "X-Odd: \xff",
                    "a_b: c",
                ),
                *(
                    "X: a\rb",
                    "X: a\nb",
                    "X: a\0b",
                    "X:  \t two  words \t",
                    "Authorization: Bearer sk-poe-1",
                    "Host: x",
                ),
            )
        ),
        st.text(st.characters(max_codepoint=255), max_size=12),
    ),
    max_size=6,
)
FIRST = st.sampled_from(
    (
        *(
            "GET /v1/models HTTP/1.1",
            "POST /v1/chat/completions HTTP/1.1",
            "POST /v1/chat/completions HTTP/1.0",
        ),
        *(
            "GET / HTTP/2.0",
            "GET  / HTTP/1.1",
            "get /v1/models HTTP/1.1",
            "GET /\xff HTTP/1.1",
            "GET x HTTP/1.1",
        ),
        *("", "OPTIONS * HTTP/1.1", "GET /v1/models\tHTTP/1.1", "GET /v1/" + "a" * 8_200 + " HTTP/1.1"),
    )
)
AFTER = st.sampled_from(
    (b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"abcGET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
)


@given(first=FIRST, lines=LINES, ending=st.sampled_from(("\r\n", "\r\n", "\r\n", "\n")), after=AFTER)
@settings(max_examples=600, deadline=None)
def test_a_head_read_at_once_says_what_it_says_line_by_line(
    first: str, lines: list[str], ending: str, after: bytes
) -> None:
    sent = ending.join([first, *lines, "", ""]).encode("latin-1") + after

    more = b"GET /v1/more HTTP/1.1\r\nHost: x\r\n\r\n"

    at_once = Wire().send(sent).send(more)
    with patch("proxy_site.framing.plain_head", return_value=None):
        by_line = Wire().send(sent).send(more)

    assert outcome(at_once) == outcome(by_line)


def outcome(wire: Wire) -> tuple[Any, ...]:
    asked = [({**seen.scope, REPLY: None}, seen.body) for seen in wire.server.seen]
    connection = (wire.transport.disconnecting, wire.transport.is_half_closed, wire.transport.is_aborted)
    return wire.statuses, wire.code, asked, connection


@pytest.mark.parametrize(
    ("head", "is_plain"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: caf\xe9\r\n\r\nand more", True),
        (b"GET / HTTP/1.1\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", False),
        (b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * HEAD_BYTES + b"\r\n\r\n", False),
    ],
)
def test_only_what_nobody_can_read_in_two_ways_is_read_at_once(head: bytes, is_plain: bool) -> None:
    assert (plain_head(head, HEAD_BYTES) is not None) is is_plain


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
