"""The administrator's list of usage records: every record is on one page, and no page looks through all of them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import User
from bench import reading
from relay.ledger.sql import ROW_COLUMNS
from relay.ledger.verify import verify
from relay.models import UsageHour, UsageRecord
from relay.panel import filters, paging
from relay.visit import new_request_id, request_began
from tests import cast as people
from tests.cast import Cast
from tests.ledger import making

pytestmark = pytest.mark.django_db

LIST = reverse("admin:relay_usagerecord_changelist")
NOW = datetime(2026, 5, 13, 12, tzinfo=UTC)
ROWS = 80


@pytest.fixture
def everybody(db: None) -> Cast:
    return people.make()


@pytest.fixture
def root(everybody: Cast, client: Client) -> Client:
    client.force_login(everybody.root.user)
    return client


def record(**changed: Any) -> UsageRecord:
    made = unsaved(**changed)
    made.save(force_insert=True)
    return made


def unsaved(**changed: Any) -> UsageRecord:
    row = making.row(started_at=NOW)
    values: dict[str, Any] = {each: getattr(row, each) for each in ROW_COLUMNS}
    texts = {
        "user_name": "bob",
        "team_name": "Physics",
        "token_prefix": "sk-poe-abcdef",
        "request_id": "req_1",
    }
    return UsageRecord(**values | texts | {"wire": "openai-chat", "streamed": True} | changed)


def many(count: int = ROWS) -> list[UsageRecord]:
    """Newest first. Four of each start at the same moment; every tenth is Charlie's and failed."""
    odd = {"outcome": "failed", "user_id": 2, "model": "rare"}
    UsageRecord.objects.bulk_create(
        unsaved(started_at=NOW - timedelta(minutes=n // 4), **odd if n % 10 == 0 else {})
        for n in range(count)
    )
    return list(UsageRecord.objects.order_by("-started_at", "-id"))


def page(client: Client, query: str = "") -> Any:
    response = client.get(f"{LIST}?{query}")
    assert response.status_code == 200, (query, response.status_code)
    return response


def ids(response: Any) -> list[uuid.UUID]:
    return [row.id for row in response.context["cl"].result_list]


def asked_for(user: User, query: str) -> list[UsageRecord]:
    """The records of a page that is not drawn."""
    request = RequestFactory().get(f"{LIST}?{query}")
    request.user = user
    shown = admin.site.get_model_admin(UsageRecord).get_changelist_instance(request)
    return list(shown.result_list)


def link(response: Any, name: str) -> str | None:
    """The query that a link on the page has."""
    found = re.search(rf'href="\?([^"]*)"[^>]*>\s*(← )?{name}', response.content.decode())
    return unescape(found[1]) if found else None


def walk(client: Client, query: str, name: str) -> Iterator[Any]:
    """This page and all that follow."""
    asked: str | None = query
    for _page in range(50):
        if asked is None:
            return
        response = page(client, asked)
        yield response
        asked = link(response, name)
    raise AssertionError("there is no last page")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", lambda row: True),
        ("outcome=failed", lambda row: row.outcome == "failed"),
        ("user=2", lambda row: row.user_id == 2),
        ("q=RAR", lambda row: row.model == "rare"),
        ("model=rare&team=1", lambda row: row.model == "rare"),
        ("started_at_from_0=2026-05-13&started_at_from_1=11%3A45", lambda row: row.started_at >= NOW - timedelta(minutes=15)),
        ("started_at_to_0=2026-05-13&started_at_to_1=11%3A45", lambda row: row.started_at <= NOW - timedelta(minutes=15)),
        ("started_at_from_0=2026-05-14", lambda row: False),
        ("started_at_to_0=2026-05-13", lambda row: True),
    ],
)  # fmt: skip
def test_walking_down_and_up_again_shows_every_record_once(
    root: Client, monkeypatch: pytest.MonkeyPatch, settings: Any, query: str, wanted: Any
) -> None:
    settings.TIME_ZONE = "UTC"
    monkeypatch.setattr("relay.admin.usage.UsageRecordAdmin.list_per_page", 17)
    expected = [row.id for row in many() if wanted(row)]

    pages = list(walk(root, query, "Older"))
    assert [id_ for each in pages for id_ in ids(each)] == expected
    assert link(pages[0], "Newer") is None and link(pages[0], "Newest") is None

    if len(pages) > 1:
        assert link(pages[-1], "Newest") == query
        upwards = list(walk(root, link(pages[-1], "Newer") or "", "Newer"))
        above = [id_ for each in reversed(upwards) for id_ in ids(each)]
        assert above == expected[: len(expected) - len(ids(pages[-1]))]


def test_a_link_shows_the_same_records_whatever_came_since(root: Client) -> None:
    rows = many()
    query = link(page(root), "Older")
    assert query is not None
    before = ids(page(root, query))

    UsageRecord.objects.bulk_create(unsaved(started_at=NOW + timedelta(minutes=1)) for _n in range(60))

    assert ids(page(root, query)) == before == [row.id for row in rows[25:50]]


@pytest.mark.parametrize("query", ["model=rare", "q=rare", "model=rare&team=1", "model__exact=rare"])
def test_what_no_index_serves_is_looked_for_in_so_many_records_at_a_time(
    root: Client, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    rows = many()
    rare = [row.id for row in rows if row.model == "rare"]
    monkeypatch.setattr(paging, "LOOK_AT", 20)

    first = page(root, query)

    assert ids(first) == rare[: len(ids(first))] and 0 < len(ids(first)) < len(rare)
    assert "These are all matches back to" in first.content.decode()
    pages = list(walk(root, query, "Look further"))
    assert len(pages) > 3
    assert [id_ for each in pages for id_ in ids(each)] == rare
    assert "Look further" not in pages[-1].content.decode()
    upwards = list(walk(root, link(pages[-1], "Newer") or "", "Look further"))
    assert [id_ for each in reversed(upwards) for id_ in ids(each)] == rare[: len(rare) - len(ids(pages[-1]))]


@pytest.mark.parametrize(
    "query", ["", "team=1", "outcome=failed", "user=2", "team=1&started_at_from_0=2026-01-01"]
)
def test_what_an_index_serves_is_looked_for_in_all(
    root: Client, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    many()
    monkeypatch.setattr(paging, "LOOK_AT", 10)

    assert "Look further" not in page(root, query).content.decode()


@pytest.mark.parametrize(
    "cursor", ["older=x", "newer=1.2", "older=99999999999999999999.00", "older=1.%00", "newer=-"]
)
def test_a_place_that_is_none_is_no_error(root: Client, cursor: str) -> None:
    response = root.get(f"{LIST}?{cursor}")

    assert response.status_code == 302 and response["Location"].endswith("?e=1")


def test_applying_a_filter_begins_with_the_newest(root: Client) -> None:
    """unfold's form takes along what is in the address."""
    many()
    query = link(page(root), "Older")

    content = page(root, query or "").content.decode()

    assert 'name="older"' not in content and "older%3D" in content  # the way back from a record


# Finding.


@pytest.fixture
def found(everybody: Cast) -> dict[str, UsageRecord]:
    """One record each that differs in what it is looked for by."""
    bob, charlie = everybody.bob, everybody.charlie
    owners = {"user_id": bob.user.pk, "token_id": bob.token.pk, "team_id": everybody.physics.pk}
    gone = {"user_id": 777, "token_id": 777, "team_id": 777, "key_id": 777, "user_name": "gone"}
    key = people.poe_key(name="main")
    chemist = {"user_id": charlie.user.pk, "key_id": 777}
    return {
        "bob": record(**owners, token_prefix=bob.token.prefix, key_id=key.pk, key_name="main"),
        "charlie": record(**chemist, team_id=everybody.chemistry.pk, team_name="Chemistry"),
        "lost": record(**gone, token_prefix="sk-poe-gggggg", model="gpt-4o-mini", outcome="lost"),
        "open": record(**gone, outcome="open", request_id="req_77", bot="Claude-X", streamed=False),
        "failed": record(**gone, outcome="failed", error_code="upstream_error"),
    }


FOUND = {
    "user=bob": "bob",
    "user=BOB": "bob",
    "user=gone": "lost open failed",
    "user=777": "lost open failed",
    "user=nobody": "",
    "user=9999999999999999999999": "",
    "team={physics}": "bob",
    "team=777": "lost open failed",
    "team=x": "",
    "token={token}": "bob",
    "token={prefix}": "bob",
    "token=sk-poe-gggggg": "lost",
    "token=777": "lost open failed",
    "key={key}": "bob",
    "key=x": "",
    "model=gpt-4o-mini": "lost",
    "streamed=0": "open",
    "outcome=open": "open",
    "outcome=lost": "lost",
    "outcome=done": "bob charlie",
    "outcome=lost&user=777": "lost",
    "outcome=failed&model=gpt-4o-mini": "",
    "user=a%00b": "",
    "started_at_from_0=nonsense": "bob charlie lost open failed",
    "q=Bob": "bob",
    "q=chemistry": "charlie",
    "q={prefix}": "bob",
    "q={whole_token}": "bob",
    "q=sk-poe-ggg": "lost",
    "q=req_77": "open",
    "q=laude": "open",
    "q=UPSTREAM_err": "failed",
    "q={id}": "open",
    "q=100%25": "",
    "q=nowhere": "",
}


def test_it_finds(everybody: Cast, found: dict[str, UsageRecord]) -> None:
    bob = everybody.bob
    values = {
        "physics": everybody.physics.pk,
        "token": bob.token.pk,
        "prefix": bob.token.prefix,
        "whole_token": bob.plain,
        "key": found["bob"].key_id,
        "id": found["open"].id,
    }
    names = {each.id: name for name, each in found.items()}

    asked = {
        query: {names[each.id] for each in asked_for(everybody.root.user, query.format(**values))}
        for query in FOUND
    }

    assert asked == {query: set(said.split()) for query, said in FOUND.items()}


def test_a_request_is_found_by_its_id_however_long_ago_it_was(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = new_request_id()
    came = request_began(request_id)
    assert came is not None
    asked = record(request_id=request_id, started_at=came + timedelta(minutes=5))
    for minutes in (1, 6, 600):
        record(request_id=f"req_{minutes}", started_at=came + timedelta(minutes=minutes))
    monkeypatch.setattr(paging, "LOOK_AT", 1)

    found = page(root, f"q={request_id}")

    assert ids(found) == [asked.id] and "These are all matches" not in found.content.decode()
    assert ids(page(root, f"q={request_id[:-1]}x")) == []


def test_a_search_for_nothing_that_can_be_is_no_error(root: Client, found: dict[str, UsageRecord]) -> None:
    assert len(ids(page(root, "q=%00"))) == len(found)


def test_choices_are_what_the_small_tables_know(root: Client, everybody: Cast) -> None:
    people.mapping("gpt-4o", "GPT-4o")
    people.mapping("claude-*", "Claude")
    columns = {each.attname: 1 for each in UsageHour._meta.concrete_fields if each.attname != "id"}
    for model, days in (("claude-opus", 1), ("forgotten", 30)):
        UsageHour.objects.create(
            **columns | {"hour": datetime.now(UTC) - timedelta(days=days), "model": model, "bot": "B"}
        )

    content = page(root, "model=from-a-link").content.decode()

    offered = set(re.findall(r'<option value="([^"]+)"', content))
    assert {"gpt-4o", "claude-opus", "from-a-link", str(everybody.physics.pk), "lost"} <= offered
    assert not {"forgotten", "claude-*"} & offered


def test_a_row_tells_what_is_reserved_from_what_was_used(root: Client) -> None:
    record(outcome="open", completion_tokens=4096, points=1234, total_ms=None, first_byte_ms=None)
    record(outcome="lost", completion_tokens=17, points=18)
    record(completion_tokens=55, points=66, total_ms=12_345, first_byte_ms=1500)

    said = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page(root).content.decode()))

    for words in (
        "5 + 4,096 reserved 1,234 reserved - -",
        "17 reserved",
        "18 reserved",
        "5 + 55 66 1,500 ms 12.3 s key 1",
    ):
        assert words in said, words


# Without looking through all of them. Small tables prove by the plan what bench/reading.py measures on large ones.


@pytest.fixture
def filled(db: None) -> User:
    """The administrator of some thousand records."""
    reading.fill(3000, days=30)
    return reading.administrator()


def plan(statement: str) -> str:
    prefix = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Of some thousand rows it would rather read all.
            cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"{prefix} {statement}".replace("%", "%%"), ())
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def test_no_page_counts_or_scans_the_records(filled: User) -> None:
    names = set()
    for name, query in reading.pages():
        with CaptureQueriesContext(connection) as asked:
            asked_for(filled, query)
        statements = [each["sql"] for each in asked.captured_queries if "relay_usagerecord" in each["sql"]]
        assert 1 <= len(statements) <= 3, name
        for statement in statements:
            assert "COUNT(" not in statement and "DISTINCT" not in statement, name
            said = plan(statement)
            assert "Seq Scan" not in said and not re.search(r"SCAN relay_usagerecord(?! USING)", said), (
                name,
                said,
            )
            names.update(re.findall(r"relay_usage_\w+", said))
    assert {
        "relay_usage_recent",
        "relay_usage_by_team",
        "relay_usage_by_user",
        "relay_usage_trouble",
    } <= names


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        ("relay_usage_by_token", UsageRecord.objects.filter(token_id=7)),
        ("relay_usage_by_user", UsageRecord.objects.filter(user_id=7)),
        ("relay_usage_by_team", UsageRecord.objects.filter(team_id=3, started_at__gte=NOW)),
        ("relay_usage_recent", UsageRecord.objects.all()),
        ("relay_usage_trouble", UsageRecord.objects.filter(outcome="lost")),
    ],
)
def test_the_last_50_of_anybody_come_from_an_index(filled: User, index: str, rows: Any) -> None:
    with CaptureQueriesContext(connection) as asked:
        list(rows.order_by("-started_at", "-id")[:50])

    assert index in plan(asked.captured_queries[0]["sql"])


@pytest.mark.django_db(transaction=True)
def test_the_bench_fills_what_the_ledger_would_have_written(transactional_db: None) -> None:
    reading.fill(1000, days=30)

    verified = verify()

    assert verified.differences == () and verified.records == 1000 and verified.hours > 100


def test_every_outcome_but_done_is_served_by_an_index() -> None:
    """A new outcome must be thought of here and in the index."""
    assert {*filters.TROUBLE, "open", "done"} == set(UsageRecord.Outcome.values)
