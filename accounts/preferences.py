"""The language and the time zone that people chose for themselves, and pages that follow them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST
from django.views.i18n import LANGUAGE_QUERY_PARAMETER, set_language

# The others are no places, or call one by its country.
CONTINENTS = frozenset(
    [
        "Africa",
        "America",
        "Antarctica",
        "Arctic",
        "Asia",
        "Atlantic",
        "Australia",
        "Europe",
        "Indian",
        "Pacific",
    ]
)


class Preferences(models.Model):
    """Of a user. Apart from User, a change of which may reload the directory."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="preferences"
    )
    language = models.CharField(_("language"), max_length=10, blank=True, choices=settings.LANGUAGES)
    time_zone = models.CharField(_("time zone"), max_length=50, blank=True)

    class Meta:
        verbose_name = _("preferences")
        verbose_name_plural = _("preferences")
        ordering: ClassVar = ["pk"]

    def __str__(self) -> str:
        return f"{self.language or '-'} {self.time_zone or '-'}"


def time_zones() -> dict[str, list[str]]:
    """By continent."""
    found: dict[str, list[str]] = {"UTC": ["UTC"]}
    for zone in sorted(available_timezones()):
        continent = zone.partition("/")[0]
        if continent in CONTINENTS:
            found.setdefault(continent, []).append(zone)
    return found


@require_POST
def choose_language(request: HttpRequest) -> HttpResponse:
    """Django's own, which tells this browser; of whoever is signed in it is kept for others too."""
    language = request.POST.get(LANGUAGE_QUERY_PARAMETER, "")
    if request.user.is_authenticated and language in dict(settings.LANGUAGES):
        Preferences.objects.update_or_create(user_id=request.user.pk, defaults={"language": language})
    return set_language(request)


def as_preferred(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Without a choice: the language of the browser, the time zone of the team."""

    def middleware(request: HttpRequest) -> HttpResponse:
        user: Any = request.user
        if not user.is_authenticated:
            timezone.deactivate()
            return get_response(request)
        chosen = Preferences.objects.filter(user_id=user.pk).first() or Preferences()
        if chosen.language:
            translation.activate(chosen.language)
            request.LANGUAGE_CODE = chosen.language
        # Not for the length of this call: an answer that streams is written after it.
        timezone.activate(ZoneInfo(chosen.time_zone or user.team.time_zone))
        return get_response(request)

    return middleware
