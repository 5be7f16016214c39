"""Codes of the app and recovery codes: right once, slow to guess, kept so that a stolen database has none."""

from __future__ import annotations

from datetime import timedelta

import pyotp
import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts import second_factor
from accounts.guessing import TooManyGuesses
from accounts.models import SecondFactor, User
from tests.cast import Cast


def code_of(user: User, steps: int = 0) -> str:
    factor = SecondFactor.objects.get(user=user)
    return pyotp.TOTP(factor.secret).at(timezone.now() + timedelta(seconds=30 * steps))


def with_factor(user: User) -> list[str]:
    """The recovery codes. The code of the half minute before is used up."""
    second_factor.begin(user)
    return second_factor.confirm(user, code_of(user, -1))


def test_it_is_asked_for_only_after_a_first_right_code(cast: Cast) -> None:
    bob = cast.bob.user
    waiting = second_factor.begin(bob)

    assert second_factor.of(bob) is None and second_factor.begin(bob).secret == waiting.secret
    with pytest.raises(ValidationError):
        second_factor.confirm(bob, "000000" if code_of(bob) != "000000" else "000001")
    assert second_factor.of(bob) is None
    assert len(second_factor.confirm(bob, code_of(bob))) == 10
    assert second_factor.of(bob) is not None


def test_a_code_is_right_once_and_none_before_it_any_more(cast: Cast) -> None:
    bob = cast.bob.user
    with_factor(bob)

    second_factor.check(bob, f" {code_of(bob)[:3]} {code_of(bob)[3:]}")

    for steps in (0, -1):
        with pytest.raises(ValidationError, match="used before"):
            second_factor.check(bob, code_of(bob, steps))
    second_factor.check(bob, code_of(bob, 1))


@pytest.mark.parametrize("steps", [-3, 3])
def test_a_code_of_another_time_is_wrong(cast: Cast, steps: int) -> None:
    with_factor(cast.bob.user)

    with pytest.raises(ValidationError):
        second_factor.check(cast.bob.user, code_of(cast.bob.user, steps))


def test_a_recovery_code_works_once_however_it_is_typed(cast: Cast) -> None:
    codes = with_factor(cast.bob.user)

    second_factor.check(cast.bob.user, codes[0].upper().replace("-", " "))

    with pytest.raises(ValidationError):
        second_factor.check(cast.bob.user, codes[0])
    assert len(SecondFactor.objects.get().recovery_digests) == 9
    with pytest.raises(ValidationError):
        second_factor.check(cast.bob.user, "")


def test_new_recovery_codes_replace_the_old_ones(cast: Cast) -> None:
    old = with_factor(cast.bob.user)
    since = SecondFactor.objects.get().confirmed_at

    new = second_factor.confirm(cast.bob.user, code_of(cast.bob.user))

    with pytest.raises(ValidationError):
        second_factor.check(cast.bob.user, old[0])
    second_factor.check(cast.bob.user, new[0])
    assert SecondFactor.objects.get().confirmed_at == since


def test_after_five_wrong_codes_not_even_the_right_one_is_looked_at(cast: Cast) -> None:
    codes = with_factor(cast.bob.user)
    for _number in range(5):
        with pytest.raises(ValidationError):
            second_factor.check(cast.bob.user, "wrong")

    for code in (code_of(cast.bob.user), codes[0]):
        with pytest.raises(TooManyGuesses):
            second_factor.check(cast.bob.user, code)
    second_factor.begin(cast.alice.user)
    second_factor.confirm(cast.alice.user, code_of(cast.alice.user))


def test_the_database_holds_neither_the_secret_nor_a_code(cast: Cast) -> None:
    codes = with_factor(cast.bob.user)

    stored = str(SecondFactor.objects.values().get())

    assert SecondFactor.objects.get().secret not in stored
    assert not any(code in stored or code.replace("-", "") in stored for code in codes)


def test_with_another_encryption_key_a_code_is_wrong_and_a_command_helps(cast: Cast) -> None:
    with_factor(cast.bob.user)
    right = code_of(cast.bob.user)
    SecondFactor.objects.update(sealed_secret="gAAAAA")

    with pytest.raises(ValidationError):
        second_factor.check(cast.bob.user, right)
    call_command("removesecondfactor", "bob")

    assert second_factor.of(cast.bob.user) is None


@pytest.mark.parametrize(("name", "said"), [("bob", "bob has no second factor"), ("zoe", 'no user "zoe"')])
def test_the_command_says_when_there_is_nothing_to_take_away(cast: Cast, name: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        call_command("removesecondfactor", name)
