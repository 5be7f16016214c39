"""Tokens in the panel: issued in two clicks, extended, limited, disabled with a reason, copied; and by nobody else."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import AccessToken, LimitPreset, token_digest
from tests.cast import Cast

PLAIN = re.compile(r"sk-poe-[0-9A-Za-z]{40}")
LIST = reverse("admin:accounts_accesstoken_changelist")
ACTS = ["rotate", "clone", "extend_one", "limit_one", "disable_one"]


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


@pytest.fixture
def students(cast: Cast) -> LimitPreset:
    return LimitPreset.objects.create(
        name="students", points_per_day=500, requests_per_minute=20, allowed_models=["gpt-*"], days=30
    )


def page_of(act: str, cast: Cast) -> str:
    return reverse(f"admin:accounts_accesstoken_{act}", args=[cast.bob.token.pk])


def issue_page(cast: Cast) -> str:
    return reverse("admin:accounts_user_issue", args=[cast.bob.user.pk])


def fields(page: str) -> dict[str, str]:
    """What a browser would send of a form that nobody touched."""
    found = {}
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = re.search(r'name="([^"]+)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and 'type="radio"' not in tag:
            found[name[1]] = value[1] if value else ""
    return found


def in_days(days: float, token: AccessToken) -> bool:
    token.refresh_from_db()
    assert token.expires_at is not None
    return abs(token.expires_at - timezone.now() - timedelta(days=days)) < timedelta(minutes=1)


# Issuing.


def test_the_list_of_users_leads_to_a_form_that_may_be_sent_as_it_is(root: Client, cast: Cast) -> None:
    people = root.get(reverse("admin:accounts_user_changelist")).content.decode()
    assert f'href="{issue_page(cast)}"' in people
    form = fields(root.get(issue_page(cast)).content.decode())

    response = root.post(issue_page(cast), form)

    shown = PLAIN.search(response.content.decode())
    assert shown is not None and "no-store" in response.headers["Cache-Control"]
    token = AccessToken.objects.get(digest=token_digest(shown[0]))
    assert (token.owner, token.name, token.expires_at, token.has_limits) == (
        cast.bob.user,
        "default",
        None,
        False,
    )
    assert LogEntry.objects.filter(object_id=str(token.pk)).exists()
    assert shown[0] not in str(LogEntry.objects.values())


def test_the_page_of_a_user_has_the_same_button(root: Client, cast: Cast) -> None:
    page = root.get(reverse("admin:accounts_user_change", args=[cast.bob.user.pk])).content.decode()

    assert f'href="{issue_page(cast)}"' in page


def test_a_form_that_is_sent_twice_makes_one_token(root: Client, cast: Cast) -> None:
    form = fields(root.get(issue_page(cast)).content.decode())

    root.post(issue_page(cast), form)
    again = root.post(issue_page(cast), form)

    assert PLAIN.search(again.content.decode()) is None and "sent this form twice" in again.content.decode()
    assert cast.bob.user.access_tokens.filter(name="default").count() == 1
    assert fields(root.get(issue_page(cast)).content.decode())["name"] == "default 2"


def test_what_is_left_empty_is_as_the_preset_has_it(root: Client, cast: Cast, students: LimitPreset) -> None:
    form = {"name": "Laptop", "preset": students.pk, "points_per_day": "900"}

    root.post(issue_page(cast), form)

    token = AccessToken.objects.get(name="Laptop")
    assert (token.points_per_day, token.requests_per_minute) == (900, 20)
    assert token.allowed_models == ["gpt-*"] and in_days(30, token)
    students.delete()
    token.refresh_from_db()
    assert token.requests_per_minute == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "bell\x07"},
        {"name": "nul\x00"},
        {"points_per_day": "0"},
        {"points_per_day": "-1"},
        {"points_per_day": "9" * 30},
        {"days": "0"},
        {"days": "36501"},
        {"days": "soon"},
        {"preset": "99999"},
        {"allowed_models": "m" * 3000},
    ],
    ids=repr,
)
def test_a_form_with_a_mistake_issues_nothing(root: Client, cast: Cast, wrong: dict[str, str]) -> None:
    before = AccessToken.objects.count()

    response = root.post(issue_page(cast), {"name": "Laptop"} | wrong)

    assert response.status_code == 200 and PLAIN.search(response.content.decode()) is None
    assert AccessToken.objects.count() == before


def test_nobody_issues_to_a_person_who_was_shut_out(root: Client, cast: Cast) -> None:
    cast.bob.user.is_active = False
    cast.bob.user.save()

    response = root.post(issue_page(cast), {"name": "Laptop"}, follow=True)

    assert "may not sign in" in response.content.decode()
    assert not AccessToken.objects.filter(name="Laptop").exists()


# What becomes of tokens that are there.


def test_a_copy_has_the_same_rights_and_another_name(root: Client, cast: Cast) -> None:
    rights = {"points_per_day": 7, "allowed_models": ["a"], "allowed_networks": ["10.0.0.0/8"]}
    end = timezone.now() + timedelta(days=3)
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(**rights, expires_at=end)

    root.post(page_of("rotate", cast))
    response = root.post(page_of("clone", cast), {"name": "Charlie's", "owner": cast.charlie.user.pk})

    shown = PLAIN.search(response.content.decode())
    assert shown is not None and "no-store" in response.headers["Cache-Control"]
    copy = AccessToken.objects.get(digest=token_digest(shown[0]))
    assert {name: getattr(copy, name) for name in rights} == rights
    assert (copy.owner, copy.expires_at) == (cast.charlie.user, end)


def test_what_does_not_work_any_more_is_not_copied(root: Client, cast: Cast) -> None:
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(enabled=False)

    response = root.post(page_of("clone", cast), {"name": "Again", "owner": cast.bob.user.pk})

    assert "cannot be copied" in response.content.decode()
    with pytest.raises(ValidationError):
        AccessToken.objects.get(pk=cast.bob.token.pk).clone("Again")


def test_disabling_asks_why_and_the_holder_is_told(root: Client, cast: Cast) -> None:
    page = page_of("disable_one", cast)
    assert "from the next request on" in root.get(page).content.decode()

    root.post(page, {"reason": "Left the lab"})

    cast.bob.token.refresh_from_db()
    assert (cast.bob.token.enabled, cast.bob.token.disabled_reason) == (False, "Left the lab")
    history = reverse("admin:accounts_accesstoken_history", args=[cast.bob.token.pk])
    assert "Reason" in root.get(history).content.decode()


@pytest.mark.parametrize(("ends_in", "then"), [(10, 40), (-10, 30)])
def test_extending_goes_on_from_the_end_or_from_now(
    root: Client, cast: Cast, ends_in: int, then: int
) -> None:
    token = cast.bob.token
    AccessToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() + timedelta(days=ends_in))

    root.post(page_of("extend_one", cast), {"by": "30"})

    assert in_days(then, token)


def test_extending_until_a_day_ends_with_that_day(root: Client, cast: Cast) -> None:
    day = timezone.localdate() + timedelta(days=5)

    root.post(page_of("extend_one", cast), {"by": "until", "last_day": day.isoformat()})

    cast.bob.token.refresh_from_db()
    assert cast.bob.token.expires_at is not None
    assert timezone.localdate(cast.bob.token.expires_at - timedelta(seconds=1)) == day
    assert timezone.localdate(cast.bob.token.expires_at) == day + timedelta(days=1)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"by": "31"}, {"by": "until"}, {"by": "until", "last_day": "2020-01-01"}],
    ids=repr,
)
def test_an_end_that_makes_no_sense_changes_nothing(root: Client, cast: Cast, wrong: dict[str, str]) -> None:
    assert root.post(page_of("extend_one", cast), wrong).status_code == 200

    cast.bob.token.refresh_from_db()
    assert cast.bob.token.expires_at is None


def test_a_token_without_an_end_is_not_given_one_by_extending(root: Client, cast: Cast) -> None:
    response = root.post(page_of("extend_one", cast), {"by": "90"}, follow=True)

    cast.bob.token.refresh_from_db()
    assert cast.bob.token.expires_at is None and "0 access tokens changed" in response.content.decode()


def test_limits_become_those_of_the_preset(root: Client, cast: Cast, students: LimitPreset) -> None:
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(tokens_per_minute=1, points_per_day=1)

    root.post(page_of("limit_one", cast), {"preset": students.pk})

    cast.bob.token.refresh_from_db()
    assert (cast.bob.token.tokens_per_minute, cast.bob.token.points_per_day) == (None, 500)
    assert cast.bob.token.allowed_models == ["gpt-*"] and in_days(30, cast.bob.token)


@pytest.mark.parametrize(
    ("action", "form"),
    [("disable", {"reason": "Moved out"}), ("extend", {"by": "90"}), ("limit", {"preset": "students"})],
)
def test_what_is_ticked_in_the_list_is_asked_about_first(
    root: Client, cast: Cast, students: LimitPreset, action: str, form: dict[str, Any]
) -> None:
    chosen = [cast.bob.token, cast.charlie.token]
    AccessToken.objects.update(expires_at=timezone.now() + timedelta(days=1))
    ticked = {"action": action, "_selected_action": [token.pk for token in chosen]}
    form = form | {"preset": students.pk}
    before = list(AccessToken.objects.order_by("pk").values())

    asked = root.post(f"{LIST}?state=usable", ticked)
    assert asked.status_code == 200 and "bob&#x27;s phone" in asked.content.decode()
    assert list(AccessToken.objects.order_by("pk").values()) == before
    response = root.post(f"{LIST}?state=usable", ticked | form | {"asked": "1"})

    assert response.status_code == 302 and response.headers["Location"] == f"{LIST}?state=usable"
    after = list(AccessToken.objects.order_by("pk").values())
    changed = {row["id"] for row, old in zip(after, before, strict=True) if row != old}
    assert changed == {token.pk for token in chosen}


# By whoever must not.


@pytest.mark.parametrize("who", ["nobody", "alice", "bob", "charlie"])
@pytest.mark.parametrize("act", ["issue", *ACTS])
def test_only_an_administrator_may(cast: Cast, client: Client, who: str, act: str) -> None:
    if who != "nobody":
        client.force_login(getattr(cast, who).user)
    page = issue_page(cast) if act == "issue" else page_of(act, cast)
    before = list(AccessToken.objects.order_by("pk").values())

    answers = [client.get(page), client.post(page, {"name": "Mine", "by": "30", "reason": "x"})]

    assert {answer.status_code for answer in answers} == {302}
    assert all(answer.headers["Location"].startswith("/admin/login/") for answer in answers)
    assert list(AccessToken.objects.order_by("pk").values()) == before


@pytest.mark.parametrize("act", ["issue", *ACTS])
def test_staff_without_rights_may_not(cast: Cast, client: Client, act: str) -> None:
    cast.alice.user.is_staff = True
    cast.alice.user.save()
    client.force_login(cast.alice.user)
    page = issue_page(cast) if act == "issue" else page_of(act, cast)

    assert client.post(page, {"name": "Mine", "by": "30", "reason": "x"}).status_code == 403
    assert AccessToken.objects.get(pk=cast.bob.token.pk).enabled


@pytest.mark.parametrize("act", ["issue", *ACTS])
@pytest.mark.parametrize("key", ["999999", "nonsense"])
def test_what_is_not_there_is_not_found(root: Client, act: str, key: str) -> None:
    kind = "user_issue" if act == "issue" else f"accesstoken_{act}"

    assert root.get(reverse(f"admin:accounts_{kind}", args=[key])).status_code == 404
