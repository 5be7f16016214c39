"""Videos, which take minutes: promised by a row in the database, and made by whichever process lives.

Who makes one has its lease. Where that is gone, since the process was killed, another one begins the video again; what the
first try used is in the ledger as lost.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import msgspec
from django.db import DatabaseError, InterfaceError

from proxy_site.config import Config
from relay import leases, vault
from relay.aside import Aside
from relay.directory import Caller
from relay.errors import BadRequest, NotFound, RateLimited, RelayError, Unavailable, UserError
from relay.events import ChatRequest, Event, FilePart
from relay.models import Lease, VideoJob
from relay.stored_files import VIDEO_INPUT, VIDEO_OUTPUT, Kept, StoredFiles, lock_token, page_after
from relay.turn import transaction_in_turn
from relay.visit import Asking, Visit
from relay.wire import openai_videos
from relay.wire.openai_videos import Asked

log = logging.getLogger(__name__)
T = TypeVar("T")
State = VideoJob.State

UNFINISHED = (State.QUEUED, State.IN_PROGRESS)
LEASE_SECONDS = 30
RENEW_SECONDS = 10.0
# What is refused at once is told at once, and no job is left of it.
REFUSAL_SECONDS = 2.0
MOST_ATTEMPTS = 3
# Of one token, at the same time.
MOST_UNFINISHED = 10
MOST_ADOPTED_AT_ONCE = 20
# So many videos of 50 MB at most are in a process's memory.
FILMS_IN_MEMORY = 4
# A job that was accepted waits so long for a limit, or for a database that is away.
PATIENCE = timedelta(hours=1)
PAUSE_SECONDS = 5.0
STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    token_id: int
    asked: Asked
    address: str
    state: str
    attempts: int
    error_code: str
    error_message: str
    output_id: str | None
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime


class Answer(Protocol):
    async def whole(self) -> list[Event]: ...


class Relay(Protocol):
    """What asks the bots: see relay.pipeline, which is above this module."""

    config: Config
    files: StoredFiles

    async def caller(self, asking: Asking) -> Caller: ...

    async def model(self, asking: Asking, name: str) -> Any: ...

    async def ask(self, asking: Asking, caller: Caller, chat: ChatRequest) -> Answer: ...

    async def download(self, url: str, answer: Any) -> bytes: ...


class _Sealed(msgspec.Struct):
    asked: Asked
    address: str


class VideoJobs:
    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._time = timedelta(hours=relay.config.files.keep_hours)
        self._holder = leases.new_holder()
        self._aside = Aside("videos")
        self.making: dict[str, asyncio.Task[RelayError | None]] = {}
        # Those whose clients were told of them.
        self._promised: set[str] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._films = asyncio.Semaphore(FILMS_IN_MEMORY)
        self._renewing: asyncio.Task[None] | None = None

    # What a client does.

    async def create(self, who: Asking, token_id: int, asked: Asked, picture: FilePart | None) -> Job:
        """A job that will come to an end, whatever happens to this process; or the RelayError that refuses it."""
        relay = self._relay
        relay.files.check_kept()
        await relay.model(who, asked.model)
        if picture is not None:
            kept = await relay.files.keep(token_id, picture, VIDEO_INPUT)
            asked = msgspec.structs.replace(asked, file_id=kept.id)
        id = f"video_{secrets.token_hex(12)}"
        try:
            job = await self._aside.ask(_create, id, token_id, asked, who.address, self._time, self._holder)
        except RelayError:
            await self._forget_input(token_id, asked)
            raise
        making = self._make_aside(job, replace(who, visit=Visit(who.request_id)))
        # A client that leaves now leaves the job.
        await asyncio.wait((making,), timeout=REFUSAL_SECONDS)
        if making.done() and not making.cancelled() and (refusal := making.result()) is not None:
            await self._aside.ask(_remove, token_id, id)
            raise refusal
        self._promised.add(id)
        with suppress(NotFound):  # it was removed meanwhile
            return await self.find(token_id, id)
        return job

    async def find(self, token_id: int, id: str) -> Job:
        """Or NotFound: there is none, it has expired, or it is another token's."""
        return _told(await self._aside.ask(_row, token_id, id))

    async def listed(self, token_id: int, *, limit: int, after: str, is_ascending: bool) -> list[Job]:
        """A page after the job of this id; one more than `limit` if there are more."""
        return await self._aside.ask(_page, token_id, limit, after, is_ascending)

    async def output(self, token_id: int, id: str) -> Kept:
        """The video's file; or BadRequest if it is not there, yet or at all."""
        job = await self.find(token_id, id)
        if job.state == State.FAILED:
            raise BadRequest(f"There is no video: {job.error_message}", code=job.error_code)
        if job.output_id is None:
            raise BadRequest(f"The video is {job.state.replace('_', ' ')}.", code="video_not_ready")
        return await self._relay.files.find(token_id, job.output_id, (VIDEO_OUTPUT,))

    async def remove(self, token_id: int, id: str) -> None:
        """Or NotFound. One that is being made is stopped."""
        job = await self.find(token_id, id)
        is_removed, output_id = await self._aside.ask(_remove, token_id, id)
        if not is_removed:
            raise _not_found(id)  # somebody else was quicker
        if (making := self.making.get(id)) is not None:
            making.cancel()
        await self._forget_input(token_id, job.asked)
        if output_id is not None:
            await self._forget(token_id, output_id, VIDEO_OUTPUT)

    async def _forget_input(self, token_id: int, asked: Asked) -> None:
        """The picture that came with the request, and none that the client keeps."""
        if asked.file_id is not None:
            await self._forget(token_id, asked.file_id, VIDEO_INPUT)

    async def _forget(self, token_id: int, file_id: str, purpose: str) -> None:
        with suppress(NotFound, Unavailable):  # it expires by itself
            await self._relay.files.remove(token_id, file_id, (purpose,))

    # Making.

    async def adopt(self) -> None:
        """Begin again what another process left unfinished."""
        for job in await self._aside.run(_left_by_others, frozenset(self.making)):
            if not await self._aside.run(leases.take, _lease(job.id), self._holder, LEASE_SECONDS):
                who = Asking("", job.address, f"{job.id}.{job.attempts + 1}", openai_videos.NAME)
                self._make_aside(job, who)

    def _make_aside(self, job: Job, who: Asking) -> asyncio.Task[RelayError | None]:
        who = replace(who, credential="", token_id=job.token_id)
        self.making[job.id] = making = asyncio.create_task(self._make(job, who))
        making.add_done_callback(lambda _task: self._ended(job.id))
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
        return making

    def _ended(self, id: str) -> None:
        self.making.pop(id, None)
        self._promised.discard(id)

    async def _make(self, job: Job, who: Asking) -> RelayError | None:
        """The job to its end; with what error it failed. Cancelled, it is left to another process."""
        try:
            error = await self._failure(job, who)
            if error is not None:
                await self._written(_fail, job.id, error.code, error.message)
            await self._forget_input(job.token_id, job.asked)
            return error
        finally:
            await self._give_back(job.id)

    async def _failure(self, job: Job, who: Asking) -> RelayError | None:
        """Of making it; None: it is made."""
        try:
            await self._made(job, who)
        except RelayError as exc:
            return exc
        except Exception as exc:
            log.exception("video %s failed", job.id, exc_info=exc)
            return RelayError("The relay failed on this video.")
        return None

    async def _made(self, job: Job, who: Asking) -> None:
        attempt = await self._written(_begin, job.id)
        if attempt == 0:
            return  # it is over, or removed
        if attempt > MOST_ATTEMPTS:
            raise Unavailable(f"The relay was stopped {MOST_ATTEMPTS} times while it made this video.")
        while True:
            try:
                return await self._film(job, who)
            except (RateLimited, Unavailable) as exc:
                was_promised = attempt > 1 or job.id in self._promised
                if not was_promised or datetime.now(UTC) > job.created_at + PATIENCE:
                    raise
                await asyncio.sleep(min(exc.retry_after or PAUSE_SECONDS, 60))

    async def _film(self, job: Job, who: Asking) -> None:
        relay = self._relay
        answer = await relay.ask(who, await relay.caller(who), job.asked.chat)
        film = openai_videos.film(await answer.whole())
        if film is None:
            raise UserError(
                f"The model {job.asked.model!r} answered in words and made no video. Is it one that does?",
                code="no_video",
                param="model",
            )
        async with self._films:
            data = await relay.download(film.url, answer)
            file = FilePart(film.name or "video.mp4", film.content_type, data=data)
            # Whole or not at all, also where the video is removed or the server stops right now.
            finishing = asyncio.create_task(self._finish(job, file))
            self._finishing.add(finishing)
            finishing.add_done_callback(self._finishing.discard)
            await asyncio.shield(finishing)

    async def _finish(self, job: Job, film: FilePart) -> None:
        kept = await self._relay.files.keep(job.token_id, film, VIDEO_OUTPUT)
        if not await self._written(_complete, job.id, kept.id):
            await self._forget(job.token_id, kept.id, VIDEO_OUTPUT)  # it was removed meanwhile

    async def _written(self, work: Callable[..., T], *args: object) -> T:
        """Whatever the database does meanwhile: an end that is not written is none."""
        while True:
            try:
                return await self._aside.run(work, *args)
            except (DatabaseError, InterfaceError, OSError) as exc:
                log.warning("videos: %s; tried again", type(exc).__name__)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _give_back(self, id: str) -> None:
        with suppress(Exception):  # it runs out by itself
            await self._aside.run(leases.give_back, _lease(id), self._holder)

    async def _renew(self) -> None:
        """While anything is being made. What was removed, or is another's by now, is let go of."""
        try:
            while self.making:
                await asyncio.sleep(RENEW_SECONDS)
                with suppress(DatabaseError, InterfaceError, OSError):
                    for id in await self._aside.run(_lost, list(self.making), self._holder):
                        if (making := self.making.get(id)) is not None:
                            making.cancel()
        finally:
            self._renewing = None

    async def close(self) -> None:
        """Leave what is being made to another process, or to this one when it starts again."""
        making = tuple(self.making.values())
        for task in (*making, *filter(None, (self._renewing,))):
            task.cancel()
        if making or self._finishing:
            await asyncio.wait((*making, *self._finishing), timeout=STOP_SECONDS)
        await self._aside.close()


def _lease(id: str) -> str:
    return f"video {id}"


# In the database.


def _purpose(token_id: int, id: str) -> str:
    return f"video {id} of {token_id}"


def _create(id: str, token_id: int, asked: Asked, address: str, time: timedelta, holder: str) -> Job:
    now = datetime.now(UTC)
    plain = msgspec.json.encode(_Sealed(asked, address))
    row = VideoJob(
        id=id,
        token_id=token_id,
        asked=vault.seal_bytes(plain, purpose=_purpose(token_id, id)),
        created_at=now,
        expires_at=now + time,
    )
    # The lease first: nobody is to adopt what is not begun.
    leases.take(_lease(id), holder, LEASE_SECONDS)
    try:
        _insert(row)
    except BaseException:
        leases.give_back(_lease(id), holder)
        raise
    return _told(row)


def _insert(row: VideoJob) -> None:
    with transaction_in_turn():
        lock_token(row.token_id)
        unfinished = VideoJob.objects.filter(
            token_id=row.token_id, state__in=UNFINISHED, expires_at__gt=row.created_at
        )
        if unfinished.count() >= MOST_UNFINISHED:
            raise RateLimited(
                f"{MOST_UNFINISHED} videos of this access token are being made: wait for one of them.",
                code="too_many_videos",
                retry_after=30,
            )
        row.save(force_insert=True)


def _told(row: VideoJob) -> Job:
    try:
        plain = vault.unseal_bytes(bytes(row.asked), purpose=_purpose(row.token_id, row.id))
    except vault.VaultError:
        raise _not_found(row.id) from None
    sealed = msgspec.json.decode(plain, type=_Sealed)
    return Job(
        id=row.id,
        token_id=row.token_id,
        asked=sealed.asked,
        address=sealed.address,
        state=row.state,
        attempts=row.attempts,
        error_code=row.error_code,
        error_message=row.error_message,
        output_id=row.output_id,
        created_at=row.created_at,
        completed_at=row.completed_at,
        expires_at=row.expires_at,
    )


def _not_found(id: str) -> NotFound:
    return NotFound(f"Video with id {id[:100]!r} not found.", code="video_not_found")


def _row(token_id: int, id: str) -> VideoJob:
    row = VideoJob.objects.filter(pk=id, token_id=token_id, expires_at__gt=datetime.now(UTC)).first()
    if row is None:
        raise _not_found(id)
    return row


def _page(token_id: int, limit: int, after: str, is_ascending: bool) -> list[Job]:
    rows = VideoJob.objects.filter(token_id=token_id, expires_at__gt=datetime.now(UTC))
    return [_told(row) for row in page_after(rows, "video", after, limit, is_ascending=is_ascending)]


def _left_by_others(own: frozenset[str]) -> list[Job]:
    """Unfinished jobs that this process does not make; whether another one does, their leases tell."""
    rows = VideoJob.objects.filter(state__in=UNFINISHED, expires_at__gt=datetime.now(UTC))
    found = []
    for row in rows.exclude(pk__in=own).order_by("created_at")[:MOST_ADOPTED_AT_ONCE]:
        try:
            found.append(_told(row))
        except NotFound:  # the encryption key is another one by now
            _fail(row.pk, "internal_error", "What was asked cannot be read any more.")
    return found


def _begin(id: str) -> int:
    """Which attempt this is; 0 if there is nothing left to do."""
    with transaction_in_turn():
        row = VideoJob.objects.select_for_update().filter(pk=id, state__in=UNFINISHED).first()
        if row is None:
            return 0
        row.state, row.attempts = State.IN_PROGRESS, row.attempts + 1
        row.save(update_fields=["state", "attempts"])
        return row.attempts


def _end(id: str, **fields: object) -> bool:
    with transaction_in_turn():
        rows = VideoJob.objects.filter(pk=id, state__in=UNFINISHED)
        return bool(rows.update(completed_at=datetime.now(UTC), **fields))


def _complete(id: str, output_id: str) -> bool:
    """False if it was removed meanwhile, or ended by another process."""
    return _end(id, state=State.COMPLETED, output_id=output_id)


def _fail(id: str, code: str, message: str) -> bool:
    return _end(id, state=State.FAILED, error_code=code[:50], error_message=message[:2000])


def _remove(token_id: int, id: str) -> tuple[bool, str | None]:
    """Whether it was there, and the file that it came to."""
    with transaction_in_turn():
        row = VideoJob.objects.select_for_update().filter(pk=id, token_id=token_id).first()
        if row is None:
            return False, None
        row.delete()
        return True, row.output_id


def _lost(ids: list[str], holder: str) -> list[str]:
    """Those that were removed, or whose lease is another's; the other leases are renewed."""
    there = set(VideoJob.objects.filter(pk__in=ids).values_list("pk", flat=True))
    return [id for id in ids if id not in there or leases.take(_lease(id), holder, LEASE_SECONDS)]


def forget_expired() -> bool:
    """Remove some of what is over; whether there may be more. Their files expire by themselves."""
    over = list(VideoJob.objects.filter(expires_at__lte=datetime.now(UTC)).values_list("pk", flat=True)[:100])
    if over:
        with transaction_in_turn():
            VideoJob.objects.filter(pk__in=over).delete()
    # Of processes that were killed; by this machine's clock, with an hour to spare.
    old = int((datetime.now(UTC) - PATIENCE).timestamp() * leases.SECOND)
    with transaction_in_turn():
        Lease.objects.filter(name__startswith=_lease(""), until__lt=old).delete()
    return len(over) == 100
