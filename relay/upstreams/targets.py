"""Where a URL leads: Poe's host and the outbound proxy on the way to it. Pure, without I/O."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote, urlsplit

from relay.errors import UpstreamBroken

_PORTS = {"http": 80, "https": 443}
_NOT_QUOTED = "/%:@!$&'()*+,;=~?"


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    port: int
    is_secure: bool

    @property
    def authority(self) -> str:
        """As a Host header names it: without the port that the scheme implies."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port == _PORTS["https" if self.is_secure else "http"] else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """What connections are alike by: who is asked, and by way of which proxy, an address or empty."""

    host: Host
    proxy: str = field(default="", repr=False)  # it may hold a password


@dataclass(frozen=True, slots=True)
class HTTPProxy:
    host: Host
    headers: str = field(repr=False)  # what it wants to be told, such as a login


@dataclass(frozen=True, slots=True)
class Address:
    """A base URL, ready to be asked: `start` is a request's first line as far as the bot's name."""

    target: Target
    start: str
    headers: str = field(repr=False)


@lru_cache(maxsize=256)
def address(base_url: str, proxy: str) -> Address:
    """Raises UpstreamBroken for an address that cannot be used."""
    parts = _split(base_url)
    host = _host(parts)
    if "@" in parts.netloc:
        raise _unusable()  # Poe knows one login, and that is the key
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_NOT_QUOTED)
    headers = f"Host: {host.authority}\r\n"
    if not proxy or is_socks(proxy):
        return Address(Target(host, proxy), path, headers)
    way = http_proxy(proxy)
    if host.is_secure:  # the proxy sees nothing of it but its host
        return Address(Target(host, proxy), path, headers)
    return Address(Target(host, proxy), f"http://{host.authority}{path}", headers + way.headers)


@lru_cache(maxsize=256)
def http_proxy(url: str) -> HTTPProxy:
    """Raises UpstreamBroken for an address that cannot be used."""
    parts = _split(url)
    host = _host(parts)
    if parts.username is None:
        return HTTPProxy(host, "")
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return HTTPProxy(host, f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n")


def is_socks(proxy: str) -> bool:
    return proxy.startswith("socks")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise _unusable() from None


def _host(parts: SplitResult) -> Host:
    try:
        name = (parts.hostname or "").encode("idna").decode()
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
    except (ValueError, KeyError):
        raise _unusable() from None
    if not port or not name or not name.isprintable() or " " in name:
        raise _unusable()
    return Host(name, port, parts.scheme == "https")


def _unusable() -> UpstreamBroken:
    return UpstreamBroken("the address of Poe or of the outbound proxy cannot be used")
