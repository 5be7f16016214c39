"""Fetches a file that a bot made, for a client that wants its bytes. The one thing of a bot's answer that is ever fetched.

A bot may say what its user told it to say, so only Poe's own hosts are asked, over https; and whatever host the Poe key
itself is asked at, as the demo server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from relay.errors import UpstreamBroken

from .fetching import Fetcher
from .poe_key import Key

MOST_BYTES = 50 * 1024 * 1024
SECONDS = 60.0


class Downloads:
    def __init__(self, connect_seconds: float, hosts: Sequence[str]) -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._fetcher = Fetcher(connect_seconds, SECONDS, accept="*/*", most=MOST_BYTES)

    async def fetch(self, url: str, key: Key) -> bytes:
        """Through the key's own proxy. Raises UpstreamError."""
        if not self.may_fetch(url, key):
            raise UpstreamBroken("the bot's file lies on a host that is not Poe's")
        found = await self._fetcher.fetch(url, proxy=key.proxy)
        if found.status != 200:
            raise UpstreamBroken(f"the bot's file cannot be fetched: status {found.status}")
        return found.body

    def may_fetch(self, url: str, key: Key) -> bool:
        try:
            its, own = urlsplit(url), urlsplit(key.base_url)
            if (its.scheme, its.hostname, its.port) == (own.scheme, own.hostname, own.port):
                return True
            host = its.hostname or ""
            return (
                its.scheme == "https"
                and its.port in (None, 443)
                and any(host == each or host.endswith(f".{each}") for each in self._hosts)
            )
        except ValueError:
            return False

    def close(self) -> None:
        self._fetcher.close()
