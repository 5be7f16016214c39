"""Tokens of the playground: each is a signed-in browser's, for an hour at most, and held by nobody.

None is stored: it is made again of the session's key and the half hour, so that all pages of a session have the same
one. An ended one's row is taken again for the next session, so that a person's use stays under one name.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts import tokens
from proxy_site.keys import derived

NAME = "Playground"
WINDOW_SECONDS = 30 * 60


class Playground(models.Model):
    """Of a token: whose session it goes with, and which other token it stands for."""

    token = models.OneToOneField(
        "accounts.AccessToken", models.CASCADE, primary_key=True, related_name="playground"
    )
    session = models.CharField(max_length=64, editable=False)
    # All that holds for that one holds, and counts there. No foreign key: with that one gone this one is refused.
    stands_for = models.BigIntegerField(null=True, editable=False)

    class Meta:
        verbose_name = _("playground")
        verbose_name_plural = _("playgrounds")
        ordering: ClassVar = ["pk"]
        indexes: ClassVar = [models.Index(fields=["session"], name="accounts_playground_session")]

    def __str__(self) -> str:
        return f"{self.token_id}"


def session_digest(session_key: str) -> str:
    return tokens.digest(session_key, derived("playground sessions"))


def current_token(session_key: str) -> tuple[str, datetime]:
    """This session's token of now, and its end: that of the next half hour."""
    window = int(time.time()) // WINDOW_SECONDS
    plain = tokens.make_again(f"{session_key} {window}", derived("playground tokens"))
    return plain, datetime.fromtimestamp((window + 2) * WINDOW_SECONDS, UTC)
