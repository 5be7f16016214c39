"""The log: what a line says, that nobody can forge one, and that no request waits for whoever reads it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import F_SETPIPE_SZ, fcntl
from functools import partial
from typing import Any

import httpx2
import pytest

from proxy_site import access_log
from proxy_site.log_writer import JsonFormatter, LogWriter
from relay.visit import Visit
from tests import cast as people
from tests.cast import Cast
from tests.conftest import DemoPoe, Served, wait_for

PIPE_BYTES = 4096


def visit(**fields: Any) -> Visit:
    made = Visit("req_1", "GET", "/v1/models", "192.0.2.7")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


# What a line says.


def test_a_line_tells_of_a_request() -> None:
    told = visit(
        method="POST",
        path="/v1/chat/completions",
        wire="openai-chat",
        token_prefix="sk-poe-Ab12",
        model="gpt-4o",
        streamed=True,
        outcome="done",
        sent_bytes=345,
    )
    told.begin_answer(200)
    told.end()
    told.first_byte_at, told.total_seconds = told.began + 0.1024, 1.5

    said = json.loads(access_log.as_json(told))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said.pop("time"))
    assert said == {
        "level": "INFO",
        "logger": "access",
        "request_id": "req_1",
        "address": "192.0.2.7",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "done",
        "error": "",
        "wire": "openai-chat",
        "token": "sk-poe-Ab12",
        "model": "gpt-4o",
        "streamed": True,
        "first_byte_ms": 102.4,
        "total_ms": 1500.0,
        "bytes": 345,
    }
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO access POST /v1/chat/completions 200 done first=102.4ms "
        r"total=1500.0ms bytes=345 address=192.0.2.7 request=req_1 wire=openai-chat token=sk-poe-Ab12 model=gpt-4o\n",
        access_log.as_text(told).decode(),
    )


@pytest.mark.parametrize(
    ("status", "known", "told"),
    [
        (200, "", (200, "done")),
        (302, "", (302, "done")),
        (401, "", (401, "refused")),
        (429, "", (429, "refused")),
        (503, "", (503, "refused")),
        (500, "", (500, "failed")),
        # The client left before there was an answer.
        (0, "", (499, "disconnected")),
        # What the usage record says counts more: a stream has its status before its end.
        (200, "failed", (200, "failed")),
        (200, "disconnected", (200, "disconnected")),
        (0, "disconnected", (499, "disconnected")),
        (502, "failed", (502, "failed")),
    ],
)
def test_how_a_request_ended(status: int, known: str, told: tuple[int, str]) -> None:
    ended = visit(status=status, outcome=known)

    ended.end()

    assert (ended.status, ended.outcome) == told


@pytest.mark.parametrize("field", ["method", "path", "address", "model", "token_prefix"])
@pytest.mark.parametrize(
    "value",
    [
        "/a\n2026-01-01 00:00:00,000 INFO access GET /forged 200 done",
        "/a\r\nb",
        "a 200 done",
        'a"b',
        "\\n",
        "\x1b[2J",
        "\x00\x07",
        "\x7f\x85\x9b",
        "\u2028\u2029",
        "\u202etxt",
        "逆",
    ],
)
def test_nobody_forges_a_line(field: str, value: str) -> None:
    line = access_log.as_text(visit(**{field: value})).decode()

    assert line.endswith("\n") and line.count("\n") == 1
    assert line[:-1].isascii() and line[:-1].isprintable()
    # As JSON writes it, so that it can be read back and ends where its quotation mark does.
    assert json.dumps(value) in line
    as_json = access_log.as_json(visit(**{field: value}))
    assert as_json.count(b"\n") == 1 and value in json.loads(as_json).values()


@pytest.mark.parametrize(("field", "most"), [("method", 20), ("path", 250), ("model", 100), ("address", 50)])
def test_what_a_client_made_long_is_cut(field: str, most: int) -> None:
    with pipe() as (_reading, writing):
        writer = LogWriter(writing)
        told = visit(**{field: "x" * 1_000_000})

        access_log.lines_to(writer, "text")(told)

    assert getattr(told, field) == "x" * most + "..."


def test_what_no_application_saw_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Visit] = []
    monkeypatch.setattr(access_log, "_listeners", [heard.append])

    access_log.refused(
        request_id="req_2",
        method=b"POST",
        path=b"/v1/\xff",
        address="::1",
        status=413,
        error_code="too_large",
    )

    assert [(each.path, each.status, each.outcome, each.error_code) for each in heard] == [
        ("/v1/\\xff", 413, "refused", "too_large")
    ]


def test_pythons_logging_is_one_line_of_json() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as exc:
        record = logging.LogRecord(
            "relay", logging.ERROR, __file__, 1, "it %s\n", ("failed",), (ValueError, exc, exc.__traceback__)
        )

    line = JsonFormatter().format(record)

    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"]) == ("ERROR", "relay", "it failed\n")
    assert "ValueError: two\nlines" in said["exception"]


# Writing.


@contextmanager
def pipe(flags: int = 0) -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(flags)
    fcntl(writing, F_SETPIPE_SZ, PIPE_BYTES)
    try:
        yield reading, writing
    finally:
        for descriptor in (reading, writing):
            try:
                os.close(descriptor)
            except OSError:
                pass  # the test has closed it


def read_all(reading: int) -> bytes:
    os.set_blocking(reading, False)
    said = b""
    try:
        while part := os.read(reading, 65536):
            said += part
    except BlockingIOError:
        pass
    return said


def test_a_line_is_written_at_once_where_nothing_was_started() -> None:
    with pipe() as (reading, writing):
        LogWriter(writing).put(b"a\n")
        assert os.read(reading, 100) == b"a\n"


def test_lines_come_in_order_and_all_of_them() -> None:
    lines = [b"%d\n" % n for n in range(500)]
    with pipe() as (reading, writing):
        writer = LogWriter(writing)
        writer.start()
        for line in lines:
            writer.put(partial(bytes, line))
        writer.close()
        assert read_all(reading) == b"".join(lines)


def test_nobody_waits_for_a_reader_that_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    with pipe() as (reading, writing):
        writer = LogWriter(writing, most_waiting=100)
        writer.start()
        began = time.monotonic()
        for _ in range(2_000):
            writer.put(b"x" * 99 + b"\n")
            time.sleep(0)
        assert time.monotonic() - began < 1
        assert writer.dropped > 1_000

        os.set_blocking(reading, False)
        received = wait_for_lines(reading, 2_000 - writer.dropped)
        writer.close()

    assert received == 2_000 - writer.dropped
    assert wait_for(lambda: f"{writer.dropped} log lines were dropped" in caplog.text)


def wait_for_lines(reading: int, number: int) -> int:
    received = 0

    def has_all() -> bool:
        nonlocal received
        received += read_all(reading).count(b"\n")
        return received >= number

    wait_for(has_all)
    return received


def test_the_end_does_not_wait_for_a_reader_that_does_not_read() -> None:
    with pipe() as (reading, writing):
        writer = LogWriter(writing)
        writer.start()
        for _ in range(100):
            writer.put(b"x" * 99 + b"\n")
        time.sleep(0.1)
        began = time.monotonic()
        writer.close(0.2)
        assert time.monotonic() - began < 1
        # Nor does whatever is logged after it.
        writer.put(b"late\n")
        assert time.monotonic() - began < 1
        assert wait_for_lines(reading, 40) >= 40


def test_a_reader_that_is_gone_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    with pipe() as (reading, writing):
        os.close(reading)
        writer = LogWriter(writing)
        writer.start()
        writer.put(b"a\nb\n")
        assert wait_for(lambda: writer.dropped == 2)
        writer.close()

    assert not caplog.records


def test_lines_of_several_processes_stay_whole() -> None:
    """A packet pipe keeps writes apart: each has whole lines, and no more than the system writes in one piece."""
    with pipe(os.O_DIRECT) as (reading, writing):
        fcntl(writing, F_SETPIPE_SZ, 1 << 20)
        writer = LogWriter(writing)
        writer.start()
        for size in (100, 4_000, 300, 4_095, 1, 2_000, 2_000, 2_000):
            writer.put(b"x" * (size - 1) + b"\n")
        writer.close()
        os.set_blocking(reading, False)
        packets = []
        while True:
            try:
                packets.append(os.read(reading, 65536))
            except BlockingIOError:
                break

    assert len(b"".join(packets)) == 14_496
    assert all(len(packet) <= 4096 and packet.endswith(b"\n") for packet in packets), [*map(len, packets)]


def test_a_line_that_cannot_be_made_takes_no_other_with_it() -> None:
    with pipe() as (reading, writing):
        writer = LogWriter(writing)
        writer.start()
        writer.put(lambda: access_log.as_json(visit(model="\ud800")))
        writer.put(b"next\n")
        writer.close()
        said = read_all(reading)

    assert said == b"a log line cannot be written: UnicodeEncodeError\nnext\n"


# A real server.


def lines_of(served: Served) -> list[dict[str, Any]]:
    """Stops it, and reads what it has logged of requests."""
    served.process.terminate()
    said, _ = served.process.communicate(timeout=10)
    return [line for line in map(json.loads, said.splitlines()) if line["logger"] == "access"]


WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def test_each_request_gets_a_line_when_it_has_ended(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    demo.script("gone", ("text", {"text": "some"}), ("error", {"text": "no more", "allow_retry": False}))
    people.mapping("gone", "gone")
    served = serve(POE_RELAY_LOG__FORMAT="json")
    bearer = {"Authorization": f"Bearer {cast.bob.plain}"}

    def chat(model: str, text: str = "hi", **body: object) -> httpx2.Response:
        messages = [{"role": "user", "content": text}]
        url = f"{served.url}/v1/chat/completions?key=secret"
        return httpx2.post(url, json={"model": model, "messages": messages, **body}, headers=bearer)

    answers = [
        chat("demo-echo", "said by bob"),
        chat("demo-echo", "said by bob", stream=True),
        chat("gone", stream=True),
        chat("no-such-model"),
        httpx2.get(f"{served.url}/v1/models", headers={"Authorization": "Bearer sk-poe-nobody"}),
        httpx2.request("OPTIONS", f"{served.url}/v1/no%0Ahere?q=secret"),
        httpx2.get(f"{served.url}/admin/?q=secret"),
        # Seen by no application.
        httpx2.post(f"{served.url}/v1/models?q=secret", headers={"Content-Encoding": "gzip"}),
        httpx2.get(f"{served.url}/?q=secret", headers=WEBSOCKET),
        httpx2.get(f"{served.url}/healthz"),
        httpx2.get(f"{served.url}/readyz"),
        httpx2.get(f"{served.url}/metrics"),
        httpx2.post(f"{served.url}/metrics"),
    ]
    for script, streamed in (("endless", True), ("hang", False)):
        asyncio.run(hang_up(served, cast.bob.plain, script, stream=streamed))
        time.sleep(0.1)
    lines = lines_of(served)

    prefix = cast.bob.token.prefix
    fields = ("method", "path", "status", "outcome", "error", "token", "model")
    assert [tuple(line[name] for name in fields) for line in lines] == [
        ("POST", "/v1/chat/completions", 200, "done", "", prefix, "demo-echo"),
        ("POST", "/v1/chat/completions", 200, "done", "", prefix, "demo-echo"),
        ("POST", "/v1/chat/completions", 200, "failed", "upstream_broken", prefix, "gone"),
        ("POST", "/v1/chat/completions", 404, "refused", "model_not_found", prefix, "no-such-model"),
        ("GET", "/v1/models", 401, "refused", "invalid_api_key", "", ""),
        ("OPTIONS", "/v1/no%0Ahere", 204, "done", "", "", ""),
        ("GET", "/admin/", 302, "done", "", "", ""),
        ("POST", "/v1/models", 415, "refused", "unsupported_media_type", "", ""),
        ("GET", "/", 403, "refused", "", "", ""),
        ("POST", "/metrics", 405, "refused", "", "", ""),
        ("POST", "/v1/chat/completions", 200, "disconnected", "", prefix, "demo-faulty"),
        ("POST", "/v1/chat/completions", 499, "disconnected", "", prefix, "demo-faulty"),
    ]
    ids = [answer.headers.get("x-request-id") for answer in answers[:8]]
    assert [line["request_id"] for line in lines[:8]] == ids and len(set(ids)) == 8
    assert [line["bytes"] for line in lines[:8]] == [len(answer.content) for answer in answers[:8]]
    assert all(line["address"] == "127.0.0.1" for line in lines)
    assert lines[-1]["first_byte_ms"] is None and lines[-1]["total_ms"] >= 100
    everything = json.dumps(lines)
    assert "secret" not in everything and cast.bob.plain not in everything and "said by bob" not in everything


async def hang_up(served: Served, token: str, script: str, **body: object) -> None:
    """Ask and leave: after the first bytes, or after a while of silence."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps({"model": "demo-faulty", "messages": [{"role": "user", "content": script}], **body})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
    try:
        await asyncio.wait_for(reader.read(100), 0.3)
    except TimeoutError:
        pass
    writer.close()
    await writer.wait_closed()


def test_a_configuration_without_access_lines_has_none(serve: Callable[..., Served], cast: Cast) -> None:
    served = serve(POE_RELAY_LOG__ACCESS="false")

    assert httpx2.get(f"{served.url}/v1/models").status_code == 401

    served.process.terminate()
    said, _ = served.process.communicate(timeout=10)
    assert "access" not in said


def test_a_server_whose_log_nobody_reads_answers_all_the_same(
    serve: Callable[..., Served], cast: Cast
) -> None:
    served = serve()
    assert served.process.stdout is not None
    fcntl(served.process.stdout, F_SETPIPE_SZ, PIPE_BYTES)

    with httpx2.Client() as client:
        for _ in range(60):
            assert client.get(f"{served.url}/v1/models").status_code == 401
    served.process.terminate()

    assert served.process.wait(5) == 0
