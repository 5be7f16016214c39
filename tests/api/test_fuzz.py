"""Whole requests that nobody means: never a 5xx, never HTML, always an answer or an error of the wire's own."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings

from tests.cast import Cast
from tests.conftest import Api, DemoPoe
from tests.fuzz.bodies import PARSES, bodies
from tests.specifications import Witness

pytestmark = pytest.mark.asyncio

CASES = 500
# What a recording says may be wanted as plain text.
ANSWERED = ("application/json", "text/event-stream", "text/plain")
# What a bot answers that does not do what it must, though it is asked twice: no fault of the relay's.
UNFIT = {"tool_call_missing", "json_answer_invalid"}


@pytest.mark.parametrize("name", PARSES)
async def test_every_request_is_answered_or_refused(
    name: str, api: Api, witness: Witness, cast: Cast, demo: DemoPoe
) -> None:
    wire, loop = PARSES[name], asyncio.get_running_loop()
    token = f"Bearer {cast.bob.plain}"

    @settings(
        max_examples=CASES // len(PARSES) + 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(wire.examples))
    def ask(body: bytes) -> None:
        content, kind = wire.sent(body)
        headers = {"Authorization": token, "Content-Type": kind}
        asked = api.http.post(wire.path, content=content, headers=headers)
        judge(asyncio.run_coroutine_threadsafe(asked, loop).result(10))

    def judge(response: httpx2.Response) -> None:
        assert response.status_code < 500 or response.json()["error"]["code"] in UNFIT, response.text
        kinds = ANSWERED if response.status_code == 200 else "application/json"
        assert response.headers["content-type"].startswith(kinds)
        assert not witness.problems

    await asyncio.to_thread(ask)
