"""The short form of bench/reconciling: a few hundred requests through a real server, and all is as Poe charged."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db import connections

from bench import reconciling
from bench.faults import rig
from bench.faults.rig import Findings
from bench.reconciling import LAYOUTS, Sizes
from tests.conftest import database_url


@pytest.mark.asyncio
async def test_everything_is_as_the_demo_accounts_charged(
    transactional_db: None, tmp_path: Path, findings: Findings
) -> None:
    kind = rig.SQLITE if connections["default"].vendor == "sqlite" else rig.POSTGRES
    *_others, two_of_one_account = LAYOUTS

    await reconciling.prove_on(
        kind, database_url(), tmp_path, two_of_one_account, Sizes(requests=200), findings
    )

    assert findings.missed == []


def test_a_miss_makes_the_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str, int]] = []

    def tell(kind: str, layout: str, sizes: Sizes, findings: Findings) -> None:
        told.append((kind, layout, sizes.requests))
        findings.claim("all is well", len(told) <= len(LAYOUTS), "seen")

    monkeypatch.setattr(reconciling, "tell", tell)

    assert reconciling.main(["--sqlite"]) == 0
    assert reconciling.main(["--quick", "--postgres"]) == 1
    first, second = LAYOUTS
    assert told[:2] == [(rig.SQLITE, first, 10_000), (rig.SQLITE, second, 10_000)]
    assert told[2:] == [(rig.POSTGRES, first, 600), (rig.POSTGRES, second, 600)]
