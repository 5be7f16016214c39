"""The first page of whoever is signed in: what it tells to do first, and what it shows later."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import AccessToken, TokenActivity
from relay.models import Meter, UsageRecord
from tests.cast import Cast, Person
from tests.test_portal import signed_in
from tests.test_translations import english

TOKEN, ASK, APP = "First, a token", "administrator gives you one", "Now connect an app"


def page_of(person: Person) -> str:
    return signed_in(person).get("/").content.decode()


def asked(person: Person, model: str, minutes_ago: int = 0, **fields: object) -> UsageRecord:
    return UsageRecord.objects.create(
        id=uuid.uuid4(),
        request_id="req_x",
        started_at=timezone.now() - timedelta(minutes=minutes_ago),
        token_id=person.token.pk,
        user_id=person.user.pk,
        team_id=person.user.team_id,
        model=model,
        streamed=False,
        **fields,
    )


def has_none(person: Person) -> None:
    person.token.delete()


def was_shut_out(person: Person) -> None:
    AccessToken.objects.filter(owner=person.user).update(enabled=False)


def has_not_used_it(person: Person) -> None:
    pass


def has_used_it(person: Person) -> None:
    TokenActivity.objects.create(token=person.token, last_used_at=timezone.now())


@pytest.mark.parametrize(
    ("standing", "told"),
    [
        (has_none, {TOKEN}),
        (was_shut_out, {TOKEN, ASK}),
        (has_not_used_it, {APP}),
        (has_used_it, set()),
    ],
)
def test_it_says_what_to_do_first(cast: Cast, standing: Callable[[Person], None], told: set[str]) -> None:
    standing(cast.bob)

    page = page_of(cast.bob)

    assert {each for each in (TOKEN, ASK, APP) if each in page} == told


def test_points_are_shown_by_thousands_with_what_is_left(cast: Cast) -> None:
    cast.bob.user.points_per_day = 20_000
    cast.bob.user.save()
    later = int(timezone.now().timestamp()) + 3600
    Meter.objects.create(
        id=f"user:{cast.bob.user.pk}", day_points=12_345, day_ends=later, month_points=1, month_ends=later
    )

    page = page_of(cast.bob)

    assert (
        "12,345 points" in page and "7,655 of 20,000 left" in page and "1 point<" in page.replace("\n", "<")
    )
    assert '<progress value="12345" max="20000"' in page


def test_last_requests_are_ones_own_and_five(cast: Cast) -> None:
    for number in range(6):
        asked(cast.bob, f"model-{number}", number, points=1_234_567)
    asked(cast.charlie, "secret-model")

    page = page_of(cast.bob)

    assert "model-4<" in page and "model-5<" not in page and "secret-model" not in page
    assert "1,234,567" in page


def test_it_is_all_in_chinese(cast: Cast) -> None:
    asked(cast.bob, "gpt-4o")

    assert english(signed_in(cast.bob, "zh-CN").get("/")) == []


def test_more_tokens_and_requests_are_no_more_queries(cast: Cast) -> None:
    bob = signed_in(cast.bob)

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            bob.get("/")
        return len(seen)

    before = queries()
    for number in range(3):
        AccessToken.objects.issue_to_self(cast.bob.user, f"token {number}")
        asked(cast.bob, "gpt-4o", number)
    assert queries() == before
