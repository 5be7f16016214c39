"""What a caller may still use of their points, for the apps that show it. Asked beside the requests: it decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError

from relay.aside import Aside
from relay.directory import Caller
from relay.errors import Unavailable
from relay.ledger import periods
from relay.ledger.meters import SECOND
from relay.ledger.meters import Meter as Counters
from relay.models import Meter
from relay.turn import now


@dataclass(frozen=True, slots=True)
class Budget:
    """Points of a day or a month, reservations included. No limit: `used` are the token's of this month."""

    used: int
    # In seconds since 1970: when all of it is there again.
    ends: int
    limit: int | None = None

    @property
    def left(self) -> float:
        return float("inf") if self.limit is None else max(0, self.limit - self.used)


class Budgets:
    """Reads them in a thread of its own."""

    def __init__(self) -> None:
        self._aside = Aside("budgets")

    async def tightest(self, caller: Caller) -> Budget:
        """Of the budgets of token, owner and team that with the least left, which ends a conversation first."""
        try:
            return await self._aside.run(_tightest, caller)
        except (DatabaseError, InterfaceError):
            raise Unavailable("The relay's database cannot be asked right now.", retry_after=1) from None

    async def close(self) -> None:
        await self._aside.close()


def _tightest(caller: Caller) -> Budget:
    ids = (f"token:{caller.token_id}", f"user:{caller.user_id}", f"team:{caller.team_id}")
    columns = ("id", "day_ends", "day_points", "month_ends", "month_points")
    rows = {row["id"]: row for row in Meter.objects.filter(pk__in=ids).values(*columns)}
    found = token, user, team = [Counters(**rows.get(id_, {"id": id_})) for id_ in ids]
    periods.turn(token, user, team, caller.time_zone, now() * SECOND)
    budgets = [Budget(token.month_points, token.month_ends)]
    for counters, limits in zip(found, caller.limits, strict=True):
        budgets += [
            Budget(used, ends, limit)
            for used, ends, limit in (
                (counters.month_points, counters.month_ends, limits.points_per_month),
                (counters.day_points, counters.day_ends, limits.points_per_day),
            )
            if limit is not None
        ]
    return min(budgets, key=lambda budget: budget.left)
