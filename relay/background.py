"""What one serving process does beside its requests, one at a time of all of them: balances, charges, alerts, adding up days,
clearing up.

Whoever holds the lease in the database does it. Another process takes over when the holder is gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from django.db.models import Model

from proxy_site.config import Config
from proxy_site.draining import draining
from relay import leases, stored_files, stored_responses, video_jobs
from relay.alerts import Alerts
from relay.aside import Aside
from relay.balances import ROWS_AT_ONCE, Balances
from relay.ledger.days import add_up
from relay.models import BalanceReading, Cancellation, PoeCharge, PoolEvent, Upload
from relay.turn import transaction_in_turn
from relay.upstreams.poe_account import PoeAccounts

log = logging.getLogger(__name__)

LEASE = "background"
# The holder is taken to be dead when it has not renewed for so long.
LEASE_SECONDS = 30
RENEW_SECONDS = 10.0
# Others look whether it is theirs to take as often as this, or when it would run out.
LOOK_SECONDS = 15.0
# The holder looks for what is due: an account that ran out of points, an event that nobody was told of.
TICK_SECONDS = 2.0
ACCOUNTS_AT_ONCE = 2
ADOPT_SECONDS = 10.0
ADD_SECONDS = 60.0
# After each day: a fresh installation of years of records leaves time for requests.
ADD_PAUSE_SECONDS = 0.2
CLEAR_SECONDS = 3600.0
# Not in the first moments of a process, in which there is enough to do.
FIRST_CLEAR_SECONDS = 300.0
KEPT = {
    PoolEvent: timedelta(days=30),
    BalanceReading: timedelta(days=30),
    PoeCharge: timedelta(days=60),
    Cancellation: timedelta(hours=1),
}
# A database that is stopped must not hold up a stop.
STOP_SECONDS = 3.0


class Background:
    """Begins with `start` on a running loop. No error ends it, and nothing waits for it."""

    def __init__(self, config: Config, adopt: Callable[[], Awaitable[None]] | None = None) -> None:
        """`adopt` begins again what a process left unfinished that is gone."""
        self.holder = leases.new_holder()
        self._aside = Aside("background")
        self._accounts = PoeAccounts(config.poe.connect_seconds)
        self._balances = Balances(self._accounts, self._aside, config.pool.poll_seconds)
        self._alerts = Alerts(config, self._aside)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._jobs: dict[str, asyncio.Task[None]] = {}
        # When the lease runs out and when it is renewed, by time.monotonic().
        self._held_until = self._renew_at = self._clear_at = self._adopt_at = self._add_at = 0.0
        self._adopt = adopt
        # Taking it was begun, and may succeed even if nobody waits for it any more.
        self._may_hold = False

    @property
    def holds_lease(self) -> bool:
        return time.monotonic() < self._held_until

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End what is being done, give the lease back and close everything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        await self._release()
        await self._accounts.close()
        self._alerts.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._aside.close()

    async def _run(self) -> None:
        while not draining.is_on:
            self._wake.clear()
            try:
                pause = await self._turn()
            except Exception as exc:
                # Its class alone: a database's words may hold an address or a value.
                log.warning("the background work has failed and goes on: %s", type(exc).__name__)
                log.debug("the background work has failed", exc_info=exc)
                if not self.holds_lease:
                    await self._drop_jobs()
                pause = TICK_SECONDS
            await self._sleep(pause)
        await self._release()

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _turn(self) -> float:
        """One look at everything; how long to wait for the next."""
        left = await self._hold()
        if left:
            return min(left, LOOK_SECONDS)
        for account_id in await self._balances.due():
            name = f"account {account_id}"
            if name not in self._jobs and self._reading < ACCOUNTS_AT_ONCE:
                self._begin(name, partial(self._look_after, account_id))
        if "alerts" not in self._jobs:
            self._begin("alerts", self._alerts.tell)
        if self._adopt is not None and time.monotonic() >= self._adopt_at and "adopting" not in self._jobs:
            self._adopt_at = time.monotonic() + ADOPT_SECONDS
            self._begin("adopting", self._adopt)
        if time.monotonic() >= self._add_at and "adding up" not in self._jobs:
            self._add_at = time.monotonic() + ADD_SECONDS
            self._begin("adding up", self._add_up)
        if time.monotonic() >= self._clear_at and "clearing up" not in self._jobs:
            self._clear_at = time.monotonic() + CLEAR_SECONDS
            self._begin("clearing up", self._clear_up)
        return TICK_SECONDS

    # The lease.

    async def _hold(self) -> float:
        """0 with the lease, taken or renewed if it is time; or else how long another has it."""
        now = time.monotonic()
        had = self.holds_lease
        if had and now < self._renew_at:
            return 0
        self._may_hold = True
        left = await self._aside.run(leases.take, LEASE, self.holder, LEASE_SECONDS)
        if left:
            self._held_until, self._may_hold = 0.0, False
            await self._drop_jobs()
            await self._aside.let_go()
            return left
        self._held_until, self._renew_at = now + LEASE_SECONDS, now + RENEW_SECONDS
        if not had:
            log.info("this process looks after the Poe accounts from now on")
            self._clear_at = now + FIRST_CLEAR_SECONDS
        return 0

    async def _release(self) -> None:
        await self._drop_jobs()
        if not self._may_hold:
            return
        self._held_until, self._may_hold = 0.0, False
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._aside.run(leases.give_back, LEASE, self.holder)
        except Exception as exc:
            log.warning("the lease is not given back: %s", type(exc).__name__)

    # What is done with it.

    @property
    def _reading(self) -> int:
        return sum(name.startswith("account ") for name in self._jobs)

    def _begin(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._jobs[name] = job = asyncio.create_task(self._do(name, work))
        job.add_done_callback(lambda _job: self._end(name))

    async def _do(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as exc:
            log.warning("%s: %s; tried again later", name, type(exc).__name__)
            log.debug("%s", name, exc_info=exc)

    def _end(self, name: str) -> None:
        self._jobs.pop(name, None)
        if name.startswith("account "):
            self._wake.set()  # another one may be waiting for its place

    async def _drop_jobs(self) -> None:
        """Another process may be doing them."""
        jobs = tuple(self._jobs.values())
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait(jobs, timeout=STOP_SECONDS)

    async def _look_after(self, account_id: int) -> None:
        if await self._balances.read(account_id):
            from relay.charges import poll  # needed by nobody but the holder

            await poll(account_id, self._accounts)

    async def _add_up(self) -> None:
        while await self._aside.run(add_up):
            await asyncio.sleep(ADD_PAUSE_SECONDS)

    async def _clear_up(self) -> None:
        """Half a thousand rows at a time, so that neither the ledger nor this thread waits long."""
        now = datetime.now(UTC)
        for table, age in KEPT.items():
            while await self._aside.run(_remove, table, {"at__lt": now - age}):
                pass
        while await self._aside.run(_remove, Upload, {"expires_at__lt": now}):
            pass
        for forget_expired in (
            stored_responses.forget_expired,
            stored_files.forget_expired,
            video_jobs.forget_expired,
        ):
            while await self._aside.run(forget_expired):
                pass


def _remove(table: type[Model], which: dict[str, datetime]) -> bool:
    """Some of these rows; whether there may be more."""
    rows = table._default_manager
    some = list(rows.filter(**which).values_list("pk", flat=True)[:ROWS_AT_ONCE])
    if some:
        with transaction_in_turn():
            rows.filter(pk__in=some).delete()
    return len(some) == ROWS_AT_ONCE
