"""Tokens for many people at once: what a list may look like, what is wrong with it, and that it is all or nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import IntegrityError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import bulk
from accounts.models import AccessToken, LimitPreset, Team, User, token_digest
from accounts.presets import Conditions
from tests.cast import Cast
from tests.test_translations import english

PAGE = reverse("admin:accounts_accesstoken_issue_many")
PLAIN = re.compile(r"sk-poe-[0-9A-Za-z]{40}")


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


def form(cast: Cast, text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "team": cast.physics.pk, "token_name": "course", **more}


def plan(cast: Cast, text: str, defaults: Conditions | None = None) -> bulk.Plan:
    return bulk.plan(text, team=cast.physics, token_name="course", defaults=defaults or LimitPreset())


def counts() -> tuple[int, int, int]:
    return Team.objects.count(), User.objects.count(), AccessToken.objects.count()


# Reading a list.


def test_a_name_on_each_line(cast: Cast) -> None:
    rows = plan(cast, "\ufeffEve Adams\n\n  张伟  \n").rows

    assert [(row.line, row.user.username, row.user.first_name) for row in rows] == [
        (1, "eve.adams", "Eve Adams"),
        (3, "张伟", "张伟"),
    ]
    assert [row.problems for row in rows] == [[], []] and all(row.team == "Physics" for row in rows)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_says_it_in_columns(cast: Cast, delimiter: str) -> None:
    lines = [
        ["Name", "user", "team", "email", "points_per_day", "days", "models"],
        ["Eve Adams", "eve", "Biology", "eve@example.org", "50", "9", '"gpt-*"'],
    ]

    (row,) = plan(cast, "\n".join(delimiter.join(line) for line in lines)).rows

    assert (row.user.username, row.user.email, row.team) == ("eve", "eve@example.org", "Biology")
    assert (row.conditions.points_per_day, row.conditions.days) == (50, 9)
    assert row.conditions.allowed_models == ["gpt-*"] and row.line == 2 and not row.problems


def test_what_a_line_leaves_empty_is_as_for_all(cast: Cast) -> None:
    defaults = LimitPreset(points_per_day=10, requests_per_minute=5, allowed_models=["a"])

    rows = plan(cast, "user,points_per_day\neve,50\nfrank,", defaults).rows

    assert [row.conditions.points_per_day for row in rows] == [50, 10]
    assert {row.conditions.requests_per_minute for row in rows} == {5}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_files_of_spreadsheets_are_read(encoding: str) -> None:
    assert bulk.decoded("name\n张伟".encode(encoding)) == "name\n张伟"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_china_is_understood(cast: Cast, delimiter: str) -> None:
    text = (
        delimiter.join(["姓名", "团队", "邮箱"]) + "\n" + delimiter.join(["张\u3000伟", "物理系\u00a0", ""])
    )

    (row,) = plan(cast, text).rows

    assert (row.user.first_name, row.user.username, row.team, row.problems) == (
        "张 伟",
        "张.伟",
        "物理系",
        [],
    )


def test_two_columns_without_names_make_no_name_together(cast: Cast) -> None:
    assert plan(cast, "张伟\t物理系").rows[0].problems


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("two words,x,,,", "username"),
        (f"{'x' * 151},x,,,", "username"),
        ("bell\x07,x,,,", "control character"),
        ("eve,\u202eevil,,,", "control character"),
        ("eve,x,,nonsense,", "email"),
        ("eve,x,,,many", "points_per_day"),
        ("eve,x,,,-5", "points_per_day"),
        ("eve,x,,,0", "points_per_day"),
        ("eve,x,,,²", "points_per_day"),
        (f"eve,x,{'t' * 101},,", "team"),
        ("charlie,x,Physics,,", "in the team Chemistry"),
        ("gone,x,,,", "may not sign in"),
        ("BOB,x,,,", "a working token named"),
        ("first,x,,,", "The same user as in line 2"),
        ("FIRST,x,,,", "The same user as in line 2"),
    ],
)
def test_a_line_with_a_mistake_says_which(root: Client, cast: Cast, line: str, why: str) -> None:
    User.objects.create_user("gone", team=cast.physics, is_active=False)
    AccessToken.objects.issue(cast.bob.user, "course")
    text = f"user,name,team,email,points_per_day\nfirst,x,,,\n{line}"
    before = counts()

    rows = plan(cast, text).rows
    answer = root.post(PAGE, form(cast, text, confirmed="1"))

    assert [bool(row.problems) for row in rows] == [False, True] and why in rows[1].problems[0]
    assert counts() == before and "1 line has a mistake" in answer.content.decode()


def test_what_no_database_keeps_is_refused_in_a_file_too(root: Client, cast: Cast) -> None:
    file = SimpleUploadedFile("people.csv", b"user,name,models\neve,E\x00ve,\nfrank,,a\x00b")

    shown = root.post(PAGE, form(cast, "", file=file, confirmed="1")).content.decode()

    assert PLAIN.search(shown) is None and not User.objects.filter(username="eve").exists()


@pytest.mark.parametrize(
    "text",
    ["", " \n ", "\ufeff", "user,colour\neve,red", "user,name", "\n".join(f"n{n}" for n in range(301))],
    ids=["empty", "blank", "mark", "column", "no lines", "many"],
)
def test_a_list_that_cannot_be_used_as_a_whole_says_why(root: Client, cast: Cast, text: str) -> None:
    before = counts()

    answer = root.post(PAGE, form(cast, text, confirmed="1"))

    assert 'role="alert"' in answer.content.decode() and counts() == before
    with pytest.raises(bulk.Unreadable):
        plan(cast, text)


# Making.


def test_everything_is_shown_first_and_made_then(root: Client, cast: Cast) -> None:
    preset = LimitPreset.objects.create(name="students", points_per_day=7, days=30)
    text = "user,name,team\neve,Eve Adams,Biology\nfrank,,\nbob,,"
    sent = form(cast, text, preset=preset.pk)
    before = counts()

    shown = root.post(PAGE, sent).content.decode()
    assert counts() == before and PLAIN.search(shown) is None
    assert "3 tokens, 2 of them" in shown and "gets another token" in shown
    answer = root.post(PAGE, sent | {"confirmed": "1"})

    sheets = answer.content.decode()
    assert "no-store" in answer.headers["Cache-Control"] and sheets.count('class="sheet"') == 3
    owners = {
        AccessToken.objects.get(digest=token_digest(each)).owner.username for each in PLAIN.findall(sheets)
    }
    assert owners == {"eve", "frank", "bob"}
    assert counts() == (before[0] + 1, before[1] + 2, before[2] + 3)
    eve = User.objects.get(username="eve")
    assert (eve.team.name, eve.role, eve.has_usable_password()) == ("Biology", "member", False)
    assert {token.points_per_day for token in AccessToken.objects.filter(name="course")} == {7}
    assert all(token.expires_at > timezone.now() for token in AccessToken.objects.filter(name="course"))  # type: ignore[operator]


def test_a_list_that_is_sent_twice_is_made_once(root: Client, cast: Cast) -> None:
    sent = form(cast, "eve\nbob", confirmed="1")

    root.post(PAGE, sent)
    after = counts()
    again = root.post(PAGE, sent).content.decode()

    assert counts() == after and PLAIN.search(again) is None and "2 lines have a mistake" in again


@pytest.mark.parametrize("meanwhile", ["user", "team"])
def test_it_is_all_or_nothing(cast: Cast, meanwhile: str) -> None:
    planned = plan(cast, "user,team\neve,Biology\nfrank,Biology")
    if meanwhile == "user":
        User.objects.create_user("frank", team=cast.physics)
    else:
        planned.rows[1].user.username = "eve"
    before = counts()

    with pytest.raises(IntegrityError):
        bulk.make(planned)

    assert counts() == before


def test_a_file_comes_along_to_be_confirmed(root: Client, cast: Cast) -> None:
    file = SimpleUploadedFile("people.csv", "user,name\nzhang,张伟\n".encode("gb18030"))

    shown = root.post(PAGE, form(cast, "", file=file)).content.decode()

    assert "张伟" in shown and "zhang,张伟" in shown.partition('name="text" hidden')[2]


def test_the_template_is_a_list_that_can_be_read(root: Client, cast: Cast) -> None:
    answer = root.get(f"{PAGE}?template=1")

    (row,) = plan(cast, bulk.decoded(answer.content).replace("alice", "eve")).rows
    assert "attachment" in answer.headers["Content-Disposition"] and not row.problems
    assert row.conditions.allowed_models == ["gpt-*", "claude-*"]


def test_hostile_words_are_only_text(root: Client, cast: Cast) -> None:
    text = "user,name\neve,<script>alert(1)</script>\nfrank,=1+1"

    shown = root.post(PAGE, form(cast, text)).content.decode()
    sheets = root.post(PAGE, form(cast, text, confirmed="1")).content.decode()

    assert "<script>alert" not in shown + sheets and "&lt;script&gt;alert" in sheets


def test_the_pages_are_in_chinese(cast: Cast) -> None:
    client = Client(SERVER_NAME="127.0.0.1", headers={"accept-language": "zh-CN"})
    client.force_login(cast.root.user)
    text = "user\neve"

    answers = [
        client.get(PAGE),
        client.post(PAGE, form(cast, "user\nbob smith\neve\neve")),
        client.post(PAGE, form(cast, text)),
        client.post(PAGE, form(cast, text, confirmed="1")),
    ]

    assert [english(answer) for answer in answers] == [[], [], [], []]


@pytest.mark.parametrize("who", ["nobody", "alice", "bob"])
def test_only_an_administrator_may(cast: Cast, client: Client, who: str) -> None:
    if who != "nobody":
        client.force_login(getattr(cast, who).user)
    before = counts()

    answer = client.post(PAGE, form(cast, "eve", confirmed="1"))

    assert answer.status_code == 302 and "/admin/login/" in answer.headers["Location"]
    assert counts() == before
