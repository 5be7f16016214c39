"""How a connection to Poe is made: names, TLS, and outbound proxies of every kind."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import aiohappyeyeballs
from aiohappyeyeballs.types import AddrInfoType
from python_socks.async_.asyncio import Proxy

from relay.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable

from .connection import Connection
from .targets import Host, HTTPProxy, Target, http_proxy, is_socks

_NEXT_ADDRESS_AFTER = 0.25  # as RFC 8305 advises
_NAMES_LAST = 60.0

MakeConnection = Callable[[], Connection]


class Dialer:
    """Remembers names for a minute and the certificates it trusts for good."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._names: dict[tuple[str, int], tuple[float, asyncio.Task[Sequence[AddrInfoType]]]] = {}
        self._trusted: ssl.SSLContext | None = None

    async def connect(self, target: Target, make: MakeConnection) -> Connection:
        """A connection on which `target.host` answers.

        Raises RelayError, and what `poe_errors` knows of names, certificates and SOCKS proxies.
        """
        late = "the outbound proxy did not answer in time" if target.proxy else "no connection to Poe in time"
        due = asyncio.timeout(self._patience)
        try:
            async with due:
                return await self._way_to(target)(target, make)
        except TimeoutError:
            if not due.expired():
                raise
            raise UpstreamTimeout(late) from None

    def _way_to(self, target: Target) -> Callable[[Target, MakeConnection], Awaitable[Connection]]:
        if not target.proxy:
            return self._straight
        return self._through_socks if is_socks(target.proxy) else self._through_http

    async def _straight(self, target: Target, make: MakeConnection) -> Connection:
        with _reaching_poe():
            return await self._over(await self._tcp(target.host), target.host, make)

    async def _tcp(self, host: Host) -> socket.socket:
        addresses = await self._resolve(host.name, host.port)
        try:
            return await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1
            )
        except OSError:
            self._names.pop((host.name, host.port), None)  # it may have moved
            raise

    async def _over(self, sock: socket.socket, host: Host, make: MakeConnection) -> Connection:
        connection = make()
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._certificates() if host.is_secure else None,
                server_hostname=host.name if host.is_secure else None,
            )
        except BaseException:
            sock.close()
            connection.close()
            raise
        return connection

    async def _through_socks(self, target: Target, make: MakeConnection) -> Connection:
        """As curl reads the schemes: with an `h` the proxy resolves names, without it we do."""
        scheme, _, rest = target.proxy.partition("://")
        try:
            proxy = Proxy.from_url(f"{scheme.removesuffix('h')}://{rest}", rdns=scheme.endswith("h"))
        except ValueError:
            raise UpstreamBroken("the address of the outbound proxy cannot be used") from None
        sock = await proxy.connect(target.host.name, target.host.port, timeout=self._patience)
        with _reaching_poe():
            return await self._over(sock, target.host, make)

    async def _through_http(self, target: Target, make: MakeConnection) -> Connection:
        """To a host without TLS the proxy itself forwards each question; to others it opens a way through."""
        proxy = http_proxy(target.proxy)
        try:
            to_proxy = await self._over(await self._tcp(proxy.host), proxy.host, make)
        except OSError:
            raise UpstreamUnreachable("cannot reach the outbound proxy") from None
        if not target.host.is_secure:
            return to_proxy
        try:
            way = await self._open_way(to_proxy, target.host, proxy)
        except BaseException:
            to_proxy.close()
            raise
        with _reaching_poe():
            return await self._tls_over(way, target.host, make)

    async def _open_way(self, to_proxy: Connection, host: Host, proxy: HTTPProxy) -> asyncio.Transport:
        name = f"[{host.name}]:{host.port}" if ":" in host.name else f"{host.name}:{host.port}"
        to_proxy.ask(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{proxy.headers}\r\n".encode(), b"")
        until = asyncio.get_running_loop().time() + self._patience
        try:
            while not to_proxy.has_answered():
                await to_proxy.wait(until)
            if to_proxy.status == 200:
                return to_proxy.give_up_transport()
        except UpstreamBroken:
            pass  # its words are about Poe
        raise UpstreamUnreachable("the outbound proxy refused")

    async def _tls_over(self, way: asyncio.Transport, host: Host, make: MakeConnection) -> Connection:
        connection = make()
        try:
            transport = await asyncio.get_running_loop().start_tls(
                way, connection, self._certificates(), server_hostname=host.name
            )
            if transport is None:
                raise ConnectionResetError
        except BaseException:
            way.abort()
            connection.close()
            raise
        connection.connection_made(transport)
        return connection

    def _certificates(self) -> ssl.SSLContext:
        if self._trusted is None:
            self._trusted = ssl.create_default_context()
            self._trusted.set_alpn_protocols(["http/1.1"])
        return self._trusted

    async def _resolve(self, name: str, port: int) -> Sequence[AddrInfoType]:
        """Whoever asks for the same name at the same time waits for the same answer."""
        loop = asyncio.get_running_loop()
        known = self._names.get((name, port))
        if known is None or known[0] < loop.time():
            known = self._names[name, port] = (
                loop.time() + _NAMES_LAST,
                loop.create_task(_addresses(name, port)),
            )
            known[1].add_done_callback(lambda task: self._forget_failure(name, port, task))
        return await asyncio.shield(known[1])

    def _forget_failure(self, name: str, port: int, task: asyncio.Task[Sequence[AddrInfoType]]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._names.pop((name, port), None)


async def _addresses(name: str, port: int) -> Sequence[AddrInfoType]:
    return await asyncio.get_running_loop().getaddrinfo(
        name, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )


@contextmanager
def _reaching_poe() -> Iterator[None]:
    """`poe_errors` has words of its own for a name and for TLS; whatever else fails here means the same."""
    try:
        yield
    except (socket.gaierror, ssl.SSLError):
        raise
    except OSError:
        raise UpstreamUnreachable("cannot reach Poe") from None
