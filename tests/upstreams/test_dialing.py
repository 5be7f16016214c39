"""Connections to Poe as they are made: TLS, names and proxies."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from relay.errors import RelayError, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from relay.events import ChatRequest, Event, Message, Text, TextPart, one_by_one
from relay.upstreams import dialing
from relay.upstreams.connection import Connection
from relay.upstreams.poe import Deadlines, Key, Poe
from relay.upstreams.targets import Target

from . import scripted
from .scripted import DONE, answering, text

pytestmark = pytest.mark.asyncio

HELLO = ChatRequest(model="gpt-4o", messages=(Message("user", (TextPart("hello"),)),))
LARGE = ChatRequest(model="gpt-4o", messages=(Message("user", (TextPart("wörter " * 300_000),)),))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of localhost and 127.0.0.1, signed by itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's server")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side; the relay trusts its certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return _server_side(certificate)


def _server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@contextlib.asynccontextmanager
async def speaking(deadlines: Deadlines | None = None) -> AsyncIterator[Poe]:
    poe = Poe(deadlines or Deadlines())
    try:
        yield poe
    finally:
        await poe.close()


async def ask(poe: Poe, key: Key, chat: ChatRequest = HELLO) -> list[list[Event]]:
    return [one_by_one(said) async for said in poe.stream(chat, bot="B", key=key)]


async def refusal(key: Key, deadlines: Deadlines | None = None) -> RelayError:
    async with speaking(deadlines) as poe:
        with pytest.raises(RelayError) as raised:
            await ask(poe, key)
        assert not poe._pool._all
    return raised.value


# TLS.


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_it_asks_over_tls_and_uses_the_connection_again(tls: ssl.SSLContext, host: str) -> None:
    async with scripted.upstream(answering(text("a") + DONE), tls) as upstream, speaking() as poe:
        for chat in (HELLO, LARGE, HELLO):
            assert await ask(poe, upstream.key(host=host, scheme="https"), chat) == [[Text("a")]]
            await asyncio.sleep(0.02)

    assert upstream.connections == 1
    assert upstream.requests[1].json["query"][0]["content"] == LARGE.messages[0].text


async def test_it_speaks_http_1_and_names_the_host_to_tls(tls: ssl.SSLContext) -> None:
    names: list[str | None] = []
    protocols: list[str | None] = []

    def named(_: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        names.append(name)

    tls.sni_callback = named

    async def script(request: scripted.Request, writer: asyncio.StreamWriter) -> None:
        protocols.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answering(DONE)(request, writer)

    async with scripted.upstream(script, tls) as upstream, speaking() as poe:
        await ask(poe, upstream.key(host="localhost", scheme="https"))

    assert (names, protocols) == (["localhost"], ["http/1.1"])


async def test_a_certificate_that_nobody_trusts_is_refused(certificate: Path) -> None:
    async with scripted.upstream(answering(DONE), _server_side(certificate)) as upstream:
        error = await refusal(upstream.key(host="localhost", scheme="https"))

    assert (type(error), error.message) == (UpstreamUnreachable, "Poe's certificate cannot be trusted")
    assert not upstream.requests


async def test_a_certificate_of_another_name_is_refused(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    _all_names_mean_this_machine(monkeypatch)
    async with scripted.upstream(answering(DONE), tls) as upstream:
        error = await refusal(upstream.key(host="poe.example", scheme="https"))

    assert (type(error), error.message) == (UpstreamUnreachable, "Poe's certificate cannot be trusted")


async def test_a_server_without_tls_is_no_secure_one() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad\r\n\r\n" * 10)
        await reader.read(1000)
        writer.close()

    async with scripted.listening(plain) as port:
        error = await refusal(scripted.Upstream(port=port).key(scheme="https"))

    assert (type(error), error.message) == (UpstreamUnreachable, "no secure connection to Poe")


@pytest.mark.parametrize("proxy", ["", "http", "socks5"])
async def test_who_never_greets_is_given_up(proxy: str) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with scripted.listening(mute) as port:
        key = scripted.Upstream(port=port).key(proxy and f"{proxy}://127.0.0.1:{port}", scheme="https")
        error = await refusal(key, Deadlines(connect=0.1))

    assert isinstance(error, UpstreamTimeout)
    late = "the outbound proxy did not answer in time" if proxy else "no connection to Poe in time"
    assert error.message == late


async def test_leaving_while_a_connection_is_made_leaves_nothing_behind() -> None:
    gone = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with scripted.listening(mute) as port, speaking(Deadlines(heartbeat=0.05)) as poe:
        answer = poe.stream(HELLO, bot="B", key=scripted.Upstream(port=port).key(scheme="https"))
        assert await anext(answer) == []
        await answer.aclose()
        await asyncio.wait_for(gone.wait(), 1)

        assert not poe._pool._all


async def test_leaving_when_the_connection_has_just_been_made_closes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted.upstream(answering(DONE)) as upstream, speaking() as poe:
        asking = asyncio.ensure_future(ask(poe, upstream.key()))
        open_one = poe._pool.open

        async def open_and_leave(target: Target) -> Connection:
            connection = await open_one(target)
            asking.cancel()
            return connection

        monkeypatch.setattr(poe._pool, "open", open_and_leave)
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0)

        assert not poe._pool._all
        assert not upstream.requests


async def test_heartbeats_come_while_a_connection_is_made() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    beats = 0
    async with scripted.listening(mute) as port, speaking(Deadlines(connect=0.35, heartbeat=0.1)) as poe:
        with pytest.raises(UpstreamTimeout):
            async for said in poe.stream(
                HELLO, bot="B", key=scripted.Upstream(port=port).key(scheme="https")
            ):
                assert said == []
                beats += 1

    assert 1 <= beats <= 3


# Names.


def _all_names_mean_this_machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked = []

    async def addresses(name: str, port: int) -> list[object]:
        asked.append(name)
        await asyncio.sleep(0.01)
        if name == "nowhere.example":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        dead = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))
        return [dead, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(dialing, "_addresses", addresses)
    return asked


async def test_a_name_is_asked_for_once_and_each_of_its_addresses_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = _all_names_mean_this_machine(monkeypatch)
    async with scripted.upstream(answering(DONE)) as upstream, speaking() as poe:
        key = upstream.key(host="poe.example")
        await asyncio.gather(*(ask(poe, key) for _ in range(5)))

    assert (asked, upstream.connections) == (["poe.example"], 5)


async def test_a_name_that_nobody_knows_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _all_names_mean_this_machine(monkeypatch)
    key = scripted.Upstream(port=1).key(host="nowhere.example")

    async with speaking() as poe:
        for _ in range(2):
            with pytest.raises(UpstreamBroken, match="^the name of Poe's server cannot be resolved$"):
                await ask(poe, key)

    assert len(asked) == 2


async def test_a_name_whose_addresses_are_dead_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _all_names_mean_this_machine(monkeypatch)
    key = scripted.Upstream(port=1).key(host="poe.example")

    async with speaking() as poe:
        for _ in range(2):
            with pytest.raises(UpstreamBroken, match="^cannot reach Poe$"):
                await ask(poe, key)

    assert len(asked) == 2


# Proxies on the way to TLS. Those without are in test_poe.py.


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("login", ["", "anna:p%40ss@"])
async def test_a_proxy_opens_a_way_for_tls(tls: ssl.SSLContext, scheme: str, login: str) -> None:
    async with (
        scripted.upstream(answering(text("a") + DONE), tls) as upstream,
        scripted.connect_proxy(tls=tls if scheme == "https" else None) as proxy,
        speaking() as poe,
    ):
        key = upstream.key(f"{scheme}://{login}localhost:{proxy.port}", host="localhost", scheme="https")
        for chat in (HELLO, LARGE):
            assert await ask(poe, key, chat) == [[Text("a")]]
            await asyncio.sleep(0.05)

    assert proxy.asked == [f"CONNECT localhost:{upstream.port}"]
    assert proxy.authorization == ["Basic YW5uYTpwQHNz" if login else ""]
    assert upstream.connections == 1
    assert {request.target for request in upstream.requests} == {"/bot/B"}
    assert not [name for request in upstream.requests for name in request.headers if "proxy" in name]


async def test_a_socks_proxy_opens_a_way_for_tls(tls: ssl.SSLContext) -> None:
    async with (
        scripted.upstream(answering(text("a") + DONE), tls) as upstream,
        scripted.socks5_proxy() as proxy,
        speaking() as poe,
    ):
        key = upstream.key(f"socks5h://127.0.0.1:{proxy.port}", host="localhost", scheme="https")
        assert await ask(poe, key) == [[Text("a")]]

    assert proxy.asked == [f"localhost:{upstream.port}"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad\r\n\r\n",
        b"HTTP/1.1 204 Hm\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
async def test_a_proxy_that_opens_no_way_refuses(answer: bytes) -> None:
    async with scripted.connect_proxy(answer) as proxy:
        key = scripted.Upstream(port=1).key(f"http://anna:hunter2@127.0.0.1:{proxy.port}", scheme="https")
        error = await refusal(key)

    assert (type(error), error.message) == (UpstreamUnreachable, "the outbound proxy refused")


async def test_a_certificate_behind_a_proxy_is_looked_at(certificate: Path) -> None:
    async with (
        scripted.upstream(answering(DONE), _server_side(certificate)) as upstream,
        scripted.connect_proxy() as proxy,
    ):
        key = upstream.key(f"http://127.0.0.1:{proxy.port}", host="localhost", scheme="https")
        error = await refusal(key)

    assert (type(error), error.message) == (UpstreamUnreachable, "Poe's certificate cannot be trusted")


async def test_a_proxys_own_certificate_is_looked_at(certificate: Path) -> None:
    async with scripted.connect_proxy(tls=_server_side(certificate)) as proxy:
        key = scripted.Upstream(port=1).key(f"https://localhost:{proxy.port}", scheme="https")
        error = await refusal(key)

    assert (type(error), error.message) == (UpstreamUnreachable, "cannot reach the outbound proxy")
    assert not proxy.asked


async def test_a_proxy_that_is_not_there_cannot_be_reached() -> None:
    async with scripted.connect_proxy() as proxy:
        pass

    error = await refusal(
        scripted.Upstream(port=1).key(f"http://anna:hunter2@127.0.0.1:{proxy.port}", scheme="https")
    )

    assert error.message == "cannot reach the outbound proxy"


@pytest.fixture(autouse=True)
def no_socket_is_left() -> Iterator[None]:
    """A socket that nobody closed is a ResourceWarning, which is an error here, when it is collected."""
    yield
    gc.collect()
