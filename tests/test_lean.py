"""Where a request comes from, what a preflight is told, and which paths are the API's."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import re
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
from django.urls import URLResolver, get_resolver

from proxy_site.lean import CORS, _preflight, _Watch, client_address
from proxy_site.replies import DirectReply
from proxy_site.server import Inbox
from relay.api.urls import is_api, route_of

PROXIES = [ipaddress.ip_network(each) for each in ("127.0.0.0/8", "10.0.0.0/8", "::1/128", "fd00::/8")]


def scope(peer: str | None, *forwarded: str, name: bytes = b"x-forwarded-for") -> dict[str, Any]:
    headers = [(b"host", b"relay.example"), *((name, value.encode("latin-1")) for value in forwarded)]
    return {"client": None if peer is None else (peer, 4711), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        # Nobody vouches for what a stranger says of itself.
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),
        ("192.0.2.7", ["127.0.0.1"], "192.0.2.7"),
        ("2001:db8::7", ["198.51.100.1"], "2001:db8::7"),
        # A trusted proxy does, for its own last word alone.
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", [" , ,"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["  198.51.100.1  "], "198.51.100.1"),
        ("127.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("::1", ["198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["203.0.113.9, 198.51.100.1, 10.0.0.2, 127.0.0.1"], "198.51.100.1"),
        ("10.1.2.3", ["127.0.0.1, 198.51.100.1"], "198.51.100.1"),
        # Two headers are one list.
        ("127.0.0.1", ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        # All of them are ours: the request began at the first.
        ("127.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # What is no address is nobody's, and no neighbour's above all.
        ("127.0.0.1", ["10.0.0.3, unix:"], "unknown"),
        ("127.0.0.1", ["_hidden, 10.0.0.2"], "unknown"),
        ("127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        # Some write the port, which is another one each time.
        ("127.0.0.1", ["198.51.100.1:5678"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8::1]:5678"], "2001:db8::1"),
        ("127.0.0.1", ["198.51.100.1, 10.0.0.2:80"], "198.51.100.1"),
        ("127.0.0.1", ["2001:DB8:0::1"], "2001:db8::1"),
        ("127.0.0.1", ["unknown, 198.51.100.1"], "198.51.100.1"),
        # A socket without addresses.
        (None, ["198.51.100.1"], ""),
        ("", ["198.51.100.1"], ""),
        # A socket for both kinds of address writes the old ones in the new way.
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1, ::ffff:10.0.0.2"], "198.51.100.1"),
        ("::ffff:192.0.2.7", ["198.51.100.1"], "::ffff:192.0.2.7"),
    ],
)
def test_a_request_comes_from(peer: str | None, forwarded: list[str], address: str) -> None:
    assert client_address(scope(peer, *forwarded), PROXIES) == address


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.1", "::1", None])
def test_without_trusted_proxies_nobody_is_believed(peer: str | None) -> None:
    assert client_address(scope(peer, "198.51.100.1"), []) == (peer or "")


@pytest.mark.parametrize("name", [b"forwarded", b"x-real-ip", b"x-forwarded-host", b"x-client-ip"])
def test_only_one_header_is_believed(name: bytes) -> None:
    assert client_address(scope("127.0.0.1", "198.51.100.1", name=name), PROXIES) == "127.0.0.1"


def test_an_odd_header_does_no_harm() -> None:
    for value in ("\xff\xfe", "a" * 10_000, "," * 10_000, "1.2.3", "127.0.0.1/8"):
        assert isinstance(client_address(scope("127.0.0.1", value), PROXIES), str)


# Preflights.


def told(asked: bytes | None, *more: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    headers = [*more] if asked is None else [(b"access-control-request-headers", asked), *more]
    answer = [*CORS, *_preflight({"headers": [(b"origin", b"https://chat.example"), *headers]})]
    assert len(dict(answer)) == len(answer)
    return dict(answer)


def test_a_browser_may_send_what_it_asks_to_send() -> None:
    answer = told(b"authorization,x-stainless-os")

    assert answer[b"access-control-allow-origin"] == b"*"
    assert answer[b"access-control-allow-headers"] == b"authorization,x-stainless-os"
    assert {b"GET", b"HEAD", b"POST"} <= set(answer[b"access-control-allow-methods"].split(b", "))
    assert int(answer[b"access-control-max-age"]) > 0
    assert b"access-control-request-headers" in answer[b"vary"]


def test_a_browser_that_asks_nothing_may_send_a_token() -> None:
    for asked in (None, b""):
        allowed = told(asked)[b"access-control-allow-headers"].split(b", ")
        assert {b"authorization", b"content-type", b"x-api-key"} <= set(allowed)


def test_a_page_of_the_internet_may_ask_a_relay_at_home() -> None:
    allows = b"access-control-allow-private-network"

    assert told(None, (b"access-control-request-private-network", b"true"))[allows] == b"true"
    assert allows not in told(None)


def test_cookies_are_nobodys_business() -> None:
    answer = told(None)

    assert b"access-control-allow-credentials" not in answer
    assert b"x-poe-relay-ignored" in answer[b"access-control-expose-headers"]


# Paths.


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1", True),
        ("/v1/", True),
        ("/v1/models", True),
        ("/v1/chat/completions", True),
        ("/v1/nothing/here", True),
        ("/models", True),
        ("/models/gpt-4o", True),
        ("/models/", True),
        ("/models/a/b", True),
        ("/models/a\nb", True),
        ("/chat/completions", True),
        ("/", False),
        ("", False),
        ("/v2/models", False),
        ("/v1models", False),
        ("/V1/models", False),
        ("//v1/models", True),
        ("//v1//models/", True),
        ("/v1/v1", True),
        ("/v1/v1/models", True),
        ("/chat/completions/", True),
        ("//chat//completions", True),
        ("/admin/", False),
        ("/admin/v1/models", False),
        ("/modelsx", False),
        ("/chat", False),
        ("/chat/completions/x", False),
        ("/me/", False),
        ("/healthz", False),
        ("/static/v1/models", False),
    ],
)
def test_a_path_is_the_apis_or_a_page(path: str, api: bool) -> None:
    assert is_api(path) is api


@pytest.mark.parametrize(
    ("spelled", "route"),
    [
        ("/v1/chat/completions", "/chat/completions"),
        ("/chat/completions", "/chat/completions"),
        ("/v1/v1/chat/completions", "/chat/completions"),
        ("//v1///chat//completions//", "/chat/completions"),
        ("/v1/models/org/some-model/", "/models/org/some-model"),
        ("/models/v1/v1/x", "/models/v1/v1/x"),
        ("/v1/v1x", "/v1x"),
        ("/v1/", ""),
        ("/", None),
        ("/chat/completions/x", None),
    ],
)
def test_however_it_is_spelled_it_is_one_route(spelled: str, route: str | None) -> None:
    assert route_of(spelled) == route


def test_no_page_is_taken_for_the_apis() -> None:
    addresses = [re.sub("<[^>]*>", "1", each) for each in pages()]

    assert len(addresses) > 20
    assert [address for address in addresses if is_api(address)] == []


def pages() -> list[str]:
    """The address of every page, as the URL configuration writes it."""
    found: list[str] = []
    waiting: list[tuple[str, Any]] = [("/", get_resolver("proxy_site.urls"))]
    while waiting:
        prefix, resolver = waiting.pop()
        for each in resolver.url_patterns:
            address = prefix + str(each.pattern).removeprefix("^").removesuffix("$")
            if isinstance(each, URLResolver):
                waiting.append((address, each))
            else:
                found.append(address)
    return found


class Left:
    """Of a reply that only tells when its client leaves."""

    def __init__(self) -> None:
        self.tell: Callable[[], None] | None = None

    def when_left(self, tell: Callable[[], None] | None) -> None:
        self.tell = tell


@pytest.mark.asyncio
@pytest.mark.parametrize("by_reply", [True, False])
async def test_whoever_waited_for_a_client_to_leave_is_let_go_of_at_once(by_reply: bool) -> None:
    """Every request waits so. What the collector must find is walked over and over, and mostly stays until its last generation."""

    class Found(Inbox):
        """Which can be looked for."""

    inbox = Found()
    reply = Left() if by_reply else None
    watch = _Watch(inbox.get, cast(DirectReply | None, reply))
    await asyncio.sleep(0)
    found = weakref.ref(inbox), weakref.ref(watch)

    gc.disable()
    try:
        watch.end()
        watch.end()
        del inbox, watch, reply
        for _turn in range(3):
            await asyncio.sleep(0)
        assert [each() for each in found] == [None, None]
    finally:
        gc.enable()


@pytest.mark.asyncio
@pytest.mark.parametrize("by_reply", [True, False])
async def test_a_client_that_leaves_ends_the_request_unless_it_is_over(by_reply: bool) -> None:
    inbox = Inbox()
    reply = Left() if by_reply else None

    async def request(*, is_over: bool) -> bool:
        watch = _Watch(inbox.get, cast(DirectReply | None, reply))
        await asyncio.sleep(0)
        if is_over:
            watch.end()
        if reply is None:
            inbox.put_nowait({"type": "http.disconnect"})
        elif reply.tell is not None:
            reply.tell()
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass
        return watch.is_gone

    assert await asyncio.create_task(request(is_over=False))
    assert not await asyncio.create_task(request(is_over=True))
