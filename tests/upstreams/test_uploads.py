"""Uploads against scripted servers: what goes up, how often, who shares it, and what becomes of a failure."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from relay.errors import (
    PayloadTooLarge,
    RelayError,
    UpstreamBroken,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UserError,
)
from relay.events import ChatRequest, FilePart, Message, TextPart
from relay.upstreams.poe import Deadlines, Key, Poe, Uploaded, refuse_too_large
from relay.upstreams.poe_uploads import digest

from . import scripted
from .scripted import DONE, SECRET, Script, answering, finish, start, text

pytestmark = pytest.mark.asyncio

UPLOAD = "/poe_api/file_upload_3RD_PARTY_POST"


def uploading(status: str = "200 OK", answer: object = None) -> Script:
    async def script(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        if request.target.startswith("/bot/"):
            await answering(DONE)(request, writer)
            return
        number = max(map(len, re.findall(rb"x+", request.body)), default=0)
        said = (
            {"attachment_url": f"https://up/{number}", "mime_type": "image/webp"}
            if answer is None
            else answer
        )
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        await answering(body, status, content_type="application/json", retry_after="9")(request, writer)

    return script


def with_files(*files: FilePart) -> ChatRequest:
    return ChatRequest(model="m", messages=(Message("user", (TextPart("see"), *files)),))


NOTE = FilePart("note.txt", "text/plain", data=b"x" * 7)


async def ask(poe: Poe, chat: ChatRequest, key: Key) -> None:
    async for _ in poe.stream(chat, bot="B", key=key):
        pass


def uploads_of(upstream: scripted.Upstream) -> list[scripted.Request]:
    return [request for request in upstream.requests if request.target == UPLOAD]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_files_are_uploaded_before_the_question() -> None:
    poe = Poe()
    picture = FilePart('图 "1".png', "image/png", data=b"x" * 5)
    chat = with_files(picture, FilePart("b.txt", "text/plain", data=b"x" * 7), picture)
    async with scripted.upstream(uploading()) as upstream:
        async for _ in poe.stream(chat, bot="B", key=upstream.key()):
            pass
        await poe.close()
    *uploads, question = upstream.requests

    assert [upload.target for upload in uploads] == [UPLOAD] * 2
    assert {upload.headers["authorization"] for upload in uploads} == {SECRET}
    parts = b"".join(upload.body for upload in uploads)
    assert parts.count(b'name="file"; filename="b.txt"') == 1
    assert parts.count('name="file"; filename="图 _1_.png"'.encode()) == 1
    assert b"Content-Type: image/png" in parts
    assert question.json["query"][0]["attachments"] == [
        {"url": "https://up/5", "content_type": "image/webp", "name": picture.name},
        {"url": "https://up/7", "content_type": "image/webp", "name": "b.txt"},
        {"url": "https://up/5", "content_type": "image/webp", "name": picture.name},
    ]


async def test_a_files_name_and_type_break_out_of_nothing() -> None:
    evil = FilePart('a"\r\nX-Evil: 1\r\n.png', "image/png\r\nX-Evil: 2", data=b"1")
    poe = Poe()
    async with scripted.upstream(uploading()) as upstream:
        async for _ in poe.stream(with_files(evil), bot="B", key=upstream.key()):
            pass
        await poe.close()

    body = upstream.requests[0].body
    assert b"\r\nX-Evil" not in body
    assert b"Content-Type: application/octet-stream" in body


async def test_at_most_four_uploads_run_at_once() -> None:
    running, most = 0, 0

    async def script(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        if request.target == UPLOAD:
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
        await uploading()(request, writer)

    poe = Poe()
    files = [FilePart(f"{number}.txt", "text/plain", data=b"%d" % number) for number in range(10)]
    async with scripted.upstream(script) as upstream:
        one_request = ask(poe, with_files(*files[:5]), upstream.key())
        await asyncio.gather(one_request, *(ask(poe, with_files(file), upstream.key()) for file in files[5:]))
        await poe.close()

    assert most == 4


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        ("401 No", {}, UpstreamUnauthorized),
        ("403 No", b"<html>", UpstreamUnauthorized),
        ("429 Wait", {}, UpstreamRateLimited),
        ("404 No", {}, UpstreamBroken),
        ("500 No", {}, UpstreamFailed),
        ("413 No", {"error": {"type": "request_too_large", "message": "over 50 MB"}}, UserError),
        ("200 OK", b"<html>", UpstreamBroken),
        ("200 OK", {"attachment_url": "u"}, UpstreamBroken),
        ("302 Found", {}, UpstreamBroken),
    ],
)
async def test_a_failed_upload_is_told_and_nothing_is_asked(
    status: str, answer: object, kind: type[RelayError]
) -> None:
    poe = Poe()
    async with scripted.upstream(uploading(status, answer)) as upstream:
        with pytest.raises(RelayError) as raised:
            await anext(poe.stream(with_files(FilePart("a", "a/b", data=b"1")), bot="B", key=upstream.key()))
        await poe.close()

    assert type(raised.value) is kind
    assert status.startswith("200") or raised.value.retry_after == 9
    assert [request.target for request in upstream.requests] == [UPLOAD]


@pytest.mark.parametrize("deadlines", [Deadlines(idle=0.1), Deadlines(total=0.1)], ids=["idle", "total"])
async def test_a_stuck_upload_ends(deadlines: Deadlines) -> None:
    async def silent(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)

    poe = Poe(deadlines)
    async with scripted.upstream(silent) as upstream:
        with pytest.raises(UpstreamTimeout):
            await ask(poe, with_files(NOTE), upstream.key())
        await poe.close()


# Once.


async def slowly(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
    if request.target == UPLOAD:
        await asyncio.sleep(0.05)
    await uploading()(request, writer)


async def test_the_same_file_at_the_same_moment_is_uploaded_once() -> None:
    poe = Poe()
    async with scripted.upstream(slowly) as upstream:
        await asyncio.gather(*(ask(poe, with_files(NOTE), upstream.key()) for _ in range(5)))
        await poe.close()

    questions = [request for request in upstream.requests if request.target == "/bot/B"]
    assert len(uploads_of(upstream)) == 1
    assert [question.json["query"][0]["attachments"][0]["url"] for question in questions] == [
        "https://up/7"
    ] * 5


@pytest.mark.parametrize(
    ("file", "account_id"),
    [
        (NOTE, 2),
        (replace(NOTE, name="other.txt"), 1),
        (replace(NOTE, content_type="text/html"), 1),
        (replace(NOTE, data=b"x" * 8), 1),
    ],
    ids=["account", "name", "type", "bytes"],
)
async def test_another_account_or_file_is_uploaded_for_itself(file: FilePart, account_id: int) -> None:
    poe = Poe()
    async with scripted.upstream(slowly) as upstream:
        await asyncio.gather(
            ask(poe, with_files(NOTE), upstream.key()),
            ask(poe, with_files(file), upstream.key(account_id=account_id)),
        )
        await poe.close()

    assert len(uploads_of(upstream)) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [(("ab", "c/d", b""), ("a", "bc/d", b"")), (("a", "b/c", b"d"), ("a", "b/cd", b""))],
)
async def test_what_is_told_apart_has_another_digest(
    one: tuple[str, str, bytes], other: tuple[str, str, bytes]
) -> None:
    first, second = (FilePart(name, kind, data=data) for name, kind, data in (one, other))

    assert digest(first) != digest(second)
    assert digest(first) == digest(replace(first)) and len(digest(first)) == 64


async def test_a_failed_upload_is_shared_by_nobody() -> None:
    failures = 0

    async def script(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        nonlocal failures
        if request.target == UPLOAD and failures < 1:
            failures += 1
            await asyncio.sleep(0.05)
            await uploading("500 No", {})(request, writer)
        else:
            await slowly(request, writer)

    poe = Poe()
    async with scripted.upstream(script) as upstream:
        asked = [ask(poe, with_files(NOTE), upstream.key()) for _ in range(4)]
        failed, *others = await asyncio.gather(*asked, return_exceptions=True)
        await poe.close()

    assert isinstance(failed, UpstreamFailed)
    assert others == [None] * 3
    assert len(uploads_of(upstream)) == 2


async def test_an_upload_goes_on_for_whoever_still_waits() -> None:
    poe = Poe()
    async with scripted.upstream(slowly) as upstream:
        first, second = (asyncio.create_task(ask(poe, with_files(NOTE), upstream.key())) for _ in range(2))
        await until(lambda: uploads_of(upstream))
        first.cancel()
        await second
        await poe.close()

    assert first.cancelled() and len(uploads_of(upstream)) == 1


async def test_an_upload_ends_with_the_last_one_who_waits_for_it() -> None:
    async def stuck(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)

    poe = Poe()
    async with scripted.upstream(stuck) as upstream:
        asked = [asyncio.create_task(ask(poe, with_files(NOTE), upstream.key())) for _ in range(2)]
        await until(lambda: uploads_of(upstream))
        for task in asked:
            task.cancel()
        await asyncio.wait_for(upstream.left.wait(), 1)
        await asyncio.gather(*asked, return_exceptions=True)
        await poe.close()


async def test_closing_ends_every_upload() -> None:
    async def stuck(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)

    poe = Poe()
    async with scripted.upstream(stuck) as upstream:
        asked = [asyncio.create_task(ask(poe, with_files(NOTE), upstream.key())) for _ in range(2)]
        await until(lambda: uploads_of(upstream))
        await poe.close()
        told = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(each) for each in told] == [UpstreamBroken] * 2


# Kept.


class Memory:
    """Remembers in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, str], Uploaded] = {}

    async def find(self, account_id: int, digest: str) -> Uploaded | None:
        await asyncio.sleep(0.01)
        return self.kept.get((account_id, digest))

    async def keep(self, account_id: int, digest: str, uploaded: Uploaded) -> None:
        self.kept[account_id, digest] = uploaded


async def test_a_file_that_is_kept_is_not_uploaded_again() -> None:
    kept = Memory()
    async with scripted.upstream(uploading()) as upstream:
        for _process in range(2):
            poe = Poe(kept=kept)
            for _time in range(2):
                await ask(poe, with_files(NOTE), upstream.key())
            await poe.close()

    assert len(uploads_of(upstream)) == 1
    assert kept.kept == {(1, digest(NOTE)): Uploaded("https://up/7", "image/webp")}
    assert upstream.requests[-1].json["query"][0]["attachments"][0]["url"] == "https://up/7"


async def test_a_failed_upload_is_not_kept() -> None:
    kept = Memory()
    poe = Poe(kept=kept)
    async with scripted.upstream(uploading("500 No", {})) as upstream:
        with pytest.raises(UpstreamFailed):
            await ask(poe, with_files(NOTE), upstream.key())
        await poe.close()

    assert kept.kept == {}


# Size and memory.


@pytest.mark.parametrize(("size", "is_refused"), [(50_000_000, False), (50_000_001, True)])
async def test_a_file_over_50_mb_is_refused_by_name(size: int, is_refused: bool) -> None:
    chat = with_files(
        NOTE,
        FilePart("x" * 200, "text/plain", url="https://h/"),
        FilePart("big.pdf", "a/b", data=bytes(size)),
    )

    with pytest.raises(PayloadTooLarge) if is_refused else contextlib.nullcontext() as refused:
        refuse_too_large(chat)

    if refused is not None:
        assert "'big.pdf'" in refused.value.message and "50 MB" in refused.value.message
        assert (refused.value.status, refused.value.code) == (413, "file_too_large")


async def test_an_upload_is_not_copied() -> None:
    size = 20_000_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        left = size
        while left > 0:
            left -= len(await reader.read(1 << 16))
        body = b'{"attachment_url": "https://up/1", "mime_type": "a/b"}'
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)

    poe = Poe()
    chat = with_files(FilePart("big.bin", "a/b", data=bytes(size)))
    async with scripted.upstream(uploading()) as bot, scripted.listening(serve) as port:
        await ask(poe, with_files(NOTE), bot.key())  # what the first upload loads is not meant
        key = replace(bot.key(), upload_url=f"http://127.0.0.1:{port}/")
        tracemalloc.start()
        try:
            await ask(poe, chat, key)
            _now, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await poe.close()

    assert most < size / 5


async def test_a_file_is_let_go_of_when_the_question_has_been_sent() -> None:
    is_gone = asyncio.Event()

    class Watched(bytes):
        def __del__(self) -> None:
            is_gone.set()

    async def script(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        if request.target == UPLOAD:
            return await uploading()(request, writer)
        start(writer)
        scripted.chunk(writer, text("Well"))
        await writer.drain()
        await asyncio.sleep(0.05)
        scripted.chunk(writer, DONE)
        finish(writer)

    poe = Poe()
    chat = with_files(FilePart("a.txt", "text/plain", data=Watched(b"x" * 9)))
    async with scripted.upstream(script) as upstream:
        stream = poe.stream(chat, bot="B", key=upstream.key())
        del chat
        assert await anext(stream)
        gc.collect()
        assert is_gone.is_set()
        async for _ in stream:
            pass
        await poe.close()
