"""What commands say instead of a traceback: one sentence for whoever typed the command."""

from __future__ import annotations

from collections.abc import Mapping

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor


def require_migrated_database() -> None:
    """Refuse to go on before the tables are there, or while they are those of an older release."""
    try:
        executor = MigrationExecutor(connection)
        behind = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except OperationalError as exc:
        raise CommandError(f"the database cannot be reached: {str(exc).splitlines()[0]}") from None
    if behind:
        raise CommandError("the database is not migrated: run `manage.py migrate` or `make run` first.")


def sentence(exc: ValidationError, names: Mapping[str, str] | None = None) -> str:
    """What a model refused, with its fields called as the command calls them."""
    if not hasattr(exc, "error_dict"):
        return " ".join(exc.messages)
    parts = []
    for field, messages in exc.message_dict.items():
        name = (names or {}).get(field, field)
        parts.append(" ".join(messages) if field == "__all__" else f"{name}: {' '.join(messages)}")
    return " ".join(parts)
