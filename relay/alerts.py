"""Tells administrators of bad news about the Poe keys: a POST to a webhook for each, and one e-mail for all that are new."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext, gettext_noop, ngettext

from proxy_site.config import Config
from relay import reasons, standings
from relay.aside import Aside
from relay.errors import RelayError
from relay.models import PoolEvent
from relay.turn import transaction_in_turn
from relay.upstreams.fetching import Fetcher

log = logging.getLogger(__name__)

# What could not be told for so long is old.
GIVEN_UP_AFTER = timedelta(days=1)
AT_ONCE = 50
WEBHOOK_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0

# By what happened; where it is about a key, by that first.
SENTENCES = {
    "key retired": gettext_noop("The Poe key “%(key)s” is retired: %(reason)s."),
    "key failing": gettext_noop("The Poe key “%(key)s” fails again and again: %(reason)s."),
    "resting": gettext_noop("The Poe account “%(account)s” is out of points: %(reason)s."),
    "low_balance": gettext_noop("The Poe account “%(account)s” has few points: %(reason)s."),
    "leak": gettext_noop("Points of the Poe account “%(account)s” may leak: %(reason)s."),
    "same_account": gettext_noop("The Poe account “%(account)s” is another one's twin: %(reason)s."),
}
KEY_SENTENCE = gettext_noop("The Poe key “%(key)s” is now “%(became)s”: %(reason)s.")
ACCOUNT_SENTENCE = gettext_noop("The Poe account “%(account)s” is now “%(became)s”: %(reason)s.")


class Alerts:
    """Told once, as far as one process knows; whatever fails is tried again, for a day and less and less often."""

    def __init__(self, config: Config, aside: Aside, clock: Callable[[], float] = time.monotonic) -> None:
        self._webhook = config.alerts.webhook_url.get_secret_value()
        self._emails = list(config.alerts.emails) if config.mail.host else []
        if config.alerts.emails and not config.mail.host:
            log.warning("alerts.emails names somebody, but mail.host is empty: no e-mail is sent")
        self._aside = aside
        self._clock = clock
        self._fetcher: Fetcher | None = None
        # Told by one of the two ways, while the other one fails.
        self._posted: set[int] = set()
        self._mailed: set[int] = set()
        self._pause = FIRST_PAUSE
        self._not_before = 0.0

    async def tell(self) -> None:
        """What is not told yet."""
        if self._clock() < self._not_before:
            return
        events = await self._aside.run(_untold)
        if not events:
            return
        now = datetime.now(UTC)
        is_old = {event.pk for event in events if event.at < now - GIVEN_UP_AFTER}
        fresh = [event for event in events if event.pk not in is_old]
        posted, mailed = await self._post(fresh), await self._mail(fresh)
        told = is_old | {event.pk for event in fresh if posted(event) and mailed(event)}
        if told:
            await self._aside.run(_mark, sorted(told), now)
        self._posted -= told
        self._mailed -= told
        self._wait_if(len(told) < len(events))

    def _wait_if(self, has_failed: bool) -> None:
        self._not_before = self._clock() + self._pause if has_failed else 0.0
        self._pause = min(self._pause * 2, LONGEST_PAUSE) if has_failed else FIRST_PAUSE

    async def _post(self, events: list[PoolEvent]) -> Callable[[PoolEvent], bool]:
        """Which of these the webhook knows of then. After one failure it is left alone: all would wait for it."""
        if not self._webhook:
            return lambda event: True
        if self._fetcher is None:
            self._fetcher = Fetcher(WEBHOOK_SECONDS, WEBHOOK_SECONDS)
        for event in events:
            if event.pk in self._posted:
                continue
            body = msgspec.json.encode({"text": sentence(event), "event": _as_json(event)})
            # Nothing of its address is logged, nor of its answer: some hold a secret.
            try:
                answer = await self._fetcher.fetch(self._webhook, body=body)
            except RelayError as exc:
                log.warning("the webhook cannot be told: %s", exc.code)
                break
            if not 200 <= answer.status < 300:
                log.warning("the webhook answered HTTP %d", answer.status)
                break
            self._posted.add(event.pk)
        return lambda event: event.pk in self._posted

    async def _mail(self, events: list[PoolEvent]) -> Callable[[PoolEvent], bool]:
        if not self._emails:
            return lambda event: True
        new = [event for event in events if event.pk not in self._mailed]
        if new:
            try:
                await asyncio.to_thread(send, new, self._emails)
            except Exception as exc:  # whatever a mail server says: its words may hold a password
                log.warning("no e-mail can be sent: %s", type(exc).__name__)
            else:
                self._mailed.update(event.pk for event in new)
        return lambda event: event.pk in self._mailed

    def close(self) -> None:
        if self._fetcher is not None:
            self._fetcher.close()


def _untold() -> list[PoolEvent]:
    found = PoolEvent.objects.filter(is_news=True, told_at__isnull=True).select_related("account", "key")
    return list(found.order_by("at", "pk")[:AT_ONCE])


def _mark(ids: Iterable[int], now: datetime) -> None:
    with transaction_in_turn():
        PoolEvent.objects.filter(pk__in=ids).update(told_at=now)


def sentence(event: PoolEvent) -> str:
    """One line, in the language of the installation."""
    with translation.override(settings.LANGUAGE_CODE):
        words = SENTENCES.get(f"key {event.became}" if event.key_id else event.became)
        words = words or SENTENCES.get(event.became) or (KEY_SENTENCE if event.key_id else ACCOUNT_SENTENCE)
        said = gettext(words) % {
            "key": event.key.name if event.key else "",
            "account": event.account.name,
            "became": standings.name_of(event.became),
            "reason": reasons.told(event.reason.rstrip(".")),
        }
    return " ".join(said.split())


def _as_json(event: PoolEvent) -> dict[str, Any]:
    return {
        "at": event.at,
        "account": event.account.name,
        "key": event.key.name if event.key else None,
        "was": event.was,
        "became": event.became,
        "reason": event.reason,
        "until": event.until,
    }


def send(events: list[PoolEvent], to: list[str]) -> None:
    """One e-mail about all of these. Blocks."""
    from django.core.mail import send_mail  # loaded with the first one

    with translation.override(settings.LANGUAGE_CODE):
        subject = (
            sentence(events[0])
            if len(events) == 1
            else ngettext("%(n)d event of the Poe keys", "%(n)d events of the Poe keys", len(events))
            % {"n": len(events)}
        )
        lines = [
            f"{timezone.localtime(event.at):%Y-%m-%d %H:%M:%S %Z}  {sentence(event)}" for event in events
        ]
        page = settings.CONFIG.public_url + reverse("admin:relay_poeaccount_changelist")
        send_mail(f"poe-relay: {subject}", "\n".join([*lines, "", page, ""]), None, to)
