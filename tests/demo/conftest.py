"""A client of the demo Poe server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from tests.conftest import DemoPoe
from tests.demo.asking import Poe


@pytest_asyncio.fixture
async def poe(demo_server: DemoPoe) -> AsyncIterator[Poe]:
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; the default one takes 30 ms to make
    async with httpx.AsyncClient(timeout=5, trust_env=False, verify=plain) as session:
        yield Poe(demo_server.url, demo_server.key, session)
