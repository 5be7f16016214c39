#!/usr/bin/env python
"""Every command of the relay."""

from __future__ import annotations

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    try:
        from django.core.management import execute_from_command_line

        from proxy_site.config import ConfigError
    except ImportError as exc:
        sys.exit(f"poe-relay: {exc.name} is not installed: run `make run`, or use .venv/bin/python.")
    try:
        execute_from_command_line(sys.argv)
    except ConfigError as exc:
        sys.exit(f"poe-relay: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
