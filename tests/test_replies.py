"""How an answer is written: head and body in one piece, framed in one way, whatever the application calls its headers."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from daphne.http_protocol import HTTPFactory
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from proxy_site.replies import REPLY, DirectReply

Headers = list[tuple[bytes, bytes]]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BAD_GATEWAY = 502


class Application:
    """Daphne's server, as far as a request asks it: replies with these messages, one after the other."""

    server_name = "relay"
    proxy_forwarded_address_header = None
    http_timeout = None

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages
        self.scopes: list[dict[str, Any]] = []

    def protocol_connected(self, protocol: Any) -> None: ...

    def protocol_disconnected(self, protocol: Any) -> None: ...

    def create_application(self, protocol: DirectReply, scope: dict[str, Any]) -> Any:
        self.scopes.append(scope)
        for message in self.messages:
            protocol.handle_reply(message)


def start(status: int = 200, headers: Headers | None = None) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers or []}


def body(content: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def answered(
    asked: bytes, *messages: dict[str, Any], application: Application | None = None
) -> tuple[bytes, Application]:
    application = application or Application(*messages)
    factory = HTTPFactory(application)
    protocol = factory.buildProtocol(None)
    protocol.requestFactory = DirectReply
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(asked)
    said: bytes = transport.value()
    return said, application


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length"])
def test_an_answer_of_known_length_is_not_chunked(name: bytes) -> None:
    said, _ = answered(GET, start(headers=[(name, b"2"), (b"Server", b"own")]), body(b"hi"))

    assert said == b"HTTP/1.1 200 OK\r\n" + name + b": 2\r\nServer: own\r\n\r\nhi"


def test_an_answer_of_unknown_length_is_chunked_piece_by_piece() -> None:
    said, _ = answered(GET, start(), body(b"one", more=True), body(b"", more=True), body(b"two" * 6))

    head, _, rest = said.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nserver: relay\r\ntransfer-encoding: chunked"
    assert rest == b"3\r\none\r\n12\r\ntwotwotwotwotwotwo\r\n0\r\n\r\n"


@pytest.mark.parametrize(("asked", "status"), [(GET.replace(b"GET", b"HEAD"), 200), (GET, 204), (GET, 304)])
def test_what_has_no_body_gets_none(asked: bytes, status: int) -> None:
    said, _ = answered(asked, start(status), body(b"not said"))

    assert said.endswith(b"server: relay\r\n\r\n") and b"chunked" not in said


def test_an_old_client_reads_until_the_connection_ends() -> None:
    said, _ = answered(GET.replace(b"1.1", b"1.0"), start(), body(b"one", more=True), body(b"two"))

    assert said == b"HTTP/1.0 200 OK\r\nserver: relay\r\n\r\nonetwo"


class Speaking(Application):
    """Replies with the messages, and then at once by the reply that the scope holds, as far as it takes more."""

    def create_application(self, protocol: DirectReply, scope: dict[str, Any]) -> Any:
        reply = scope.get(REPLY)
        self.took_more = [reply is not None and reply.takes_more()]
        for message in self.messages:
            protocol.handle_reply(message)
            self.took_more.append(reply is not None and reply.takes_more())
        if reply is not None and self.took_more[-1]:
            reply.say(b"two")
            protocol.handle_reply(body(b"three"))
            self.took_more.append(reply.takes_more())


@pytest.mark.parametrize(
    ("version", "rest"),
    [(b"1.1", b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"), (b"1.0", b"onetwothree")],
)
def test_a_part_that_is_said_at_once_is_framed_like_others(version: bytes, rest: bytes) -> None:
    application = Speaking(start(), body(b"one", more=True))

    said, _ = answered(GET.replace(b"1.1", version), application=application)

    assert said.partition(b"\r\n\r\n")[2] == rest
    # Not before the head has left, and not after the end.
    assert application.took_more == [False, False, True, False]


def test_what_has_no_body_is_never_said_at_once() -> None:
    application = Speaking(start(), body(b"one", more=True))

    said, _ = answered(GET.replace(b"GET", b"HEAD"), application=application)

    assert application.took_more == [False, False, False] and b"one" not in said


def test_cookies_stay_apart_and_a_status_has_its_words() -> None:
    cookies = [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"content-length", b"0")]
    said, _ = answered(GET, start(BAD_GATEWAY, cookies), body())

    assert said.startswith(b"HTTP/1.1 502 Bad Gateway\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n")


def test_whoever_asks_for_the_end_is_told_of_it() -> None:
    said, _ = answered(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), start(), body(b"hi"))

    assert b"\r\nConnection: close\r\n" in said


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb"])
def test_a_header_does_not_break_out_of_its_line(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        answered(GET, start(headers=[(b"x", value)]), body(b"hi"))


def test_an_application_that_fails_before_its_first_byte_can_still_say_so() -> None:
    class Failing(Application):
        def create_application(self, protocol: DirectReply, scope: dict[str, Any]) -> Any:
            protocol.handle_reply(start(headers=[(b"x", b"lost")]))
            assert protocol.has_said_nothing()
            protocol.handle_reply(start(BAD_GATEWAY))
            protocol.handle_reply(body(b"oh"))
            assert not protocol.has_said_nothing()

    said, _ = answered(GET, application=Failing())

    assert said.startswith(b"HTTP/1.1 502 Bad Gateway\r\n") and b"lost" not in said


@pytest.mark.parametrize(
    "messages",
    [[body(b"hi")], [start(), start()], [{"type": "http.response.trailers"}]],
    ids=["no head", "two heads", "unknown"],
)
def test_a_message_out_of_turn_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="head|no such message"):
        answered(GET, *messages)


def test_the_application_is_told_of_the_request() -> None:
    asked = b"POST /a%20b?c=%20d HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nX_One: 2\r\nContent-Length: 2\r\n\r\nhi"

    _, application = answered(asked, start(), body())

    (scope,) = application.scopes
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b", b"/a%20b")
    assert scope["query_string"] == b"c=%20d"
    # With an underscore it could be taken for another.
    assert scope["headers"] == [(b"host", b"x"), (b"x-one", b"1"), (b"content-length", b"2")]


@pytest.mark.parametrize("still_asks", [True, False])
def test_whoever_asks_is_told_when_the_client_hangs_up(still_asks: bool) -> None:
    _, application = answered(GET, start(), body(b"one", more=True))
    reply = application.scopes[0][REPLY]
    left = Mock()

    reply.when_left(left)
    assert not left.called
    if not still_asks:
        reply.when_left(None)
    reply.channel.connectionLost(Failure(ConnectionDone()))

    assert left.call_count == int(still_asks)


def test_whoever_asks_too_late_is_told_at_once() -> None:
    _, application = answered(GET, start(), body(b"one", more=True))
    reply = application.scopes[0][REPLY]
    reply.channel.connectionLost(Failure(ConnectionDone()))
    left = Mock()

    reply.when_left(left)

    assert left.call_count == 1


def test_the_end_of_an_answer_is_no_hanging_up() -> None:
    class Asking(Application):
        def create_application(self, protocol: DirectReply, scope: dict[str, Any]) -> Any:
            scope[REPLY].when_left(left)
            super().create_application(protocol, scope)

    left = Mock()
    answered(GET, application=Asking(start(), body(b"all")))

    assert not left.called
