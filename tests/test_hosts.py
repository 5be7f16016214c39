"""Which Host headers the pages answer to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from proxy_site import hosts


@pytest.fixture(autouse=True)
def public_url(settings: Any) -> Iterator[None]:
    server = settings.CONFIG.server.model_copy(update={"public_url": "https://Relay.Example.org:8443"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"server": server})
    hosts._names.cache_clear()
    yield
    hosts._names.cache_clear()


ALLOWED = [
    *("relay.example.org", "relay.example.org:8443", "relay.example.org:3700", "RELAY.example.ORG"),
    *("relay.example.org.", "localhost", "localhost:3700", "LOCALHOST", "localhost."),
    *("127.0.0.1", "127.0.0.1:3700", "192.168.1.7", "8.8.8.8", "[::1]", "[::1]:3700", "[fe80::1]"),
    "[::ffff:127.0.0.1]",
]
REFUSED = [
    *("evil.example", "evil.example:3700", "relay.example.org.evil.example", "xrelay.example.org"),
    *(
        "example.org",
        "sub.relay.example.org",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.127.0.0.1",
    ),
    *("127.0.0", "127.1", "2130706433", "0x7f000001", "256.0.0.1", "010.0.0.1", "", ":3700", "*"),
]
MALFORMED = [
    *(
        "evil.example@127.0.0.1",
        "127.0.0.1@evil.example",
        "127.0.0.1/evil.example",
        "127.0.0.1, evil.example",
    ),
    *(
        "[::1",
        "::1",
        "[::1]evil.example",
        "127.0.0.1:x",
        "local host",
        "localhost\r\nX: y",
        "é.example",
        "a b",
    ),
]


@pytest.mark.parametrize("host", ALLOWED)
def test_it_answers_to(host: str) -> None:
    assert hosts.is_allowed(host)


@pytest.mark.parametrize("host", REFUSED)
def test_it_does_not_answer_to(host: str) -> None:
    assert not hosts.is_allowed(host)


def test_it_answers_to_this_machines_name() -> None:
    assert hosts.is_allowed(socket.gethostname())


def answer(host: str) -> HttpResponse:
    request = RequestFactory().get("/admin/", HTTP_HOST=host)
    return hosts.allowed_hosts(lambda request: HttpResponse("in"))(request)


@pytest.mark.parametrize("host", ALLOWED)
def test_a_page_opens(host: str) -> None:
    assert answer(host).content == b"in"


@pytest.mark.parametrize("host", [*REFUSED, *MALFORMED])
def test_a_page_does_not_open(host: str) -> None:
    assert answer(host).status_code == 400


def test_the_refusal_names_the_setting() -> None:
    text = answer("evil.example").content.decode()

    assert "server.public_url" in text and "evil" not in text


def test_another_header_does_not_stand_in() -> None:
    request = RequestFactory().get("/", HTTP_HOST="evil.example", HTTP_X_FORWARDED_HOST="localhost")

    def page(request: HttpRequest) -> HttpResponse:
        raise AssertionError("opened")

    assert hosts.allowed_hosts(page)(request).status_code == 400
