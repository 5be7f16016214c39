"""`manage.py` with a ledger that admits everything and writes nothing: what the real one costs is the difference.

For `bench.ledger` alone (`python -m bench.stubbed serve ...`): no setting of the relay turns its ledger off.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.ledger import Admission, Admitted, Change, Ledger


async def admit(_ledger: Ledger, admission: Admission) -> Admitted:
    """The first key, the first reservation."""
    from relay.ledger import Admitted
    from relay.limits import RateLimits

    return Admitted(admission.candidates[0].key_id, admission.reservations[0], RateLimits())


async def change(_ledger: Ledger, change: Change) -> Admitted:
    from relay.ledger import Admitted
    from relay.limits import RateLimits

    key_id = change.candidates[0].key_id if change.candidates else change.key_id
    return Admitted(key_id, change.wanted, RateLimits())


def settle(_ledger: Ledger, *_how: object, **_more: object) -> None:
    return None


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    import django
    from django.core.management import execute_from_command_line

    django.setup()
    from relay.ledger import writer

    for stub in (admit, change, settle):
        setattr(writer.Ledger, stub.__name__, stub)
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
