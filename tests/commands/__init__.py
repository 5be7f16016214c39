"""The management commands, run as `manage.py` runs them, and what they print."""

from __future__ import annotations

from io import StringIO
from typing import Any

from django.core.management import call_command


def run(*arguments: Any, **options: Any) -> str:
    """Run a command; what it wrote to standard output."""
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=options.pop("stderr", StringIO()), **options)
    return out.getvalue()
