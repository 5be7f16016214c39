"""One's own tokens: issued within one's own limits, rotated, revoked. A new one is shown once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts.models import AccessToken, User
from relay.portal import connect
from relay.portal.token_forms import LIMITS, TokenForm


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def own(request: HttpRequest) -> HttpResponse:
    user = cast(User, request.user)
    form = TokenForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        made = issued(form, lambda chosen: AccessToken.objects.issue_to_self(user, **chosen))
        if made is not None:
            return show_once(request, *made)
    context = {
        "access_tokens": AccessToken.objects.shown_to(user),
        "form": form,
        "limits": [form[name] for name in LIMITS],
        "may_issue": user.may_issue_tokens,
        "hours": f"{settings.CONFIG.relay.token_overlap_hours:g}",
    }
    return render(request, "portal/tokens.html", context)


@never_cache
@login_required
@require_POST
def rotate(request: HttpRequest, pk: int) -> HttpResponse:
    user = cast(User, request.user)
    token = get_object_or_404(AccessToken.objects.shown_to(user), pk=pk)
    overlap = timedelta(hours=settings.CONFIG.relay.token_overlap_hours)
    try:
        successor, plain = token.rotate_by(user, overlap)
    except PermissionDenied:
        messages.error(request, _("A token that does not work any more cannot be rotated."))
        return redirect("me:tokens")
    return show_once(request, successor, plain)


@never_cache
@login_required
@require_POST
def revoke(request: HttpRequest, pk: int) -> HttpResponse:
    user = cast(User, request.user)
    token = get_object_or_404(AccessToken.objects.shown_to(user), pk=pk)
    token.revoke(user)
    messages.success(request, _("“%(name)s” is revoked.") % {"name": token.name})
    return redirect("me:tokens")


def show_once(request: HttpRequest, token: AccessToken, plain: str) -> HttpResponse:
    """With what connects an app: the one that it was made for lies open."""
    offered = connect.offer(request, token.owner, request.POST.get("app", ""), token)
    is_own = token.owner_id == request.user.pk
    back = reverse("me:tokens") if is_own else reverse("team:member", args=[token.owner_id])
    context = {"token": token, "plain": plain, "back": back, **offered}
    return render(request, "portal/issued.html", context)


def issued(
    form: TokenForm, by: Callable[[dict[str, Any]], tuple[AccessToken, str]]
) -> tuple[AccessToken, str] | None:
    """None: the form says why not."""
    try:
        return by(form.chosen)
    except ValidationError as exc:
        form.add_error(None, exc)
    except PermissionDenied:
        form.add_error(None, _("You may not issue another token. Ask your manager or administrator."))
    return None
