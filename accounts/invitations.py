"""Invitations: a link that lets somebody new into a team, under conditions, so many times and until a moment."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import tokens
from accounts.presets import Conditions
from proxy_site.keys import derived

if TYPE_CHECKING:
    from accounts.models import Team, User

MOST_USES = 1000
SHOWN_LENGTH = 4
LINK_LIVES = timedelta(days=7)


def invitation_digest(secret: str) -> str:
    return tokens.digest(secret, derived("invitations"))


def next_week() -> Any:
    return timezone.now() + LINK_LIVES


class InvitationOver(Exception):
    """Used up, expired or revoked, or its team is disabled."""


# Invitation.is_stood_by, for a query.
STOOD_BY = Q(made_by__is_active=True) & (
    Q(made_by__is_superuser=True) | Q(made_by__role="manager", made_by__team=F("team"))
)


class InvitationManager(models.Manager["Invitation"]):
    def make(self, by: User, team: Team, **fields: Any) -> tuple[Invitation, str]:
        """By an administrator, or by a manager into the own team. The second value goes into the link: show it once."""
        if not by.may_invite_into(team):
            raise PermissionDenied
        invitation = Invitation(team=team, made_by=by, **fields)
        if not by.is_superuser:
            invitation.check_within(team)
        secret = invitation.seal()
        invitation.save(force_insert=True)
        return invitation, secret

    def shown_to(self, by: User) -> QuerySet[Invitation]:
        found = self.select_related("team", "made_by")
        if by.is_superuser:
            return found
        return found.filter(team=by.team_id) if by.is_manager else found.none()

    def find(self, secret: str) -> Invitation | None:
        """The one that this link was made for, if it still lets somebody in."""
        found = self.select_related("team", "made_by").filter(digest=invitation_digest(secret)).first()
        return found if found is not None and found.is_open else None


class Invitation(Conditions):
    """Whoever opens its link chooses a name and a password, and is shown a token of their own, once."""

    team = models.ForeignKey(
        "accounts.Team", models.CASCADE, verbose_name=_("team"), related_name="invitations"
    )
    note = models.CharField(
        _("note"), max_length=100, blank=True, help_text=_("For whom it is. Only shown here.")
    )
    digest = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(_("begins with"), max_length=SHOWN_LENGTH, editable=False)
    uses = models.PositiveIntegerField(
        _("people"),
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_USES)],
        help_text=_("How many may join with this link."),
    )
    used = models.PositiveIntegerField(_("joined"), default=0, editable=False)
    expires_at = models.DateTimeField(
        _("link works until"), default=next_week, help_text=_("Who has joined by then stays.")
    )
    revoked_at = models.DateTimeField(_("taken back"), null=True, editable=False)
    made_by = models.ForeignKey(
        "accounts.User",
        models.SET_NULL,
        null=True,
        editable=False,
        verbose_name=_("made by"),
        related_name="invitations",
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    objects = InvitationManager()

    class Meta:
        verbose_name = _("invitation")
        verbose_name_plural = _("invitations")
        ordering: ClassVar = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return self.note or f"{self.prefix}…"

    def seal(self) -> str:
        """The secret of the link, of which only a digest is kept."""
        secret = secrets.token_urlsafe(24)
        self.digest, self.prefix = invitation_digest(secret), secret[:SHOWN_LENGTH]
        return secret

    @property
    def is_stood_by(self) -> bool:
        """Nobody comes back by a link of their own after being shut out, or lets others in where they have no say now."""
        maker = self.made_by
        return maker is not None and maker.is_active and maker.may_invite_into(self.team)

    @property
    def state(self) -> str:
        if self.revoked_at is not None or not self.is_stood_by:
            return "revoked"
        if self.used >= self.uses:
            return "used"
        return "expired" if self.expires_at <= timezone.now() else "open"

    @property
    def is_open(self) -> bool:
        return self.state == "open" and self.team.enabled

    def take(self) -> None:
        """One of its uses. However many come at once, the last one is taken once."""
        # No other table in it: PostgreSQL looks at this row again when it has waited for it, and at no subquery.
        usable = Invitation.objects.filter(
            pk=self.pk, used__lt=F("uses"), revoked_at=None, expires_at__gt=timezone.now()
        )
        if not (self.team.enabled and self.is_stood_by) or not usable.update(used=F("used") + 1):
            raise InvitationOver

    def revoke(self, by: User) -> None:
        """Nobody joins with it any more. Who has joined stays."""
        if not by.may_invite_into(self.team):
            raise PermissionDenied
        if self.revoked_at is None:
            self.revoked_at = timezone.now()
            self.save(update_fields=["revoked_at"])
