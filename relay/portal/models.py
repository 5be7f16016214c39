"""The models that one may ask for: what they cost and what they can do."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from django.contrib.auth.decorators import login_required
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.models import User
from relay.models import Bot, BotMapping

PRICES = (
    "points_per_request",
    "points_per_1000_input_tokens",
    "points_per_1000_output_tokens",
    "points_per_image",
)


@dataclass(frozen=True, slots=True)
class Model:
    mapping: BotMapping
    bot: Bot | None

    @property
    def prices(self) -> list[tuple[str, str]]:
        """By the names of the columns, those that are known."""
        found: list[tuple[str, Decimal | None]] = [(each, getattr(self.mapping, each)) for each in PRICES]
        return [
            (str(BotMapping._meta.get_field(name).verbose_name), f"{price.normalize():,f}")  # type: ignore[union-attr]
            for name, price in found
            if price is not None
        ]


@never_cache
@login_required
@require_safe
def usable(request: HttpRequest) -> HttpResponse:
    asked = asked_for(request, "q")
    found = visible(cast(User, request.user))
    if asked:
        found = found.filter(Q(model__icontains=asked) | Q(bot__icontains=asked))
    context = {"models": described(found), "asked": asked}
    return render(request, "portal/models.html", context)


def asked_for(request: HttpRequest, name: str) -> str:
    """What somebody looks for. A NUL is in no text that PostgreSQL holds or takes."""
    return request.GET.get(name, "").replace("\0", "").strip()[:200]


def visible(user: User) -> QuerySet[BotMapping]:
    """As `GET models` lists them to a token without a list of its own: see mappings.listed."""
    found = BotMapping.objects.filter(enabled=True, hidden=False).exclude(model__contains="*")
    return found.filter(Q(teams=None) | Q(teams=user.team_id)).distinct().order_by("model_key")


def described(mappings: QuerySet[BotMapping]) -> list[Model]:
    found = list(mappings.select_related("account"))
    handles = {mapping.bot.casefold() for mapping in found}
    bots = {
        (bot.handle_key, bot.api_url): bot
        for bot in Bot.objects.filter(handle_key__in=handles, gone_at=None).defer("parameters")
    }
    return [
        Model(each, bots.get((each.bot.casefold(), each.account.api_url if each.account else "")))
        for each in found
    ]
