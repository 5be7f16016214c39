"""The ledger's thread: group commit, retries, and the spool where settlements wait while the database is away.

Whatever waits in this process goes into the next transaction, but for settlements that let admissions go first. Nothing here
runs on the event loop but putting an item into a queue and taking the answer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import filterfalse
from pathlib import Path

from relay.errors import AllKeysBusy, BeyondLimit, RateLimited, RelayError, Unavailable
from relay.ledger.deciding import Answer, Batch, MissingMeters, Page, RefusalKey, decide, too_slow
from relay.ledger.items import NOT_STARTED, Admission, Admitted, BadItem, Change, Settlement, Settling
from relay.ledger.rollups import hour_of
from relay.ledger.spool import SETTLEMENTS_AT_ONCE, Spool
from relay.ledger.store import Conflict, Store
from relay.ledger.sweep import Sweep, lost

log = logging.getLogger(__name__)

# Nobody waits longer than this for an admission, whatever the database does.
ADMIT_SECONDS = 2.0
# So long a settlement lets admissions go first, which somebody waits for: together they take 130 us longer on SQLite and
# 330 us on PostgreSQL. A transaction costs almost the same for one settlement as for ten. A process that is killed in between
# has its request counted as reserved.
PATIENT_SECONDS = 0.015
# Where several were admitted at once, the next transaction begins so many times as long after that one began as the loop
# takes to hear an answer: where that is long, whoever waits, waits for the loop anyway, and fewer transactions leave it more
# time. With 32 requests at once the ledger's part of each fell from 600 us of CPU to 310, larger pages of memory and quicker
# indexes included. At least 10 ms were 5 ms of each admission beside a loop at 80 % (both measured on 2026-11-29).
CROWD_LAGS, MOST_CROWD_SECONDS = 5, 0.030
# How much the last answer counts for in that.
LAG_WEIGHT = 0.1
# So many are company enough.
ENOUGH = 24
# The thread lets go of the GIL with each statement and waits for it beside a busy loop, so long each time, and as much longer as
# the system likes to wake it up late (50 us, unless told otherwise). Against 0.1 ms and that, an admission beside a loop at 80 %
# took 0.7 times as long on SQLite and 0.85 on PostgreSQL, its slowest hundredth 0.9 and 0.8 (21 pairs, 2026-11-30). To keep the
# GIL while a batch is decided made it longer.
SWITCH_SECONDS = 0.00002
WAKE_UP_NS = 1
# Where so many are written at once, each waits for some milliseconds anyway, and to ask for the GIL so often is work for both
# cores, where the thread and the loop have one each: two workers on SQLite switched 11 times a request, so 6 times (2026-11-30).
MANY, MANY_SWITCH_SECONDS = 12, 0.0005
# A token's last use is written at most this often by a process, in seconds.
LAST_USED_EVERY = 60
RETRY_FIRST, RETRY_MOST = 0.1, 1.0
CONFLICT_TRIES = 4


@dataclass(slots=True)
class _Waiting:
    item: Admission | Change
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Admitted]
    # Refused for good, or before anything was sent that a commit could have kept.
    is_nowhere: bool = False

    def answer(self, answer: Answer) -> None:
        """On the loop."""
        if self.future.done():
            return
        if isinstance(answer, Admitted):
            self.future.set_result(answer)
        else:
            self.future.set_exception(answer)

    def expire(self) -> None:
        self.answer(Unavailable("The relay's database is too slow. Try again shortly.", retry_after=2))


@dataclass(slots=True)
class _Settling:
    settling: Settling
    otherwise: Callable[[], Settlement] | None
    may_wait: bool

    def made(self) -> Settlement | None:
        if isinstance(self.settling, Settlement):
            return self.settling
        try:
            return self.settling()
        except Exception as exc:
            log.exception("a settlement cannot be made", exc_info=exc)
        try:
            return self.otherwise and self.otherwise()
        except Exception as exc:
            log.exception("a record stays open until this process ends", exc_info=exc)
            return None


# None: the end.
_Item = _Waiting | _Settling | threading.Event | None


class Ledger:
    def __init__(self, store: Store, spool: Spool) -> None:
        self._store = store
        self._spool = spool
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._has_company = threading.Event()
        self._marks: list[threading.Event] = []
        # Settlements that let others go first, and until when.
        self._patient: list[_Item] = []
        self._patient_until = 0.0
        # What is to be written, oldest first; so many of them are in the spool.
        self._unsettled: list[Settlement] = []
        self._spooled = 0
        self._disk = threading.Lock()
        self._disk_is_full = False
        self._may_be_written = False
        self._last_used: dict[int, float] = {}
        self._refused: dict[RefusalKey, int] = defaultdict(int)
        self._retry_at = 0.0
        self._retry_after = RETRY_FIRST
        self._is_down = False
        # The last transaction: when it began, and whether several were admitted at once.
        self._began_at = 0.0
        self._is_crowded = False
        # How long the loop takes to hear an answer, of late.
        self._lag = 0.0
        self._sweep = Sweep(store, spool, self._commit, self._commit_or_give_up)
        # Committed since this process began, and what was in them.
        self.transactions = self.written = 0
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def process(self) -> str:
        return self._spool.process

    @property
    def spool_bytes(self) -> int:
        return self._spool.size

    async def admit(self, admission: Admission) -> Admitted:
        """Write the usage record. Raises Stale, or a RelayError that says why not; then nothing was used up."""
        return await self._ask(admission)

    async def change(self, change: Change) -> Admitted:
        """Another key or a larger reservation for an open record, or a RelayError: then it keeps what it has."""
        return await self._ask(change)

    async def _ask(self, item: Admission | Change) -> Admitted:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, loop, loop.create_future())
        deadline = loop.call_later(ADMIT_SECONDS, waiting.expire)
        self._put(waiting)
        try:
            return await waiting.future
        except (asyncio.CancelledError, Unavailable):
            if isinstance(item, Admission) and not waiting.is_nowhere:
                # It may be committed already or may be yet: settled as nothing, which is harmless to no row.
                self.settle(_nothing_happened(item))
            raise
        finally:
            deadline.cancel()

    def settle(
        self, settling: Settling, otherwise: Callable[[], Settlement] | None = None, *, may_wait: bool = False
    ) -> None:
        """Take it in and return at once. It is written whatever becomes of the request, its client or its task.

        `otherwise` is written if the settlement cannot be made. One that `may_wait` lets admissions go first for some
        milliseconds, unless one gets less without it: nobody is waiting for what it gives back.
        """
        self._put(_Settling(settling, otherwise, may_wait))

    def _put(self, item: _Item) -> None:
        self._queue.put(item)
        if self._queue.qsize() >= ENOUGH and not self._has_company.is_set():
            self._has_company.set()

    def flush(self, seconds: float) -> bool:
        """Wait until all that was taken in is written; False if the database did not take it in time."""
        done = threading.Event()
        self._put(done)
        self._has_company.set()
        return done.wait(seconds)

    def close(self, seconds: float = 5.0) -> bool:
        """Write what is left. What the database does not take in time stays in the spool for the next process."""
        flushed = self.flush(seconds)
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            # It hangs in the database. What it would have written is put on disk without it.
            self._take_in(self._with_the_patient(_drain(self._queue)))
            self._keep_on_disk()
        return flushed

    # In the ledger's thread.

    def _run(self) -> None:
        _wake_up_in_time()
        while True:
            items = self._wait()
            try:
                self._work(items)
            except Exception as exc:
                # A bug must not stop the ledger for good.
                log.exception("the ledger failed", exc_info=exc)
                waiting = [item for item in items if isinstance(item, _Waiting)]
                self._answer(
                    waiting, [Unavailable("The relay failed on this request.", retry_after=2)] * len(waiting)
                )
            if None in items:
                self._end()
                return

    def _work(self, items: list[_Item]) -> None:
        self._marks += [item for item in items if isinstance(item, threading.Event)]
        self._take_in(items)
        self._write([item for item in items if isinstance(item, _Waiting)])
        if not self._unsettled:
            for mark in self._marks:
                mark.set()
            self._marks.clear()
        if not self._is_down:
            self._look_after_others()

    def _take_in(self, items: list[_Item]) -> list[Settlement]:
        """The settlements among them."""
        taken: list[Settlement] = []
        for item in items:
            # One by one: what cannot be made must not take along those before it.
            if isinstance(item, _Settling) and (settlement := item.made()) is not None:
                self._unsettled.append(settlement)
                taken.append(settlement)
        return taken

    def _wait(self) -> list[_Item]:
        """What is to be written next; blocks for the first, or until something is due."""
        items: list[_Item] = []
        try:
            items.append(self._queue.get(timeout=self._due_in()))
            if self._is_crowded:
                self._await_company()
            items += _drain(self._queue)
        except queue.Empty:
            pass
        if not self._patient:
            self._patient_until = time.monotonic() + PATIENT_SECONDS
        self._patient += filter(_may_wait, items)
        items = list(filterfalse(_may_wait, items))
        return items if self._are_let_go_first(items) else self._with_the_patient(items)

    def _are_let_go_first(self, items: list[_Item]) -> bool:
        """Where many come at once it makes no difference to them, and is a transaction more."""
        if self._is_crowded or self._is_down or self._unsettled or len(self._patient) >= ENOUGH:
            return False
        return time.monotonic() < self._patient_until and all(isinstance(item, _Waiting) for item in items)

    def _with_the_patient(self, items: list[_Item]) -> list[_Item]:
        patient, self._patient = self._patient, []
        return patient + items

    def _await_company(self) -> None:
        """Asleep until there is enough: to wake up for each that comes would take the GIL from whoever brings the next."""
        self._has_company.clear()
        pause = min(CROWD_LAGS * self._lag, MOST_CROWD_SECONDS)
        left = self._began_at + pause - time.monotonic()
        if left > 0 and self._queue.qsize() < ENOUGH:
            self._has_company.wait(left)

    def _due_in(self) -> float:
        if self._patient:
            return max(0.0, self._patient_until - time.monotonic())
        if self._is_down:
            return max(0.01, self._retry_at - time.monotonic())
        if self._unsettled or self._sweep.has_found_some:
            return 0.001
        return max(0.01, self._sweep.beat_at - time.monotonic())

    def _write(self, waiting: list[_Waiting]) -> None:
        due_at = self._retry_at if self._is_down else self._sweep.beat_at
        if not waiting and (self._is_down or not self._unsettled) and time.monotonic() < due_at:
            return self._keep_what_waits()
        settlements = self._unsettled[:SETTLEMENTS_AT_ONCE]
        batch = _batch(waiting, settlements)
        self._began_at = time.monotonic()
        sys.setswitchinterval(SWITCH_SECONDS if len(batch) < MANY else MANY_SWITCH_SECONDS)
        try:
            self._commit(batch)
        except BadItem as exc:
            log.warning("a batch of the ledger has a bad item: %s", exc)
            self._write_one_by_one(waiting, settlements)
        except Exception as exc:  # the database is down, restarting or full: whatever its driver calls that
            self._failed(waiting, exc)
        else:
            self._is_crowded = len(batch.admissions) > 1
            self._succeeded(len(settlements))
            for each, answer in zip(waiting, batch.answers, strict=True):
                each.is_nowhere = not isinstance(answer, Admitted)
            self._answer(waiting, batch.answers)

    def _commit(self, batch: Batch) -> None:
        """One transaction; again when others were in the way. Raises BadItem, or whatever says that it is down."""
        for _try in range(CONFLICT_TRIES - 1):
            try:
                return self._commit_once(batch)
            except Conflict as exc:
                log.info("the ledger's transaction is tried again: %s", exc)
        return self._commit_once(batch)

    def _commit_once(self, batch: Batch) -> None:
        self._may_be_written = False
        meter_ids = batch.meter_ids()
        while True:
            page = self._store.begin(meter_ids, batch.record_ids())
            try:
                decide(page, batch)
                if not (self._patient and batch.is_wanting()):
                    break
                # What is settled may be what it lacked. It is all that is unsettled now, and all of the batch's settlements, which
                # are the list by which `_write` counts what is done with: nobody is patient while anything else is to be settled.
                if any(isinstance(each, _Settling) and callable(each.settling) for each in self._patient):
                    # To make them may be to count a long text: nobody's meters are locked meanwhile.
                    self._store.rollback()
                batch.settlements += self._take_in(self._with_the_patient([]))
                meter_ids |= batch.meter_ids()
            except MissingMeters as exc:
                meter_ids |= exc.ids
            except Exception as exc:
                self._store.rollback()
                log.exception("a batch of the ledger cannot be decided", exc_info=exc)
                raise BadItem(type(exc).__name__) from exc
        self._write_along(page)
        if page.is_unchanged:
            self._store.rollback()
            return
        self._may_be_written = True
        self._store.commit(page)
        if batch:
            self.transactions += 1
            self.written += len(batch)
        self._was_written_along(page)

    def _write_along(self, page: Page) -> None:
        now = time.monotonic()
        used = {row.token_id for row in page.inserted}
        page.used_tokens = sorted(
            t for t in used if now - self._last_used.get(t, -LAST_USED_EVERY) >= LAST_USED_EVERY
        )
        if now >= self._sweep.beat_at:
            page.heartbeat = self.process
            page.refusals = dict(self._refused)

    def _was_written_along(self, page: Page) -> None:
        now = time.monotonic()
        self._last_used.update(dict.fromkeys(page.used_tokens, now))
        for key, count in page.refusals.items():
            self._refused[key] -= count
            if not self._refused[key]:
                del self._refused[key]
        if page.heartbeat:
            self._sweep.note_beat()

    def _succeeded(self, settlements: int) -> None:
        """So many of those that wait are written."""
        if self._is_down:
            log.warning("the ledger can be written again")
        self._is_down, self._retry_at, self._retry_after = False, 0.0, RETRY_FIRST
        with self._disk:
            del self._unsettled[:settlements]
            self._spooled = max(0, self._spooled - settlements)
            if self._unsettled or not self._spool.size:
                return
            try:
                self._spool.clear()
            except OSError as exc:  # tried again after the next batch; written twice is harmless
                log.error("the spool cannot be cleared: %s", exc.strerror)

    def _answer(self, waiting: list[_Waiting], answers: list[Answer]) -> None:
        """Batch.answers has the admissions first, as `waiting` has."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiting, Answer]]] = defaultdict(list)
        for each, answer in zip(waiting, answers, strict=True):
            by_loop[each.loop].append((each, answer))
            if isinstance(answer, (RateLimited, BeyondLimit)) and isinstance(each.item, Admission):
                self._count_refusal(each.item, answer)
        for loop, told in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._tell, told, time.monotonic())
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

    def _tell(self, told: list[tuple[_Waiting, Answer]], sent_at: float) -> None:
        """On the loop."""
        self._lag += LAG_WEIGHT * (time.monotonic() - sent_at - self._lag)
        for waiting, answer in told:
            waiting.answer(answer)

    def _count_refusal(self, admission: Admission, refusal: RateLimited | BeyondLimit) -> None:
        if isinstance(refusal, AllKeysBusy) and refusal.may_pass_within(admission.queue_seconds):
            return  # it asks again
        hour = hour_of(datetime.now(UTC))
        self._refused[hour, admission.team_id, admission.user_id, admission.token_id, refusal.limit] += 1

    def _failed(self, waiting: list[_Waiting], exc: Exception) -> None:
        if not self._is_down:
            log.warning("the ledger cannot be written: %s: %s", type(exc).__name__, _first_line(exc))
        self._is_down = True
        self._sweep.interrupt()
        self._retry_at = time.monotonic() + self._retry_after
        self._retry_after = min(self._retry_after * 2, RETRY_MOST)
        # The commit may have succeeded all the same: whoever waits settles an admission as nothing when told this.
        for each in waiting:
            each.is_nowhere = not self._may_be_written
        self._answer(
            waiting,
            [Unavailable("The relay's database cannot be reached. Try again shortly.", retry_after=2)]
            * len(waiting),
        )
        self._take_in(self._with_the_patient([]))
        self._keep_what_waits()

    def _keep_what_waits(self) -> None:
        """What the database did not take is on disk before anything else happens."""
        if self._is_down:
            self._keep_on_disk()

    def _keep_on_disk(self) -> None:
        with self._disk:
            if self._spooled == len(self._unsettled):
                return
            try:
                self._spool.append(self._unsettled[self._spooled :])
                self._spooled = len(self._unsettled)
                self._disk_is_full = False
            except OSError as exc:
                if not self._disk_is_full:
                    log.error("the spool cannot be written: %s", exc.strerror)
                self._disk_is_full = True

    def _write_one_by_one(self, waiting: list[_Waiting], settlements: list[Settlement]) -> None:
        """One bad item is refused, never the batch."""
        settled = {settlement.id for settlement in settlements}
        left = []
        for each in waiting:
            if isinstance(each.item, Admission) and each.item.id in settled:
                # Settled before it is admitted, it would be open for good: whoever asked has left.
                self._answer([each], [too_slow()])
            else:
                left.append(each)
        try:
            for settlement in settlements:
                self._commit_or_give_up(settlement)
                self._succeeded(1)
            while left:
                batch = _batch(left[:1], [])
                try:
                    self._commit(batch)
                except BadItem:
                    batch.answers = [RelayError("This request could not be written down.")]
                self._answer(left[:1], batch.answers)
                left.pop(0)
        except Exception as exc:
            self._failed(left, exc)

    def _commit_or_give_up(self, settlement: Settlement) -> None:
        """What the database refuses for what it is leaves its record as lost, and holds up nothing else."""
        try:
            self._commit(Batch(settlements=[settlement]))
        except BadItem as exc:
            log.error("the settlement of %s is refused by the database: %s", settlement.id, exc)
            try:
                self._commit(Batch(settlements=[lost(settlement, "unsettled")]))
            except BadItem:
                log.error("the record %s stays open until this process ends", settlement.id)

    def _look_after_others(self) -> None:
        try:
            self._sweep.step()
        except Exception as exc:
            log.warning("the ledger cannot be swept now: %s", type(exc).__name__)
            self._is_down, self._retry_at = True, time.monotonic() + RETRY_MOST

    def _end(self) -> None:
        self._sweep.release()
        self._keep_on_disk()
        if self._unsettled:
            log.error("%d settlements are left in the spool", len(self._unsettled))
        try:
            if self._refused and not self._is_down:
                self._sweep.beat_now()  # when they are written along
                self._commit(Batch())
            if not self._unsettled:
                self._store.forget(self.process)
            self._store.close()
        except Exception as exc:
            log.warning("the ledger could not sign off: %s", type(exc).__name__)
        self._spool.close()


def _wake_up_in_time() -> None:
    """Of this thread alone; where there is no Linux, as ever."""
    with suppress(OSError):
        Path(f"/proc/{threading.get_native_id()}/timerslack_ns").write_text(str(WAKE_UP_NS))


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0][:200]


def _may_wait(item: _Item) -> bool:
    return isinstance(item, _Settling) and item.may_wait


def _drain(items: queue.SimpleQueue[_Item]) -> list[_Item]:
    drained = []
    try:
        while True:
            drained.append(items.get_nowait())
    except queue.Empty:
        return drained


def _batch(waiting: list[_Waiting], settlements: list[Settlement]) -> Batch:
    """Sorts `waiting` into the order of the batch's answers."""
    waiting.sort(key=lambda each: isinstance(each.item, Change))
    return Batch(
        [each.item for each in waiting if isinstance(each.item, Admission)],
        [each.item for each in waiting if isinstance(each.item, Change)],
        settlements,
    )


def _nothing_happened(admission: Admission) -> Settlement:
    return Settlement(
        id=admission.id,
        token_id=admission.token_id,
        user_id=admission.user_id,
        team_id=admission.team_id,
        key_id=admission.candidates[0].key_id if admission.candidates else 0,
        outcome="failed",
        error_code=NOT_STARTED,
        counts_tokens=admission.counts_tokens,
    )
