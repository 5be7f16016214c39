"""One connection: deadlines, back-pressure, what a body may hold, refusals, and whose word counts for where it came from."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from proxy_site import access_log, connection
from proxy_site.connection import AHEAD_BYTES, LINGER_BYTES
from relay.errors import Unauthenticated
from relay.models import UsageRecord
from relay.visit import Visit
from tests import cast as people
from tests.cast import Cast
from tests.conftest import DemoPoe, Served, wait_for
from tests.test_server import ask, collect_static_files, connect, memory_mb
from tests.wires import PEER, Wire

GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
MEGABYTE = 1_000_000


def post(path: str = "/v1/chat/completions", *headers: str, length: int | None = None) -> bytes:
    """The head of a request; chunks follow if no length is given."""
    ending = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, ending, "", ""]).encode()


def chunk(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"a" * size)


# Deadlines.


@pytest.mark.parametrize(
    ("sent", "seconds", "status"),
    [
        (b"G", 10, 408),
        (b"GET / HTTP/1.1\r\nHost:", 10, 408),
        (GET + b"GET /v1", 10, 408),
        (post(length=100), 30, 408),
        (post(length=100) + b"a" * 99, 30, 408),
        (post() + chunk(99), 30, 408),
        # Nothing was asked: there is nothing to answer.
        (b"", 10, None),
        (GET, 75, None),
    ],
)
def test_it_waits_so_long_and_not_longer(sent: bytes, seconds: int, status: int | None) -> None:
    wire = Wire().send(sent)
    answered = len(wire.statuses)

    wire.wait(seconds)
    assert not wire.transport.disconnecting and not wire.transport.is_half_closed
    wire.wait(2)

    assert wire.statuses[answered:] == ([] if status is None else [status])
    assert wire.transport.disconnecting or wire.transport.is_half_closed


def test_a_head_that_drips_is_late_all_the_same() -> None:
    wire = Wire()

    for byte in b"GET /v1/models":
        wire.send(bytes([byte])).wait(1)

    assert wire.statuses == [408] and wire.code == "request_timeout"


@pytest.mark.parametrize(("rate", "status"), [(1, 408), (900, 408), (1_100, 200)])
def test_a_body_that_drips_is_cut(rate: int, status: int) -> None:
    wire = Wire().send(post(length=60 * rate))

    for _ in range(60):
        wire.wait(1).send(b"a" * rate)

    assert wire.statuses == [status]


def test_an_answer_may_take_its_time() -> None:
    wire = Wire()
    wire.server.answers = False

    wire.send(GET).wait(600)
    wire.server.answer(wire.server.requests[0])

    assert wire.statuses == [200]
    assert not wire.transport.disconnecting


def test_a_closed_connection_is_looked_after_no_more() -> None:
    wire = Wire().send(post(length=100))

    wire.channel.connectionLost(None)

    assert wire.factory.watched == set() and wire.server.open == []


# Back-pressure.


def stuck() -> Wire:
    """A client that has asked and does not read."""
    wire = Wire()
    wire.server.answers = False
    wire.send(GET)
    wire.transport.is_read = False
    return wire


def say(wire: Wire, size: int) -> None:
    request = wire.server.requests[0]
    if not request._response_started:
        request.handle_reply({"type": "http.response.start", "status": 200, "headers": []})
    request.handle_reply({"type": "http.response.body", "body": b"a" * size, "more_body": True})


def test_the_application_waits_for_a_reader() -> None:
    wire = stuck()
    request = wire.server.requests[0]

    assert not request.takes_more()  # its head has not left
    say(wire, 1_000)
    assert request.can_write.is_set() and request.takes_more()
    say(wire, 200_000)
    assert not request.can_write.is_set() and not request.takes_more()
    wire.transport.read()
    assert request.can_write.is_set() and request.takes_more()
    wire.channel.connectionLost(None)
    assert not request.takes_more()


def test_an_answer_that_has_ended_takes_no_more() -> None:
    wire = stuck()
    request = wire.server.requests[0]
    say(wire, 1_000)

    request.handle_reply({"type": "http.response.body", "body": b"", "more_body": False})

    assert not request.takes_more()


@pytest.mark.parametrize(("rate", "cut"), [(0, True), (500, True), (1_500, False)])
def test_a_reader_that_hardly_reads_is_cut(rate: int, cut: bool) -> None:
    wire = stuck()
    say(wire, 200_000)

    for _ in range(65):
        wire.wait(1)
        wire.transport.read(rate)

    assert wire.transport.is_aborted is cut


def test_nothing_is_cut_before_its_time() -> None:
    wire = stuck()
    say(wire, 200_000)

    assert not wire.wait(30).transport.is_aborted
    assert wire.wait(2).transport.is_aborted


def test_a_reader_that_came_back_in_time_is_kept() -> None:
    wire = stuck()
    say(wire, 200_000)

    wire.wait(25).transport.read()
    wire.wait(25)

    assert not wire.transport.is_aborted and wire.factory.watched == set()


def test_the_rest_of_an_answer_that_nobody_reads_is_dropped() -> None:
    wire = Wire()
    wire.transport.is_read = False
    wire.send(GET.replace(b"Host: x", b"Host: x\r\nConnection: close"))

    assert wire.transport.disconnecting
    assert wire.wait(32).transport.is_aborted


def test_a_connection_that_is_gone_lets_the_application_go_on() -> None:
    wire = stuck()
    say(wire, 200_000)

    wire.channel.connectionLost(None)

    assert wire.server.requests[0].can_write.is_set()


def test_requests_ahead_of_their_turn_are_not_hoarded() -> None:
    wire = stuck()
    say(wire, 200_000)

    wire.send(GET * 100)
    assert wire.is_reading
    wire.send(b"a" * AHEAD_BYTES)

    assert not wire.is_reading


# The body.


class Doorkeeper:
    """Knows one token, when it has been let look."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.may_look = asyncio.Event()

    async def __call__(self, credential: str, address: str) -> None:
        self.asked.append((credential, address))
        await self.may_look.wait()
        if credential != "good":
            raise Unauthenticated("This access token is unknown.")


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.parametrize("header", ["Authorization: Bearer good", "x-api-key: good"])
@pytest.mark.parametrize("length", [2 * MEGABYTE, None])
async def test_a_long_body_is_read_on_when_its_sender_is_known(header: str, length: int | None) -> None:
    door = Doorkeeper()
    wire = Wire(door)
    piece = b"a" * 500_000 if length else chunk(500_000)

    wire.send(post("/v1/x", header, length=length)).send(piece).send(piece).send(b"a" if length else chunk(1))
    await turn()
    assert not wire.is_reading and wire.statuses == []
    door.may_look.set()
    await turn()
    assert wire.is_reading
    wire.send(piece).send(b"a" * 499_999 if length else chunk(499_999) + b"0\r\n\r\n")

    assert wire.statuses == [200] and len(wire.server.seen[0].body) == 2 * MEGABYTE
    assert door.asked == [("good", PEER)]


@pytest.mark.asyncio
@pytest.mark.parametrize("header", ["Authorization: Bearer bad", "x-api-key: bad", "X-Nothing: y"])
@pytest.mark.parametrize("length", [1_000 * MEGABYTE, 2 * MEGABYTE, None])
async def test_a_long_body_of_a_stranger_is_refused(header: str, length: int | None) -> None:
    door = Doorkeeper()
    door.may_look.set()
    wire = Wire(door, api=2_000 * MEGABYTE, together=4_000 * MEGABYTE)

    wire.send(post("/v1/x", header, length=length))
    await turn()
    if length is None:
        assert wire.statuses == []
        wire.send(chunk(MEGABYTE))
        await turn()

    assert wire.statuses == [401] and wire.code == "invalid_api_key"
    assert b"www-authenticate: Bearer" in wire.received
    assert wire.bodies.held == wire.bodies.held_for_strangers == 0 and len(door.asked) == 1


@pytest.mark.asyncio
async def test_a_short_body_is_taken_from_anybody() -> None:
    door = Doorkeeper()
    wire = Wire(door).send(post(length=MEGABYTE)).send(b"a" * MEGABYTE)
    await turn()

    assert wire.statuses == [200] and door.asked == []


@pytest.mark.asyncio
async def test_who_looks_up_the_sender_may_fail() -> None:
    async def broken(credential: str, address: str) -> None:
        raise KeyError(credential)

    wire = Wire(broken).send(post(length=2 * MEGABYTE))
    await turn()

    assert wire.statuses == [503] and b"retry-after: 1" in wire.received


@pytest.mark.asyncio
async def test_a_client_that_asks_first_sends_nothing_in_vain() -> None:
    door = Doorkeeper()
    expecting = "Expect: 100-continue"
    good = Wire(door).send(post("/v1/x", "x-api-key: good", expecting, length=2 * MEGABYTE))
    bad = Wire(door).send(post("/v1/x", "x-api-key: bad", expecting, length=2 * MEGABYTE))
    long = Wire(door).send(post("/v1/x", expecting, length=9 * MEGABYTE))
    short = Wire(door).send(post("/v1/x", expecting, length=9))
    await turn()
    assert [good.statuses, bad.statuses, long.statuses, short.statuses] == [[], [], [413], [100]]

    door.may_look.set()
    await turn()

    assert [good.statuses, bad.statuses] == [[100], [401]]


@pytest.mark.asyncio
async def test_who_did_not_wait_to_be_told_to_go_on_is_not_told_later() -> None:
    door = Doorkeeper()
    wire = Wire(door, together=8 * MEGABYTE)
    wire.bodies.held_for_strangers = 3 * MEGABYTE

    wire.send(post("/v1/x", "x-api-key: good", "Expect: 100-continue", length=3) + b"abc")
    wire.send(post("/v1/x", "x-api-key: good", length=2 * MEGABYTE))
    door.may_look.set()
    await turn()

    assert wire.statuses == [200]


@pytest.mark.parametrize(
    ("fields", "is_kept"),
    [
        ([], True),
        (["keep-alive"], True),
        (["close"], False),
        (["close, TE"], False),
        (["keep-alive,Close"], False),
        (["TE", "close"], False),
        (["closed"], True),
    ],
)
def test_who_says_close_is_hung_up_on(fields: list[str], is_kept: bool) -> None:
    lines = b"".join(b"Connection: %b\r\n" % field.encode() for field in fields)
    wire = Wire().send(GET.replace(b"Host: x\r\n", b"Host: x\r\n" + lines))

    assert wire.statuses == [200] and wire.transport.disconnecting is not is_kept
    assert (b"connection: close" in wire.received.lower()) is not is_kept


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/v1/x", 5 * MEGABYTE, []),
        ("/v1/x", 5 * MEGABYTE + 1, [413]),
        ("/chat/completions", 5 * MEGABYTE, []),
        ("/%761/x", 5 * MEGABYTE, []),
        ("/admin/", 2_500_000, []),
        ("/admin/", 2_500_001, [413]),
        ("/v1x", 2_500_001, [413]),
    ],
)
@pytest.mark.asyncio
async def test_a_body_may_be_as_long_as_its_route_says(path: str, length: int, status: list[int]) -> None:
    wire = Wire().send(post(path, length=length))
    await turn()

    assert wire.statuses == status


@pytest.mark.asyncio
async def test_chunks_may_be_no_longer_than_the_limit() -> None:
    wire = Wire(api=50_000, page=50_000).send(post()).send(chunk(50_000))
    assert wire.statuses == []

    assert wire.send(chunk(1)).statuses == [413]
    assert wire.bodies.held == 0


def test_chunks_that_are_mostly_wrapping_are_cut() -> None:
    wire = Wire(api=50_000, page=50_000).send(post())

    for _ in range(200):
        wire.send(b"1;" + b"x" * 1_000 + b"\r\na\r\n")

    assert wire.statuses == [413] and wire.code == "request_too_large"


@pytest.mark.asyncio
async def test_all_bodies_together_have_a_limit() -> None:
    wire = Wire(api=600_000, page=600_000, together=2 * MEGABYTE)
    wire.server.answers = False
    for _ in range(4):
        wire.connect()
        wire.send(post(length=500_000)).send(b"a" * 500_000)
        await turn()
    assert wire.bodies.held == 2 * MEGABYTE and len(wire.server.seen) == 4

    wire.connect()
    wire.send(post(length=1))
    assert wire.statuses == [503] and wire.code == "service_unavailable"
    assert b"\r\nretry-after: 1\r\n" in wire.received and b"\r\nconnection: close\r\n" in wire.received

    wire.server.answer(wire.server.requests[0])
    wire.connect()
    wire.server.answers = True
    assert wire.send(post(length=1) + b"a").statuses == [200]


@pytest.mark.asyncio
async def test_a_body_for_which_there_is_no_room_any_more_is_refused_on_its_way() -> None:
    wire = Wire(api=600_000, page=600_000, together=600_000)
    first = wire.send(post(length=500_000)).channel
    wire.connect()
    wire.send(post(length=500_000)).send(b"a" * 400_000)

    first.dataReceived(b"a" * 300_000)
    await turn()

    assert first.transport.value().startswith(b"HTTP/1.1 503 ") and wire.statuses == []
    assert wire.bodies.held == 400_000


@pytest.mark.parametrize("ending", ["answered", "left", "left while answered"])
def test_what_a_body_held_is_given_back(ending: str) -> None:
    wire = Wire()
    wire.server.answers = False
    wire.send(post(length=1_000)).send(b"a" * 999)
    assert wire.bodies.held == 999

    if ending != "left":
        wire.send(b"a")
    if ending == "answered":
        wire.server.answer(wire.server.requests[0])
    else:
        wire.channel.connectionLost(None)

    assert wire.bodies.held == wire.bodies.held_for_strangers == 0


@pytest.mark.asyncio
async def test_strangers_alone_cannot_fill_the_memory() -> None:
    """Above a quarter of it everybody is asked at once; who is known goes on."""
    door = Doorkeeper()
    door.may_look.set()
    wire = Wire(door, together=8 * MEGABYTE)
    wire.server.answers = False
    for _ in range(3):
        wire.connect()
        wire.send(post(length=900_000)).send(b"a" * 900_000)
    await turn()
    assert wire.bodies.held_for_strangers == 2_700_000 and door.asked == []

    wire.server.answers = True
    statuses = []
    for path, header, length in (
        ("/v1/x", "x-api-key: bad", 10),
        ("/v1/x", "x-api-key: good", 10),
        ("/admin/", "Cookie: a=b", 10),
        ("/admin/", "Cookie: a=b", MEGABYTE),
    ):
        wire.connect()
        wire.send(post(path, header, length=length))
        await turn()
        statuses.append(wire.send(b"a" * length).statuses)

    assert statuses == [[401], [200], [200], [503]]


@pytest.mark.asyncio
@pytest.mark.parametrize("known", [True, False])
async def test_who_sends_all_at_once_is_not_asked_twice(known: bool) -> None:
    """Not even while strangers are: the application asks, and whoever comes next on this connection is another matter."""
    door = Doorkeeper()
    wire = Wire(door, together=8 * MEGABYTE)
    wire.bodies.held_for_strangers = 3 * MEGABYTE
    wire.server.answers = False

    wire.send(post("/v1/x", f"x-api-key: {'good' if known else 'bad'}", length=3) + b"abc")
    assert wire.is_reading and wire.lines == ["POST /v1/x"]
    wire.server.answer(wire.server.requests[0])
    wire.send(post("/v1/x", "x-api-key: good", length=3))
    door.may_look.set()
    await turn()

    assert wire.statuses == [200] and wire.is_reading
    assert door.asked == [("good", PEER)]


# Refusals.


def test_after_a_refusal_little_is_read_and_nothing_kept() -> None:
    wire = Wire().send(b"nonsense\r\n")
    assert wire.transport.is_half_closed and wire.is_reading

    wire.send(b"a" * LINGER_BYTES)
    assert wire.is_reading
    wire.send(b"a")
    assert not wire.is_reading and not wire.transport.is_aborted

    assert wire.wait(2).transport.is_aborted
    assert wire.statuses == [400] and wire.channel._buffer == b""


def test_a_head_that_is_asked_for_alone_is_refused_alone() -> None:
    wire = Wire().send(b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")

    assert wire.statuses == [400] and wire.received.endswith(b"\r\n\r\n")


def test_a_refusal_is_in_the_access_log(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Visit] = []
    monkeypatch.setattr(access_log, "_listeners", [told.append])
    wire = Wire()
    wire.factory.trusted = [ipaddress.ip_network(PEER)]

    wire.send(
        GET.replace(b"Host: x", b"X-Forwarded-For: 198.51.100.1").replace(b"models", b"models?key=secret")
    )
    wire.connect()
    wire.send(b"nonsense\r\n")

    assert [(visit.method, visit.path, visit.address, visit.status, visit.error_code) for visit in told] == [
        ("GET", "/v1/models", "198.51.100.1", 400, "missing_host"),
        ("", "", PEER, 400, "malformed_request"),
    ]
    assert told[1].request_id.encode() in wire.received


@pytest.mark.parametrize("sent", [b"", b"abc"])
def test_who_leaves_before_the_end_of_a_body_is_in_the_access_log(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Visit] = []
    monkeypatch.setattr(access_log, "_listeners", [told.append])
    wire = Wire().send(post("/v1/x?key=secret", length=500) + sent)

    wire.channel.connectionLost(None)

    assert [(visit.method, visit.path, visit.status, visit.outcome) for visit in told] == [
        ("POST", "/v1/x", 499, "disconnected")
    ]


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
WEB_SOCKET = ("Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13", KEY)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("GET /ws/live/ HTTP/1.1", WEB_SOCKET[:3]),
        ("GET /ws/live/ HTTP/1.1", (*WEB_SOCKET, KEY)),
        ("GET /ws/live/ HTTP/1.1", (*WEB_SOCKET[:3], "Sec-WebSocket-Key: short")),
        ("GET /ws/live/ HTTP/1.1", (*WEB_SOCKET[:2], KEY)),
        ("GET /ws/live/ HTTP/1.1", (*WEB_SOCKET[:2], "Sec-WebSocket-Version: 8", KEY)),
        ("GET /ws/live/ HTTP/1.1", (WEB_SOCKET[0], *WEB_SOCKET[2:])),
        ("GET /ws/live/ HTTP/1.0", WEB_SOCKET),
        ("POST /ws/live/ HTTP/1.1", WEB_SOCKET),
        ("GET /v1/realtime HTTP/1.1", WEB_SOCKET),
        ("GET /ws/live/ HTTP/1.1", (*WEB_SOCKET, "Upgrade: websocket")),
    ],
)
def test_what_begins_no_web_socket_is_refused_like_everything_else(
    line: str, fields: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Visit] = []
    monkeypatch.setattr(access_log, "_listeners", [told.append])

    wire = Wire().send("\r\n".join((line, "Host: x", *fields, "", "")).encode())

    assert (wire.statuses, wire.code) == ([400], "unsupported_upgrade")
    assert [visit.error_code for visit in told] == ["unsupported_upgrade"]


def test_another_protocol_is_not_ours_to_refuse() -> None:
    """HTTP/2, beside WebSocket or not: it goes on without."""
    for wanted in ("h2c", "h2c, websocket"):
        wire = Wire().send(
            GET.replace(b"models HTTP", b"x HTTP")
            .replace(b"/v1/", b"/")
            .replace(b"Host: x", b"Host: x\r\nUpgrade: " + wanted.encode())
        )
        assert wire.statuses == [200]


def test_nobody_but_the_command_line_chooses_the_root_path() -> None:
    wire = Wire().send(GET.replace(b"Host: x", b"Host: x\r\nDaphne-Root-Path: /evil"))

    scope = wire.server.seen[0].scope
    assert scope["root_path"] == "" and b"daphne-root-path" not in dict(scope["headers"])


def test_a_form_is_not_parsed_before_it_is_asked_for() -> None:
    wire = Wire().send(post("/", "Content-Type: multipart/form-data; boundary=x", length=4) + b"junk")

    assert wire.statuses == [200] and wire.server.seen[0].body == b"junk"


# Whose word counts.


@pytest.mark.parametrize(
    ("trusted", "headers", "client", "scheme"),
    [
        ([], ["X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https"], PEER, "http"),
        (
            ["10.0.0.0/8"],
            ["X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https"],
            PEER,
            "http",
        ),
        ([PEER], [], PEER, "http"),
        ([PEER], ["X-Forwarded-For: 198.51.100.1"], "198.51.100.1", "http"),
        ([PEER], ["X-Forwarded-For: 203.0.113.9, 198.51.100.1"], "198.51.100.1", "http"),
        (
            [PEER],
            ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 198.51.100.1"],
            "198.51.100.1",
            "http",
        ),
        ([PEER], ["X-Forwarded-Proto: https"], PEER, "https"),
        ([PEER], ["X-Forwarded-Proto: HTTPS"], PEER, "https"),
        ([PEER], ["X-Forwarded-Proto: https, http"], PEER, "http"),
        ([PEER], ["X-Forwarded-Proto: http", "X-Forwarded-Proto: https"], PEER, "https"),
        ([PEER], ["X-Forwarded-Ssl: on", "X-Real-IP: 198.51.100.1", "Forwarded: proto=https"], PEER, "http"),
    ],
)
@pytest.mark.parametrize("path", ["/admin/", "/v1/models"])
def test_pages_and_routes_hear_a_trusted_proxy_alike(
    path: str, trusted: list[str], headers: list[str], client: str, scheme: str
) -> None:
    wire = Wire()
    wire.factory.trusted = [ipaddress.ip_network(each) for each in trusted]

    wire.send("\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())

    scope = wire.server.seen[0].scope
    assert (scope["client"][0], scope["scheme"]) == (client, scheme)


@pytest.mark.parametrize(("trusted", "status"), [("192.0.2.1", 403), ("127.0.0.1", 200)])
def test_a_page_that_came_by_https_takes_its_own_form(
    serve: Callable[..., Served], cast: Cast, settings: Any, trusted: str, status: int
) -> None:
    """Django compares the origin of a form with the address of the page, whose scheme only the proxy knows."""
    collect_static_files(settings)
    served = serve(POE_RELAY_SERVER__TRUSTED_PROXIES=trusted)
    with httpx2.Client(base_url=served.url, headers={"X-Forwarded-Proto": "https"}) as browser:
        page = browser.get("/")
        token = page.text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
        assert token
        origin = served.url.replace("http://", "https://")
        form = {"csrfmiddlewaretoken": token, "username": "nobody", "password": "wrong"}
        answer = browser.post("/", data=form, headers={"Origin": origin, "Referer": f"{origin}/"})

    assert answer.status_code == status


# A real relay.


def test_a_body_over_the_limit_is_refused_while_it_arrives(serve: Callable[..., Served], cast: Cast) -> None:
    served = serve(POE_RELAY_SERVER__MAX_BODY_MB="0.5")
    before = memory_mb(served)
    for head in (b"Content-Length: 900000000", b"Transfer-Encoding: chunked"):
        answer, _sent = flood(served, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + head)
        assert answer.startswith(b"HTTP/1.1 413 ") and b'"code":"request_too_large"' in answer
        assert b"x-request-id: req_" in answer and b"access-control-allow-origin: *" in answer
    assert memory_mb(served) - before < 8
    assert httpx2.get(f"{served.url}/healthz").text == "ok"


def test_a_body_of_an_unknown_sender_is_refused_while_it_arrives(
    serve: Callable[..., Served], cast: Cast
) -> None:
    served = serve()
    unknown = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-poe-unknown\r\n"
    for head in (b"Content-Length: 40000000", b"Transfer-Encoding: chunked"):
        answer, _sent = flood(served, unknown + head)
        assert answer.startswith(b"HTTP/1.1 401 ") and b'"code":"invalid_api_key"' in answer


def test_a_long_body_of_a_known_sender_is_read(serve: Callable[..., Served], cast: Cast) -> None:
    """A token that was made a moment ago, which this process has never seen."""
    served = serve()
    content = ask(cast.bob.plain, "no-such-model", "word " * 500_000)

    with connect(served) as client:
        client.sendall(content)
        answer = client.recv(65_536)

    assert len(content) > 2 * MEGABYTE and b'"code":"model_not_found"' in answer


@pytest.mark.parametrize(
    ("more", "status", "code"), [(0, 400, "unsupported_value"), (1, 413, "request_too_large")]
)
def test_a_body_may_have_fifty_megabytes_and_no_byte_more(
    serve: Callable[..., Served], cast: Cast, more: int, status: int, code: str
) -> None:
    """Read whole, it is refused for what stands at its end."""
    head, tail = b'{"model":"m","messages":[{"role":"user","content":"', b'"}],"n":2}'
    body = head + b"a" * (50 * MEGABYTE + more - len(head) - len(tail)) + tail

    answer = httpx2.post(
        f"{serve().url}/v1/chat/completions",
        content=body,
        headers={"Authorization": f"Bearer {cast.bob.plain}"},
        timeout=30,
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


class Handle:
    """A transport of which nothing else is asked."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def getHandle(self) -> socket.socket:
        return self._socket


@pytest.mark.parametrize("tells_state", [True, False], ids=["Linux", "another system"])
def test_a_reset_is_seen_behind_what_came_before_it(
    monkeypatch: pytest.MonkeyPatch, tells_state: bool
) -> None:
    if not tells_state:
        monkeypatch.setattr(connection, "_TCP_INFO", None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _address = listening.accept()
    with accepted:
        client.sendall(b"GET ")
        assert not connection._is_reset(Handle(accepted))

        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

        assert wait_for(lambda: connection._is_reset(Handle(accepted)))
        assert accepted.recv(4) == b"GET "


def flood(served: Served, head: bytes) -> tuple[bytes, int]:
    """Send more and more without a look at the answer; the answer, and how much could be sent."""
    with connect(served) as client:
        client.sendall(head + b"\r\n\r\n")
        piece = b"10000\r\n" + b"a" * 65_536 + b"\r\n" if b"chunked" in head else b"a" * 65_536
        sent = 0
        try:
            for _ in range(300):
                client.sendall(piece)
                sent += len(piece)
        except OSError:
            pass  # refused before all of it was sent
        answer = b""
        try:
            while part := client.recv(65_536):
                answer += part
        except ConnectionResetError:
            pass
    return answer, sent


def test_a_reader_that_reads_nothing_costs_no_memory(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    demo.script("flood", *[("text", {"text": "x" * 20_000})] * 3_000, ("done", {}))
    people.mapping("flood", "flood")
    served = serve()
    before = memory_mb(served)

    with connect(served) as client:
        client.sendall(ask(cast.bob.plain, "flood", stream=True))
        time.sleep(1.5)
        assert memory_mb(served) - before < 30
    assert wait_for(lambda: UsageRecord.objects.filter(outcome="disconnected").exists(), 15)


def test_a_broken_stream_breaks_one_connection(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = serve()
    for _ in range(3):
        with connect(served) as client:
            client.sendall(ask(cast.bob.plain, "demo-faulty", "reset-after-text", stream=True))
            answer = b""
            while b"[DONE]" not in answer and (part := client.recv(65536)):
                answer += part
            assert b'"code":"upstream_broken"' in answer
    response = httpx2.post(
        f"{served.url}/v1/chat/completions",
        json={"model": "demo-echo", "messages": [{"role": "user", "content": "still there?"}]},
        headers={"Authorization": f"Bearer {cast.bob.plain}", "Daphne-Root-Path": "/evil"},
    )
    assert response.json()["choices"][0]["message"]["content"] == "still there?"
