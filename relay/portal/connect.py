"""Connecting an app: its fields, links and QR codes. The browser fills in the token, which no request brings here."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.models import AccessToken, User
from accounts.views import address
from relay import reports
from relay.directory import matches
from relay.portal.apps import APPS, NEXTCHAT, App
from relay.portal.models import described, visible

# To choose from; any other model can be typed into the app.
MOST_MODELS = 300
RECENTLY = timedelta(days=30)


@never_cache
@login_required
@require_safe
def apps(request: HttpRequest) -> HttpResponse:
    user = cast(User, request.user)
    context = {
        "has_tokens": AccessToken.objects.shown_to(user).filter(enabled=True).exists(),
        "may_issue": user.may_issue_tokens,
        **offer(request, user, request.GET.get("app", "")),
    }
    return render(request, "portal/connect.html", context)


def offer(request: HttpRequest, user: User, chosen: str, token: AccessToken | None = None) -> dict[str, Any]:
    """What templates/portal/apps.html needs; for a token, with the models that it may use."""
    base = address(request)
    models, suggested = _models(user, token.allowed_models if token else [])
    return {
        "apps": [(app, _filled(app, base)) for app in APPS],
        "base": base,
        "chosen": chosen,
        "models": models,
        "suggested": suggested,
        "nextchat": NEXTCHAT,
        "is_plain_http": base.startswith("http://"),
    }


def _filled(app: App, base: str) -> list[tuple[Any, bool, list[tuple[str, str]]]]:
    return [(field.label, field.is_text, list(field.pieces(base))) for field in app.fields]


def _models(user: User, allowed: list[str]) -> tuple[list[str], str]:
    """Names to choose from, and the one to begin with: what this person asks most, else the first that answers in text."""
    found = described(visible(user)[:MOST_MODELS])
    found = [each for each in found if not allowed or matches(each.mapping.model, allowed)]
    names = [each.mapping.model for each in found]
    now = timezone.now()
    used = reports.by_model(reports.Scope(now - RECENTLY, now + timedelta(hours=1), user_id=user.pk))
    of_use = [share.name for share in used if share.name in names]
    texting = [each.mapping.model for each in found if each.bot and "text" in each.bot.output_modalities]
    return names, next(iter([*of_use, *texting, *names]), "")
