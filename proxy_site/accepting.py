"""Takes connections off the listening socket: one at a time, since other workers wait at the same socket, and knows them."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp
from twisted.web.http import HTTPChannel

from proxy_site.replies import DirectConnection
from proxy_site.workers import Seat

# A worker with more connections than its share leaves the next one to the others for so long.
AFTER_YOU_SECONDS = 0.001
# As many as may wait at the listening socket.
BACKLOG = 2048


class Accepted(DirectConnection):
    """A connection that its port knows of as long as it is open."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.server.opened(self)

    def connectionLost(self, reason: Any) -> None:
        self.server.closed(self)
        super().connectionLost(reason)

    def is_idle(self) -> bool:
        """Whether it is between two requests: nothing of the next one has come, not even to the kernel."""
        channel = self.protocol if isinstance(self.protocol, HTTPChannel) else None
        if channel is None or channel.requests or channel._buffer:
            return False
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False

    def end_with_this_answer(self) -> None:
        """What is asked now is the last."""
        channel = self.protocol if isinstance(self.protocol, HTTPChannel) else None
        # Where nothing is being asked, the next request would be thrown away.
        if channel is not None and channel.requests:
            channel.persistent = False


class AcceptingPort(tcp.Port):
    """Twisted's own takes up to 100 connections at once: one worker could take a whole burst while others sleep."""

    transport = Accepted
    seat: Seat | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: set[Accepted] = set()

    @classmethod
    def on(cls, listening: socket.socket, factory: Any, seat: Seat | None, reactor: Any) -> AcceptingPort:
        """Accepts from now on; the socket that is given may be closed."""
        port = cls._fromListeningDescriptor(reactor, listening.fileno(), listening.family, factory)
        port.seat = seat
        port._tell()
        port.startListening()
        return port  # type: ignore[no-any-return]

    def doRead(self) -> None:
        if self.seat is not None and self.seat.is_ahead(len(self.connections)):
            self.stopReading()
            self.reactor.callLater(AFTER_YOU_SECONDS, self._not_after_you)
        else:
            self._take(1)

    def _not_after_you(self) -> None:
        """Nobody is kept waiting because a worker that should take it does not."""
        if self.connected and not self.disconnecting:
            self._take(1)
            self.startReading()

    def _take(self, most: int) -> None:
        self.numberAccepts = most
        super().doRead()

    def take_all(self) -> None:
        """Those that wait, who would be turned away when the socket is closed."""
        self._take(BACKLOG)

    def loseConnection(self, *args: Any) -> Any:
        if self.seat is not None:
            self.seat.leaves()
            self.seat = None
        return super().loseConnection(*args)

    stopListening = loseConnection

    # What the connections tell.

    def opened(self, connection: Accepted) -> None:
        self.connections.add(connection)
        self._tell()

    def closed(self, connection: Accepted) -> None:
        self.connections.discard(connection)
        self._tell()

    def _tell(self) -> None:
        if self.seat is not None:
            self.seat.has(len(self.connections))
