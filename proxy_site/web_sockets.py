"""Daphne's WebSocket, hardened by subclassing only: neither a server that stops nor a client that left is a failure."""

from __future__ import annotations

from typing import Any

from autobahn.websocket.types import ConnectionDeny
from daphne.ws_protocol import WebSocketProtocol

from proxy_site import access_log
from proxy_site.draining import draining
from relay.visit import new_request_id


class HardenedWebSocket(WebSocketProtocol):
    def handle_reply(self, message: dict[str, Any]) -> None:
        if self.state in (self.STATE_CLOSING, self.STATE_CLOSED):
            # Its client has left, which the application is told.
            return
        if message["type"] == "websocket.accept" and draining.is_leaving:
            self._turn_away()
            return
        super().handle_reply(message)

    def leave(self) -> None:
        """The server stops. An open one would hold that up to its end, and its page connects again."""
        # One that is not open yet is turned away when it would be.
        if self.state == self.STATE_OPEN:
            self.serverClose()

    def _turn_away(self) -> None:
        self.handshake_deferred.errback(ConnectionDeny(code=503, reason="The relay is stopping"))
        del self.handshake_deferred

    def onClose(self, was_clean: bool, code: int | None, reason: str | None) -> None:
        if hasattr(self, "request"):
            super().onClose(was_clean, code, reason)
            return
        # No application has seen it: what it sent began no WebSocket, for a reason that `framing` does not know.
        access_log.refused(
            request_id=new_request_id(),
            method=b"GET",
            path=getattr(self, "http_request_uri", "").partition("?")[0].encode("latin-1", "replace"),
            address=str(self.transport.getPeer().host),
            status=400,
            error_code="malformed_request",
        )
