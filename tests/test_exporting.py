"""Every list of the panel as CSV: what the list shows, streamed, and nothing that a spreadsheet would execute."""

from __future__ import annotations

import csv
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib import admin
from django.db import connection
from django.test import AsyncRequestFactory, Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts import exporting
from accounts.exporting import Exported, safe
from accounts.models import Team, User
from relay.panel import paging
from tests import cast as people
from tests.cast import Cast
from tests.test_usage_list import NOW, record

pytestmark = pytest.mark.django_db

LISTS = [
    (page.opts.app_label, page.opts.model_name)
    for page in admin.site._registry.values()
    if not page.opts.app_label.startswith("django")
]


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


def rows(response: Any) -> list[dict[str, str]]:
    assert response.status_code == 200 and response["Content-Type"] == "text/csv; charset=utf-8"
    text = response.getvalue().decode()
    assert text.startswith("\ufeff")
    return list(csv.DictReader(StringIO(text[1:], newline="")))


@pytest.mark.parametrize(("app", "model"), LISTS)
def test_every_list_has_search_filters_and_a_csv(root: Client, app: str, model: str) -> None:
    people.poe_key()
    people.mapping("gpt-4o", "GPT-4o")
    page = next(each for each in admin.site._registry.values() if each.opts.label_lower == f"{app}.{model}")
    assert isinstance(page, Exported) and page.search_fields and page.list_filter

    response = root.get(reverse(f"admin:{app}_{model}_changelist"), {"q": "nothing-like-it"})
    exported = root.get(reverse(f"admin:{app}_{model}_export"), {"q": "nothing-like-it"})

    assert 'href="export/?q=nothing-like-it"' in response.content.decode()
    assert rows(exported) == []


@pytest.mark.parametrize(("app", "model"), LISTS)
@pytest.mark.parametrize("who", ["nobody", "alice", "bob"])
def test_nobody_else_gets_one(cast: Cast, client: Client, who: str, app: str, model: str) -> None:
    if who != "nobody":
        client.force_login(getattr(cast, who).user)

    response = client.get(reverse(f"admin:{app}_{model}_export"))

    assert response.status_code == 302 and response["Location"].startswith("/admin/login/")


def test_a_helper_without_the_right_gets_none(cast: Cast, client: Client) -> None:
    client.force_login(people.person("helper", cast.physics, is_staff=True).user)

    assert client.get(reverse("admin:accounts_user_export")).status_code == 403


@pytest.mark.parametrize("word", ["password", "digest", "secret", "hash", "url"])
def test_no_secret_is_a_column(word: str) -> None:
    columns = [name for page in admin.site._registry.values() for name in getattr(page, "csv_columns", ())]

    assert len(columns) > 50 and [name for name in columns if word in name] == []


def test_it_has_what_the_search_and_the_filters_leave(root: Client, cast: Cast) -> None:
    address = reverse("admin:accounts_user_export")

    assert [row["Username"] for row in rows(root.get(address, {"q": "bob"}))] == ["bob"]
    charlies = rows(root.get(address, {"team__id__exact": cast.chemistry.pk}))
    assert [(row["Username"], row["Team"], row["Role"], row["Active"]) for row in charlies] == [
        ("charlie", "Chemistry", "member", "1")
    ]


def test_it_has_what_was_ticked(root: Client, cast: Cast) -> None:
    ticked = {"action": "export_selected", "_selected_action": [cast.bob.user.pk, cast.alice.user.pk]}

    response = root.post(reverse("admin:accounts_user_changelist"), ticked)

    assert [row["Username"] for row in rows(response)] == ["alice", "bob"]


def test_usage_records_can_be_ticked_too(root: Client, cast: Cast) -> None:
    record(model="first")
    ticked = record(model="second")

    response = root.post(
        reverse("admin:relay_usagerecord_changelist"),
        {"action": "export_selected", "_selected_action": ticked.pk},
    )

    assert [row["Model"] for row in rows(response)] == ["second"]


@pytest.mark.parametrize("query", [{}, {"q": "bob"}, {"streamed": "1"}, {"team": "1", "model": "m"}])
def test_usage_records_come_newest_first_a_page_at_a_time(
    root: Client, cast: Cast, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    """Also where no index serves the filters, so that it is looked for in so many rows at a time."""
    monkeypatch.setattr("relay.admin.usage.ROWS_AT_ONCE", 3)
    monkeypatch.setattr(paging, "LOOK_AT", 4)
    made = [
        record(model="m", team_id=1, user_id=cast.bob.user.pk, started_at=NOW + timedelta(minutes=each))
        for each in range(10)
    ]

    with CaptureQueriesContext(connection) as queries:
        found = rows(root.get(reverse("admin:relay_usagerecord_export"), query))

    assert [row["Id"] for row in found] == [str(each.pk) for each in reversed(made)]
    assert not any(
        "OFFSET" in query["sql"] and " LIMIT" not in query["sql"] for query in queries.captured_queries
    )


def test_other_lists_come_by_their_keys(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "ROWS_AT_ONCE", 3)
    Team.objects.bulk_create(Team(name=f"team {number}") for number in range(8))

    with CaptureQueriesContext(connection) as queries:
        names = [row["Name"] for row in rows(root.get(reverse("admin:accounts_team_export")))]

    assert names[-8:] == [f"team {number}" for number in range(8)] and len(names) == len(set(names))
    assert sum("LIMIT 3" in query["sql"] for query in queries.captured_queries) == len(names) // 3 + 1


def test_a_server_is_given_it_piece_by_piece(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "ROWS_AT_ONCE", 2)

    pieces = async_to_sync(pieces_for)(cast.root.user)

    assert len(pieces) == 3 and b"".join(pieces).count(b"\r\n") == 5


async def pieces_for(user: User) -> list[bytes]:
    request = AsyncRequestFactory().get("/")
    request.user = user
    page: Any = admin.site._registry[User]
    response = await sync_to_async(page.export)(request)
    return [piece async for piece in response]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "plain"),
        ("", ""),
        ("a=b", "a=b"),
        ("sk-poe-1", "sk-poe-1"),
        ("=1+1", "'=1+1"),
        ("+49", "'+49"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("\nx", "'\nx"),
        ("  =1", "'  =1"),
        ("\t=1", "'\t=1"),
        ("\u200b=1", "'\u200b=1"),
        ("\u202e=1", "'\u202e=1"),
        ("\ufeff=1", "'\ufeff=1"),
        ("\u3000＝1", "'\u3000＝1"),
        ("\0=1", "'=1"),
        *((f"{each}1", f"'{each}1") for each in "＝＋－＠﹢﹣﹦﹫"),
        ("x" * 40_000, "x" * 32_000),
    ],
)
def test_no_cell_is_a_formula(text: str, written: str) -> None:
    assert safe(text) == written


def test_what_people_named_is_text_in_the_file(root: Client, cast: Cast) -> None:
    name = '=HYPERLINK("http://evil","click")'
    cast.physics.name = name
    cast.physics.save()
    people.mapping("=cmd|' /C calc'!A0", "GPT", parameters={"a": "=1"}, points_per_request="1.5")

    assert name not in [row["Team"] for row in rows(root.get(reverse("admin:accounts_user_export")))]
    (mapping,) = rows(root.get(reverse("admin:relay_botmapping_export")))
    assert mapping["Model"].startswith("'=cmd") and mapping["Points per request"] == "1.5000"


def test_words_and_times_are_those_of_whoever_asks(root: Client, cast: Cast) -> None:
    made = record(outcome="failed")

    (row,) = rows(root.get(reverse("admin:relay_usagerecord_export"), headers={"accept-language": "zh-hans"}))

    assert (
        row["结果"] == "失败"
        and row["开始时间"] == f"{timezone.localtime(made.started_at):%Y-%m-%d %H:%M:%S}"
    )


@pytest.mark.parametrize(
    ("app", "model", "parameter"),
    [
        ("accounts", "team", "team"),
        ("accounts", "user", "user"),
        ("accounts", "accesstoken", "token"),
        ("relay", "poekey", "key"),
    ],
)
def test_each_leads_to_its_usage_records(
    root: Client, cast: Cast, app: str, model: str, parameter: str
) -> None:
    response = root.get(reverse(f"admin:{app}_{model}_usage", args=[7]))

    assert response["Location"] == f"/admin/relay/usagerecord/?{parameter}=7"


def test_a_mapping_leads_to_its_explanation(root: Client) -> None:
    mapping = people.mapping("a&b", "GPT")

    response = root.get(reverse("admin:relay_botmapping_explain", args=[mapping.pk]))

    assert response["Location"] == "/admin/relay/botmapping/explain/?model=a%26b"


def test_accounts_are_disabled_and_enabled_together(root: Client) -> None:
    accounts = [people.poe_key(name=name).account for name in ("one", "other")]
    for action, enabled in (("disable", False), ("enable", True)):
        ticked = {"action": action, "_selected_action": [each.pk for each in accounts]}
        root.post(reverse("admin:relay_poeaccount_changelist"), ticked)
        for each in accounts:
            each.refresh_from_db()
        assert [each.enabled for each in accounts] == [enabled] * 2
