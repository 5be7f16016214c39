"""The first page of whoever is signed in: what to do first, else what was used, what is left and what came last."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone

from accounts.models import AccessToken, TokenActivity, User
from relay.models import UsageRecord
from relay.portal.usage import Budget, budgets, team_budgets

# Of the newest.
TOKENS, REQUESTS = 5, 5


@dataclass(frozen=True, slots=True)
class Overview:
    tokens: list[AccessToken]
    has_usable_token: bool
    may_issue: bool
    was_used: bool
    budgets: list[Budget]
    team_budgets: list[Budget]
    requests: list[UsageRecord]

    @property
    def needs_token(self) -> bool:
        return not self.has_usable_token

    @property
    def needs_app(self) -> bool:
        return self.has_usable_token and not self.was_used


def of(user: User) -> Overview:
    own = AccessToken.objects.shown_to(user)
    return Overview(
        tokens=list(own[:TOKENS]),
        has_usable_token=own.filter(enabled=True).exclude(expires_at__lte=timezone.now()).exists(),
        may_issue=user.may_issue_tokens,
        was_used=TokenActivity.objects.filter(token__owner=user).exists(),
        budgets=budgets(f"user:{user.pk}", user, user.team),
        team_budgets=team_budgets(user.team),
        requests=list(UsageRecord.objects.filter(user_id=user.pk).order_by("-started_at", "-id")[:REQUESTS]),
    )
