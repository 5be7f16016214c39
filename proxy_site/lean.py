"""The handler of API routes: Django's requests, responses and URLs, without its threads, middleware and signals.

Django's own ASGI handler holds an OS thread per request in flight and hops into it for every synchronous signal. A
relay has thousands of streams in flight and nothing synchronous to do in any of them.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import BadRequest as DjangoBadRequest
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, get_resolver

from proxy_site.replies import REPLY, DirectReply
from relay.api.answers import ErrorResponse, StreamedAnswer, error_response
from relay.api.dialects import spoken
from relay.api.request import ApiRequest
from relay.api.urls import route_of
from relay.errors import BadRequest, MethodNotAllowed, NotFound, RelayError
from relay.pipeline import Relay
from relay.visit import Visit, new_request_id

log = logging.getLogger(__name__)
Scope = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]

LIMITED = ("requests", "tokens")
# No connection comes from it.
UNTOLD_PORT = 0
# What a proxy passes on that is no address, such as nginx's `unix:`. It is in no network.
UNKNOWN = "unknown"
# What a page in a browser may read of an answer.
EXPOSED = ", ".join(
    (
        "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry",
        "openai-processing-ms, openai-version, x-poe-relay-ignored, x-poe-relay-model",
        *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in LIMITED),
        *(f"anthropic-ratelimit-{of}-{what}" for what in ("limit", "remaining", "reset") for of in LIMITED),
    )
)
CORS = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED.encode())]
METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"
# The version of OpenAI's API, which has had no other.
VERSION = (b"openai-version", b"2020-10-01")


class LeanHandler:
    """Serves the routes of `urlconf` for one relay."""

    def __init__(self, relay: Relay, urlconf: str) -> None:
        self._relay = relay
        # The same few paths are asked for again and again.
        self._resolve = lru_cache(maxsize=512)(get_resolver(urlconf).resolve)
        self._trusted = [ipaddress.ip_network(each) for each in settings.CONFIG.server.trusted_proxies]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit: Visit = scope.get("visit") or Visit(new_request_id())
        visit.address = client_address(scope, self._trusted)
        headers = [*CORS, VERSION, *named(visit.request_id)]
        if scope["method"] == "OPTIONS":
            visit.begin_answer(204)
            await send({"type": "http.response.start", "status": 204, "headers": headers + _preflight(scope)})
            await send({"type": "http.response.body", "body": b""})
            return
        body = await _read_body(receive)
        if body is None:
            return
        watch = _Watch(receive, scope.get(REPLY))
        try:
            response = await self._answer(scope, body, visit)
            # An answer may take minutes, and what was asked may be long.
            del body
            if isinstance(response, StreamedAnswer) and (reply := scope.get(REPLY)) is not None:
                response.leaves_by(reply, visit)
            await self._respond(scope["method"], response, visit, headers, send, watch)
        except asyncio.CancelledError:
            # The client hung up, and whatever the request held was let go of and settled; or else the server stops.
            if not watch.is_gone:
                raise
        finally:
            watch.end()

    async def _respond(
        self,
        method: str,
        response: HttpResponseBase,
        visit: Visit,
        headers: list[tuple[bytes, bytes]],
        send: Send,
        watch: _Watch,
    ) -> None:
        try:
            headers = headers + [
                (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()
            ]
            visit.begin_answer(response.status_code)
            if isinstance(response, ErrorResponse) and not visit.error_code:
                visit.error_code = response.error_code
            headers.append((b"openai-processing-ms", b"%d" % ((visit.first_byte_seconds or 0) * 1000)))
            head_only = method == "HEAD"
            if isinstance(response, HttpResponse) and "Content-Length" not in response:
                headers.append((b"content-length", b"%d" % len(response.content)))
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            # A stream may go on for minutes, and thousands beside it.
            del headers
            if isinstance(response, StreamingHttpResponse):
                async for part in response:
                    visit.sent_bytes += len(part)
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                    part = b""
                # What ends now is no hang-up.
                watch.end()
                await send({"type": "http.response.body", "body": b""})
            else:
                content = b"" if head_only else response.content  # type: ignore[attr-defined]
                visit.sent_bytes = len(content)
                watch.end()
                await send({"type": "http.response.body", "body": content})
        finally:
            try:
                if isinstance(response, StreamedAnswer):
                    await response.leave()
            finally:
                # Not response.close(): its signal would look after database connections that this path does not have.
                for close in response._resource_closers:  # type: ignore[attr-defined]
                    close()

    async def _answer(self, scope: Scope, body: bytes, visit: Visit) -> HttpResponseBase:
        """A response in the API's own words, whatever happens."""
        try:
            if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
                raise DjangoBadRequest("The address holds a NUL character.")
            # HEAD is GET whose body is not sent.
            as_asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            request = ApiRequest(as_asked, io.BytesIO(body))
            request._body = body
            request.relay, request.visit = self._relay, visit
            match: ResolverMatch = self._resolve(f"/v1{route_of(scope['path']) or ''}")
            request.resolver_match = match
            response: HttpResponseBase = await match.func(request, *match.args, **match.kwargs)
        except Http404:
            return _refusal(
                NotFound(f"No such route: {scope['method']} {scope['path']}", code="unknown_route"),
                scope,
                visit,
            )
        except DjangoBadRequest as exc:
            return _refusal(BadRequest(str(exc)), scope, visit)
        except Exception as exc:
            log.exception("request %s failed", visit.request_id, exc_info=exc)
            return _refusal(RelayError("The relay failed on this request."), scope, visit)
        if response.status_code == 405:
            refused = _refusal(
                MethodNotAllowed(f"{scope['method']} is not allowed on {scope['path']}."), scope, visit
            )
            refused["Allow"] = response["Allow"]
            return refused
        return response


def _refusal(exc: RelayError, scope: Scope, visit: Visit) -> HttpResponse:
    return error_response(exc, spoken(scope["path"], scope["headers"]), visit.request_id)


def named(request_id: str) -> list[tuple[bytes, bytes]]:
    """The request's id, as OpenAI's clients look for it and as Anthropic's do."""
    value = request_id.encode()
    return [(b"x-request-id", value), (b"request-id", value)]


class _Watch:
    """Cancels the task that it was made in when the client hangs up, as its reply tells, or else what is received."""

    def __init__(self, receive: Receive, reply: DirectReply | None) -> None:
        self.is_gone = False
        self._watched = asyncio.current_task()
        self._reply = reply
        self._watching: asyncio.Task[None] | None = None
        if reply is not None:
            reply.when_left(self._left)
        else:
            self._watching = asyncio.create_task(self._await(receive))

    async def _await(self, receive: Receive) -> None:
        await receive()
        self._left()

    def _left(self) -> None:
        self.is_gone = True
        assert self._watched is not None
        self._watched.cancel()

    def end(self) -> None:
        """May be called again. Nothing that holds this object, and is held by it, is left for the garbage collector."""
        if self._reply is not None:
            self._reply.when_left(None)
            self._reply = None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None if the client left before it was here."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else parts[0]


def _preflight(scope: Scope) -> list[tuple[bytes, bytes]]:
    asked = {name: value for name, value in scope["headers"] if name.startswith(b"access-control-request-")}
    wanted = asked.get(b"access-control-request-headers")
    told = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", wanted or b"authorization, content-type, x-api-key"),
        (b"access-control-max-age", b"86400"),
        (b"vary", b"access-control-request-headers, access-control-request-private-network"),
    ]
    if asked.get(b"access-control-request-private-network") == b"true":
        # A page of the internet that asks a relay at home.
        told.append((b"access-control-allow-private-network", b"true"))
    return told


def client_address(scope: Scope, trusted: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> str:
    """Where the request comes from: the peer, or the right-most hop that no trusted proxy vouches for."""
    peer = scope["client"][0] if scope.get("client") else ""
    if not trusted or not is_trusted(peer, trusted):
        return peer
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    hops = [hop.strip() for hop in forwarded.decode("latin-1").split(",") if hop.strip()]
    address = peer
    for hop in reversed(hops):
        address = _address(hop)
        if not is_trusted(address, trusted):
            break
    return address


def is_told_by_proxy(scope: Scope) -> bool:
    """Whether a trusted proxy has said who asks. `HardenedRequest` has put that in the peer's place, and a port is not told."""
    return bool(scope.get("client")) and scope["client"][1] == UNTOLD_PORT


def _address(hop: str) -> str:
    """Without the port that some proxies write, which is another one each time."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        address = ipaddress.ip_address(hop)
    except ValueError:
        return UNKNOWN
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_trusted(address: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A socket for both kinds of address writes 10.0.0.1 as ::ffff:10.0.0.1.
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip.version == network.version and ip in network for network in networks)
