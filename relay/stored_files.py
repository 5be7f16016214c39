"""Files that clients uploaded or bots made, in the database: encrypted, each for its token alone, for a time.

In a thread of its own, a piece at a time: a file of 50 MB must hold up neither the ledger nor another's file.
"""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from django.db.models import Model, QuerySet, Sum

from accounts.models import AccessToken
from proxy_site.config import Files
from relay import vault
from relay.aside import Aside
from relay.errors import BadRequest, NotFound, PayloadTooLarge, Unavailable
from relay.events import FilePart
from relay.models import FilePiece, StoredFile
from relay.models.stored import without_token
from relay.turn import transaction_in_turn

T = TypeVar("T", bound=Model)

MB = 1_000_000
PIECE_BYTES = MB
# A file whose pieces did not all come in this time is removed.
WRITING_TIME = timedelta(hours=1)
# Of one token, whatever their size.
MOST_OF_A_TOKEN = 1000
# So much is read for one request.
MOST_OF_A_REQUEST = 50 * 1024 * 1024
# What is kept for a video, and is in nobody's list of files.
VIDEO_INPUT, VIDEO_OUTPUT = "video_input", "video_output"
HIDDEN = (VIDEO_INPUT, VIDEO_OUTPUT)
UNKNOWN_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a file, without its bytes."""

    token_id: int
    id: str
    name: str
    content_type: str
    purpose: str
    size: int
    created_at: datetime
    expires_at: datetime


class StoredFiles:
    """`most_held` is how many bytes of kept files are in memory at the same time for requests that name them."""

    def __init__(self, config: Files, most_held: int) -> None:
        self._time = timedelta(hours=config.keep_hours)
        self._token_bytes = int(config.token_mb * MB)
        self._most_held = most_held
        self.held = 0
        self._aside = Aside("files")

    def check_kept(self) -> None:
        """BadRequest if this relay keeps no files."""
        if not self._time:
            raise BadRequest(
                "This relay keeps no files: send them in the message itself.", code="files_not_kept"
            )

    async def keep(
        self,
        token_id: int,
        file: FilePart,
        purpose: str,
        lifetime: timedelta | None = None,
    ) -> Kept:
        """Or BadRequest, where the token's share is used up. Whole or not at all; a video is paid for, and always kept."""
        data = file.data or b""
        content_type = file.content_type
        if content_type == UNKNOWN_TYPE:
            content_type = mimetypes.guess_type(file.name)[0] or UNKNOWN_TYPE
        time = min(self._time, lifetime or self._time)
        row = await self._aside.ask(self._begin, token_id, file.name, content_type[:100], purpose, len(data))
        for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
            await self._aside.ask(_write_piece, row, number, data[start : start + PIECE_BYTES])
        await self._aside.ask(_finish, row, time)
        return _told(row)

    async def find(self, token_id: int, id: str, purposes: Sequence[str] = ()) -> Kept:
        """Or NotFound: there is none, it has expired, or it is another token's."""
        return _told(await self._aside.ask(_row, token_id, id, purposes))

    async def listed(
        self, token_id: int, *, limit: int, after: str, is_ascending: bool, purpose: str
    ) -> list[Kept]:
        """A page after the file of this id; one more than `limit` if there are more."""
        return await self._aside.ask(_page, token_id, limit, after, is_ascending, purpose)

    async def pieces(self, kept: Kept) -> AsyncIterator[bytes]:
        """Its bytes. One that is removed meanwhile ends with NotFound."""
        for number in range(-(-kept.size // PIECE_BYTES)):
            yield await self._aside.ask(_read_piece, kept, number)

    async def remove(self, token_id: int, id: str, purposes: Sequence[str] = ()) -> None:
        """Or NotFound."""
        row = await self._aside.ask(_row, token_id, id, purposes)
        if not await self._aside.ask(_hide, row):
            raise _not_found(id)  # somebody else was quicker
        while await self._aside.ask(_remove_some, row):
            pass

    @asynccontextmanager
    async def lent(self, token_id: int, ids: list[str]) -> AsyncIterator[dict[str, FilePart]]:
        """These files with their bytes, by their ids; or BadRequest."""
        try:
            found = [await self.find(token_id, id) for id in ids]
        except NotFound as exc:
            raise _unusable(exc) from None
        size = sum(each.size for each in found)
        if size > MOST_OF_A_REQUEST:
            raise PayloadTooLarge(
                f"The files that this request names have {size / MB:.1f} MB together: at most 50 MB."
            )
        if self.held + size > self._most_held:
            raise Unavailable("Too many files are being sent right now. Try again.", retry_after=2)
        self.held += size
        try:
            try:
                loaded = {each.id: await self._loaded(each) for each in found}
            except NotFound as exc:
                raise _unusable(exc) from None
            yield loaded
        finally:
            self.held -= size

    async def _loaded(self, kept: Kept) -> FilePart:
        data = b"".join([piece async for piece in self.pieces(kept)])
        return FilePart(kept.name, kept.content_type, data=data)

    async def close(self) -> None:
        await self._aside.close()

    def _begin(self, token_id: int, name: str, content_type: str, purpose: str, size: int) -> StoredFile:
        id = f"file-{secrets.token_hex(12)}"
        now = datetime.now(UTC)
        row = StoredFile(
            id=id,
            token_id=token_id,
            name=vault.seal(name, purpose=_purpose(token_id, id)),
            content_type=content_type,
            purpose=purpose,
            size=size,
            created_at=now,
            expires_at=now + WRITING_TIME,
        )
        with transaction_in_turn():
            lock_token(token_id)
            mine = StoredFile.objects.filter(token_id=token_id, expires_at__gt=now)
            used = mine.aggregate(used=Sum("size"))["used"] or 0
            is_full = used + size > self._token_bytes or mine.count() >= MOST_OF_A_TOKEN
            if is_full and purpose != VIDEO_OUTPUT:
                raise BadRequest(
                    f"The files of this access token have {used / MB:.1f} MB already, of at most "
                    f"{self._token_bytes / MB:g} MB and {MOST_OF_A_TOKEN} files: delete some first.",
                    code="storage_full",
                )
            row.save(force_insert=True)
        return row


def lock_token(token_id: int) -> None:
    """Until the transaction ends: what is counted for it stays so. On SQLite nobody else writes anyway."""
    list(AccessToken.objects.select_for_update().filter(pk=token_id).values_list("pk"))


def _purpose(token_id: int, id: str, number: int | None = None) -> str:
    return f"file {id} of {token_id}" if number is None else f"file {id} of {token_id}, piece {number}"


def _told(row: StoredFile) -> Kept:
    try:
        name = vault.unseal(row.name, purpose=_purpose(row.token_id, row.id))
    except vault.VaultError:
        raise _not_found(row.id) from None
    return Kept(
        row.token_id,
        row.id,
        name,
        row.content_type,
        row.purpose,
        row.size,
        row.created_at,
        row.expires_at,
    )


def _unusable(exc: NotFound) -> BadRequest:
    """For a request that names a file which is not there."""
    return BadRequest(exc.message, code="file_not_found", param="file_id")


def _not_found(id: str) -> NotFound:
    return NotFound(f"File with id {id[:100]!r} not found.", code="file_not_found")


def _whole(token_id: int, purposes: Sequence[str]) -> QuerySet[StoredFile]:
    """Of these purposes, or those that a client may see."""
    rows = StoredFile.objects.filter(token_id=token_id, is_whole=True, expires_at__gt=datetime.now(UTC))
    return rows.filter(purpose__in=purposes) if purposes else rows.exclude(purpose=VIDEO_OUTPUT)


def _row(token_id: int, id: str, purposes: Sequence[str]) -> StoredFile:
    row = _whole(token_id, purposes).filter(pk=id).first()
    if row is None:
        raise _not_found(id)
    return row


def _page(token_id: int, limit: int, after: str, is_ascending: bool, purpose: str) -> list[Kept]:
    rows = _whole(token_id, (purpose,) if purpose else ()).exclude(purpose__in=HIDDEN)
    return list(_openable(page_after(rows, "file", after, limit, is_ascending=is_ascending)))


def page_after(rows: QuerySet[T], kind: str, after: str, limit: int, *, is_ascending: bool) -> list[T]:
    """Of a token's rows those that follow the one of this id; one more than `limit` if there are more. Or BadRequest."""
    ordered = rows.order_by("created_at", "id") if is_ascending else rows.order_by("-created_at", "-id")
    ids = list(ordered.values_list("pk", flat=True))  # a token has few
    if after:
        if after not in ids:
            raise BadRequest(f"No {kind} {after[:100]!r} in this list.", param="after")
        ids = ids[ids.index(after) + 1 :]
    found = rows.in_bulk(ids[: limit + 1])
    return [found[id] for id in ids[: limit + 1] if id in found]


def _openable(rows: list[StoredFile]) -> Iterator[Kept]:
    for row in rows:
        try:
            yield _told(row)
        except NotFound:
            continue  # the encryption key is another one by now


def _write_piece(row: StoredFile, number: int, plain: bytes) -> None:
    content = vault.seal_bytes(plain, purpose=_purpose(row.token_id, row.id, number))
    with transaction_in_turn():
        FilePiece.objects.create(file=row, number=number, content=content)


def _finish(row: StoredFile, time: timedelta) -> None:
    row.is_whole, row.expires_at = True, row.created_at + time
    with transaction_in_turn():
        row.save(update_fields=["is_whole", "expires_at"])


def _read_piece(kept: Kept, number: int) -> bytes:
    piece = FilePiece.objects.filter(file_id=kept.id, number=number).first()
    if piece is None:
        raise _not_found(kept.id)
    try:
        return vault.unseal_bytes(bytes(piece.content), purpose=_purpose(kept.token_id, kept.id, number))
    except vault.VaultError:
        raise _not_found(kept.id) from None


# Removing.


def _hide(row: StoredFile) -> bool:
    """It is there for nobody from now on, and removed by somebody if this process is not there to the end.

    False: it was hidden before.
    """
    with transaction_in_turn():
        rows = StoredFile.objects.filter(pk=row.pk, is_whole=True)
        return bool(rows.update(is_whole=False, expires_at=datetime.now(UTC)))


def _remove_some(row: StoredFile) -> bool:
    """A few pieces, or else the rest of it; whether there is more."""
    with transaction_in_turn():
        pieces = list(FilePiece.objects.filter(file=row).values_list("pk", flat=True)[:4])
        if pieces:
            FilePiece.objects.filter(pk__in=pieces).delete()
            return True
        StoredFile.objects.filter(pk=row.pk).delete()
    return False


def forget_expired() -> bool:
    """Remove some of what is over, or whose token is gone; whether there may be more."""
    over = StoredFile.objects.filter(expires_at__lte=datetime.now(UTC)).order_by("expires_at").first()
    over = over or without_token(StoredFile.objects.all()).first()
    if over is None:
        return False
    _hide(over)
    _remove_some(over)
    return True
