"""Answers of the responses API that are kept, with what was asked: in the database, encrypted, each for its token alone.

In a thread of its own: it may be long to read, and what is long to encrypt must not hold up a stream.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from proxy_site.config import Responses
from relay import vault
from relay.aside import Aside
from relay.errors import BadRequest, NotFound, RelayError
from relay.models import StoredResponse
from relay.models.stored import without_token
from relay.turn import transaction_in_turn

log = logging.getLogger(__name__)

MB = 1_000_000
# So much is removed in one transaction: it stays short.
REMOVED_AT_ONCE, REMOVED_BYTES_AT_ONCE = 100, 4 * MB
# Of one token, whatever their size.
MOST_OF_A_TOKEN = 5000
# A conversation has no more turns: its messages are counted by the wire format.
MOST_TURNS = 2000


@dataclass(frozen=True, slots=True)
class Kept:
    """A response as it was answered, the items that it was asked with, and the responses that those go on from."""

    response: dict[str, Any]
    input: list[dict[str, Any]]
    before: list[str]

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def items(self) -> list[dict[str, Any]]:
        output: list[dict[str, Any]] = self.response["output"]
        return [*self.input, *output]


class StoredResponses:
    def __init__(self, config: Responses) -> None:
        self._time = timedelta(hours=config.keep_hours)
        self._most_bytes = int(config.max_mb * MB)
        self._token_bytes = int(config.token_mb * MB)
        self._aside = Aside("responses")

    def takes(self, size: int) -> bool:
        """Whether an answer to a request of so many bytes is kept, if the client wants it."""
        return bool(self._time) and size <= self._most_bytes

    async def find(self, token_id: int, id: str) -> Kept:
        """Or NotFound: there is none, it has expired, or it is another token's."""
        found = await self._aside.ask(_read, token_id, [id])
        if id not in found:
            raise NotFound(f"Response with id {id[:100]!r} not found.")
        return found[id]

    async def named(self, token_id: int, ids: Iterable[str]) -> list[Kept]:
        """Those of these that there are."""
        return list((await self._aside.ask(_read, token_id, sorted(set(ids)))).values())

    async def conversation(self, token_id: int, id: str) -> list[Kept]:
        """The response and all that it goes on from, the first one first; or BadRequest."""
        return await self._aside.ask(_read_conversation, token_id, id)

    async def keep(self, token_id: int, kept: Kept) -> None:
        """Failing, the answer goes on: the client has it, and hears of it when it names the response."""
        try:
            await self._aside.ask(self._write, token_id, kept)
        except RelayError:
            log.warning("a response is not kept: the database does not answer")

    async def remove(self, token_id: int, id: str) -> None:
        """Or NotFound."""
        if not await self._aside.ask(_remove_one, token_id, id):
            raise NotFound(f"Response with id {id[:100]!r} not found.")

    async def close(self) -> None:
        await self._aside.close()

    def _write(self, token_id: int, kept: Kept) -> None:
        now = datetime.now(UTC)
        plain = zlib.compress(msgspec.json.encode({"response": kept.response, "input": kept.input}), 1)
        sealed = vault.seal_bytes(plain, purpose=_purpose(token_id, kept.id))
        row = StoredResponse(
            id=kept.id,
            token_id=token_id,
            before=kept.before,
            content=sealed,
            size=len(sealed),
            created_at=now,
            expires_at=now + self._time,
        )
        with transaction_in_turn():
            row.save(force_insert=True)
            # What a conversation is built on lives as long as it.
            StoredResponse.objects.filter(token_id=token_id, pk__in=kept.before).update(
                expires_at=row.expires_at
            )
        self._remove_beyond(token_id)

    def _remove_beyond(self, token_id: int) -> None:
        """The oldest ones of a token that has more than its share."""
        recent = StoredResponse.objects.filter(token_id=token_id).order_by("-created_at", "-pk")
        left, beyond = self._token_bytes, []
        for number, (id, size) in enumerate(recent.values_list("pk", "size").iterator()):
            left -= size
            if left < 0 or number >= MOST_OF_A_TOKEN:
                beyond.append((id, size))
        _remove(beyond)


def _read(token_id: int, ids: list[str]) -> dict[str, Kept]:
    rows = StoredResponse.objects.filter(token_id=token_id, pk__in=ids, expires_at__gt=datetime.now(UTC))
    return {row.id: kept for row in rows if (kept := _opened(row)) is not None}


def _opened(row: StoredResponse) -> Kept | None:
    """None where the encryption key is another one by now."""
    try:
        plain = vault.unseal_bytes(bytes(row.content), purpose=_purpose(row.token_id, row.id))
    except vault.VaultError:
        return None
    body = msgspec.json.decode(zlib.decompress(plain))
    return Kept(body["response"], body["input"], list(row.before))


def _read_conversation(token_id: int, id: str) -> list[Kept]:
    last = _read(token_id, [id]).get(id)
    if last is None:
        raise _not_found(f"Previous response with id {id[:100]!r} not found.")
    found = _read(token_id, last.before)
    if len(found) < len(last.before):
        raise _not_found(f"A response that {id[:100]!r} goes on from was deleted or has expired.")
    if len(found) >= MOST_TURNS:
        raise BadRequest(f"This conversation has {MOST_TURNS} turns.", param="previous_response_id")
    return [*(found[earlier] for earlier in last.before), last]


def _not_found(message: str) -> BadRequest:
    return BadRequest(message, code="previous_response_not_found", param="previous_response_id")


def _remove_one(token_id: int, id: str) -> bool:
    now = datetime.now(UTC)
    with transaction_in_turn():
        return bool(StoredResponse.objects.filter(token_id=token_id, pk=id, expires_at__gt=now).delete()[0])


def _purpose(token_id: int, id: str) -> str:
    return f"response {id} of {token_id}"


def forget_expired() -> bool:
    """Delete some of those that are over, or whose token is gone; whether there may be more."""
    over = StoredResponse.objects.filter(expires_at__lte=datetime.now(UTC)).order_by("expires_at")
    some = list(over.values_list("pk", "size")[:REMOVED_AT_ONCE])
    some = some or list(
        without_token(StoredResponse.objects.all()).values_list("pk", "size")[:REMOVED_AT_ONCE]
    )
    _remove(some)
    return len(some) == REMOVED_AT_ONCE


def _remove(rows: list[tuple[str, int]]) -> None:
    """A few at a time: long ones take a while to remove."""
    while rows:
        size = count = 0
        while count < min(len(rows), REMOVED_AT_ONCE) and (not count or size < REMOVED_BYTES_AT_ONCE):
            size += rows[count][1]
            count += 1
        with transaction_in_turn():
            StoredResponse.objects.filter(pk__in=[id for id, _size in rows[:count]]).delete()
        rows = rows[count:]
