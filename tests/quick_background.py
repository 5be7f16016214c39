"""`manage.py` with background work in a hurry, for tests: `python -m tests.quick_background serve ...`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    import django
    from django.core.management import execute_from_command_line

    django.setup()
    from relay import background

    background.LEASE_SECONDS = 4
    background.RENEW_SECONDS = background.LOOK_SECONDS = 0.5
    background.TICK_SECONDS = 0.1
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
