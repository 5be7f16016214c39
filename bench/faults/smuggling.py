"""Requests whose end two readers may see in two places, sent to the relay directly and through nginx.

Directly, each of them is refused and the connection closed, and no request is answered that a strict reader would not
see. Through nginx, what nginx asked is what the relay answered, and the next client gets its own answer.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import servers
from bench.faults import rig
from bench.faults.rig import Findings, Site

# A connection on which nothing comes for so long has nothing more to say.
QUIET_SECONDS = 0.3
MOST_SECONDS = 5.0

HOST = b"Host: relay\r\n"
FIRST = b"POST /v1/first HTTP/1.1\r\n" + HOST
SECOND = b"GET /v1/second HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent; what a strict reader sees of it, in order; and with which status the rest is refused, if any."""

    name: str
    sent: bytes
    seen: tuple[str, ...] = ()
    refused: int | None = 400


def _refused() -> Iterator[Case]:
    """Whatever comes after it must not be answered."""
    table = {
        # Two lengths.
        "content-length and chunked": FIRST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
        "chunked and content-length": FIRST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        "content-length twice, the same": FIRST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "content-length twice": FIRST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
        "content-length as a list": FIRST + b"Content-Length: 5, 5\r\n\r\nhello",
        "chunked twice": FIRST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
        "chunked, identity in two headers": FIRST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "chunked on HTTP/1.0": b"POST /v1/first HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n",
        "a chunked name with a space": FIRST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "a chunked value on a folded line": FIRST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "a chunked value after LF": FIRST + b"Transfer-Encoding:\n chunked\r\n\r\n0\r\n\r\n",
        "a length hidden behind LF": FIRST + b"X: y\nContent-Length: 5\r\n\r\nhello",
        "a length hidden behind CR": FIRST + b"X: y\rContent-Length: 5\r\n\r\nhello",
        # Lines.
        "LF alone everywhere": FIRST.replace(b"\r", b"") + b"\n",
        "LF alone after the request line": b"GET /v1/first HTTP/1.1\n" + HOST + b"\r\n",
        "LF alone at the end of the head": FIRST + b"\n",
        "CR alone everywhere": FIRST.replace(b"\n", b"") + b"\r\r\n\r\n",
        "CR alone in the request line": b"GET /v1/first\rHTTP/1.1\r\n" + HOST + b"\r\n",
        "CR at the end of a value": FIRST + b"X: y\r\r\n\r\n",
        "a folded line": FIRST + b"X: y\r\n z\r\n\r\n",
        "a folded line with a tab": FIRST + b"X: y\r\n\tz\r\n\r\n",
        "a folded first line": b"GET /v1/first HTTP/1.1\r\n " + HOST + b"\r\n",
        "NUL in a value": FIRST + b"X: a\0b\r\n\r\n",
        "NUL in a name": FIRST + b"X\0Y: ab\r\n\r\n",
        "a control character in a value": FIRST + b"X: a\x01b\r\n\r\n",
        "NUL in the path": b"GET /v1/fi\0rst HTTP/1.1\r\n" + HOST + b"\r\n",
        "a space in a name": FIRST + b"Content Length: 5\r\n\r\nhello",
        "a space after a name": b"GET /v1/first HTTP/1.1\r\nHost : relay\r\n\r\n",
        "a line without a colon": FIRST + b"Content-Length 5\r\n\r\nhello",
        "a line without a name": FIRST + b": 5\r\n\r\n",
        "no host": b"GET /v1/first HTTP/1.1\r\n\r\n",
        "two hosts": FIRST + b"Host: other\r\n\r\n",
        "the same host twice": FIRST + HOST + b"\r\n",
        "authorization twice": FIRST + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
        "content-type twice": FIRST + b"Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\n",
        # Request lines.
        "two spaces": b"GET  /v1/first HTTP/1.1\r\n" + HOST + b"\r\n",
        "no version": b"GET /v1/first\r\n" + HOST + b"\r\n",
        "a space after the version": b"GET /v1/first HTTP/1.1 \r\n" + HOST + b"\r\n",
        "a version in small letters": b"GET /v1/first http/1.1\r\n" + HOST + b"\r\n",
        "HTTP/1.2": b"GET /v1/first HTTP/1.2\r\n" + HOST + b"\r\n",
        "the beginning of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a whole address": b"GET http://other/v1/first HTTP/1.1\r\n" + HOST + b"\r\n",
        "a path without a slash": b"GET v1/first HTTP/1.1\r\n" + HOST + b"\r\n",
        "a method that is none": b"GE(T /v1/first HTTP/1.1\r\n" + HOST + b"\r\n",
        "CONNECT": b"CONNECT relay:80 HTTP/1.1\r\n" + HOST + b"\r\n",
        "a path beyond ASCII": b"GET /v1/\x80 HTTP/1.1\r\n" + HOST + b"\r\n",
        "two empty lines before it": b"\r\n\r\nGET /v1/first HTTP/1.1\r\n" + HOST + b"\r\n",
        "WebSocket on an API route": FIRST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    }
    for length in ("+5", "-5", "1_0", "0x5", "5 5", "", "5.0", "5e0", "٥", "five", "9" * 5000, "\v5"):
        name = f"content-length {length[:9]!r}"
        table[name] = FIRST + b"Content-Length: %b\r\n\r\nhello" % length.encode()
    for coding in (
        *("identity", "gzip", "gzip, chunked", "chunked, chunked", "chunked, identity", "xchunked"),
        *("", '"chunked"', "chunked;q=1", "\vchunked", "chunked,"),
    ):
        table[f"transfer-encoding {coding!r}"] = (
            FIRST + b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding.encode()
        )
    for chunks in (
        *(
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"1_0\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
        ),
        *(b"-1\r\nhello\r\n", b"\r\nhello\r\n", b"5\nhello\r\n", b"5\r\nhello\n", b"5\r\nhello!\r\n"),
        *(b"5;a\nb\r\nhello\r\n", b"5;a\rb\r\nhello\r\n", b"5;a\0b\r\nhello\r\n", b"5\0\r\nhello\r\n"),
        b"5;" + b"a" * 2000 + b"\r\nhello\r\n",
    ):
        table[f"chunk {chunks[:12]!r}"] = FIRST + CHUNKED + b"\r\n" + chunks + b"0\r\n\r\n"
    for trailer in (b"X: y\n", b"X: y\n\r\nX: z", b"X: y\rz", b"X: a\0b", b" X: y", b"X y", b"X : y"):
        table[f"trailer {trailer!r}"] = FIRST + CHUNKED + b"\r\n0\r\n" + trailer + b"\r\n\r\n"
    for name, sent in table.items():
        yield Case(name, sent + SMUGGLED)
    yield Case("content-encoding", FIRST + b"Content-Encoding: gzip\r\n\r\n" + SMUGGLED, refused=415)
    yield Case("a long path", b"GET /v1/" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + SMUGGLED, refused=414)
    yield Case("an endless path", b"GET /v1/" + b"a" * 17_000, refused=414)
    yield Case("a long header", FIRST + b"X: " + b"a" * 16_500 + b"\r\n\r\n" + SMUGGLED, refused=431)
    yield Case("an endless header", FIRST + b"X: " + b"a" * 17_000, refused=431)
    yield Case("many headers", FIRST + b"X: y\r\n" * 3000 + b"\r\n" + SMUGGLED, refused=431)
    yield Case("a long body", FIRST + b"Content-Length: 99999999999\r\n\r\n" + SMUGGLED, refused=413)


def _accepted() -> Iterator[Case]:
    """Plain enough: one request ends and the next one begins where everybody sees it."""
    both = ("POST /v1/first", "GET /v1/second")
    small = b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    chunk = b"%X\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n"
    table = {
        "pipelining": FIRST + b"\r\n" + SECOND,
        "pipelining with a body": FIRST + b"Content-Length: 5\r\n\r\nhello" + SECOND,
        "pipelining after chunks": FIRST + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n" + SECOND,
        "a body that looks like a request": FIRST + small + SECOND,
        "a chunk that looks like a request": FIRST + CHUNKED + b"\r\n" + chunk + b"\r\n" + SECOND,
        "content-length with zeros": FIRST + b"Content-Length: 005\r\n\r\nhello" + SECOND,
        "a chunk with zeros": FIRST + CHUNKED + b"\r\n0005\r\nhello\r\n000\r\n\r\n" + SECOND,
        "a chunk extension": FIRST + CHUNKED + b'\r\n5;a=b;c="d e"\r\nhello\r\n0;f\r\n\r\n' + SECOND,
        "a trailer": FIRST + CHUNKED + b"\r\n5\r\nhello\r\n0\r\nX-Checksum: 5\r\n\r\n" + SECOND,
        "chunked in capitals": FIRST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + SECOND,
        "an empty line before it": b"\r\n" + FIRST + b"\r\n" + SECOND,
        "an upgrade to what nobody here speaks": FIRST + b"Upgrade: h2c\r\n\r\n" + SECOND,
        "content-encoding identity": FIRST + b"Content-Encoding: identity\r\n\r\n" + SECOND,
    }
    for name, sent in table.items():
        yield Case(name, sent, both, None)
    yield Case("after the last one", FIRST + b"Connection: close\r\n\r\n" + SMUGGLED, both[:1], None)
    old = b"POST /v1/first HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello"
    yield Case("HTTP/1.0 without a host", old + SMUGGLED, both[:1], None)
    yield Case("a refusal after an answer", FIRST + b"\r\n" + b"GET / HTTP/9\r\n\r\n", both[:1], 400)


CASES = (*_refused(), *_accepted())


# Directly.


async def exchange(port: int, sent: bytes) -> tuple[bytes, bool]:
    """What came back until the other end closed, or nothing came any more; and whether it closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(sent)
        async with asyncio.timeout(MOST_SECONDS):
            while True:
                part = await asyncio.wait_for(reader.read(65_536), QUIET_SECONDS if received else None)
                if not part:
                    return received, True
                received += part
    except ConnectionError:
        return received, True
    except TimeoutError:
        return received, False
    finally:
        await hang_up(writer)


def responses(received: bytes) -> list[tuple[int, str]]:
    """Status and body of each answer; each of them has a Content-Length or is the last one."""
    found = []
    while head_end := received.find(b"\r\n\r\n") + 4:
        if head_end == 3:
            break
        head, received = received[:head_end], received[head_end:]
        status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else len(received)
        body, received = received[:size], received[size:]
        found.append((int(status[1]) if status else 0, body.decode(errors="replace")))
    return found


def wrong(case: Case, received: bytes, is_closed: bool) -> str:
    """What is wrong with this answer to the case; empty: nothing. A route that there is not is a request that was seen."""
    came = responses(received)
    answered = [(status, f"No such route: {line}") for line in case.seen for status in (404,)]
    expected = len(answered) + (case.refused is not None)
    if "/v1/smuggled" in received.decode(errors="replace"):
        return "a request was answered that nobody sent"
    if not is_closed:
        return "the connection is still open"
    if len(came) != expected:
        return f"{len(came)} answers instead of {expected}"
    for (status, body), (wanted, words) in zip(came, answered, strict=False):
        if status != wanted or words not in body:
            return f"{status} instead of {wanted}"
    if case.refused is not None and came[-1][0] != case.refused:
        return f"{came[-1][0]} instead of {case.refused}"
    return ""


async def directly(findings: Findings, port: int) -> None:
    missed = []
    for case in CASES:
        if said := wrong(case, *await exchange(port, case.sent)):
            missed.append(f"{case.name}: {said}")
    refused = sum(case.refused is not None for case in CASES)
    findings.claim(
        f"directly: {refused} ambiguous requests are refused and their connections closed, {len(CASES) - refused} "
        "plain ones answered, none besides",
        not missed,
        missed or "so it is",
    )


# Behind nginx.

NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 256; }}
http {{
  log_format asked '$upstream_status';
  access_log {directory}/asked.log asked;
  client_body_temp_path {directory}/nginx-body; proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi; uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  upstream relay {{ server 127.0.0.1:{behind}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    client_header_timeout 1s; client_body_timeout 1s; lingering_close off;
    location / {{
      proxy_pass http://relay; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_buffering off; proxy_request_buffering off; proxy_next_upstream off;
    }}
  }}
}}
"""


class Tap:
    """Between nginx and the relay: keeps what the relay says."""

    def __init__(self, relay: int) -> None:
        self.said = b""
        self._relay = relay
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, from_nginx: asyncio.StreamReader, to_nginx: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        from_relay, to_relay = await asyncio.open_connection("127.0.0.1", self._relay)
        await asyncio.gather(
            self._pass_on(from_nginx, to_relay, keep=False), self._pass_on(from_relay, to_nginx, keep=True)
        )
        self._serving.discard(task)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keep: bool
    ) -> None:
        try:
            while part := await reader.read(65_536):
                if keep:
                    self.said += part
                writer.write(part)
        except ConnectionError:
            pass
        await hang_up(writer)

    async def is_over(self) -> None:
        if self._serving:
            await asyncio.wait(self._serving, timeout=MOST_SECONDS)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass


@asynccontextmanager
async def tapped(relay: int) -> AsyncIterator[tuple[Tap, int]]:
    tap = Tap(relay)
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
    try:
        yield tap, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await tap.is_over()


@contextmanager
def nginx(behind: int, directory: Path) -> Iterator[int]:
    port = servers.free_port()
    conf, log = directory / "nginx.conf", directory / "nginx.log"
    conf.write_text(NGINX.format(directory=directory, behind=behind, port=port))
    command = ["nginx", "-p", str(directory), "-c", str(conf), "-e", "stderr"]
    with servers.process(command, log, core=None) as child:
        servers.await_listener(child, port, log)
        yield port


async def behind_nginx(findings: Findings, relay: int, directory: Path) -> None:
    """One connection to the relay for all, so that a byte too many or too few is the next one's."""
    asked_log = directory / "asked.log"
    missed = []
    asked = 0
    async with tapped(relay) as (tap, behind):
        with nginx(behind, directory) as port:
            for number, case in enumerate(CASES):
                tap.said = b""
                told = len(_asked(asked_log))
                await exchange(port, case.sent)
                victim = f"/v1/victim-{number}"
                line = f"GET {victim} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"
                received, _closed = await exchange(port, line.encode())
                if [f"No such route: GET {victim}" in body for _status, body in responses(received)] != [
                    True
                ]:
                    missed.append(f"{case.name}: the next client got {received[:80]!r}")
                by_nginx = [int(status) for status in _asked(asked_log)[told:] if status.isdigit()]
                by_relay = [status for status, _body in responses(tap.said) if status != 100]
                if by_nginx != by_relay:
                    missed.append(f"{case.name}: nginx saw {by_nginx}, the relay answered {by_relay}")
                asked += len(by_nginx)
    findings.claim(
        f"behind nginx: it saw as many answers to its {asked} requests as the relay gave, and each next client got its own",
        not missed,
        missed or "so it is",
    )


def _asked(log: Path) -> list[str]:
    """The statuses that nginx believes to have got, one for each request that it sent on; "-": none was sent."""
    return log.read_text().split() if log.exists() else []


async def story(site: Site, findings: Findings, quick: bool) -> None:
    relay = (await site.start_all(1))[0]
    await directly(findings, relay.port)
    if shutil.which("nginx") is None:
        findings.leave_out("what comes through nginx", "nginx", quick)
    else:
        with tempfile.TemporaryDirectory(prefix="poe-relay-nginx-") as name:
            await behind_nginx(findings, relay.port, Path(name))
    await rig.claim_in_order(site, findings)


if __name__ == "__main__":
    sys.exit(rig.main(story, "Requests that two readers may read in two ways, directly and behind nginx."))
