"""What is stored in English about keys and accounts is told in the reader's language, whoever wrote it down."""

from __future__ import annotations

import pytest
from django.utils import translation

from relay import balances, reasons
from relay.upstreams import poe_errors
from tests.test_translations import CHINESE

OURS = {
    *poe_errors._OUR_WORDS.values(),
    *(words for _kind, _error, words in poe_errors._failures(True)),
    *(words for _kind, _error, words in poe_errors._failures(False)),
    poe_errors.from_status(503, {}, b"", "").message,
    poe_errors.from_event(b"{}", "").message,
    poe_errors.unreadable("text").message,
    f"the balance is {balances._points(1)}",
    f"the balance is {balances._points(-1_234)}",
    f"{balances._points(12)} left, fewer than {5_000:,}",
    f"tested: {balances._points(1_234)}",
    "tested: cannot reach Poe",
    "a new secret was stored",
    "put back into service by root",
    "it has the points history of 'main'",
    "1 charge of 1,234 points as 'laptop' that no request of ours explains",
    "2 charges of 1,234 points as 'laptop' that no request of ours explains",
}


@pytest.mark.parametrize("reason", sorted(OURS))
def test_our_own_words_are_told_in_chinese_with_what_they_name(reason: str) -> None:
    with translation.override("zh-hans"):
        said = reasons.told(reason)

    assert CHINESE.search(said) and "%" not in said
    assert all(part in said for part in ("1,234", "main", "laptop", "root", "503") if part in reason)


def test_words_of_others_stay_as_they_are() -> None:
    with translation.override("zh-hans"):
        assert reasons.told("The model melted. 100% sure") == "The model melted. 100% sure"
        assert reasons.told("tested: it melted").endswith("it melted")


@pytest.mark.parametrize("reason", sorted(OURS))
def test_english_stays_what_it_was(reason: str) -> None:
    assert reasons.told(reason) == reason
