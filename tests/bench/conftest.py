"""What the short forms of bench/faults share: a site of its own for each, and what was found there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from django.db import connections

from bench.faults import rig
from bench.faults.rig import Findings, Site
from tests.conftest import database_url


@pytest_asyncio.fixture
async def site(transactional_db: None, tmp_path: Path) -> AsyncIterator[Site]:
    """A data directory of its own: what a killed server leaves there is nobody else's."""
    kind = rig.SQLITE if connections["default"].vendor == "sqlite" else rig.POSTGRES
    async with rig.site(kind, database_url(), tmp_path) as fresh:
        yield fresh


@pytest.fixture
def findings() -> Findings:
    return Findings()
