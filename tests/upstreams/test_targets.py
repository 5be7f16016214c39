"""Where URLs lead, as tables."""

from __future__ import annotations

import pytest

from relay.errors import UpstreamBroken
from relay.upstreams.targets import Host, address, http_proxy


@pytest.mark.parametrize(
    ("url", "host", "authority", "start"),
    [
        ("https://api.poe.com/bot/", Host("api.poe.com", 443, True), "api.poe.com", "/bot/"),
        ("https://api.poe.com:443/bot/", Host("api.poe.com", 443, True), "api.poe.com", "/bot/"),
        ("http://API.poe.com:8443/", Host("api.poe.com", 8443, False), "api.poe.com:8443", "/"),
        ("http://10.0.0.1:80", Host("10.0.0.1", 80, False), "10.0.0.1", "/"),
        ("http://[::1]:8080/b/", Host("::1", 8080, False), "[::1]:8080", "/b/"),
        ("https://bücher.example/", Host("xn--bcher-kva.example", 443, True), "xn--bcher-kva.example", "/"),
        ("https://h/a b/ü%20/?x=1&bot=", Host("h", 443, True), "h", "/a%20b/%C3%BC%20/?x=1&bot="),
        ("https://h/a\r\nX: y/", Host("h", 443, True), "h", "/aX:%20y/"),
    ],
)
def test_a_base_url_leads_to_a_host(url: str, host: Host, authority: str, start: str) -> None:
    to = address(url, "")

    assert (to.target.host, to.start, to.headers) == (host, start, f"Host: {authority}\r\n")


@pytest.mark.parametrize(
    "url",
    ["", "nothing", "ftp://h/", "http://", "http:///x", "http://h:0/", "http://h:99999/", "http://h:x/"]
    + ["http://[1/", "http://a b/", "http://a..b/", "https://anna:secret@h/"],
)
def test_an_address_that_leads_nowhere_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(UpstreamBroken) as raised:
        address(url, "")

    assert raised.value.message == "the address of Poe or of the outbound proxy cannot be used"


@pytest.mark.parametrize(
    ("proxy", "base_url", "start", "login"),
    [
        ("http://p:8080", "http://h/bot/", "http://h/bot/", ""),
        ("http://anna:p%40ss@p:8080", "http://h:81/bot/", "http://h:81/bot/", "YW5uYTpwQHNz"),
        ("http://anna@p", "http://h/bot/", "http://h/bot/", "YW5uYTo="),
        ("http://anna:p%40ss@p:8080", "https://h/bot/", "/bot/", ""),
        ("socks5://anna:p%40ss@p:1080", "http://h/bot/", "/bot/", ""),
    ],
)
def test_only_a_proxy_that_forwards_is_told_the_whole_address_and_its_login(
    proxy: str, base_url: str, start: str, login: str
) -> None:
    to = address(base_url, proxy)

    assert (to.start, to.target.proxy) == (start, proxy)
    assert to.headers.partition("\r\n")[2] == (f"Proxy-Authorization: Basic {login}\r\n" if login else "")


def test_a_proxy_has_the_port_of_its_scheme() -> None:
    assert http_proxy("https://p").host == Host("p", 443, True)
    assert http_proxy("http://p").host == Host("p", 80, False)


def test_no_password_is_shown() -> None:
    url = "http://anna:hunter2@p:8080"

    told = f"{address('http://h/', url)} {address('https://h/', url)} {http_proxy(url)}"

    assert "hunter2" not in told
    assert "YW5uYTpodW50ZXIy" not in told
