"""Who you are: teams, their users, and the access tokens that clients send. Never imports relay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar
from zoneinfo import available_timezones

from django.conf import settings
from django.contrib.auth.models import AbstractUser, UserManager
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.db.models import ExpressionWrapper, F, QuerySet
from django.db.models.functions import Greatest
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.translation import gettext_lazy as _

from accounts import playground, tokens
from accounts.guessing import Guesses
from accounts.invitations import Invitation
from accounts.limits import Limits, validate_networks, validate_patterns
from accounts.playground import Playground
from accounts.preferences import Preferences
from accounts.presets import Conditions, LimitPreset
from accounts.second_factor import SecondFactor
from accounts.self_service import SelfService
from proxy_site.keys import derived

__all__ = [
    "AccessToken",
    "Guesses",
    "Invitation",
    "LimitPreset",
    "Limits",
    "Playground",
    "Preferences",
    "SecondFactor",
    "SelfService",
    "Team",
    "TokenActivity",
    "User",
    "validate_networks",
    "validate_patterns",
]
# Of a token that nobody gave a name.
FIRST_NAME = "default"
NAME_TAKEN = _(
    "This person has a working token of this name already. If you have just sent this form twice: the first time it "
    "was shown, and rotating it shows a new one."
)

# Without what looks alike on paper.
PAPER_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
# A person with more tokens that still work has lost count of them.
MOST_OWN_TOKENS = 50


def token_digest(token: str) -> str:
    return tokens.digest(token, derived("access tokens"))


def validate_time_zone(value: str) -> None:
    if value not in available_timezones():
        raise ValidationError(
            _("Not a time zone: %(value)s. An example is Asia/Shanghai."), params={"value": value}
        )


class TeamManager(models.Manager["Team"]):
    def default(self) -> Team:
        """The team of whoever was given no other: the oldest one, made if there is none."""
        return self.order_by("pk").first() or self.get_or_create(name="Default")[0]


class Team(Limits):
    """The tenant: people who share a budget, a set of models and, if wanted, Poe keys of their own."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    time_zone = models.CharField(
        _("time zone"),
        max_length=50,
        default=settings.TIME_ZONE,
        validators=[validate_time_zone],
        help_text=_("Days and months of its budgets begin at midnight here."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    objects = TeamManager()

    class Meta:
        verbose_name = _("team")
        verbose_name_plural = _("teams")
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


class PersonManager(UserManager["User"]):
    def _create_user_object(
        self, username: str, email: str | None, password: str | None, **extra: Any
    ) -> User:
        if "team" not in extra and "team_id" not in extra:
            extra["team"] = Team.objects.default()
        user: User = super()._create_user_object(username, email, password, **extra)  # type: ignore[misc]
        return user

    def add_member(self, by: User, username: str, **limits: int | None) -> tuple[User, str]:
        """Somebody new in this manager's team, and a password to sign in with for the first time: show it once."""
        password = get_random_string(12, PAPER_LETTERS)
        with transaction.atomic():
            manager = self.select_for_update().select_related("team").get(pk=by.pk)
            if not (manager.is_active and manager.is_manager):
                raise PermissionDenied
            member = User(username=username, team=manager.team, **limits)
            member.set_password(password)
            member.full_clean()
            member.check_within(manager.team)
            member.save(force_insert=True)
        return member, password

    def join(self, invitation: Invitation, username: str, password: str) -> tuple[User, AccessToken, str]:
        """A new member of the team, and the first token, which is shown once. Raises InvitationOver, and IntegrityError
        if somebody has just taken the name."""
        person = User(username=self.model.normalize_username(username), team=invitation.team)
        # It takes a tenth of a second, in which nobody else could write.
        person.set_password(password)
        with transaction.atomic():
            invitation.take()
            person.save(force_insert=True)
            token, plain = AccessToken.objects.issue(person, FIRST_NAME, **invitation.for_a_token())
        return person, token, plain


class User(AbstractUser, Limits):
    """A person, in exactly one team."""

    class Role(models.TextChoices):
        MEMBER = "member", _("member")
        MANAGER = "manager", _("manager")

    team = models.ForeignKey(Team, models.PROTECT, verbose_name=_("team"), related_name="users")
    role = models.CharField(
        _("role"),
        max_length=10,
        choices=Role,
        default=Role.MEMBER,
        help_text=_("A manager looks after the own team; an administrator is a superuser."),
    )

    # Empty: by an administrator. Then no manager lets them in again.
    disabled_by = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )

    objects: ClassVar[PersonManager] = PersonManager()

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")
        ordering: ClassVar = ["username"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(role__in=["member", "manager"]), name="accounts_user_role_known"
            )
        ]

    def __str__(self) -> str:
        return self.username

    @property
    def is_manager(self) -> bool:
        return self.role == self.Role.MANAGER or self.is_superuser

    def may_invite_into(self, team: Team) -> bool:
        return self.is_superuser or (self.role == self.Role.MANAGER and self.team_id == team.pk)

    @property
    def is_administrator(self) -> bool:
        return self.is_staff or self.is_superuser

    def may_manage(self, other: User) -> bool:
        """Whom a manager looks after: the own team's members and other managers. Not oneself, and no administrator."""
        is_of_team = other.team_id == self.team_id and other.pk != self.pk
        return self.is_active and self.is_manager and is_of_team and not other.is_administrator

    @contextmanager
    def managing(self, other: User) -> Iterator[User]:
        """Them as they are now, for as long as it takes; or PermissionDenied, also if the right was taken away just now."""
        with transaction.atomic():
            both = User.objects.select_for_update(of=("self",)).select_related("team").order_by("pk")
            found = both.in_bulk([self.pk, other.pk])
            if len(found) < 2 or not found[self.pk].may_manage(found[other.pk]):
                raise PermissionDenied
            yield found[other.pk]

    def disable(self, by: User) -> None:
        """No sign-in and no token works, from the next request on."""
        with by.managing(self) as member:
            if member.is_active:
                member.is_active, member.disabled_by = False, by
                member.save(update_fields=["is_active", "disabled_by"])

    def enable(self, by: User) -> None:
        """Whom a manager disabled. Whom an administrator did is an administrator's to let in."""
        with by.managing(self) as member:
            if not member.is_active and member.disabled_by_id is None:
                raise PermissionDenied
            member.is_active, member.disabled_by = True, None
            member.save(update_fields=["is_active", "disabled_by"])

    def appoint(self, role: Role, by: User) -> None:
        with by.managing(self) as member:
            member.role = role
            member.save(update_fields=["role"])

    def limit(self, by: User, **limits: int | None) -> None:
        """Within the team's: raises ValidationError."""
        with by.managing(self) as member:
            for name, limit in limits.items():
                setattr(member, name, limit)
            member.check_within(member.team)
            member.save(update_fields=list(limits))

    @property
    def may_issue_tokens(self) -> bool:
        """Not if a token that others gave holds them by conditions of its own, or was taken away."""
        if self.is_manager:
            return True
        return not any(token.binds_its_owner for token in self._held())

    def playground_stands_for(self) -> AccessToken | None:
        """What the playground of somebody who may not issue tokens asks with, or PermissionDenied; None: nothing binds."""
        if self.may_issue_tokens:
            return None
        for token in self._held():
            if token.binds_its_owner and token.is_usable:
                return token
        raise PermissionDenied

    def _held(self) -> QuerySet[AccessToken]:
        return AccessToken.objects.held().filter(owner=self).select_related("self_service")

    def save(self, *args: Any, **kwargs: Any) -> None:
        is_new, changed = self._state.adding, kwargs.get("update_fields")
        super().save(*args, **kwargs)
        if not is_new and (changed is None or "password" in changed):
            # Perhaps another password, which ends all sessions. Ended without need, an open page gets another one.
            AccessToken.objects.close_playground(owner=self)


class AccessTokenQuerySet(QuerySet["AccessToken"]):
    """What may be done to many at once. Each verb says how many it changed, and counts from their next request on."""

    def disable(self, reason: str) -> int:
        """The reason is told to whoever holds one."""
        return self.filter(enabled=True).update(enabled=False, disabled_reason=reason)

    def extend(self, days: int) -> int:
        """Beyond their end, or from now if that is over. Those without an end keep none."""
        ending = self.filter(expires_at__isnull=False)
        latest = Greatest(F("expires_at"), timezone.now(), output_field=models.DateTimeField())
        return ending.update(
            expires_at=ExpressionWrapper(latest + timedelta(days=days), output_field=models.DateTimeField())
        )

    def end_at(self, moment: datetime) -> int:
        return self.update(expires_at=moment)

    def bind(self, conditions: Conditions) -> int:
        """To exactly these. Where they name no days, each keeps the end that it has."""
        given = conditions.for_a_token()
        if given["expires_at"] is None:
            del given["expires_at"]
        return self.update(**given)


TokensManager = models.Manager.from_queryset(AccessTokenQuerySet)


class AccessTokenManager(TokensManager["AccessToken"]):
    def shown_to(self, owner: User) -> QuerySet[AccessToken]:
        """The owner's own."""
        return self.held().filter(owner=owner).select_related("activity", "self_service", "owner__team")

    def held(self) -> QuerySet[AccessToken]:
        """Those that somebody has in an app: all but the playground's."""
        return self.filter(playground=None)

    def issue_to_self(self, owner: User, name: str, **fields: Any) -> tuple[AccessToken, str]:
        """What a person may do without asking anybody: see User.may_issue_tokens."""
        usable = self.shown_to(owner).filter(enabled=True)
        if not owner.may_issue_tokens or usable.count() >= MOST_OWN_TOKENS:
            raise PermissionDenied
        AccessToken(owner=owner, **fields).check_within(owner, owner.team)
        with transaction.atomic():
            token, plain = self.issue(owner, name, **fields)
            SelfService.objects.create(token=token, made=SelfService.Made.PORTAL)
        return token, plain

    def issue_once(self, owner: User, name: str, **fields: Any) -> tuple[AccessToken, str]:
        """As issue() does, unless this person has one of that name which works: a form that is sent twice makes one."""
        with transaction.atomic():
            User.objects.select_for_update().get(pk=owner.pk)
            if any(token.is_usable for token in self.filter(owner=owner, name=name)):
                raise ValidationError({"name": NAME_TAKEN})
            return self.issue(owner, name, **fields)

    def issue_to_member(self, by: User, owner: User, name: str, **fields: Any) -> tuple[AccessToken, str]:
        """By a manager, within the limits of the member and the team. Its conditions bind the member."""
        with by.managing(owner) as member:
            AccessToken(owner=member, **fields).check_within(member, member.team)
            return self.issue_once(member, name, **fields)

    def issue(self, owner: User, name: str, **fields: Any) -> tuple[AccessToken, str]:
        """Make a token for this person. The second value is the token itself: show it once, store it nowhere."""
        plain = tokens.make()
        return self.adopt(plain, owner, name, **fields), plain

    def adopt(self, plain: str, owner: User, name: str, **fields: Any) -> AccessToken:
        """Store a token that exists already, as one of this person's."""
        token = AccessToken(
            owner=owner, name=name, digest=token_digest(plain), prefix=tokens.shown_prefix(plain), **fields
        )
        token.save(force_insert=True)
        return token

    def open_playground(self, owner: User, session_key: str, until: datetime) -> tuple[AccessToken, str]:
        """The session's token for the playground, good for half an hour or more, but not longer than the session."""
        session = playground.session_digest(session_key)
        plain, end = playground.current_token(session_key)
        with transaction.atomic():
            # Both locked: whoever ends them at this moment ends this token too.
            user = User.objects.select_for_update().get(pk=owner.pk)
            if user.password != owner.password or not Session.objects.select_for_update().filter(
                pk=session_key
            ):
                raise PermissionDenied
            stands_for = user.playground_stands_for()
            token = self._playground(user, session)
            token.digest, token.prefix = token_digest(plain), tokens.shown_prefix(plain)
            token.expires_at = min(end, until)
            token.save()
            row = {"session": session, "stands_for": stands_for.pk if stands_for else None}
            Playground.objects.update_or_create(token=token, defaults=row)
        return token, plain

    def _playground(self, owner: User, session: str) -> AccessToken:
        """The session's, or one whose session is over, or a new one."""
        own = self.filter(owner=owner, playground__isnull=False)
        return (
            own.filter(playground__session=session).first()
            or own.filter(expires_at__lte=timezone.now()).first()
            or AccessToken(owner=owner, name=playground.NAME)
        )

    def close_playground(self, **whose: Any) -> None:
        """It is refused from the next request on."""
        now = timezone.now()
        self.filter(playground__isnull=False, expires_at__gt=now, **whose).update(expires_at=now)


class AccessToken(Limits):
    """What a client sends to say who is asking. The token itself is stored nowhere."""

    owner = models.ForeignKey(User, models.CASCADE, verbose_name=_("owner"), related_name="access_tokens")
    name = models.CharField(
        _("name"), max_length=100, help_text=_("Where it is used, such as “Chatbox on my phone”.")
    )
    digest = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(_("begins with"), max_length=20, editable=False)
    enabled = models.BooleanField(_("enabled"), default=True)
    disabled_reason = models.CharField(
        _("reason"), max_length=200, blank=True, help_text=_("Why it is disabled; told to whoever holds it.")
    )
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    allowed_models = models.JSONField(
        _("allowed models"),
        default=list,
        blank=True,
        validators=[validate_patterns],
        help_text=_('Empty: all that the team may see. Else names and wildcards: ["gpt-4o", "claude-*"].'),
    )
    allowed_networks = models.JSONField(
        _("allowed networks"),
        default=list,
        blank=True,
        validators=[validate_networks],
        help_text=_('Empty: from anywhere. Else addresses and networks: ["192.168.1.0/24"].'),
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    replaced_by = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, editable=False, related_name="replaces"
    )

    objects = AccessTokenManager()

    class Meta:
        verbose_name = _("access token")
        verbose_name_plural = _("access tokens")
        ordering: ClassVar = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def clean(self) -> None:
        # A field that was cleared in a form.
        self.allowed_models = self.allowed_models or []
        self.allowed_networks = self.allowed_networks or []

    @property
    def team(self) -> Team:
        return self.owner.team

    @property
    def is_usable(self) -> bool:
        return self.enabled and not self.is_expired()

    @property
    def binds_its_owner(self) -> bool:
        """Whether somebody meant by it that its owner may do no more than this."""
        own: SelfService | None = getattr(self, "self_service", None)
        if not self.enabled and (own is None or own.revoked_at is None):
            return True
        if own is not None and own.made:
            return False
        ends = self.expires_at is not None and self.replaced_by_id is None
        return self.has_limits or bool(self.allowed_models or self.allowed_networks) or ends

    def revoke(self, by: User, reason: str = "") -> None:
        """By its owner, or by a manager with a reason, which its holder is told. It is refused from the next request on."""
        if by.pk == self.owner_id:
            with transaction.atomic():
                if self._disable("revoked by its owner"):
                    SelfService.objects.update_or_create(token=self, defaults={"revoked_at": timezone.now()})
            return
        with by.managing(self.owner):
            self._disable(reason or "revoked by a manager")

    def _disable(self, reason: str) -> bool:
        """False: it was disabled already, for a reason of its own."""
        found = AccessToken.objects.filter(pk=self.pk, enabled=True)
        return bool(found.update(enabled=False, disabled_reason=reason))

    def limit(self, by: User, **limits: int | None) -> None:
        """By a manager, within those of its owner and the team. From now on they bind its owner, whoever made it."""
        with by.managing(self.owner) as owner:
            for name, limit in limits.items():
                setattr(self, name, limit)
            self.check_within(owner, owner.team)
            self.save(update_fields=list(limits))
            SelfService.objects.filter(token=self).update(made=SelfService.Made.FOR_THEM)

    def rotate_by(self, by: User, overlap: timedelta) -> tuple[AccessToken, str]:
        """By its owner or by a manager."""
        if not self.is_usable:
            raise PermissionDenied
        if by.pk == self.owner_id:
            return self.rotate(overlap)
        with by.managing(self.owner):
            return self.rotate(overlap)

    def is_expired(self, now: datetime | None = None) -> bool:
        return self.expires_at is not None and self.expires_at <= (now or timezone.now())

    def clone(self, name: str, owner: User | None = None) -> tuple[AccessToken, str]:
        """Another one with the same rights and the same end, for the same person or somebody else."""
        if not self.is_usable:
            raise ValidationError(_("A token that does not work any more cannot be copied."))
        rights = {each: getattr(self, each) for each in self.rights()}
        return AccessToken.objects.issue_once(owner or self.owner, name, expires_at=self.given_end, **rights)

    @classmethod
    def rights(cls) -> list[str]:
        return [*cls.names(), "allowed_models", "allowed_networks"]

    @property
    def given_end(self) -> datetime | None:
        """Of a token that was rotated its own end is that of the overlap; its newest successor has the one it was given."""
        newest = self
        while newest.replaced_by:
            newest = newest.replaced_by
        return newest.expires_at

    def rotate(self, overlap: timedelta) -> tuple[AccessToken, str]:
        """Issue a successor with the same rights and the same end. This one goes on for `overlap`, then expires."""
        if hasattr(self, "playground"):
            raise PermissionDenied
        copied = [*self.rights(), "enabled", "disabled_reason"]
        with transaction.atomic():
            old = AccessToken.objects.select_for_update().get(pk=self.pk)
            successor, plain = AccessToken.objects.issue(
                old.owner, old.name, expires_at=old.given_end, **{name: getattr(old, name) for name in copied}
            )
            end = timezone.now() + overlap
            old.expires_at = min(old.expires_at, end) if old.expires_at else end
            old.replaced_by = successor
            old.save(update_fields=["expires_at", "replaced_by"])
            for own in SelfService.objects.filter(token=old):
                SelfService.objects.create(token=successor, made=own.made)
        self.refresh_from_db()
        return successor, plain


class TokenActivity(models.Model):
    """When a token was last used. Apart from AccessToken, since what traffic changes must not reload the directory."""

    token = models.OneToOneField(AccessToken, models.CASCADE, primary_key=True, related_name="activity")
    last_used_at = models.DateTimeField(_("last used"))

    class Meta:
        verbose_name = _("token activity")
        verbose_name_plural = _("token activity")

    def __str__(self) -> str:
        return f"{self.token_id}: {self.last_used_at:%Y-%m-%d %H:%M}"
