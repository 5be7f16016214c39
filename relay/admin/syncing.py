"""The panel's question before Poe's list of bots is read, and what it says afterwards."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from relay import catalogue, reasons
from relay.catalogue import Source
from relay.errors import RelayError

TITLE = _("Sync from Poe")


def sync(page: Any, request: HttpRequest, back_url: str) -> HttpResponse:
    """Asks (GET), then reads the lists and fills in the mappings (POST)."""
    sources = catalogue.sources()
    if request.method != "POST":
        context = {
            **page.admin_site.each_context(request),
            "title": TITLE,
            "sources": sources,
            "opts": page.model._meta,
            "back_url": back_url,
        }
        return render(request, "admin/relay/bot/sync.html", context)
    for source in sources:
        _sync_one(page, request, source)
    return redirect(back_url)


def _sync_one(page: Any, request: HttpRequest, source: Source) -> None:
    try:
        synced = catalogue.store(catalogue.fetch(source), source)
    except RelayError as exc:
        said = gettext("%(address)s: %(reason)s. Nothing was changed.") % {
            "address": source.address,
            "reason": reasons.told(exc.message),
        }
        page.message_user(request, said, messages.ERROR)
        return
    said = gettext(
        "%(address)s: %(listed)d bots, %(new)d new, %(gone)d gone. Mappings brought up to date: %(mappings)d."
    ) % {
        "address": source.address,
        "listed": synced.listed,
        "new": len(synced.new),
        "gone": len(synced.gone),
        "mappings": len(synced.mappings),
    }
    page.message_user(request, said, messages.SUCCESS)
