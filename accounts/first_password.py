"""A first password for somebody who was made without one: a link, on paper perhaps, that works once and for some days.

Nothing is stored for it: the link is proved by what the person's row says, and any password that is set ends it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from accounts.models import User


class _Proofs(PasswordResetTokenGenerator):
    key_salt = "accounts.first_password"


class LinkOver(Exception):
    """A password was set meanwhile, or the person was shut out."""


def link_for(user: User) -> str:
    """Where this person sets it, on this site: show it once. Empty: nobody sets theirs in this way."""
    if not _is_wanted_by(user):
        return ""
    return reverse("first-password-link", args=[user.pk, _Proofs().make_token(user)])


def works_until() -> datetime:
    """A link that is made now."""
    return timezone.now() + timedelta(seconds=settings.PASSWORD_RESET_TIMEOUT)


def find(pk: int, proof: str) -> User | None:
    """Whom this link was made for, if it still works."""
    user = User.objects.filter(pk=pk).first()
    if user is None or not _is_wanted_by(user) or not _Proofs().check_token(user, proof):
        return None
    return user


def _is_wanted_by(user: User) -> bool:
    """By nobody who has a password. Nor by an administrator, not even a new one: no sheet of paper opens the panel."""
    return user.is_active and not user.has_usable_password() and not user.is_administrator


def choose(user: User, password: str) -> None:
    """Only over what this person's row said when it was looked at: the same form sent twice sets one."""
    before = user.password
    # It takes a tenth of a second, in which nobody else could write.
    user.set_password(password)
    with transaction.atomic():
        now = User.objects.select_for_update().filter(pk=user.pk, password=before).first()
        if now is None or not _is_wanted_by(now):
            raise LinkOver
        user.save(update_fields=["password"])
