from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from django.db import connection

from bench.faults import outages, rig
from tests.conftest import database_url

pytestmark = [
    pytest.mark.skipif(
        connection.vendor == "sqlite",
        reason="SQLite has no server: nothing of it can stop or freeze by itself",
    ),
    # Of the wheel with PostgreSQL, when it is imported.
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR"),
]
SHORT = outages.Sizes(stops=1, streams=8, most_loaded=0.5, most_away=0.3, freezes=(2.3,))


def test_nothing_is_lost_when_postgresql_dies_and_comes_back() -> None:
    findings = rig.Findings()

    outages.tell(outages.stops, findings, SHORT)

    assert findings.missed == []


def test_the_others_go_on_when_a_host_freezes_in_a_transaction(
    transactional_db: None, tmp_path: Path
) -> None:
    findings = rig.Findings()

    async def told() -> None:
        async with rig.site(rig.POSTGRES, database_url(), tmp_path) as site:
            await outages.freezes(site, findings, SHORT)
            await rig.claim_in_order(site, findings)

    asyncio.run(told())

    assert findings.missed == []
