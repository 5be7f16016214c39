"""Where Poe keeps the files that were uploaded to it: known to all processes, never the files themselves.

In a thread of its own, and nobody's request fails for it: where the database does not answer, a file is uploaded again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from django.db import DatabaseError, InterfaceError, connection

from relay import vault
from relay.models import Upload
from relay.turn import transaction_in_turn
from relay.upstreams.poe import Uploaded

log = logging.getLogger(__name__)

# So many are remembered in memory, a few hundred bytes each.
MOST_REMEMBERED = 1000
# A database that takes longer is not worth waiting for.
PATIENCE_SECONDS = 2.0
# Expired ones go with each new one, so many at most: a transaction stays short.
FORGOTTEN_AT_ONCE = 100
PURPOSE = "upload"


class KeptUploads:
    """For so many hours; a shorter time than before counts at once."""

    def __init__(self, hours: float) -> None:
        self._time = timedelta(hours=hours)
        self._remembered: OrderedDict[tuple[int, str], tuple[datetime, Uploaded]] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None

    async def find(self, account_id: int, digest: str) -> Uploaded | None:
        if (found := self._recall(account_id, digest)) is not None:
            return found
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                row = await loop.run_in_executor(self._executor(), self._read, account_id, digest)
        except TimeoutError:
            log.warning("the database did not say in time where an upload is")
            return None
        if row is None:
            return None
        expires_at, uploaded = row
        self._remember(account_id, digest, expires_at, uploaded)
        return uploaded

    async def keep(self, account_id: int, digest: str, uploaded: Uploaded) -> None:
        """Returns before it is written: the request that it came with need not wait."""
        expires_at = datetime.now(UTC) + self._time
        self._remember(account_id, digest, expires_at, uploaded)
        self._executor().submit(self._write, account_id, digest, expires_at, uploaded)

    def close(self) -> None:
        """Write what is to be written."""
        if self._thread is not None:
            self._thread.submit(lambda: connection.close())
            self._thread.shutdown()
            self._thread = None

    # In memory.

    def _recall(self, account_id: int, digest: str) -> Uploaded | None:
        name = (account_id, digest)
        if name not in self._remembered:
            return None
        expires_at, uploaded = self._remembered[name]
        if expires_at <= datetime.now(UTC):
            del self._remembered[name]
            return None
        self._remembered.move_to_end(name)
        return uploaded

    def _remember(self, account_id: int, digest: str, expires_at: datetime, uploaded: Uploaded) -> None:
        self._remembered[account_id, digest] = (expires_at, uploaded)
        self._remembered.move_to_end((account_id, digest))
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    # In the database.

    def _executor(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="uploads")
        return self._thread

    def _read(self, account_id: int, digest: str) -> tuple[datetime, Uploaded] | None:
        now = datetime.now(UTC)
        try:
            row = Upload.objects.filter(
                account_id=account_id,
                digest=digest,
                expires_at__gt=now,
                expires_at__lte=now + self._time,
            ).first()
            if row is None:
                return None
            return row.expires_at, Uploaded(vault.unseal(row.url, purpose=PURPOSE), row.content_type)
        except vault.VaultError:
            return None
        except (DatabaseError, InterfaceError, OSError) as exc:
            self._give_up("cannot be looked up", exc)
            return None

    def _write(self, account_id: int, digest: str, expires_at: datetime, uploaded: Uploaded) -> None:
        row = Upload(
            account_id=account_id,
            digest=digest,
            url=vault.seal(uploaded.attachment_url, purpose=PURPOSE),
            content_type=uploaded.mime_type,
            expires_at=expires_at,
        )
        try:
            with transaction_in_turn():
                Upload.objects.bulk_create(
                    [row],
                    update_conflicts=True,
                    unique_fields=["account", "digest"],
                    update_fields=["url", "content_type", "expires_at"],
                )
            forget_expired()
        except (DatabaseError, InterfaceError, OSError) as exc:
            # An account that was just removed, for one.
            self._give_up("is not written down", exc)

    def _give_up(self, what: str, exc: Exception) -> None:
        """The next one gets a new connection: this one may have died with a restarted database."""
        log.warning("where an upload is %s: %s", what, type(exc).__name__)
        connection.close()


def forget_expired() -> int:
    """Delete some of those that are over: how many."""
    over = Upload.objects.filter(expires_at__lte=datetime.now(UTC)).values_list("pk", flat=True)
    if not (found := list(over[:FORGOTTEN_AT_ONCE])):
        return 0
    with transaction_in_turn():
        return Upload.objects.filter(pk__in=found).delete()[0]
