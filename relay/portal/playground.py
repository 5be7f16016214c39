"""Trying a model in the browser: the page asks the public API, with a token that goes with the session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from accounts.models import AccessToken, User
from relay.directory import matches
from relay.models import UsageRecord
from relay.portal.models import Model, described, visible
from relay.portal.playground_words import words

LOOK_BACK = timedelta(hours=2)


@never_cache
@login_required
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    user = cast(User, request.user)
    try:
        stands_for = user.playground_stands_for()
    except PermissionDenied:
        return render(request, "portal/playground.html", {"is_refused": True})
    context = {
        "choices": _choices(user, stands_for),
        "chosen": request.GET.get("model", ""),
        "stands_for": stands_for,
        "words": words(),
    }
    return render(request, "portal/playground.html", context)


@sensitive_variables("plain")
@never_cache
@login_required
@require_POST
def token(request: HttpRequest) -> HttpResponse:
    """All pages of a session are told the same one; how long it is good is told in seconds: clocks differ."""
    session = request.session
    try:
        opened, plain = AccessToken.objects.open_playground(
            cast(User, request.user), str(session.session_key), session.get_expiry_date()
        )
    except PermissionDenied:
        return JsonResponse({"error": _("The playground is not for you to use at the moment.")}, status=403)
    assert opened.expires_at is not None
    return JsonResponse({"token": plain, "seconds": (opened.expires_at - timezone.now()).total_seconds()})


@never_cache
@login_required
@require_safe
def answer(request: HttpRequest, request_id: str) -> HttpResponse:
    """What an answer of one's own took, once that is known."""
    found = UsageRecord.objects.filter(
        user_id=cast(User, request.user).pk, started_at__gte=timezone.now() - LOOK_BACK, request_id=request_id
    ).first()
    if found is None:
        raise Http404
    return JsonResponse({} if found.outcome == UsageRecord.Outcome.OPEN else _told(found))


def _told(record: UsageRecord) -> dict[str, Any]:
    return {
        "points": record.points,
        "is_own": record.accounting == UsageRecord.Accounting.OWN,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "first_byte_ms": record.first_byte_ms,
        "total_ms": record.total_ms,
    }


@dataclass(frozen=True, slots=True)
class Choice:
    """A model in the list, and what is said of the chosen one."""

    name: str
    about: str
    takes_pictures: bool


def _choices(user: User, stands_for: AccessToken | None) -> list[Choice]:
    allowed = stands_for.allowed_models if stands_for else []
    return [
        _choice(each)
        for each in described(visible(user))
        if not allowed or matches(each.mapping.model, allowed)
    ]


def _choice(model: Model) -> Choice:
    prices = " · ".join(f"{label}: {price}" for label, price in model.prices)
    takes = list(model.bot.input_modalities) if model.bot else []
    # Of a bot that the catalogue does not know it may well be.
    return Choice(
        model.mapping.model, prices or _("Nobody has said what it costs."), not takes or "image" in takes
    )
