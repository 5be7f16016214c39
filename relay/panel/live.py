"""Requests in flight and as they end: one look at the database a second for all who watch in this process, while somebody does."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from relay.aside import Aside
from relay.models import UsageRecord

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# A record is written a moment after it began, and the machines' clocks are not one.
LOOK_BACK = timedelta(seconds=5)
# More at once nobody can read.
MOST_OPEN, MOST_ENDED = 500, 100

COLUMNS = (
    *(
        "id",
        "started_at",
        "user_name",
        "team_name",
        "token_prefix",
        "model",
        "bot",
        "key_name",
        "wire",
        "streamed",
    ),
    *("outcome", "error_code", "prompt_tokens", "completion_tokens", "points", "first_byte_ms", "total_ms"),
)
Row = dict[str, Any]
# Told the rows that are new or have changed.
Watcher = Callable[[list[Row]], None]


@dataclass
class Feed:
    """What is open, and what has ended last, by id; the oldest first."""

    rows: dict[str, Row] = field(default_factory=dict)
    _watchers: set[Watcher] = field(default_factory=set)
    _looking: asyncio.Task[None] | None = None
    _aside: Aside = field(default_factory=lambda: Aside("live"))

    def join(self, watcher: Watcher) -> None:
        """It is told all there is with the next look."""
        self._watchers.add(watcher)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        elif self.rows:
            watcher(list(self.rows.values()))

    def leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    async def _look(self) -> None:
        try:
            while self._watchers:
                try:
                    changed = self._take(await self._aside.run(look, self._open()))
                except Exception as exc:  # the database is away: looked at again in a second
                    log.debug("what is in flight cannot be read", exc_info=exc)
                    changed = []
                for watcher in tuple(self._watchers):
                    watcher(changed)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._looking = None
            self.rows.clear()
            await self._aside.let_go()

    def _open(self) -> list[uuid.UUID]:
        return [uuid.UUID(id_) for id_, row in self.rows.items() if row["outcome"] == "open"]

    def _take(self, found: list[Row]) -> list[Row]:
        changed = [row for row in found if self.rows.get(row["id"]) != row]
        for row in changed:
            self.rows.pop(row["id"], None)
            self.rows[row["id"]] = row
        ended = [id_ for id_, row in self.rows.items() if row["outcome"] != "open"]
        for id_ in ended[:-MOST_ENDED]:
            del self.rows[id_]
        return changed


def look(known: list[uuid.UUID]) -> list[Row]:
    """What was open at the last look, what began since, and what is open: one statement, each part by an index of its own."""
    records = UsageRecord.objects.order_by().values_list(*COLUMNS)
    recent = records.filter(started_at__gte=datetime.now(UTC) - LOOK_BACK)
    found: QuerySet[Any, Any] = records.filter(id__in=known) if known else records.none()
    rows = found.union(recent, records.filter(Q(outcome="open")), all=True)[: 3 * MOST_OPEN]
    return list({row[0]: _row(row) for row in rows}.values())


def _row(values: tuple[Any, ...]) -> Row:
    row = dict(zip(COLUMNS, values, strict=True))
    return row | {"id": str(row["id"]), "started_at": row["started_at"].timestamp()}


feed = Feed()


def page(request: HttpRequest) -> HttpResponse:
    if not request.user.is_superuser:
        raise PermissionDenied
    context = {
        **admin.site.each_context(request),
        "title": _("Live traffic"),
        "content_title": _("Live traffic"),
        "words": {
            "open": _("in flight"),
            "done": _("done"),
            "failed": _("failed"),
            "disconnected": _("disconnected"),
            "lost": _("lost"),
            "stop": _("Stop"),
            "stopping": _("stopping"),
        },
    }
    return render(request, "panel/live.html", context)
