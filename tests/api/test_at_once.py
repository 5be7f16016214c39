"""Words of a streamed answer that leave for the client past the task that waits for them, as they do under our own server."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy_site.lean import LeanHandler
from proxy_site.replies import REPLY
from relay import answering, counting
from relay.api import answers
from relay.upstreams import poe_answer
from relay.visit import Visit
from tests import cast as people
from tests.api.test_chat import settled
from tests.api.test_limits import limit
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio

WORDS = ["one ", "two ", "three ", "four ", "five ", "six"]
ROUTES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 500},
    "/v1/completions": {"prompt": "Hello"},
}


@dataclass
class Client:
    """What a server is to the application, and what came out of it for the client, in order."""

    is_open: bool = True
    leaves_after: int | None = None
    said: list[bytes] = field(default_factory=list)
    past: int = 0
    tell: Callable[[], None] | None = None
    visit: Visit = field(default_factory=lambda: Visit("req_at_once"))

    async def ask(self, api: Api, token: str, path: str, **body: object) -> str:
        """The answer's text, as its events tell it."""
        question = json.dumps({"model": "words", "stream": True, **ROUTES[path], **body}).encode()
        inbox = [{"type": "http.request", "body": question}]

        async def receive() -> dict[str, Any]:
            return inbox.pop()

        async def send(message: dict[str, Any]) -> None:
            self._hear(message.get("body", b""))

        headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-type", b"application/json")]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": headers,
        }
        scope |= {"client": ["192.0.2.7", 4711], "server": ["relay.test", 80], "scheme": "http"}
        scope |= {"http_version": "1.1", "root_path": "", "visit": self.visit, REPLY: self}
        await LeanHandler(api.relay, "relay.api.urls")(scope, receive, send)
        return "".join(map(_text, self.events()))

    def _hear(self, part: bytes) -> None:
        if part:
            self.said.append(part)
            if self.leaves_after is not None and len(self.said) >= self.leaves_after:
                # As it is seen by a server, which looks when all is said that is to be said now.
                asyncio.get_running_loop().call_soon(self._leave)

    def _leave(self) -> None:
        if self.tell is not None:
            self.tell()

    def when_left(self, tell: Callable[[], None] | None) -> None:
        self.tell = tell

    def takes_more(self) -> bool:
        return self.is_open

    def say(self, part: bytes) -> None:
        self.past += 1
        self._hear(part)

    def events(self) -> list[dict[str, Any]]:
        lines = b"".join(self.said).decode().splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def _text(event: dict[str, Any]) -> str:
    match event:
        case {"choices": [{"delta": {"content": str(text)}}]} | {"choices": [{"text": str(text)}]}:
            return text
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
        case {"type": "content_block_delta", "delta": {"text": str(text)}}:
            return text
    return ""


async def says(
    demo: DemoPoe, *events: tuple[str, object], words: list[str] = WORDS, delay: float = 0.03
) -> None:
    demo.script("words", *(("text", {"text": word}) for word in words), *events, delay=delay)
    await in_database(
        people.mapping, "words", "words", points_per_request=0, points_per_1000_output_tokens=1000
    )


@pytest.mark.parametrize("path", ROUTES)
async def test_words_leave_past_the_task_that_waits_for_them(
    api: Api, cast: Cast, demo: DemoPoe, path: str
) -> None:
    await says(demo, ("done", {}))
    as_ever, at_once = Client(is_open=False), Client()

    for client in (as_ever, at_once):
        assert await client.ask(api, cast.bob.plain, path) == "".join(WORDS)
        assert client.visit.sent_bytes == sum(map(len, client.said))

    assert as_ever.past == 0
    # The first goes with the head, the last may come with its end.
    assert len(WORDS) - 2 <= at_once.past < len(WORDS)
    ours = await settled(2)
    assert {(each.outcome, each.completion_tokens, each.points) for each in ours} == {("done", 6, 6)}


async def test_what_the_bot_says_anew_goes_on_where_the_words_ended(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    whole = "".join(WORDS) + " and no more"
    await says(demo, ("replace_response", {"text": whole}), ("done", {}))

    for client in (Client(is_open=False), Client()):
        assert await client.ask(api, cast.bob.plain, "/v1/chat/completions") == whole


async def test_a_client_that_reads_slowly_is_waited_for(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await says(demo, ("done", {}))
    client = Client()
    takes = iter([True, False, True])
    client.takes_more = lambda: next(takes, False)  # type: ignore[method-assign]

    assert await client.ask(api, cast.bob.plain, "/v1/chat/completions") == "".join(WORDS)
    assert client.past == 2


@pytest.mark.parametrize("most", [1, 3, 5])
async def test_a_limit_ends_it_at_the_same_word(api: Api, cast: Cast, demo: DemoPoe, most: int) -> None:
    await says(demo, ("done", {}))

    said = [
        await client.ask(api, cast.bob.plain, "/v1/chat/completions", max_tokens=most)
        for client in (Client(is_open=False), Client())
    ]

    assert said[0] == said[1]
    assert said[0].rstrip() == "".join(WORDS[:most]).rstrip()
    assert [record.completion_tokens for record in await settled(2)] == [most, most]
    assert {record.finish_reason for record in await settled(2)} == {"length"}


async def test_a_reservation_grows_as_it_must(api: Api, cast: Cast, demo: DemoPoe) -> None:
    """More words than were reserved for: each step of it is awaited, and nothing is lost in between."""
    many = " ".join(["word"] * 300)
    await says(demo, ("done", {}), words=[f"{many} "] * 8, delay=0.02)
    await limit(cast.bob.user, points_per_day=10_000)
    client = Client()

    assert await client.ask(api, cast.bob.plain, "/v1/chat/completions") == f"{many} " * 8
    (record,) = await settled()
    assert (record.outcome, record.completion_tokens, record.points) == ("done", 2401, 2401)


async def test_a_bot_that_fails_after_words(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await says(demo, ("error", {"text": "The bot is gone.", "allow_retry": False}))
    client = Client()

    assert await client.ask(api, cast.bob.plain, "/v1/chat/completions") == "".join(WORDS)
    assert client.past >= len(WORDS) - 2
    assert client.events()[-1]["error"]["code"] == "upstream_broken"
    (record,) = await settled()
    assert (record.outcome, record.completion_tokens) == ("failed", 6)


async def test_a_client_that_leaves_is_charged_for_what_left_for_it(
    api: Api, cast: Cast, demo: DemoPoe
) -> None:
    await says(demo, ("done", {}), delay=0.2)
    client = Client(leaves_after=4)

    said = await client.ask(api, cast.bob.plain, "/v1/chat/completions")

    assert said and "".join(WORDS).startswith(said) and client.past >= 2
    (record,) = await settled()
    assert (record.outcome, record.completion_tokens) == ("disconnected", counting.count(said))


async def test_a_reply_that_fails_ends_the_answer_with_an_error(api: Api, cast: Cast, demo: DemoPoe) -> None:
    await says(demo, ("done", {}))
    client = Client()

    def fail(part: bytes) -> None:
        raise LookupError("no such place")

    client.say = fail  # type: ignore[method-assign]

    assert await client.ask(api, cast.bob.plain, "/v1/chat/completions") == WORDS[0]
    assert client.events()[-1]["error"]["type"] == "server_error"
    (record,) = await settled()
    assert (record.outcome, record.error_code) == ("failed", "internal_error")


@pytest.mark.parametrize("ending", ["done", "fails", "leaves"])
async def test_nothing_is_left_for_the_garbage_collector(
    api: Api, cast: Cast, demo: DemoPoe, ending: str
) -> None:
    """Each answer holds its whole text: a circle of what lies on its way would stay until the collector walks by."""
    await says(demo, ("error", {"text": "Gone."}) if ending == "fails" else ("done", {}))
    kinds = (answering.Answer, poe_answer.Answer, answers.Stream)

    def left() -> list[str]:
        return [type(each).__name__ for each in gc.get_objects() if type(each) in kinds]

    async def ask(count: int) -> None:
        client = Client(leaves_after=3 if ending == "leaves" else None)
        await client.ask(api, cast.bob.plain, "/v1/chat/completions")
        assert client.past
        await settled(count)
        # The ledger's thread lets go of its last batch when the next one comes.
        await api.chat(cast.bob.plain, "demo-echo")
        await settled(count + 1)

    await ask(1)
    gc.collect()
    before = left()
    gc.disable()
    try:
        await ask(3)
        assert len(left()) <= len(before)
    finally:
        gc.enable()
