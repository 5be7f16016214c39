"""Answers that an administrator stops: wished for in the database, wherever the page is served; done by who relays them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Protocol

from relay.aside import Aside
from relay.models import Cancellation

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Stoppable(Protocol):
    def stop(self) -> None: ...


class Cancelling:
    """Knows what this process relays. While that is anything, the database is asked once a second what is to be stopped."""

    def __init__(self) -> None:
        self._answers: dict[uuid.UUID, Stoppable] = {}
        self._looking: asyncio.Task[None] | None = None
        self._aside = Aside("cancelling")

    def begins(self, record_id: uuid.UUID, answer: Stoppable) -> None:
        self._answers[record_id] = answer
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def ends(self, record_id: uuid.UUID) -> None:
        self._answers.pop(record_id, None)

    async def _look(self) -> None:
        try:
            while self._answers:
                await asyncio.sleep(LOOK_SECONDS)
                if self._answers:
                    await self._look_once()
        finally:
            self._looking = None

    async def _look_once(self) -> None:
        try:
            wished = await self._aside.run(_wished)
        except Exception as exc:  # the database is away: asked again in a second
            log.debug("what is to be stopped cannot be read", exc_info=exc)
            return
        for record_id in wished:
            if (answer := self._answers.get(record_id)) is not None:
                answer.stop()

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        await self._aside.close()


def _wished() -> list[uuid.UUID]:
    return list(Cancellation.objects.values_list("record_id", flat=True))
