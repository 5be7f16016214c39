"""Which mapping answers a model, as this caller may see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import mappings
from relay.directory import Caller, Changes, Directory, matches, wildcard
from relay.errors import UnknownModel
from tests import entries
from tests.entries import CHEMISTRY, PHYSICS


def caller(team_id: int = PHYSICS, *allowed_models: str, is_superuser: bool = False) -> Caller:
    return entries.caller(team_id=team_id, is_superuser=is_superuser, allowed_models=allowed_models)


class Book:
    """A directory of mappings."""

    def __init__(self) -> None:
        self.directory = Directory()

    def write(self, *rows: tuple[str, str] | tuple[str, str, dict[str, Any]]) -> None:
        found = {
            id: entries.mapping(id=id, model=model, bot=bot, **(fields[0] if fields else {}))
            for id, (model, bot, *fields) in enumerate(rows, 1)
        }
        self.directory._apply(Changes(1, {"mappings": found}, frozenset({"mappings"})))

    def bot(self, model: str, who: Caller | None = None) -> str | None:
        try:
            return mappings.resolve(self.directory, model, who or caller()).bot
        except UnknownModel:
            return None


@pytest.fixture
def book() -> Iterator[Book]:
    found = Book()
    yield found
    found.directory.close()


@pytest.mark.parametrize(
    ("model", "bot"),
    [
        ("gpt-4o", "GPT-4o"),
        ("GPT-4O", "GPT-4o"),
        ("gpt-4o-mini", "Four"),
        ("gpt-4", "Four"),
        ("gpt-3", "Any-GPT"),
        ("gpt-", "Any-GPT"),
        ("gpt", "Any"),
        ("my-gpt-4o", "Any"),
        ("gpt-4o\n", "Four"),
        ("gpt-3\nx", "Any-GPT"),
        ("x", "Any"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_exact_before_wildcard_and_the_longest_wildcard_first(
    book: Book, model: str, bot: str, reverse: bool
) -> None:
    rows = [("*", "Any"), ("gpt-*", "Any-GPT"), ("gpt-4*", "Four"), ("gpt-4o", "GPT-4o")]

    book.write(*(reversed(rows) if reverse else rows))

    assert book.bot(model) == bot


@pytest.mark.parametrize("model", ["gpt-4", "xgpt-4o", "gpt-4o ", "", "*", "gpt-*"])
def test_an_exact_name_answers_to_nothing_else(book: Book, model: str) -> None:
    book.write(("gpt-4o", "GPT-4o"))

    with pytest.raises(UnknownModel) as refused:
        mappings.resolve(book.directory, model, caller())

    assert (refused.value.status, refused.value.code, refused.value.param) == (
        404,
        "model_not_found",
        "model",
    )
    assert repr(model) in refused.value.message


@pytest.mark.parametrize(
    ("pattern", "model", "found"),
    [
        ("gpt.4*", "gpt.4o", True),
        ("gpt.4*", "gpt-4o", False),
        ("a+*", "a+b", True),
        ("a+*", "aab", False),
        ("[a]*", "[a]b", True),
        ("[a]*", "ab", False),
        ("(a|b)*", "a", False),
        ("a?*", "a", False),
        ("a\\*", "a\\b", True),
        ("^a*", "ab", False),
        ("a*$", "ab", False),
        ("a*$", "ab$", True),
        ("*-mini", "gpt-mini", True),
        ("*-mini", "gpt-mini-2", False),
        ("a*b*c", "abc", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("**", "x", True),
        ("模型*", "模型一", True),
        ("STRASSE*", "straße-1", True),
    ],
)
def test_only_a_star_stands_for_something(book: Book, pattern: str, model: str, found: bool) -> None:
    book.write((pattern, "Bot"))

    assert book.bot(model) == ("Bot" if found else None)
    assert matches(model, (pattern,)) is found


@pytest.mark.parametrize("name", ["gpt.4o", "a+b", "[a]", "(x", "a\\d", "a{2}", "a$", "?"])
def test_an_exact_name_is_literal(book: Book, name: str) -> None:
    book.write((name, "Bot"))

    assert book.bot(name) == "Bot"
    assert book.bot("gpt-4o") is book.bot("aab") is book.bot("a") is book.bot("aa") is None


def test_a_bot_of_a_star_is_named_as_the_model_is(book: Book) -> None:
    book.write(("poe-*", "*"), ("gpt-4o", "*"))

    assert book.bot("poe-Claude-Opus") == "poe-Claude-Opus"
    assert book.bot("GPT-4o") == "GPT-4o"
    assert mappings.resolve(book.directory, "poe-X", caller()).model == "poe-*"


def test_a_disabled_mapping_answers_nobody(book: Book) -> None:
    book.write(("gpt-4o", "GPT-4o", {"enabled": False}), ("claude*", "Claude", {"enabled": False}))

    assert book.bot("gpt-4o") is book.bot("claude-1") is None
    assert mappings.listed(book.directory, caller()) == []


def test_a_disabled_mapping_does_not_hide_a_wildcard(book: Book) -> None:
    book.write(("gpt-4o", "GPT-4o", {"enabled": False}), ("gpt-*", "Any"))

    assert book.bot("gpt-4o") == "Any"


def test_a_hidden_mapping_answers_and_is_not_listed(book: Book) -> None:
    book.write(("gpt-4o", "GPT-4o", {"hidden": True}), ("claude", "Claude"))

    assert book.bot("gpt-4o") == "GPT-4o"
    assert [mapping.model for mapping in mappings.listed(book.directory, caller())] == ["claude"]


TEAM = {"team_ids": frozenset({CHEMISTRY})}


def test_a_teams_mapping_is_for_that_team(book: Book) -> None:
    book.write(("acid", "Acid", TEAM), ("acid-*", "Acids", TEAM))

    for model, bot in (("acid", "Acid"), ("acid-2", "Acids")):
        assert book.bot(model, caller(CHEMISTRY)) == bot
        assert book.bot(model) is None
        assert book.bot(model, caller(is_superuser=True)) is None


def test_both_kinds_of_unknown_are_told_alike(book: Book) -> None:
    book.write(("acid", "Acid", TEAM))

    told = []
    for model in ("acid", "base"):
        with pytest.raises(UnknownModel) as refused:
            mappings.resolve(book.directory, model, caller())
        told.append(refused.value.message.replace(model, "?"))

    assert told[0] == told[1]


def test_a_name_that_is_another_teams_alone_is_not_opened_by_a_wildcard(book: Book) -> None:
    book.write(("acid", "Acid", TEAM), ("*", "Any"))

    assert book.bot("acid") is None
    assert book.bot("acid", caller(CHEMISTRY)) == "Acid"


def test_a_wildcard_of_another_team_is_passed_over(book: Book) -> None:
    book.write(("acid-*", "Acids", TEAM), ("*", "Any"))

    assert book.bot("acid-1") == "Any"
    assert book.bot("acid-1", caller(CHEMISTRY)) == "Acids"


@pytest.mark.parametrize(
    ("allowed", "models"),
    [
        ((), ["Claude-3", "gpt-4", "gpt-4o"]),
        (("gpt-4o",), ["gpt-4o"]),
        (("GPT-4O",), ["gpt-4o"]),
        (("gpt-*",), ["gpt-4", "gpt-4o"]),
        (("claude*", "gpt-4"), ["Claude-3", "gpt-4"]),
        (("*",), ["Claude-3", "gpt-4", "gpt-4o"]),
        (("gpt.4o",), []),
        (("gpt-4",), ["gpt-4"]),
        (("nothing",), []),
    ],
)
def test_a_token_is_for_its_models(book: Book, allowed: tuple[str, ...], models: list[str]) -> None:
    book.write(("gpt-4o", "GPT-4o"), ("gpt-4", "GPT-4"), ("Claude-3", "Claude"), ("*", "*"))
    who = caller(PHYSICS, *allowed)

    assert [mapping.model for mapping in mappings.listed(book.directory, who)] == models
    for model in ("gpt-4o", "gpt-4", "Claude-3"):
        assert (book.bot(model, who) is not None) is (model in models)


def test_a_tokens_models_hold_for_what_a_wildcard_answers(book: Book) -> None:
    book.write(("*", "*"))

    assert book.bot("gpt-4o", caller(PHYSICS, "gpt-*")) == "gpt-4o"
    assert book.bot("claude", caller(PHYSICS, "gpt-*")) is None


def test_the_list_is_sorted_and_has_no_wildcards(book: Book) -> None:
    book.write(("b", "B"), ("C", "C"), ("a", "A"), ("d*", "D"))

    assert [mapping.model for mapping in mappings.listed(book.directory, caller())] == ["a", "b", "C"]


@settings(max_examples=200, deadline=None)
@given(pattern=st.text("ab*.\n[", max_size=6), name=st.text("ab*.\n[", max_size=6))
def test_a_pattern_means_what_it_looks_like(pattern: str, name: str) -> None:
    def holds(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return any(holds(pattern[1:], name[at:]) for at in range(len(name) + 1))
        return name[:1] == pattern[0] and holds(pattern[1:], name[1:])

    assert (wildcard(pattern).match(name) is not None) is holds(pattern, name)
    assert matches(name, [pattern]) is (holds(pattern, name) or pattern == name)
