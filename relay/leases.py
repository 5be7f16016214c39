"""Who does a job that one process at a time does: a lease in the database, by the database's clock."""

from __future__ import annotations

import os
import secrets
import socket

from django.db import connection

from relay.models import Lease
from relay.turn import NOW, transaction_in_turn

SECOND = 1_000_000


def new_holder() -> str:
    """What this process, or a part of it, calls itself."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"


def take(name: str, holder: str, seconds: int) -> float:
    """Take it, or renew it, for so long: 0. Or else for how long, at least, somebody else still has it.

    Whoever does not have it reads one row and writes nothing.
    """
    left = _left_to_another(name, holder)
    if left > 0:
        return left
    with transaction_in_turn(), connection.cursor() as cursor:
        # Of several that find it free at the same time, the first: the condition is looked at again with the row locked.
        cursor.execute(_TAKE.format(now=_now()), (name, holder, seconds))
        is_taken = cursor.rowcount == 1
    return 0 if is_taken else max(_left_to_another(name, holder), 1)


def give_back(name: str, holder: str) -> None:
    """So that nobody has to wait; does nothing if somebody else has it by now."""
    with transaction_in_turn():
        Lease.objects.filter(pk=name, holder=holder).delete()


_TAKE = f"""
    INSERT INTO relay_lease (name, holder, until) VALUES (%s, %s, {{now}} + %s * {SECOND})
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE relay_lease.holder = excluded.holder OR relay_lease.until <= {{now}}
"""  # noqa: S608


def _now() -> str:
    return f"({NOW[connection.vendor]}) * {SECOND}"


def _left_to_another(name: str, holder: str) -> float:
    """In seconds; 0 or less if nobody else has it."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT until - {_now()} FROM relay_lease WHERE name = %s AND holder <> %s",  # noqa: S608
            (name, holder),
        )
        row = cursor.fetchone()
    return row[0] / SECOND if row else 0.0
