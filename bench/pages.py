"""`python -m bench.pages`: how long the server takes for every page of the panel and the portal, with millions of usage records.

The database is that of `bench.reading`. Each page is asked once before it is measured; it ends with 1 if one takes longer
than it may.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench import reading
from bench.reading import Figure, measure

if TYPE_CHECKING:
    from django.test import Client

# Nobody adds or deletes a row of these by hand.
LOOKED_AT = ("UsageRecord", "PoolEvent", "PoeCharge", "Bot")


@dataclass(frozen=True, slots=True)
class Page:
    who: str
    address: str

    def ask(self, client: Client) -> None:
        response = client.get(self.address)
        if response.status_code not in (200, 302):
            raise AssertionError(f"{self.address}: {response.status_code}")


def pages() -> list[Page]:
    """The panel's as an administrator, the portal's as the user with the most records, who manages a team."""
    return [
        *(Page("root", address) for address in ("/admin/", "/admin/?by=day", "/admin/?by=month")),
        *(Page("root", address) for address in _of_the_panel()),
        *(Page("user1", address) for address in _of_the_portal()),
    ]


def _of_the_panel() -> Iterator[str]:
    from django.contrib import admin
    from django.urls import reverse

    for page in admin.site._registry.values():
        name = f"admin:{page.opts.app_label}_{page.opts.model_name}"
        views = ("change", "history") if page.model.__name__ in LOOKED_AT else ("change", "history", "delete")
        yield reverse(f"{name}_changelist")
        yield f"{reverse(f'{name}_changelist')}?q=1"
        if "delete" in views:
            yield reverse(f"{name}_add")
        row = page.model._base_manager.order_by("pk").first()
        if row is not None:
            yield from (reverse(f"{name}_{view}", args=[row.pk]) for view in views)
    for name, query in reading.pages():
        if name.startswith("search"):
            yield f"{reading.LIST}?{query}"
    yield f"{reverse('admin:accounts_accesstoken_changelist')}?q=nowhere"
    for name in ("relay-live", "relay-reconciliation"):
        yield reverse(name)
    yield f"{reverse('relay-explain')}?model=model-1&token=1"
    yield "/admin/search/?s=user"
    yield "/admin/autocomplete/?app_label=accounts&model_name=accesstoken&field_name=owner&term=user1"


def _of_the_portal() -> Iterator[str]:
    from django.urls import reverse

    yield "/"
    for name in ("tokens", "connect", "usage", "requests", "models"):
        yield reverse(f"me:{name}")
    for name in ("people", "usage", "requests"):
        yield reverse(f"team:{name}")
    yield reverse("team:member", args=[21])
    yield reverse("portal:settings")
    yield reverse("own-key:me")
    yield reverse("own-key:team")


def clients() -> dict[str, Client]:
    from django.test import Client

    from accounts.models import User

    reading.administrator()
    User.objects.filter(username="user1").update(role=User.Role.MANAGER)
    found = {}
    for who in ("root", "user1"):
        found[who] = Client(SERVER_NAME="127.0.0.1")
        found[who].force_login(User.objects.get(username=who))
    return found


def figures() -> Iterator[Figure]:
    asking = clients()
    for page in pages():
        yield measure(page.address, partial(page.ask, asking[page.who]))


def in_process(rows: int) -> int:
    reading.prepare(rows)
    return reading.told(figures())


def main(given: list[str] | None = None) -> int:
    return reading.on_each_database("bench.pages", __doc__, in_process, given)


if __name__ == "__main__":
    sys.exit(main())
