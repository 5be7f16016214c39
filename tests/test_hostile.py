"""What people and clients may write anywhere is text on every page: it is escaped, it is no longer than its place, and it does nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib import admin
from django.db import models
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import AccessToken, Invitation, LimitPreset, Team, User
from relay.models import (
    AccountHealth,
    Bot,
    KeyHealth,
    PoeCharge,
    PoolEvent,
    RefusalHour,
    UsageHour,
    UsageRecord,
)
from tests import cast as people
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database
from tests.test_usage_list import record

SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"=1+1{SCRIPT}\"'><img src=x onerror=alert(1)>{{{{7*7}}}}\u202e\u200f" + "A" * 10_000
# What nobody writes: it is made by us, chosen from a list, or checked by a rule that has no such text.
OURS = {
    "password",
    "digest",
    "secret",
    "time_zone",
    "base_url",
    "upload_url",
    "api_url",
    "outcome",
    "became",
    "state",
}


def spoil(row: models.Model) -> None:
    """Every text of a row, as long as it may be; where it must be unique the row's number ends it."""
    texts: dict[str, Any] = {}
    for field in row._meta.concrete_fields:
        if (
            isinstance(field, models.CharField | models.TextField)
            and not field.choices
            and field.name not in OURS
        ):
            number = str(row.pk)[-4:]
            texts[field.name] = HOSTILE[: (field.max_length or len(HOSTILE)) - len(number)] + number
        elif isinstance(field, models.JSONField) and field.name in ("allowed_models", "features"):
            texts[field.name] = [HOSTILE]
    if texts:
        type(row)._base_manager.filter(pk=row.pk).update(**texts)


@pytest.fixture
def everything(cast: Cast) -> Cast:
    """A row of each table that a page shows, of which Root sees all and manages a team as well."""
    now = timezone.now()
    key = people.poe_key(name="shared")
    AccountHealth.objects.create(account=key.account, since=now, is_low=True, balance=1, balance_error="x")
    KeyHealth.objects.create(key=key, since=now, state="retired", reason="x")
    people.mapping("model", "Bot", found="gone", suggested_bot="x", account=key.account)
    Bot.objects.create(handle="bot", handle_key="bot", first_seen_at=now, last_seen_at=now)
    PoolEvent.objects.create(at=now, account=key.account, key=key, became="retired", reason="x")
    PoeCharge.objects.create(query_id="1", account=key.account, at=now, bot="x", points=1, read_at=now)
    LimitPreset.objects.create(name="preset")
    Invitation.objects.make(cast.root.user, cast.physics)
    people.used(cast.root, "model", points=5)
    whose = {"team_id": cast.physics.pk, "user_id": cast.root.user.pk, "token_id": cast.root.token.pk}
    record(outcome="failed", error_code="x", finish_reason="x", started_at=now, **whose)
    RefusalHour.objects.create(hour=now, limit="points_per_day", refusals=9, **whose)
    User.objects.filter(pk=cast.root.user.pk).update(role=User.Role.MANAGER)
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(enabled=False, disabled_reason="x")
    spoiled: list[Any] = [*admin.site._registry, UsageHour, AccountHealth, KeyHealth]
    for model in spoiled:
        for row in model._base_manager.all():
            spoil(row)
    return cast


@pytest.fixture
def root(everything: Cast, client: Client) -> Client:
    client.force_login(everything.root.user)
    return client


def text_of(client: Client, address: str, **query: str) -> str:
    response = client.get(address, query)
    assert response.status_code == 200, (address, response.status_code)
    html: str = response.content.decode()
    assert SCRIPT not in html and "<img src=x" not in html, address
    assert "49" not in re.findall(r"&gt;(\d+)", html), address
    return html


def written_out(html: str) -> int:
    """The longest of what was written, where it is text: a form's own field holds all of it."""
    shown = re.sub(r"<textarea.*?</textarea>|value=\"[^\"]*\"", "", html, flags=re.DOTALL)
    return max(map(len, re.findall("A+", shown)), default=0)


def panel(name: str, *args: Any) -> str:
    return reverse(f"admin:{name}", args=args)


LISTS = [f"{page.opts.app_label}_{page.opts.model_name}" for page in admin.site._registry.values()]


@pytest.mark.parametrize("name", LISTS)
def test_the_panels_lists_and_forms_show_it_as_text(root: Client, name: str) -> None:
    page: Any = next(
        each
        for each in admin.site._registry.values()
        if name == f"{each.opts.app_label}_{each.opts.model_name}"
    )
    row = page.model._base_manager.order_by("pk").last()

    html = text_of(root, panel(f"{name}_changelist"))

    assert "&lt;script&gt;alert(1)" in html and 0 < written_out(html) <= 300
    text_of(root, panel(f"{name}_changelist"), q=HOSTILE[:200])
    text_of(root, panel(f"{name}_change", row.pk))
    text_of(root, panel(f"{name}_history", row.pk))
    if page.has_delete_permission(root.get("/admin/").wsgi_request):
        text_of(root, panel(f"{name}_delete", row.pk))


@pytest.mark.parametrize(
    "address",
    [
        "/admin/",
        "/admin/?by=day",
        "/admin/relay/live/",
        "/admin/relay/reconciliation/",
        "/admin/search/?s=script",
    ],
)
def test_the_panels_own_pages_show_it_as_text(root: Client, address: str) -> None:
    html = text_of(root, address)

    assert written_out(html) <= 300


def test_the_explanation_shows_it_as_text(root: Client, everything: Cast) -> None:
    model = UsageHour.objects.get().model

    assert "&lt;script&gt;" in text_of(
        root, reverse("relay-explain"), model=model, token=str(everything.root.token.pk)
    )


PORTAL = [
    "/",
    "/me/tokens/",
    "/me/usage/",
    "/me/requests/",
    "/me/models/",
    "/me/connect/",
    "/me/settings/",
    "/me/poe-key/",
    "/team/",
    "/team/usage/",
    "/team/requests/",
    "/team/poe-key/",
]


@pytest.mark.parametrize("address", PORTAL)
@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_the_portal_shows_it_as_text(root: Client, address: str, language: str) -> None:
    root.cookies["django_language"] = language

    assert written_out(text_of(root, address)) <= 300


@pytest.mark.parametrize("text", [HOSTILE, "a\0b"])
def test_a_form_refuses_what_is_too_long_or_no_text(root: Client, text: str) -> None:
    form = {"name": text, "time_zone": "UTC", "enabled": "on"}

    response = root.post(panel("accounts_team_add"), form)

    assert (
        response.status_code == 200
        and "errorlist" in response.content.decode()
        or "error" in response.content.decode()
    )
    assert not Team.objects.filter(name__startswith=text[:1] + "a").exists() and Team.objects.count() == 2


async def asked(api: Api, token: str, model: str, **headers: str) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": HOSTILE}], "user": HOSTILE}
    return await api.http.post(
        "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {token}", **headers}
    )


@pytest.mark.asyncio
async def test_of_what_a_client_says_only_the_model_is_kept_and_no_more_than_fits(
    api: Api, demo: DemoPoe, cast: Cast
) -> None:
    await in_database(people.mapping, "*", "Demo-Echo")
    model = HOSTILE[:200]

    answers = [
        await asked(api, cast.bob.plain, name, **{"user-agent": SCRIPT, "x-request-id": SCRIPT})
        for name in (model, HOSTILE)
    ]

    assert [answer.status_code for answer in answers] == [200, 400]
    found: list[UsageRecord] = await in_database(list, UsageRecord.objects.all())
    (kept,) = found
    columns: Any = kept._meta.fields
    texts = {each.name: getattr(kept, each.name) for each in columns if isinstance(each, models.CharField)}
    assert {name for name, value in texts.items() if "script" in value} == {"model"} and kept.model == model
