"""From where the relay fetches what a bot made: from Poe, and from nowhere that a bot was talked into."""

from __future__ import annotations

import pytest

from relay.upstreams.downloads import Downloads
from relay.upstreams.poe import Key

POE = Key("secret", "https://api.poe.com/bot/", "https://www.quora.com/poe_api/", 1)
DEMO = Key("secret", "http://127.0.0.1:3701/bot/", "http://127.0.0.1:3701/poe_api/", 2)


@pytest.mark.parametrize(
    ("url", "key", "may"),
    [
        ("https://pfst.cf2.poecdn.net/base/image/1?w=1", POE, True),
        ("https://poecdn.net:443/x", POE, True),
        ("https://POECDN.NET/x", POE, True),
        ("https://api.poe.com/x", POE, True),
        ("http://pfst.cf2.poecdn.net/x", POE, False),
        ("https://poecdn.net:8443/x", POE, False),
        ("https://poecdn.net.evil.example/x", POE, False),
        ("https://evilpoecdn.net/x", POE, False),
        ("https://poecdn.net@evil.example/x", POE, False),
        ("https://127.0.0.1/x", POE, False),
        ("http://169.254.169.254/latest/meta-data", POE, False),
        ("http://127.0.0.1:3701/files/1/x.png", DEMO, True),
        ("http://127.0.0.1:3700/admin/", DEMO, False),
        ("http://127.0.0.1:3701/files/1/x.png", POE, False),
        ("file:///etc/passwd", POE, False),
        ("https://poecdn.net:port/x", POE, False),
        ("", POE, False),
    ],
)
@pytest.mark.asyncio
async def test_only_poes_own_hosts_are_asked(url: str, key: Key, may: bool) -> None:
    downloads = Downloads(5, ["poecdn.net", "poe.com"])

    assert downloads.may_fetch(url, key) is may
    downloads.close()
