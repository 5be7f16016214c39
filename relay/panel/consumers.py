"""The WebSocket of the page of live traffic: for administrators, who are looked up again as long as it is open."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from accounts.models import User
from accounts.signing_in import is_through
from relay.models import Cancellation
from relay.panel.live import Row, feed

log = logging.getLogger(__name__)

# Somebody who may not watch any more is hung up on within so long.
CHECK_SECONDS = 30.0
# Private codes of WebSocket (4000-4999).
NOT_ALLOWED = 4403
MOST_CHARACTERS = 1000


class Live(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self._checked_at = time.monotonic()
        if not (_may_watch(self.scope["user"]) and await self._still_may()):
            await self.close(code=NOT_ALLOWED)
            return
        await self.accept()
        feed.join(self._tell)

    async def disconnect(self, code: int) -> None:
        feed.leave(self._tell)

    def _tell(self, changed: list[Row]) -> None:
        # A task: one that is slow holds up nobody else.
        self._telling = asyncio.ensure_future(self._send(changed))

    async def _send(self, changed: list[Row]) -> None:
        if time.monotonic() - self._checked_at > CHECK_SECONDS and not await self._still_may():
            feed.leave(self._tell)
            await self.close(code=NOT_ALLOWED)
            return
        # Also when nothing has changed: so the page sees that it is still connected.
        await self.send(json.dumps({"now": time.time(), "rows": changed}))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """`{"stop": id}` and nothing else."""
        record_id = _wish(text_data or "")
        if record_id is None:
            return
        if not await self._still_may():
            await self.close(code=NOT_ALLOWED)
            return
        by = self.scope["user"].get_username()
        is_open = await database_sync_to_async(Cancellation.objects.wish)(record_id, by=by)
        if is_open:
            log.warning("%s stops the request of the usage record %s", by, record_id)
        await self.send(json.dumps({"now": time.time(), "rows": [], "stopping": str(record_id)}))

    async def _still_may(self) -> bool:
        self._checked_at = time.monotonic()
        user_id, session = self.scope["user"].pk, self.scope["session"]
        return bool(await database_sync_to_async(_is_administrator)(user_id, session))


def _may_watch(user: Any) -> bool:
    return bool(user.is_active and user.is_superuser)


def _is_administrator(user_id: int, session: Any) -> bool:
    """Of whoever opened the page, by now: a session that was ended, by a new password or by signing out, is no more."""
    if not session.exists(session.session_key):
        return False
    user = User.objects.filter(pk=user_id).first()
    return user is not None and _may_watch(user) and is_through(user, session)


def _wish(text: str) -> uuid.UUID | None:
    try:
        said = json.loads(text[:MOST_CHARACTERS])
        return uuid.UUID(said["stop"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


application = AuthMiddlewareStack(Live.as_asgi())
