"""Files in requests: each goes to Poe once, and no address that a client names is ever reached from here."""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from django.db import OperationalError

from proxy_site.config import Config
from proxy_site.lean import LeanHandler
from relay import uploads, vault
from relay.demo.files import Files, StoredFile
from relay.models import Meter, PoeAccount, Upload, UsageRecord
from relay.pipeline import Relay
from relay.uploads import KeptUploads, forget_expired
from relay.upstreams import poe_uploads
from relay.upstreams.poe import Uploaded
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database, wait_for

DIGEST = "d" * 64
THERE = Uploaded("https://poe.example/secret-file", "image/png")
PNG = "data:image/png;base64," + base64.b64encode(b"a picture").decode()


@pytest.fixture
def account(transactional_db: None) -> PoeAccount:
    return PoeAccount.objects.create(name="one")


@pytest.fixture
def kept(account: PoeAccount) -> Iterator[KeptUploads]:
    found = KeptUploads(24)
    yield found
    found.close()


async def found_by_another_process(account: PoeAccount, hours: float = 24) -> Uploaded | None:
    other = KeptUploads(hours)
    try:
        return await other.find(account.pk, DIGEST)
    finally:
        await asyncio.to_thread(other.close)


async def written(kept: KeptUploads, account: PoeAccount, digest: str = DIGEST) -> None:
    await kept.keep(account.pk, digest, THERE)
    await asyncio.to_thread(kept.close)


# Kept.


@pytest.mark.asyncio
async def test_what_was_uploaded_is_known_to_every_process(kept: KeptUploads, account: PoeAccount) -> None:
    assert await kept.find(account.pk, DIGEST) is None

    await kept.keep(account.pk, DIGEST, THERE)
    assert await kept.find(account.pk, DIGEST) == THERE, "even before it is written"
    await asyncio.to_thread(kept.close)

    assert await found_by_another_process(account) == THERE
    assert await kept.find(account.pk + 1, DIGEST) is None


@pytest.mark.asyncio
async def test_where_it_is_is_stored_encrypted(kept: KeptUploads, account: PoeAccount) -> None:
    await written(kept, account)

    row = await in_database(Upload.objects.get)
    assert THERE.attachment_url not in row.url
    assert vault.unseal(row.url, purpose="upload") == THERE.attachment_url
    with pytest.raises(vault.VaultError):
        vault.unseal(row.url)


@pytest.mark.asyncio
async def test_a_second_upload_takes_the_place_of_the_first(kept: KeptUploads, account: PoeAccount) -> None:
    await written(kept, account)
    await kept.keep(account.pk, DIGEST, Uploaded("https://poe.example/newer", "image/webp"))
    await asyncio.to_thread(kept.close)

    assert await in_database(Upload.objects.count) == 1
    found = await found_by_another_process(account)
    assert found is not None and found.attachment_url == "https://poe.example/newer"


@pytest.mark.asyncio
async def test_it_is_forgotten_in_memory_when_its_time_is_over(
    kept: KeptUploads, account: PoeAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(kept, account)
    await in_database(Upload.objects.all().delete)
    assert await kept.find(account.pk, DIGEST) == THERE

    tomorrow = datetime.now(UTC) + timedelta(hours=24, seconds=1)
    monkeypatch.setattr(uploads, "datetime", SimpleNamespace(now=lambda _zone: tomorrow))

    assert await kept.find(account.pk, DIGEST) is None


@pytest.mark.parametrize(
    ("hours_left", "hours", "is_found"),
    [(1, 24, True), (0, 24, False), (-1, 24, False), (23, 1, False), (0.9, 1, True)],
)
@pytest.mark.asyncio
async def test_no_row_is_used_beyond_the_configured_time(
    kept: KeptUploads, account: PoeAccount, hours_left: float, hours: float, is_found: bool
) -> None:
    await written(kept, account)
    end = datetime.now(UTC) + timedelta(hours=hours_left)
    await in_database(Upload.objects.update, expires_at=end)

    assert (await found_by_another_process(account, hours) is not None) == is_found


@pytest.mark.asyncio
async def test_rows_whose_time_is_over_go_with_the_next_one(kept: KeptUploads, account: PoeAccount) -> None:
    for digest in ("1", "2", "3"):
        await written(kept, account, digest)
    past = datetime.now(UTC) - timedelta(seconds=1)
    await in_database(Upload.objects.filter(digest__in=["1", "2"]).update, expires_at=past)

    await written(kept, account, "4")

    left = await in_database(lambda: sorted(Upload.objects.values_list("digest", flat=True)))
    assert left == ["3", "4"]
    assert await in_database(forget_expired) == 0


@pytest.mark.asyncio
async def test_memory_holds_the_last_ones(
    kept: KeptUploads, account: PoeAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_REMEMBERED", 2)
    for digest in ("1", "2"):
        await kept.keep(account.pk, digest, THERE)
    await kept.find(account.pk, "1")
    await kept.keep(account.pk, "3", THERE)

    assert [digest for _account, digest in kept._remembered] == ["1", "3"]


@pytest.mark.asyncio
async def test_a_database_that_is_down_is_no_failure(
    kept: KeptUploads, account: PoeAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("the server is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Upload.objects, "filter", down)
        patched.setattr(uploads, "transaction_in_turn", down)
        assert await kept.find(account.pk, DIGEST) is None
        await written(kept, account)
        assert await kept.find(account.pk, DIGEST) == THERE, "this process knows it"

    assert await found_by_another_process(account) is None
    await written(kept, account)
    assert await found_by_another_process(account) == THERE


@pytest.mark.asyncio
async def test_a_database_that_hangs_is_not_waited_for(
    kept: KeptUploads, account: PoeAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed = threading.Event()
    monkeypatch.setattr(uploads, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(kept, "_read", lambda *args: freed.wait(5))

    try:
        assert await asyncio.wait_for(kept.find(account.pk, DIGEST), 1) is None
    finally:
        freed.set()


@pytest.mark.asyncio
async def test_an_account_that_was_just_removed_is_no_failure(kept: KeptUploads, account: PoeAccount) -> None:
    gone = account.pk
    await in_database(account.delete)
    await kept.keep(gone, DIGEST, THERE)
    await asyncio.to_thread(kept.close)

    assert await in_database(Upload.objects.count) == 0


# Whole requests.


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> list[StoredFile]:
    """What arrives at the demo server's upload endpoint."""
    seen: list[StoredFile] = []
    keep = Files.keep

    def watched(self: Files, file: StoredFile) -> str:
        seen.append(file)
        return keep(self, file)

    monkeypatch.setattr(Files, "keep", watched)
    return seen


@asynccontextmanager
async def relay_of(config: Config) -> AsyncIterator[Api]:
    """A process of its own, as good as."""
    relay = Relay(config)
    app: Any = LeanHandler(relay, "relay.api.urls")
    transport = httpx2.ASGITransport(app=app, client=("192.0.2.7", 4711))
    async with httpx2.AsyncClient(transport=transport, base_url="http://relay.test") as client:
        yield Api(client, relay)
    await relay.stop()


def replaced(config: Config, **pool: Any) -> Config:
    return config.model_copy(update={"pool": config.pool.model_copy(update=pool)})


def with_image(url: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": url}}]


def with_file(url: str) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": "Read"},
        {"type": "file", "file": {"file_data": url, "filename": "a.txt"}},
    ]


async def ask(api: Api, token: str, content: list[dict[str, Any]]) -> httpx2.Response:
    return await api.chat(token, "demo-echo", messages=[{"role": "user", "content": content}])


@pytest.mark.asyncio
async def test_a_file_goes_up_once_whoever_asks(
    api: Api, cast: Cast, demo: DemoPoe, uploaded: list[StoredFile]
) -> None:
    answers = await asyncio.gather(*(ask(api, cast.bob.plain, with_image(PNG)) for _ in range(5)))
    later = await ask(api, cast.charlie.plain, with_image(PNG))

    for answer in (*answers, later):
        assert "Attached: image.png (image/png)" in answer.json()["choices"][0]["message"]["content"]
    assert [file.data for file in uploaded] == [b"a picture"]


@pytest.mark.asyncio
async def test_another_worker_uploads_it_no_more(
    api: Api, cast: Cast, demo: DemoPoe, config: Config, uploaded: list[StoredFile]
) -> None:
    await ask(api, cast.bob.plain, with_image(PNG))
    assert api.relay.uploads is not None
    await asyncio.to_thread(api.relay.uploads.close)  # writes what is to be written

    async with relay_of(config) as other:
        answer = await ask(other, cast.bob.plain, with_image(PNG))

    assert "Attached: image.png" in answer.json()["choices"][0]["message"]["content"]
    assert len(uploaded) == 1


@pytest.mark.asyncio
async def test_without_a_cache_each_request_uploads_anew(
    cast: Cast, demo: DemoPoe, config: Config, uploaded: list[StoredFile]
) -> None:
    async with relay_of(replaced(config, upload_cache_hours=0)) as api:
        for _ in range(2):
            assert (await ask(api, cast.bob.plain, with_image(PNG))).status_code == 200

    assert len(uploaded) == 2
    assert await in_database(Upload.objects.count) == 0


@pytest.mark.asyncio
async def test_a_file_that_is_too_large_costs_nobody_anything(
    api: Api, cast: Cast, demo: DemoPoe, uploaded: list[StoredFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poe_uploads, "MEGABYTE", 1)
    large = "data:text/plain;base64," + base64.b64encode(b"x" * 51).decode()

    answer = await ask(api, cast.bob.plain, with_file(large))

    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "file_too_large"
    assert "'a.txt' has 51.0 MB" in answer.json()["error"]["message"]
    assert uploaded == []
    assert await in_database(UsageRecord.objects.count) == 0
    assert await in_database(Meter.objects.filter(pk__startswith="user:").count) == 0


# Addresses of others.

_heard: list[tuple[str, object]] | None = None


def _listen(event: str, args: tuple[Any, ...]) -> None:
    """Hears of every socket that Python connects and every name that it looks up, whatever library asks for it."""
    if _heard is None:
        return
    if event in ("socket.connect", "socket.sendto"):
        _heard.append((event, args[1]))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "subprocess.Popen"):
        _heard.append((event, args[0]))


@pytest.fixture
def heard() -> Iterator[list[tuple[str, object]]]:
    global _heard
    if not hasattr(sys, "_poe_relay_listens"):
        sys.addaudithook(_listen)  # for good
        sys._poe_relay_listens = True  # type: ignore[attr-defined]
    _heard = []
    yield _heard
    _heard = None


@dataclass
class Trap:
    port: int
    visitors: int = 0


@pytest.fixture
def trap() -> Iterator[Trap]:
    """Where nobody of ours may come; it would send whoever does on to itself."""
    listening = socket.create_server(("127.0.0.1", 0))
    found = Trap(listening.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                visitor, _address = listening.accept()
            except OSError:
                return
            found.visitors += 1
            with visitor:
                visitor.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield found
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5)


# PORT is the trap's. These go on to the bot as they are: what Poe does with them is Poe's to decide.
HANDED_ON = [
    *(
        f"{scheme}://{host}/{path}"
        for scheme, host, path in product(
            ("http", "https"),
            (
                "127.0.0.1:PORT",
                "localhost:PORT",
                "LOCALHOST:PORT",
                "localhost.:PORT",
                "[::1]:PORT",
                "[::ffff:127.0.0.1]:PORT",
                "[0:0:0:0:0:0:0:1]:PORT",
                "0.0.0.0:PORT",
                "0:PORT",
                "127.1:PORT",
                "2130706433:PORT",
                "0x7f000001:PORT",
                "0x7f.1:PORT",
                "0177.0.0.1:PORT",
                "017700000001:PORT",
                "127.0.0.1.nip.io:PORT",
                "①②⑦.⓪.⓪.①:PORT",
                "127。0。0。1:PORT",
                "user:password@127.0.0.1:PORT",
                "poe.com@127.0.0.1:PORT",
                "127.0.0.1:PORT#@poe.com",
                "127.0.0.1:PORT\\@poe.com",
                "poe.com%00.127.0.0.1:PORT",
                "%31%32%37.0.0.1:PORT",
                "127.0.0.1:0PORT",
            ),
            ("a.png",),
        )
    ),
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "https://169.254.169.254/latest/api/token",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/computeMetadata/v1/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://0251.0376.0251.0376/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/instance/",
    "http://100.100.100.200/latest/meta-data/",
    "http://192.0.0.192/opc/v1/instance/",
    "http://10.0.0.1/admin",
    "http://172.16.0.1/admin",
    "http://192.168.0.1/admin",
    "http://[fe80::1]/admin",
    "http://[fe80::1%25lo]:PORT/a.png",
    "http://kubernetes.default.svc/api",
    "http://postgres:5432/",
    "http://redis:6379/",
    "http://consul:8500/v1/agent/self",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:25/%0d%0aMAIL%20FROM",
    "http://127.0.0.1:6379/%0d%0aFLUSHALL",
    "https://xn--80ak6aa92e.com/a.png",
    "https://bücher.example/a.png",
    "https://ⅇⅹⅈⅿⅼⅇ.com/a.png",
    "https://‮gnp.elpmaxe/a.png",
    "https://a.png",
    "https://./a.png",
    "https://../a.png",
    "https://-/a.png",
    "https://h.example:99999/a.png",
    "https://h.example:-1/a.png",
    "https://h.example:/a.png",
    "https://:PORT/a.png",
    "https://h.example/redirect?to=http://127.0.0.1:PORT/",
    "https://h.example/../../etc/passwd",
    "https://h.example/a.png?x=http://127.0.0.1:PORT",
    "https://[::1",
    "https://]/",
    "https://h.example/" + "x" * 8000,
]
# And these nobody is sent.
REFUSED = [
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "file:/etc/passwd",
    "FILE:///etc/passwd",
    "/etc/passwd",
    "etc/passwd",
    "ftp://127.0.0.1:PORT/a",
    "ftps://127.0.0.1:PORT/a",
    "sftp://127.0.0.1:PORT/a",
    "tftp://127.0.0.1:PORT/a",
    "gopher://127.0.0.1:PORT/_GET%20/",
    "dict://127.0.0.1:PORT/d:x",
    "ldap://127.0.0.1:PORT/x",
    "smb://127.0.0.1:PORT/x",
    "jar:http://127.0.0.1:PORT/a.jar!/",
    "netdoc:///etc/passwd",
    "php://filter/resource=/etc/passwd",
    "expect://id",
    "view-source:http://127.0.0.1:PORT/",
    "blob:http://127.0.0.1:PORT/x",
    "feed:http://127.0.0.1:PORT/",
    "ws://127.0.0.1:PORT/",
    "unix:///run/docker.sock",
    "http+unix://%2Frun%2Fdocker.sock/",
    "javascript:fetch('http://127.0.0.1:PORT')",
    "//127.0.0.1:PORT/a.png",
    "\\\\127.0.0.1\\share",
    "http:/127.0.0.1:PORT/",
    "http:127.0.0.1:PORT",
    "http:///127.0.0.1:PORT/",
    "http://",
    "https://",
    " http://127.0.0.1:PORT/",
    "\thttp://127.0.0.1:PORT/",
    "http://127.0.0.1:PORT/\r\nX-Other: 1",
    "http://127.0.0.1 :PORT/",
    "http\n://127.0.0.1:PORT/",
    "url:http://127.0.0.1:PORT/",
    "127.0.0.1:PORT",
    "localhost:PORT/a.png",
    "data:",
    "data:,http://127.0.0.1:PORT/",
    "data:text/plain,http://127.0.0.1:PORT/",
    "data:text/html;base64",
    "data:image/png;base64,@@@@",
    "data:image/svg+xml;utf8,<svg><image href='http://127.0.0.1:PORT/'/></svg>",
    "https://h.example/" + "x" * 9000,
]


@pytest.mark.parametrize("content", [with_image, with_file])
@pytest.mark.asyncio
async def test_no_address_of_a_client_is_ever_reached(
    api: Api,
    cast: Cast,
    demo: DemoPoe,
    trap: Trap,
    heard: list[tuple[str, object]],
    content: Callable[[str], list[dict[str, Any]]],
) -> None:
    socket.create_connection(("127.0.0.1", trap.port)).close()
    wait_for(lambda: trap.visitors)
    assert heard[-1] == ("socket.connect", ("127.0.0.1", trap.port)) and trap.visitors == 1, (
        "it would be heard"
    )
    heard.clear()
    places = asyncio.Semaphore(10)

    async def status(url: str) -> int:
        async with places:
            answer = await ask(api, cast.bob.plain, content(url.replace("PORT", str(trap.port))))
        if answer.status_code == 200:
            assert "Attached: " in answer.json()["choices"][0]["message"]["content"]
        return answer.status_code

    statuses = await asyncio.gather(*map(status, HANDED_ON + REFUSED))

    assert len(statuses) >= 120
    assert dict(zip(HANDED_ON + REFUSED, statuses, strict=True)) == {
        **dict.fromkeys(HANDED_ON, 200),
        **dict.fromkeys(REFUSED, 400),
    }
    ours = ("127.0.0.1", int(demo.url.rpartition(":")[2]))
    assert {what for _event, what in heard} <= {ours, "127.0.0.1"}
    assert ("socket.connect", ours) in heard
    assert trap.visitors == 1
