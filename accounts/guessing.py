"""Slows down whoever guesses passwords or codes: some wrong ones are free, then one for each so many seconds.

Counted in the database, so that many processes are not many chances, and before the guess is looked at, so that a
hundred at once are not a hundred for the price of one. Nobody is locked out for good: who is kept waiting knows for how
long, and a browser in which somebody has signed in before has a count of its own, which strangers cannot use up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts import tokens
from proxy_site.keys import derived

# With each guess so many counts are dropped that say nothing any more.
DROPPED_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """So many wrong guesses at once, then one for each so many seconds."""

    at_once: int
    seconds: int

    @property
    def step(self) -> timedelta:
        return timedelta(seconds=self.seconds)


# Many people may share an address; nobody shares a name.
OF_NAME = Pace(10, 60)
OF_BROWSER = Pace(10, 60)
OF_ADDRESS = Pace(50, 10)
# There are only a million codes, and three are right at a time.
OF_CODES = Pace(5, 900)


class TooManyGuesses(ValidationError):
    """Not even looked at."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        minutes = ceil(seconds / 60)
        super().__init__(
            ngettext(
                "Too many wrong attempts. Wait a minute, then try again.",
                "Too many wrong attempts. Wait %(minutes)d minutes, then try again.",
                minutes,
            )
            % {"minutes": minutes},
            code="too_many",
        )


class Guesses(models.Model):
    """The wrong guesses of late, at a name or from a place. What it is about is told by a digest alone."""

    digest = models.CharField(max_length=64, primary_key=True)
    # Each wrong guess puts it off by a step of its pace.
    forgotten_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("wrong guesses")
        verbose_name_plural = _("wrong guesses")
        ordering: ClassVar = ["digest"]

    def __str__(self) -> str:
        return self.digest


def at_name(name: str) -> str:
    return _digest("name", name.casefold())


def by_browser(mark: str) -> str:
    return _digest("browser", mark)


def at_codes(user_id: int) -> str:
    return _digest("codes", str(user_id))


def at_own_password(user_id: int) -> str:
    """By somebody who is signed in already."""
    return _digest("own password", str(user_id))


def from_address(address: str) -> str:
    """An IPv6 network of 64 bits is one customer's, with more addresses than anybody can count."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return _digest("address", address)
    if ip.version == 6 and ip.ipv4_mapped is None:
        return _digest("address", str(ipaddress.ip_network((ip, 64), strict=False)))
    return _digest("address", str(getattr(ip, "ipv4_mapped", None) or ip))


def _digest(kind: str, what: str) -> str:
    return tokens.digest(f"{kind} {what}", derived("guesses"))


@contextmanager
def counted(paces: Mapping[str, Pace]) -> Iterator[None]:
    """Inside, one guess is looked at; it counts as wrong if an exception leaves. Raises TooManyGuesses."""
    _drop_forgotten()
    if wait := _take(paces):
        raise TooManyGuesses(wait)
    yield
    for digest, pace in paces.items():
        Guesses.objects.filter(pk=digest).update(forgotten_at=F("forgotten_at") - pace.step)


def _take(paces: Mapping[str, Pace]) -> int:
    """Count a guess, or say for how many seconds none is free."""
    now = timezone.now()
    with transaction.atomic():
        rows = _locked(sorted(paces), now)
        ends = {row.digest: max(now, row.forgotten_at) for row in rows}
        waits = [ends[digest] - now - pace.step * (pace.at_once - 1) for digest, pace in paces.items()]
        longest = max(waits, default=timedelta())
        if longest > timedelta():
            return ceil(longest.total_seconds())
        for row in rows:
            row.forgotten_at = ends[row.digest] + paces[row.digest].step
            row.save(update_fields=["forgotten_at"])
    return 0


def _locked(digests: list[str], now: datetime) -> list[Guesses]:
    """One row for each, made if it is missing: a hundred first guesses at once must wait for each other too."""
    while True:
        fresh = [Guesses(digest=digest, forgotten_at=now) for digest in digests]
        Guesses.objects.bulk_create(fresh, ignore_conflicts=True)
        rows = list(Guesses.objects.select_for_update().filter(pk__in=digests).order_by("pk"))
        # Less, if another process dropped one in between.
        if len(rows) == len(digests):
            return rows


def _drop_forgotten() -> None:
    """One by one: whoever holds no other row cannot wait for somebody who waits for this one."""
    now = timezone.now()
    for row in Guesses.objects.filter(forgotten_at__lt=now)[:DROPPED_AT_ONCE]:
        Guesses.objects.filter(pk=row.pk, forgotten_at__lt=now).delete()
