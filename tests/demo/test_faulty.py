"""Every fault of Demo-Faulty, seen by a client that counts bytes and by fastapi-poe's own."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fastapi_poe
import httpx
import pytest

from relay.demo.faulty import ERRORS, FAULTS, HUGE, TEXT, fault_in
from tests.demo.asking import Poe, final_text, query

BOT = "Demo-Faulty"
pytestmark = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecatedSince20"
)  # fastapi-poe's own

KEY = "k" * 32
ROOT = Path(__file__).parents[2]
SAID = f"event: text\r\ndata: {json.dumps({'text': TEXT})}\r\n\r\n".encode()
DONE = b"event: done\r\ndata: {}\r\n\r\n"
SERVE = """
import sys
from relay.demo.server import serve
serve(sys.argv[1], host="127.0.0.1", port=0, ready=lambda url: print(url, flush=True), with_parent=True)
"""


@pytest.fixture(scope="module")
def daphne() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, KEY],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.terminate()
    assert process.communicate(timeout=5) == ("", "")  # whatever was asked of it, it printed nothing


@pytest.fixture(scope="module")
def daphne_url(daphne: subprocess.Popen[str]) -> str:
    assert daphne.stdout is not None
    return daphne.stdout.readline().strip()


@pytest.fixture(params=["uvicorn", "daphne"])
def server(request: pytest.FixtureRequest, poe: Poe) -> Poe:
    if request.param == "uvicorn":
        return poe
    return Poe(request.getfixturevalue("daphne_url"), KEY, poe.session)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("reset", "reset"),
        ("Please do STATUS-429, now.", "status-429"),
        ("bad-json or reset", "bad-json"),
        ("status-200", None),
        ("status-4290", None),
        ("resets", None),
        ("", None),
    ],
)
def test_it_reads_the_fault_in_a_message(text: str, word: str | None) -> None:
    assert fault_in(text) == word


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [401, 402, 403, 404, 429, 500, 503, 529])
async def test_it_refuses_with_any_status(server: Poe, status: int) -> None:
    response = await server.post(BOT, f"status-{status}")

    assert response.status_code == status
    assert response.json()["error"]["code"] == status
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)


@pytest.mark.asyncio
async def test_a_word_that_it_does_not_know_is_answered_with_those_that_it_knows(poe: Poe) -> None:
    text = final_text(await poe.ask(BOT, query("hello")))

    assert [word for word in (*ERRORS, *FAULTS, "status-") if word not in text] == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("word", "error_type", "retry"),
    [
        ("insufficient-fund", "insufficient_fund", False),
        ("too-long", "user_message_too_long", False),
        ("user-error", "user_caused_error", False),
        ("error-after-text", None, False),
        ("internal-error", None, True),
    ],
)
async def test_it_says_error_events(poe: Poe, word: str, error_type: str | None, retry: bool) -> None:
    with pytest.raises(fastapi_poe.BotError) as caught:
        await poe.ask(BOT, query(word))

    error = json.loads(str(caught.value))
    assert error.get("error_type") == error_type
    assert error["allow_retry"] is retry


@pytest.mark.asyncio
async def test_an_error_after_text_has_text_before_it(poe: Poe) -> None:
    came, _ = await poe.read(BOT, "error-after-text")

    assert came.startswith(SAID)
    assert b"event: error" in came


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("word", "before"), [("reset", b""), ("reset-after-headers", b""), ("reset-after-text", SAID)]
)
async def test_it_resets_the_connection(server: Poe, word: str, before: bytes) -> None:
    came, ended = await server.read(BOT, word)

    assert came == before
    assert isinstance(ended, httpx.ReadError)
    assert "ConnectionResetError" in repr(_causes(ended))


def _causes(exc: BaseException | None) -> list[BaseException]:
    return [] if exc is None else [exc, *_causes(exc.__cause__ or exc.__context__)]


@pytest.mark.asyncio
async def test_truncated_ends_inside_an_event_and_inside_the_chunked_body(server: Poe) -> None:
    came, ended = await server.read(BOT, "truncated")

    assert came == SAID + b'event: text\r\ndata: {"te'
    assert isinstance(ended, httpx.RemoteProtocolError)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("word", "before"), [("hang", None), ("hang-after-headers", b""), ("hang-after-text", SAID)]
)
async def test_it_hangs_until_the_client_leaves(server: Poe, word: str, before: bytes | None) -> None:
    came: bytes | None = None
    body = query(word).model_dump()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5) as patience:

            def hear(more: bytes | None) -> None:
                """Once all came that is to come, nothing may for a while."""
                nonlocal came
                came = more
                if came == before:
                    patience.reschedule(asyncio.get_running_loop().time() + 0.3)

            hear(None)
            async with server.session.stream(
                "POST", f"{server.url}/bot/{BOT}", json=body, headers=server.bearer
            ) as response:
                hear(b"")
                async for piece in response.aiter_raw():
                    hear((came or b"") + piece)

    assert came == before


@pytest.mark.asyncio
async def test_drip_sends_byte_by_byte(poe: Poe) -> None:
    body = query("drip").model_dump()
    async with poe.session.stream("POST", f"{poe.url}/bot/{BOT}", json=body, headers=poe.bearer) as response:
        pieces = [piece async for piece in response.aiter_raw()]

    assert b"".join(pieces).endswith(DONE)
    assert max(map(len, pieces)) < 5


@pytest.mark.asyncio
async def test_endless_goes_on_until_the_client_leaves(server: Poe) -> None:
    count = 0
    body = query("endless", parameters={"delay": 0}).model_dump()
    async with server.session.stream(
        "POST", f"{server.url}/bot/{BOT}", json=body, headers=server.bearer
    ) as response:
        async for piece in response.aiter_raw():
            count += piece.count(b"and on")
            if count > 20:
                break

    assert await _charged(server, "endless")


async def _charged(server: Poe, word: str) -> bool:
    for _ in range(100):
        history = await server.session.get(
            f"{server.url}/usage/points_history?limit=1", headers=server.bearer
        )
        rows = history.json()["data"]
        if rows and rows[0]["bot_name"] == BOT and rows[0]["cost_points"] > 20:
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("word", "body"),
    [
        ("bad-json", SAID + b'event: text\r\ndata: {"text": "half\r\n\r\n' + DONE),
        ("bad-utf8", SAID + b'event: text\r\ndata: {"text": "\xff\xfe"}\r\n\r\n' + DONE),
        ("no-done", SAID),
        ("empty", DONE),
        ("empty-body", b""),
    ],
)
async def test_it_says_exactly_these_bytes(server: Poe, word: str, body: bytes) -> None:
    assert await server.read(BOT, word) == (body, None)


@pytest.mark.asyncio
async def test_html_is_no_event_stream(poe: Poe) -> None:
    response = await poe.post(BOT, "html")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text.startswith("<!doctype html>")


@pytest.mark.asyncio
async def test_huge_line_is_one_line_of_many_megabytes(server: Poe) -> None:
    came, ended = await server.read(BOT, "huge-line")

    assert ended is None
    assert max(map(len, came.split(b"\r\n"))) > HUGE
    assert came.endswith(DONE)


@pytest.mark.asyncio
@pytest.mark.parametrize("word", ["ping-json", "unknown-event"])
async def test_harmless_oddities_are_read_by_fastapi_poe(poe: Poe, word: str) -> None:
    assert final_text(await poe.ask(BOT, query(word))) == "one two"


@pytest.mark.asyncio
async def test_a_ping_of_text_is_too_much_for_fastapi_poe(poe: Poe) -> None:
    with pytest.raises(fastapi_poe.client.BotErrorNoRetry, match="ping"):
        await poe.ask(BOT, query("ping-text"))


@pytest.mark.asyncio
@pytest.mark.parametrize("word", ["status-500", "reset", "hang-after-text"])
async def test_a_report_about_a_fault_is_no_question(poe: Poe, word: str) -> None:
    report = {"version": "1.2", "type": "report_error", "message": word, "metadata": {}}

    response = await poe.session.post(f"{poe.url}/bot/{BOT}", json=report, headers=poe.bearer)

    assert (response.status_code, response.json()) == (200, {})


def test_daphne_stops_at_once_and_quietly(daphne_url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, KEY],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    body = query("hang-after-text").model_dump()

    key = {"Authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{url}/bot/{BOT}", json=body, headers=key, trust_env=False) as response:
        next(response.iter_raw())
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=2)

    assert (process.returncode, out, err) == (0, "", "")


def test_daphne_says_in_one_sentence_that_the_port_is_busy() -> None:
    code = "from relay.demo.server import serve; import sys\n" + (
        "try: serve('k' * 32, host='127.0.0.1', port=int(sys.argv[1]), ready=print)\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-c", code, str(port)], cwd=ROOT, capture_output=True, text=True, timeout=10
        )

    told = f"CannotListen The demo Poe server cannot listen on 127.0.0.1:{port}: address already in use.\n"
    assert (ended.stdout, ended.stderr) == (told, "")


def test_it_stops_when_its_parent_is_gone() -> None:
    start = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print('started', flush=True)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", start, SERVE, KEY], cwd=ROOT, capture_output=True, text=True, timeout=10
    )

    # `run` has read stderr to its end, and the child held it too: so the child is gone, and was quiet.
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "started\n", "")
