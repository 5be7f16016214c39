"""Access tokens as text: what is made is recognised, and what is mistyped is not."""

from __future__ import annotations

import hmac
import re
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts import tokens

# Made once and kept: people's clients hold tokens like this one, so neither format nor checksum may change.
KEPT = "sk-poe-" + "0" * 34 + tokens.checksum("0" * 34)


def test_a_token_is_a_prefix_and_40_base62_characters() -> None:
    for token in (tokens.make() for _ in range(200)):
        assert re.fullmatch(r"sk-poe-[0-9A-Za-z]{40}", token)
        assert tokens.is_well_formed(token)
        assert tokens.checksum(token[7:41]) == token[41:]


def test_tokens_are_unlike_each_other() -> None:
    made = [tokens.make()[7:41] for _ in range(1000)]

    assert len(set(made)) == 1000
    assert set("".join(made)) == set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize(
    ("body", "checksum"),
    [
        # CRC-32 of these is 0, 0xE8B7BE43, 0xCBF43926; in base 62, digits before capitals before small letters.
        ("", "000000"),
        ("a", "4GEHKN"),
        ("123456789", "3jZRME"),
    ],
)
def test_the_checksum_is_a_crc32_in_base62(body: str, checksum: str) -> None:
    assert tokens.checksum(body) == checksum
    number = 0
    for digit in checksum:
        number = number * 62 + tokens.ALPHABET.index(digit)
    assert number == {"": 0, "a": 0xE8B7BE43, "123456789": 0xCBF43926}[body]


def test_every_other_single_character_is_refused() -> None:
    token = tokens.make()

    for at in range(len(tokens.PREFIX), len(token)):
        for letter in tokens.ALPHABET:
            changed = token[:at] + letter + token[at + 1 :]
            assert tokens.is_well_formed(changed) is (letter == token[at])


def test_swapped_neighbours_are_refused() -> None:
    token = tokens.make()

    for at in range(len(tokens.PREFIX), len(token) - 1):
        swapped = token[:at] + token[at + 1] + token[at] + token[at + 2 :]
        assert tokens.is_well_formed(swapped) is (swapped == token)


@pytest.mark.parametrize(
    "damaged",
    [
        KEPT[:-1],
        KEPT + "0",
        KEPT + " ",
        KEPT + "\n",
        KEPT[:20] + " " + KEPT[21:],
        KEPT[:20] + "-" + KEPT[21:],
        KEPT[:20] + "٠" + KEPT[21:],  # a digit, but not one of ours
        KEPT[:20] + "é" + KEPT[21:],
        KEPT[:20] + "\x00" + KEPT[21:],
        "sk-poe-",
        "sk-poe-" + "0" * 40,
    ],
)
def test_it_refuses_a_damaged_token(damaged: str) -> None:
    assert tokens.is_well_formed(KEPT)
    assert not tokens.is_well_formed(damaged)


@pytest.mark.parametrize("token", ["x", "sk-abcdef", "12345", "a secret with spaces", "令牌", "z" * 500])
def test_it_takes_imported_tokens_as_they_are(token: str) -> None:
    assert tokens.is_well_formed(token)


@pytest.mark.parametrize("token", ["", "z" * 501, "a\nb", "a\x00b", "a\u202eb", "\ud800", "\x7f", "a\tb"])
def test_it_refuses_what_no_header_carries(token: str) -> None:
    assert not tokens.is_well_formed(token)


@settings(max_examples=200, deadline=None)
@given(token=st.text(st.characters(codec=None), max_size=60))
def test_any_text_has_a_digest_and_a_form(token: str) -> None:
    assert isinstance(tokens.is_well_formed(token), bool)
    assert re.fullmatch("[0-9a-f]{64}", tokens.digest(token, b"key"))


def test_the_digest_is_keyed() -> None:
    token = tokens.make()

    assert tokens.digest(token, b"key") == hmac.new(b"key", token.encode(), sha256).hexdigest()
    assert tokens.digest(token, b"key") != tokens.digest(token, b"kex")
    assert tokens.digest(token, b"key") != tokens.digest(token + " ", b"key")
    assert token not in tokens.digest(token, b"key")


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (KEPT, "sk-poe-000000"),
        ("abcdefghijklmnopqrstuvwxyz", "abcdef"),
        ("abcdef", "ab"),
        ("ab", ""),
        ("", ""),
    ],
)
def test_it_shows_so_little_that_nothing_can_be_guessed(token: str, shown: str) -> None:
    assert tokens.shown_prefix(token) == shown
