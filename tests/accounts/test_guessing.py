"""Wrong guesses: some at once, then one for each step, counted before anything is looked at."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts import guessing
from accounts.guessing import Guesses, Pace, TooManyGuesses, counted
from tests.conftest import in_database

PACE = Pace(3, 60)
KEY = guessing.at_name("alice")


def guess_wrongly(*digests: str, pace: Pace = PACE) -> None:
    try:
        with counted(dict.fromkeys(digests or [KEY], pace)):
            raise LookupError
    except LookupError:
        pass


def later(seconds: float) -> None:
    """As if so much time had passed."""
    for row in Guesses.objects.all():
        row.forgotten_at -= timedelta(seconds=seconds)
        row.save()


def test_so_many_wrong_ones_are_free_and_then_one_for_each_step(db: None) -> None:
    for _number in range(3):
        guess_wrongly()

    with pytest.raises(TooManyGuesses) as refused:
        guess_wrongly()
    later(60)
    guess_wrongly()
    with pytest.raises(TooManyGuesses):
        guess_wrongly()

    assert 59 <= refused.value.seconds <= 60


def test_a_right_one_costs_nothing(db: None) -> None:
    for _number in range(10):
        with counted({KEY: PACE}):
            pass

    guess_wrongly()
    guess_wrongly()
    guess_wrongly()


def test_who_is_kept_waiting_does_not_wait_longer_for_asking(db: None) -> None:
    for _number in range(3):
        guess_wrongly()
    before = Guesses.objects.get().forgotten_at

    for _number in range(5):
        with pytest.raises(TooManyGuesses):
            guess_wrongly()

    assert Guesses.objects.get().forgotten_at == before


def test_one_that_waits_holds_up_what_is_counted_with_it_but_is_not_charged_to_it(db: None) -> None:
    address = guessing.from_address("192.0.2.7")
    for _number in range(3):
        guess_wrongly(address)

    with pytest.raises(TooManyGuesses):
        guess_wrongly(KEY, address)

    later(0)
    for _number in range(3):
        guess_wrongly(KEY)


def test_what_is_forgotten_is_dropped(db: None) -> None:
    guess_wrongly()
    later(61)

    guess_wrongly(guessing.at_name("bob"))

    assert [row.pk for row in Guesses.objects.all()] == [guessing.at_name("bob")]


def test_the_sentence_says_how_long(db: None) -> None:
    assert TooManyGuesses(59).messages == ["Too many wrong attempts. Wait a minute, then try again."]
    assert TooManyGuesses(61).messages == ["Too many wrong attempts. Wait 2 minutes, then try again."]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("2001:db8::1", "2001:db8::ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("unknown", "", False),
    ],
)
def test_an_address_is_a_customer(one: str, other: str, is_same: bool) -> None:
    assert (guessing.from_address(one) == guessing.from_address(other)) is is_same


@pytest.mark.asyncio
async def test_many_at_once_are_not_many_chances(transactional_db: None) -> None:
    """Each on a connection of its own, as in as many processes."""

    def guess(_number: Any) -> bool:
        try:
            guess_wrongly()
        except TooManyGuesses:
            return False
        return True

    looked_at = await asyncio.gather(*(in_database(guess, number) for number in range(12)))

    assert sum(looked_at) == 3
    row = await in_database(Guesses.objects.get)
    assert row.forgotten_at - timezone.now() <= timedelta(seconds=180)
