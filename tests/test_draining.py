"""A server that is told to stop: who is still answered, who is hung up, and that nothing stays unsettled."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from relay.models import UsageRecord
from tests import cast as people
from tests.cast import Cast
from tests.conftest import DemoPoe, Served, wait_for

ALIVE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSES = b"\r\nConnection: close\r\n"


def connect(served: Served) -> socket.socket:
    parts = urlsplit(served.url)
    assert parts.hostname is not None and parts.port is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def is_refused(served: Served) -> bool:
    try:
        connect(served).close()
    except ConnectionRefusedError:
        return True
    return False


def streamed(token: str, model: str, text: str = "x") -> bytes:
    """The request, on a connection that the client would keep."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}], "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def answer(client: socket.socket) -> bytes:
    """One answer of /healthz."""
    said = b""
    while not said.endswith(b"\r\n\r\nok"):
        part = client.recv(65536)
        assert part, said
        said += part
    return said


def rest(client: socket.socket) -> bytes:
    said = b""
    while part := client.recv(65536):
        said += part
    return said


@pytest.fixture
def slow(demo: DemoPoe) -> str:
    """A model that answers for about a second."""
    demo.script("slow", *[("text", {"text": f"{n} "}) for n in range(10)], ("done", {}), delay=0.1)
    people.mapping("slow", "slow")
    return "slow"


def test_a_stream_ends_and_its_connection_with_it(
    serve: Callable[..., Served], cast: Cast, slow: str
) -> None:
    served = serve()
    with connect(served) as client:
        client.sendall(streamed(cast.bob.plain, slow))
        assert b"200 OK" in client.recv(65536)
        served.process.send_signal(signal.SIGTERM)
        assert b"[DONE]" in rest(client)

    assert served.process.wait(5) == 0
    assert [record.outcome for record in UsageRecord.objects.all()] == ["done"]


def test_nobody_new_is_let_in_while_the_last_streams_end(
    serve: Callable[..., Served], cast: Cast, slow: str
) -> None:
    served = serve()
    with connect(served) as client:
        client.sendall(streamed(cast.bob.plain, slow))
        client.recv(65536)
        served.process.send_signal(signal.SIGTERM)

        assert wait_for(lambda: is_refused(served), 0.5)
        assert b"[DONE]" in rest(client)


def test_what_goes_on_too_long_is_cut_and_settled(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = serve(POE_RELAY_SERVER__DRAIN_SECONDS="0.3")
    with connect(served) as client:
        client.sendall(streamed(cast.bob.plain, "demo-faulty", "endless"))
        assert b"200 OK" in client.recv(65536)
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(5) == 0

    assert 0.3 <= time.monotonic() - began < 3
    assert [record.outcome for record in UsageRecord.objects.all()] == ["disconnected"]


def test_during_the_notice_everybody_is_answered_and_told_to_go(
    serve: Callable[..., Served], cast: Cast
) -> None:
    served = serve(POE_RELAY_SERVER__DRAIN_NOTICE_SECONDS="1")
    with connect(served) as kept, connect(served) as idle:
        kept.sendall(ALIVE)
        assert CLOSES not in answer(kept)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)

        kept.sendall(ALIVE)
        assert CLOSES in rest(kept)
        with connect(served) as fresh:
            fresh.sendall(ALIVE.replace(b"healthz", b"readyz"))
            said = rest(fresh)
            assert said.startswith(b"HTTP/1.1 503 ") and CLOSES in said
        # Nothing was asked on this one: it ends when the notice is over.
        assert rest(idle) == b""
    assert served.process.wait(5) == 0
    assert is_refused(served)


def test_a_kept_connection_is_answered_once_more_without_a_notice(
    serve: Callable[..., Served], cast: Cast
) -> None:
    """A client that asks again and again learns from its answer, not from a reset under its request."""
    served = serve()
    with connect(served) as client:
        client.sendall(ALIVE)
        answer(client)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        client.sendall(ALIVE)
        assert CLOSES in rest(client)

    assert served.process.wait(5) == 0


def test_a_connection_that_waits_to_be_taken_is_answered(serve: Callable[..., Served], cast: Cast) -> None:
    served = serve()
    clients = []
    # While the server is held up, the kernel takes connections for it; then the signal comes before it sees any of them.
    served.process.send_signal(signal.SIGSTOP)
    for _ in range(20):
        clients.append(connect(served))
        clients[-1].sendall(ALIVE)
    served.process.send_signal(signal.SIGTERM)
    served.process.send_signal(signal.SIGCONT)

    assert [b"\r\n\r\nok" in rest(client) for client in clients] == [True] * 20
    for client in clients:
        client.close()
    assert served.process.wait(5) == 0


def test_idle_connections_hold_up_nothing(serve: Callable[..., Served], cast: Cast) -> None:
    served = serve()
    with connect(served) as used, connect(served) as unused:
        used.sendall(ALIVE)
        answer(used)
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)

        assert rest(used) == rest(unused) == b""
        assert served.process.wait(5) == 0
        assert time.monotonic() - began < 3


def test_a_closed_terminal_cuts_nothing(serve: Callable[..., Served], cast: Cast, slow: str) -> None:
    served = serve()
    with connect(served) as client:
        client.sendall(streamed(cast.bob.plain, slow))
        client.recv(65536)
        served.process.send_signal(signal.SIGHUP)
        assert b"[DONE]" in rest(client)

    assert served.process.wait(5) == 0
