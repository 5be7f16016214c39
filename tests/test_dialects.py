"""In whose words a client is refused: by a view, by the handler, or by the connection before anything else runs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from relay.api.dialects import ANTHROPIC, OPENAI, Dialect, spoken
from relay.errors import Unauthenticated, Unavailable
from tests.wires import Wire

VERSIONED = [(b"anthropic-version", b"2023-06-01")]


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/messages", [], ANTHROPIC),
        ("/v1/messages/", [], ANTHROPIC),
        ("/v1/messages/count_tokens", [], ANTHROPIC),
        ("/v1/messages/batches/b", [], ANTHROPIC),
        ("/v1/v1/messages", [], ANTHROPIC),
        ("//v1//messages", [], ANTHROPIC),
        ("/messages", [], ANTHROPIC),
        ("/v1/messagesx", VERSIONED, OPENAI),
        ("/v1/x/messages", VERSIONED, OPENAI),
        ("/v1/models", VERSIONED, ANTHROPIC),
        ("/models/org/name", VERSIONED, ANTHROPIC),
        ("/v1/models", [(b"authorization", b"Bearer x")], OPENAI),
        ("/v1/chat/completions", VERSIONED, OPENAI),
        ("", [], OPENAI),
    ],
)
def test_the_route_says_in_whose_words(path: str, headers: Any, dialect: Dialect) -> None:
    assert spoken(path, headers) is dialect


async def nobody(credential: str, address: str) -> None:
    raise Unauthenticated("Who?")


def post(length: int = 2, *lines: str, path: str = "/v1/messages?beta=true") -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


@pytest.mark.parametrize(
    ("sent", "waited", "status", "kind"),
    [
        (post(6_000_000), 0, 413, "request_too_large"),
        (post(2, f"X-Long: {'a' * 20_000}"), 0, 431, "invalid_request_error"),
        (post(2, "Host: y"), 0, 400, "invalid_request_error"),
        (post(2), 31, 408, "timeout_error"),
        (b"GET /v1/models HTTP/1.1\r\nanthropic-version: 1\r\nhost: x\r\n", 11, 408, "timeout_error"),
    ],
)
def test_the_bare_connection_refuses_in_anthropics_words(
    sent: bytes, waited: int, status: int, kind: str
) -> None:
    wire = Wire().send(sent).wait(waited)

    head, _blank, body = wire.received.partition(b"\r\n\r\n")
    told = json.loads(body)
    assert wire.statuses == [status]
    assert (told["type"], told["error"]["type"]) == ("error", kind)
    assert f"\r\nrequest-id: {told['request_id']}\r\n".encode() in head
    assert f"\r\nx-request-id: {told['request_id']}\r\n".encode() in head


def test_the_bare_connection_has_no_room_in_anthropics_words() -> None:
    wire = Wire(api=4_000_000, together=4_000_000)
    wire.bodies.held = 3_000_000

    wire.send(post(2_000_000))

    told = json.loads(wire.received.partition(b"\r\n\r\n")[2])
    assert wire.statuses == [503] and told["error"]["type"] == "overloaded_error"


@pytest.mark.asyncio
async def test_a_stranger_with_a_long_body_is_refused_in_anthropics_words() -> None:
    wire = Wire(nobody).send(post(2_000_000))
    await asyncio.sleep(0.01)

    told = json.loads(wire.received.partition(b"\r\n\r\n")[2])
    assert wire.statuses == [401] and told["error"]["type"] == "authentication_error"


def test_openais_words_are_as_ever_elsewhere() -> None:
    wire = Wire().send(post(6_000_000, path="/v1/chat/completions"))

    told = json.loads(wire.received.partition(b"\r\n\r\n")[2])
    assert wire.statuses == [413] and set(told["error"]) == {"message", "type", "param", "code"}
    assert OPENAI.error(Unavailable("Not now."), "req_1") == {
        "error": {
            "message": "Not now.",
            "type": "server_error",
            "param": None,
            "code": "service_unavailable",
        }
    }
