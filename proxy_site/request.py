"""One request of a connection, as Daphne hands it to the application: in memory, behind proxies, at the client's pace."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

from twisted.internet.address import IPv4Address

from proxy_site.bodies import Share
from proxy_site.lean import UNTOLD_PORT
from proxy_site.replies import DirectReply


class Gate:
    """Open or not, for one who waits: an asyncio.Event of a tenth of the size, since every connection has one."""

    __slots__ = ("_is_open", "_waiting")

    def __init__(self) -> None:
        self._is_open = True
        self._waiting: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        return self._is_open

    def set(self) -> None:
        self._is_open = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def clear(self) -> None:
        self._is_open = False

    async def wait(self) -> None:
        while not self._is_open:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting


class HardenedRequest(DirectReply):
    """One request. Its application's `send` waits while the client does not read."""

    __slots__ = ("can_write", "share")
    client: Any

    def __init__(self, channel: Any, *args: Any) -> None:  # a HardenedChannel, as `self.channel` is
        self.can_write = channel.can_write
        self.share = Share(channel.factory.bodies)
        # Not parsed by Twisted: a form of any length would hold up the loop.
        super().__init__(channel, *args, parsePOSTFormSubmission=False)

    def takes_more(self) -> bool:
        # All that `super` asks too, in a frame of its own: this runs for each word.
        is_here = self.startedWriting and not self.finished and self.channel is not None
        return bool(is_here) and not self._disconnected and self.can_write.is_set()

    def gotLength(self, length: int | None) -> None:
        # In memory at any length, which is bounded: a temporary file, as Twisted makes, would hold up the loop.
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        if self.channel.may_take(self.share, len(data)):
            self.content.write(data)

    def process(self) -> Any:
        # Only Daphne's own command line may set it; a client that sends it would choose the site's root path.
        self.requestHeaders.removeHeader(b"daphne-root-path")
        if self.channel.is_behind_proxy():
            self.client = IPv4Address("TCP", self.channel.client_address(self), UNTOLD_PORT)
        body = self.content
        processed = super().process()
        if not body.closed:
            # The application has a copy now.
            body.truncate(0)
        return processed

    def isSecure(self) -> bool:
        """Whether the client came by https, by the word of a trusted proxy: the last one's, like its address."""
        said = self.requestHeaders.getRawHeaders(b"x-forwarded-proto")
        # The relay itself speaks no TLS.
        if not said or not self.channel.is_behind_proxy():
            return False
        return bool(said[-1].rpartition(b",")[2].strip().lower() == b"https")

    def handle_exception(self, exception: BaseException) -> None:
        if self.has_said_nothing():
            super().handle_exception(exception)
        elif self.channel is not None:
            # The client must see that this is no proper end.
            self.channel.transport.abortConnection()

    def finish(self) -> None:
        self.let_go()
        super().finish()

    def connectionLost(self, reason: Any) -> None:
        self.let_go()
        super().connectionLost(reason)

    def let_go(self) -> None:
        """Of its body."""
        self.share.give_back()
