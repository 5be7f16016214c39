"""The vault: what is sealed opens for its own purpose and key, and for nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import vault
from relay.vault import VaultError

SECRET = "poe-key-0123456789abcdef"


def raw(stored: str) -> bytes:
    return base64.urlsafe_b64decode(stored.removeprefix(vault.VERSION))


def stored(data: bytes) -> str:
    return vault.VERSION + base64.urlsafe_b64encode(data).decode()


@settings(max_examples=100, deadline=None)
@given(plain=st.text(max_size=100), purpose=st.text(max_size=20))
def test_what_is_sealed_opens(plain: str, purpose: str) -> None:
    sealed = vault.seal(plain, purpose=purpose)

    assert vault.unseal(sealed, purpose=purpose) == plain
    assert sealed.startswith("v1.") and sealed.isascii()


def test_a_sealed_secret_shows_nothing_and_is_never_the_same() -> None:
    sealed = {vault.seal(SECRET) for _ in range(100)}

    assert len(sealed) == 100
    assert len({raw(each)[:12] for each in sealed}) == 100
    assert not any(SECRET in each or SECRET.encode() in raw(each) for each in sealed)


@pytest.mark.parametrize("purpose", ["", "poe key ", "Poe key", "response"])
def test_another_purpose_does_not_open_it(purpose: str) -> None:
    with pytest.raises(VaultError):
        vault.unseal(vault.seal(SECRET), purpose=purpose)


def test_another_key_does_not_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = vault.seal(SECRET)
    monkeypatch.setattr(vault, "derived", lambda purpose: b"another key, also of 32 bytes...")

    with pytest.raises(VaultError, match="encryption key"):
        vault.unseal(sealed)


def test_no_changed_byte_goes_unseen() -> None:
    data = raw(vault.seal(SECRET))

    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(VaultError):
            vault.unseal(stored(changed))


@pytest.mark.parametrize("size", range(45))
def test_a_piece_of_it_does_not_open(size: int) -> None:
    with pytest.raises(VaultError):
        vault.unseal(stored(raw(vault.seal(SECRET))[:size]))


GARBAGE = ["", "v1", "v1.", "v1.x", "v1.====", "v1.QUJD", "v1.é", "v1.\x00", "v1.a b", "v2.QUJD", "V1.QUJD"]


@pytest.mark.parametrize("text", [*GARBAGE, SECRET, "v1." + "A" * 5, "v1." + "A" * 1000, "v1.\ud800"])
def test_what_is_no_sealed_secret_is_refused(text: str) -> None:
    with pytest.raises(VaultError):
        vault.unseal(text)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_row_that_was_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(VaultError):
        vault.unseal(vault.seal(SECRET)[:-cut])


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(codec=None), max_size=60))
def test_any_text_is_refused_and_nothing_else_happens(text: str) -> None:
    for each in (text, vault.VERSION + text):
        with pytest.raises(VaultError) as refused:
            vault.unseal(each)
        assert not text or len(text) < 3 or text not in str(refused.value)
