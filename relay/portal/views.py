"""A Poe key of one's own: a user's at /me/poe-key/, a team's at /team/poe-key/ for those who manage it."""

from __future__ import annotations

from typing import Literal, cast

from asgiref.sync import async_to_sync
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from accounts.models import User
from relay import balances, reasons, standings
from relay.errors import RelayError
from relay.models import PoeAccount, PoeKey
from relay.portal import own_keys
from relay.portal.forms import OwnKeyForm

Whose = Literal["me", "team"]


@sensitive_post_parameters("secret")
@sensitive_variables("form")
@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def own_key(request: HttpRequest, whose: Whose) -> HttpResponse:
    owner = _owner(request, whose)
    account = own_keys.account_of(owner)
    key = own_keys.key_of(account)
    if not _may_change(request, whose):
        if request.method == "POST":
            raise Http404
        return render(request, "portal/own_key.html", {"whose": whose, "is_stored": key is not None})
    form = OwnKeyForm(
        request.POST if request.method == "POST" else None,
        is_stored=key is not None,
        initial={"own_use": account.own_use} if account else {},
    )
    if request.method == "POST" and form.is_valid() and _save(request, owner, account, form):
        return redirect(f"own-key:{whose}")
    context = {
        "whose": whose,
        "may_change": True,
        "is_stored": key is not None,
        "key": key,
        "standing": standings.of_key(key) if key else None,
        "balance": getattr(account, "health", None),
        "form": form,
    }
    return render(request, "portal/own_key.html", context)


@never_cache
@login_required
@require_POST
def test(request: HttpRequest, whose: Whose) -> HttpResponse:
    """The balance is asked for, which costs nothing."""
    account, key = _stored(request, whose)
    try:
        balance = async_to_sync(balances.test)(account, key)
    except RelayError as exc:
        messages.error(
            request, _("It does not work: %(reason)s.") % {"reason": reasons.told(exc.message.rstrip("."))}
        )
    else:
        said = ngettext(
            "It works. The account has %(points)s point.",
            "It works. The account has %(points)s points.",
            balance.points,
        )
        messages.success(request, said % {"points": f"{balance.points:,}"})
    return redirect(f"own-key:{whose}")


@never_cache
@login_required
@require_POST
def remove(request: HttpRequest, whose: Whose) -> HttpResponse:
    account, _key = _stored(request, whose)
    own_keys.remove(account)
    messages.success(request, _("The key is removed."))
    return redirect(f"own-key:{whose}")


def _owner(request: HttpRequest, whose: Whose) -> own_keys.Owner:
    user = cast(User, request.user)
    return user if whose == "me" else user.team


def _may_change(request: HttpRequest, whose: Whose) -> bool:
    user = cast(User, request.user)
    return whose == "me" or user.role == User.Role.MANAGER or user.is_superuser


def _stored(request: HttpRequest, whose: Whose) -> tuple[PoeAccount, PoeKey]:
    """What is theirs to change, or else there is nothing to be found."""
    account = own_keys.account_of(_owner(request, whose)) if _may_change(request, whose) else None
    key = own_keys.key_of(account)
    if account is None or key is None:
        raise Http404
    return account, key


@sensitive_variables("secret")
def _save(request: HttpRequest, owner: own_keys.Owner, account: PoeAccount | None, form: OwnKeyForm) -> bool:
    secret, own_use = form.cleaned_data["secret"], form.cleaned_data["own_use"]
    if not secret:
        assert account is not None
        own_keys.choose(account, own_use)
        messages.success(request, _("Saved. It counts from the next request on."))
        return True
    try:
        own_keys.store(owner, secret, own_use)
    except own_keys.StoredAlready:
        form.add_error("secret", _("This key cannot be stored: it is in use here already."))
        return False
    messages.success(request, _("The key is stored. It counts from the next request on."))
    return True
