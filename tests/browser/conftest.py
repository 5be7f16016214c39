from __future__ import annotations

import pytest
from django.core.management import call_command


@pytest.fixture(scope="session", autouse=True)
def collected_static_files() -> None:
    """As a served installation has them; the tests in this process need none."""
    call_command("collectstatic", interactive=False, verbosity=0)
