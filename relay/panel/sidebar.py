"""What the panel's sidebar links to. unfold asks for it with every page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from relay.panel import attention


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    keys = _list(_("Poe keys"), "vpn_key", "relay_poekey")
    if (number := attention.badge(request)) > 0:
        keys |= {"badge": number, "badge_variant": "danger", "badge_style": "solid"}
    explain = reverse("relay-explain")
    return [
        {
            "title": _("People"),
            "items": [
                _list(_("Access tokens"), "key", "accounts_accesstoken"),
                _list(_("Users"), "person", "accounts_user"),
                _list(_("Teams"), "group", "accounts_team"),
                _list(_("Invitations"), "mail", "accounts_invitation"),
                _list(_("Limit presets"), "tune", "accounts_limitpreset"),
            ],
        },
        {
            "title": _("Relay"),
            "items": [
                {"title": _("Live traffic"), "icon": "monitoring", "link": reverse("relay-live")},
                _list(_("Usage records"), "receipt_long", "relay_usagerecord"),
                _mappings(request, explain),
                _list(_("Bots at Poe"), "smart_toy", "relay_bot"),
                {"title": _("Explain a model"), "icon": "quiz", "link": explain},
            ],
        },
        {
            "title": "Poe",
            "items": [
                keys,
                _list(_("Poe accounts"), "account_balance_wallet", "relay_poeaccount"),
                _list(_("Events"), "history", "relay_poolevent"),
                _list(_("Charges"), "payments", "relay_poecharge"),
                {
                    "title": _("Reconciliation"),
                    "icon": "balance",
                    "link": reverse("relay-reconciliation"),
                },
            ],
        },
    ]


def _list(title: str, icon: str, model: str) -> dict[str, Any]:
    return {"title": title, "icon": icon, "link": reverse(f"admin:{model}_changelist")}


def _mappings(request: HttpRequest, explain: str) -> dict[str, Any]:
    """A page whose address goes on from theirs is no page of theirs."""
    item = _list(_("Mappings"), "alt_route", "relay_botmapping")
    return item | {"active": request.path.startswith(item["link"]) and request.path != explain}
