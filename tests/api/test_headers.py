"""The headers that clients' libraries go by, on every wire format and on every kind of answer."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import (
    BadRequest,
    BudgetExceeded,
    NoKeyAvailable,
    PayloadTooLarge,
    RateLimited,
    RelayError,
    Unavailable,
    UpstreamBroken,
    UpstreamUnknownBot,
)
from tests.cast import Cast
from tests.conftest import Api, DemoPoe
from tests.wires import Wire

QUESTION: dict[str, Any] = {
    "model": "demo-echo",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hi"}],
    "input": "hi",
}
ROUTES = ["/v1/chat/completions", "/v1/messages", "/v1/responses"]


@pytest.mark.asyncio
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_has_them(api: Api, cast: Cast, demo: DemoPoe, route: str, streamed: bool) -> None:
    answer = await api.http.post(
        route,
        json={**QUESTION, "stream": streamed},
        headers={"Authorization": f"Bearer {cast.bob.plain}", "Origin": "https://chat.example"},
    )

    headers = answer.headers
    assert answer.status_code == 200
    assert headers["x-request-id"] == headers["request-id"] and headers["x-request-id"].startswith("req_")
    assert int(headers["openai-processing-ms"]) >= 0 and headers["openai-version"] == "2020-10-01"
    assert headers["access-control-allow-origin"] == "*"
    exposed = set(headers["access-control-expose-headers"].split(", "))
    assert {"x-request-id", "request-id", "retry-after", "retry-after-ms", "x-should-retry"} <= exposed
    assert {"x-ratelimit-remaining-requests", "anthropic-ratelimit-tokens-reset"} <= exposed
    assert headers.get("x-accel-buffering") == ("no" if streamed else None)
    assert "x-should-retry" not in headers


@pytest.mark.asyncio
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("failure", "should_retry", "after", "after_ms"),
    [
        (BadRequest("No."), "false", None, None),
        (RateLimited("Later.", retry_after=0.25), "true", "1", "250"),
        (BudgetExceeded("Next month.", retry_after=90_000), "false", "90000", "90000000"),
        (Unavailable("Not now.", retry_after=1), "true", "1", "1000"),
        (NoKeyAvailable("None."), "false", None, None),
        (NoKeyAvailable("Soon.", retry_after=2.5), "true", "3", "2500"),
        (UpstreamBroken("Cut off."), "true", None, None),
        (UpstreamUnknownBot("Gone."), "false", None, None),
        (RelayError("A bug."), "false", None, None),
    ],
)
async def test_a_failure_says_whether_to_try_again(
    api: Api,
    cast: Cast,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
    failure: RelayError,
    should_retry: str,
    after: str | None,
    after_ms: str | None,
) -> None:
    async def fail(*_args: object) -> None:
        raise failure

    monkeypatch.setattr(api.relay, "ask", fail)

    answer = await api.http.post(route, json=QUESTION, headers={"Authorization": f"Bearer {cast.bob.plain}"})

    headers = answer.headers
    assert answer.status_code == failure.status
    assert headers["x-should-retry"] == should_retry
    assert (headers.get("retry-after"), headers.get("retry-after-ms")) == (after, after_ms)
    assert headers["x-request-id"] == headers["request-id"] and "openai-processing-ms" in headers
    assert headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"content-length: 99000000\r\n\r\n", PayloadTooLarge.status),
        (b"x-long: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"content-encoding: gzip\r\n\r\n", 415),
        (b"x bad: 1\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("route", [b"/v1/chat/completions", b"/messages"])
def test_a_refusal_before_the_application_can_be_read_by_a_browser(
    route: bytes, head: bytes, status: int
) -> None:
    wire = Wire().send(b"POST %b HTTP/1.1\r\nHost: x\r\n%b" % (route, head))

    received = wire.received.lower()
    assert wire.statuses == [status]
    assert b"access-control-allow-origin: *" in received and b"content-type: application/json" in received
    assert b"x-request-id: req_" in received and b"\r\nrequest-id: req_" in received
    assert b"x-should-retry: false" in received and b'"error"' in received
