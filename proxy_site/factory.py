"""All connections of one server: how they are made, and the look at their deadlines once a second."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

from daphne.http_protocol import HTTPFactory
from django.conf import settings
from twisted.web import http

from proxy_site.bodies import Bodies
from proxy_site.connection import HardenedChannel
from proxy_site.request import HardenedRequest

log = logging.getLogger(__name__)

# A timer for each connection would cost more.
SWEEP_SECONDS = 1.0
CUT_AT_ONCE = 10


class HardenedFactory(HTTPFactory):
    """Makes the connections of one server and looks after their deadlines."""

    protocol = HardenedChannel

    def __init__(self, server: Any, bodies: Bodies, reactor: Any) -> None:
        # Not Daphne's, which takes no reactor. No timeout: it is a timer for each connection.
        http.HTTPFactory.__init__(self, timeout=None, reactor=reactor)
        self.server = server
        self.bodies = bodies
        self.trusted = [ipaddress.ip_network(each) for each in settings.CONFIG.server.trusted_proxies]
        self.watched: set[HardenedChannel] = set()
        self.now = reactor.seconds()

    def startFactory(self) -> None:
        """Without Twisted's own access log, which nobody reads."""
        self._sweep()

    def log(self, request: Any) -> None:
        """As above."""

    def buildProtocol(self, addr: Any) -> Any:
        channel = super().buildProtocol(addr)
        channel.requestFactory = HardenedRequest
        return channel

    def _sweep(self) -> None:
        self.reactor.callLater(SWEEP_SECONDS, self._sweep)
        self.now = self.reactor.seconds()
        self._look_at(list(self.watched))

    def _look_at(self, channels: list[HardenedChannel]) -> None:
        """A few that are cut, and the loop has its turn: a thousand may be late at the same moment."""
        cut = 0
        while channels and cut < CUT_AT_ONCE:
            channel = channels.pop()
            try:
                cut += channel in self.watched and channel.is_cut(self.now)
            except Exception:
                # One that fails must not keep the others from being looked at.
                log.exception("a connection cannot be looked after")
                channel.transport.abortConnection()
        if channels:
            self.reactor.callLater(0, self._look_at, channels)
