"""The short form of bench/faults/drain.py, on the database of this run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from django.db import connections

from bench.faults import drain, rig
from tests.conftest import database_url

SHORT = drain.Sizes(streams=24, most_chunks=5, at_once=4)


def test_no_stream_is_cut_and_nobody_turned_away_when_servers_stop_or_are_replaced(
    transactional_db: None, tmp_path: Path
) -> None:
    kind = rig.SQLITE if connections["default"].vendor == "sqlite" else rig.POSTGRES
    findings = rig.Findings()

    async def told() -> None:
        async with rig.site(kind, database_url(), tmp_path) as site:
            await drain.stop_under_streams(site, findings, SHORT, workers=2)
            await drain.replace_under_streams(site, findings, SHORT)
            await rig.claim_in_order(site, findings)

    asyncio.run(told())

    assert findings.missed == []
