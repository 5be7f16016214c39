"""What a fresh installation still lacks until somebody can work with it, each step with where it is done."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import AccessToken
from relay.models import BotMapping, PoeKey, UsageHour


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    explained: str
    link: str
    is_done: bool

    @property
    def icon(self) -> str:
        return "check_circle" if self.is_done else "radio_button_unchecked"


def steps() -> list[Step]:
    """None once all are done."""
    found = [
        Step(
            _("Add a Poe key"),
            _("It pays for the answers. You find it at poe.com/api/keys."),
            reverse("admin:relay_poekey_add"),
            PoeKey.objects.filter(account__is_demo=False).exists(),
        ),
        Step(
            _("Map models"),
            _("Choose which of Poe's bots people may ask, and by which names."),
            reverse("admin:relay_bot_changelist"),
            # Those of the demo are bound to it.
            BotMapping.objects.exclude(account__is_demo=True).exists(),
        ),
        Step(
            _("Issue an access token"),
            _("One for each person: what an app sends in place of a key."),
            reverse("admin:accounts_user_changelist"),
            AccessToken.objects.exists(),
        ),
        Step(
            _("Ask something"),
            _("Paste the token into an app: the address and the fields are on “Connect an app”."),
            reverse("me:connect"),
            UsageHour.objects.exists(),
        ),
    ]
    return [] if all(step.is_done for step in found) else found
