"""The second factor of a sign-in: a code from an app, changing each half minute, or one of ten codes that work once.

The secret is encrypted; of recovery codes there are digests. Knows nothing of requests and sessions: see signing_in.
"""

from __future__ import annotations

import base64
import hmac
import logging
import secrets
from typing import Any, ClassVar

import pyotp
from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import guessing, tokens
from proxy_site.keys import derived

log = logging.getLogger(__name__)

STEP = 30
RECOVERY_CODES = 10
# Without what looks alike.
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


class SecondFactor(models.Model):
    """Of a user; it is asked for from the moment at which its first code was right."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="second_factor"
    )
    sealed_secret = models.TextField(editable=False)
    confirmed_at = models.DateTimeField(_("in use since"), null=True)
    recovery_digests = models.JSONField(default=list, editable=False)
    # A code is good once: none of this half minute or an earlier one.
    last_step = models.BigIntegerField(default=0, editable=False)

    class Meta:
        verbose_name = _("second factor")
        verbose_name_plural = _("second factors")
        ordering: ClassVar = ["pk"]

    def __str__(self) -> str:
        return f"{self.user_id}"

    @property
    def secret(self) -> str:
        return _box().decrypt(self.sealed_secret.encode()).decode()

    @property
    def address(self) -> str:
        """What an app reads from a QR code."""
        return pyotp.TOTP(self.secret).provisioning_uri(name=str(self.user), issuer_name="poe-relay")

    @property
    def mark(self) -> str:
        """What a session holds in which it was asked for."""
        return self.confirmed_at.isoformat() if self.confirmed_at else ""

    def _takes(self, code: str) -> bool:
        """Whether it is right and new. Then it is used up."""
        said = "".join(code.split()).replace("-", "").casefold()
        if len(said) == 6 and said.isascii() and said.isdecimal():
            return self._takes_from_app(said)
        digest = _recovery_digest(said)
        if digest not in self.recovery_digests:
            return False
        self.recovery_digests.remove(digest)
        return True

    def _takes_from_app(self, code: str) -> bool:
        """Clocks differ: a code of the half minute before or after is right too."""
        try:
            made = pyotp.TOTP(self.secret)
        except InvalidToken:
            log.error("the second factor of %s was stored with another encryption key", self.user)
            return False
        now = int(timezone.now().timestamp()) // STEP
        for step in (now - 1, now, now + 1):
            if step > self.last_step and hmac.compare_digest(made.generate_otp(step), code):
                self.last_step = step
                return True
        return False

    def _new_recovery_codes(self) -> list[str]:
        codes = [_recovery_code() for _number in range(RECOVERY_CODES)]
        self.recovery_digests = [_recovery_digest(code.replace("-", "")) for code in codes]
        return codes


def of(user: Any) -> SecondFactor | None:
    """The one that a sign-in asks for."""
    return SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).first()


def is_demanded_of(user: Any) -> bool:
    """Whether the configuration says that this person must have one."""
    match settings.CONFIG.accounts.second_factor:
        case "everybody":
            return True
        case "administrators":
            return bool(user.is_staff or user.is_superuser)
    return False


def begin(user: Any) -> SecondFactor:
    """One that waits for its first code; the one in use, if there is one."""
    sealed = _box().encrypt(pyotp.random_base32().encode()).decode()
    return SecondFactor.objects.get_or_create(user=user, defaults={"sealed_secret": sealed})[0]


def check(user: Any, code: str) -> None:
    """Raises ValidationError, unless the code is right, now, for the first time."""
    _use(user, code)


def confirm(user: Any, code: str) -> list[str]:
    """Take it into use with a code of the app. The recovery codes: show them once. Or ValidationError."""
    return _use(user, code, renew=True)


def _use(user: Any, code: str, *, renew: bool = False) -> list[str]:
    with guessing.counted({guessing.at_codes(user.pk): guessing.OF_CODES}), transaction.atomic():
        factor = SecondFactor.objects.select_for_update().filter(user=user).first()
        if factor is None or not factor._takes(code):
            raise ValidationError(_("This code is not right, or it was used before."), code="wrong")
        codes = factor._new_recovery_codes() if renew else []
        if renew and factor.confirmed_at is None:
            factor.confirmed_at = timezone.now()
        factor.save()
    return codes


def remove(user: Any, by: str) -> bool:
    """Whether there was one. Its owner is asked for a password alone from now on."""
    was_there = SecondFactor.objects.filter(user=user).delete()[0] > 0
    if was_there:
        log.warning("the second factor of %s is removed by %s", user, by)
    return was_there


def _box() -> Fernet:
    return Fernet(base64.urlsafe_b64encode(derived("second factors")))


def _recovery_digest(code: str) -> str:
    return tokens.digest(code, derived("recovery codes"))


def _recovery_code() -> str:
    return "-".join("".join(secrets.choice(ALPHABET) for _letter in range(5)) for _part in range(2))
