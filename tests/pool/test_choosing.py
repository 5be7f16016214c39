"""Which Poe keys may serve a request, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import pool
from relay.directory import AccountEntry, Directory, KeyEntry, Mapping
from relay.errors import NoKeyAvailable
from relay.events import ChatRequest, FilePart, Message, TextPart
from relay.limits import UNLIMITED
from relay.pool import choosing
from tests.entries import CHEMISTRY, PHYSICS, caller, mapping


class Keys:
    """A directory of Poe accounts and keys, written down one key a line."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory

    def add(self, id: int, **fields: Any) -> None:
        account = {"id": id, "name": f"account {id}", "team_id": None, "enabled": True, "is_demo": False}
        key = {"id": id, "name": f"key {id}", "account_id": id, "enabled": True, "priority": 0, "weight": 100}
        for name, value in fields.items():
            table = account if name.startswith("account__") else key
            table[name.removeprefix("account__")] = value
        account["id"] = key["account_id"]
        entry = AccountEntry(base_url="", upload_url="", limits=UNLIMITED, **account)  # type: ignore[arg-type]
        self.directory.accounts[entry.id] = entry
        values: dict[str, Any] = {"proxy": "", "secret": "poe-secret", "limits": UNLIMITED, **key}
        self.directory.keys[id] = KeyEntry(**values)

    def order(self, conversation: bytes = b"c", of: Mapping | None = None, **who: Any) -> list[int]:
        found = pool.order(self.directory, of or mapping(), caller(**who), lambda: conversation)
        return [key.id for key in found]


@pytest.fixture
def keys() -> Iterator[Keys]:
    directory = Directory()
    yield Keys(directory)
    directory.close()


def conversations(count: int) -> list[bytes]:
    return [b"conversation %d" % number for number in range(count)]


# Who may be asked.


@pytest.mark.parametrize(
    "fields",
    [
        {"enabled": False},
        {"secret": ""},
        {"account__enabled": False},
        {"account__is_demo": True},
        {"account__team_id": CHEMISTRY},
    ],
    ids=str,
)
def test_it_passes_over(keys: Keys, fields: dict[str, Any]) -> None:
    keys.add(1, **fields)
    keys.add(2)

    assert {tuple(keys.order(each)) for each in conversations(20)} == {(2,)}


def test_a_key_without_an_account_is_passed_over(keys: Keys) -> None:
    keys.add(1)
    keys.add(2)
    del keys.directory.accounts[1]

    assert keys.order() == [2]


def test_an_administrator_has_no_other_teams_keys(keys: Keys) -> None:
    keys.add(1, account__team_id=CHEMISTRY, priority=100)
    keys.add(2)

    assert keys.order(is_superuser=True) == [2]


def test_a_bound_mapping_uses_keys_of_its_account_alone(keys: Keys) -> None:
    keys.add(1, account__is_demo=True)
    keys.add(2, priority=9)
    keys.add(3, account__team_id=PHYSICS)
    keys.add(4, account_id=1, account__is_demo=True)

    assert set(keys.order(of=mapping(account_id=1))) == {1, 4}
    assert keys.order(of=mapping(account_id=2)) == [2]
    assert keys.order(of=mapping(account_id=3)) == [3]
    assert set(keys.order()) == {2, 3}


@pytest.mark.parametrize(
    ("account_id", "fields"),
    [
        (1, {"account__team_id": CHEMISTRY}),
        (1, {"account__enabled": False}),
        (1, {"enabled": False}),
        (1, {"secret": ""}),
        (7, {}),
    ],
    ids=str,
)
def test_a_bound_mapping_does_not_open_what_is_closed(
    keys: Keys, account_id: int, fields: dict[str, Any]
) -> None:
    keys.add(1, **fields)
    keys.add(2)

    with pytest.raises(NoKeyAvailable) as refused:
        keys.order(of=mapping(account_id=account_id, model="demo-echo"))

    assert "'demo-echo'" in refused.value.message and "bound" in refused.value.message
    assert refused.value.status == 503


def test_without_a_key_it_says_where_to_add_one(keys: Keys) -> None:
    keys.add(1, account__is_demo=True)

    with pytest.raises(NoKeyAvailable) as refused:
        keys.order()

    assert refused.value.code == "no_poe_key"
    assert "administrator" in refused.value.message and "/admin/relay/poekey/add/" in refused.value.message


# In which order.


def test_own_teams_keys_come_first_whatever_their_priority(keys: Keys) -> None:
    keys.add(1, priority=100, weight=10000)
    keys.add(2, account__team_id=PHYSICS, priority=-5)
    keys.add(3, account__team_id=PHYSICS, priority=-4, weight=1)

    assert {tuple(keys.order(each)) for each in conversations(50)} == {(3, 2, 1)}


def test_a_higher_priority_comes_first_whatever_its_weight(keys: Keys) -> None:
    keys.add(1, priority=-1, weight=10000)
    keys.add(2, priority=0, weight=1)
    keys.add(3, priority=1, weight=1)

    assert {tuple(keys.order(each)) for each in conversations(50)} == {(3, 2, 1)}


def test_conversations_are_shared_out_by_weight(keys: Keys) -> None:
    weights = {1: 100, 2: 200, 3: 700}
    for id, weight in weights.items():
        keys.add(id, weight=weight)

    first = Counter(keys.order(each)[0] for each in conversations(20_000))

    for id, weight in weights.items():
        assert first[id] == pytest.approx(20 * weight, rel=0.03)


def test_the_second_choice_follows_the_weights_too(keys: Keys) -> None:
    for id, weight in {1: 800, 2: 100, 3: 100}.items():
        keys.add(id, weight=weight)

    orders = Counter(tuple(keys.order(each)[:2]) for each in conversations(5000))

    assert orders[1, 2] == pytest.approx(2000, rel=0.08)
    assert orders[1, 3] == pytest.approx(2000, rel=0.08)


def test_a_conversation_stays_on_its_key(keys: Keys) -> None:
    for id in range(1, 6):
        keys.add(id)

    before = {each: keys.order(each) for each in conversations(200)}
    keys.directory.keys = dict(reversed(keys.directory.keys.items()))

    assert {each: keys.order(each) for each in conversations(200)} == before
    assert {order[0] for order in before.values()} == {1, 2, 3, 4, 5}


def test_a_key_that_goes_moves_its_own_conversations_alone(keys: Keys) -> None:
    for id in range(1, 6):
        keys.add(id, weight=50 * id)
    before = {each: keys.order(each) for each in conversations(500)}

    del keys.directory.keys[3]

    for each, order in before.items():
        assert keys.order(each) == [id for id in order if id != 3]
    moved = Counter(order[1] for order in before.values() if order[0] == 3)
    assert set(moved) == {1, 2, 4, 5}, "they do not all go to the same other key"


def test_more_weight_takes_from_others_and_gives_to_none(keys: Keys) -> None:
    for id in (1, 2, 3):
        keys.add(id)
    before = {each: keys.order(each)[0] for each in conversations(500)}

    keys.add(1, weight=300)

    after = {each: keys.order(each)[0] for each in conversations(500)}
    assert {after[each] for each in before if before[each] != after[each]} == {1}


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.sampled_from([1, 100, 10_000]), min_size=1, max_size=5),
    priorities=st.lists(st.integers(-2, 2), min_size=5, max_size=5),
    teams=st.lists(st.sampled_from([None, PHYSICS, CHEMISTRY]), min_size=5, max_size=5),
    conversation=st.binary(max_size=70),
)
def test_every_usable_key_is_there_once(
    weights: list[int], priorities: list[int], teams: list[int | None], conversation: bytes
) -> None:
    keys = Keys(Directory())
    for id, weight in enumerate(weights):
        keys.add(id, weight=weight, priority=priorities[id], account__team_id=teams[id])
    usable = [id for id in range(len(weights)) if teams[id] != CHEMISTRY]

    if not usable:
        with pytest.raises(NoKeyAvailable):
            keys.order(conversation)
        return

    order = keys.order(conversation)
    assert sorted(order) == usable
    ranks = [(teams[id] is None, -priorities[id]) for id in order]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("digest", [bytes(8), b"\xff" * 8])
def test_no_conversation_is_so_odd_that_it_has_no_key(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, digest: bytes
) -> None:
    class Odd:
        def digest(self) -> bytes:
            return digest

    keys.add(1)
    keys.add(2)
    monkeypatch.setattr(choosing, "blake2b", lambda *args, **kwargs: Odd())

    assert keys.order() == [1, 2]


def test_a_conversation_is_told_apart_only_where_there_is_a_choice(keys: Keys) -> None:
    conversation = Mock(return_value=b"c")
    keys.add(1)
    keys.add(2, enabled=False)

    pool.order(keys.directory, mapping(), caller(), conversation)
    assert not conversation.called

    keys.add(2)
    pool.order(keys.directory, mapping(), caller(), conversation)
    assert conversation.called


# What a conversation is.


def turn(*texts: str, model: str = "gpt-4o", system: str = "") -> ChatRequest:
    messages = [Message("system", (TextPart(system),))] if system else []
    for number, text in enumerate(texts):
        messages.append(Message("assistant" if number % 2 else "user", (TextPart(text),)))
    return ChatRequest(model=model, messages=tuple(messages))


@pytest.mark.parametrize("system", ["", "Be kind."])
def test_a_conversation_is_the_same_from_turn_to_turn(system: str) -> None:
    turns = [
        turn("Hi", system=system),
        turn("Hi", "Hello!", "How are you?", system=system),
        turn("Hi", "Hello!", "How are you?", "Well.", "Good.", system=system),
    ]

    assert len({pool.conversation_of(caller(), chat) for chat in turns}) == 1


@pytest.mark.parametrize(
    "other",
    [turn("Ho"), turn("Hi", model="gpt-4"), turn("Hi", system="Be kind."), turn("Hi" * 500)],
    ids=str,
)
def test_another_beginning_is_another_conversation(other: ChatRequest) -> None:
    assert pool.conversation_of(caller(), turn("Hi")) != pool.conversation_of(caller(), other)


def test_another_token_is_another_conversation_and_another_case_is_not() -> None:
    mine = pool.conversation_of(caller(), turn("Hi"))

    assert pool.conversation_of(caller(token_id=2), turn("Hi")) != mine
    assert pool.conversation_of(caller(), turn("Hi", model="GPT-4o")) == mine


def test_a_conversation_may_begin_with_anything() -> None:
    picture = Message("user", (FilePart("a.png", "image/png", data=b"ABC"),))

    for messages in ((picture,), (Message("assistant", ()),), (Message("tool", ()), picture)):
        chat = ChatRequest(model="m", messages=messages)
        assert pool.conversation_of(caller(), chat) == pool.conversation_of(caller(), chat)


def test_load_is_shared_by_weight_within_ten_per_cent(keys: Keys) -> None:
    weights = (100, 50, 200, 100, 100, 150, 50, 100, 200, 100, 100, 150)
    for id, weight in enumerate(weights, 1):
        keys.add(id, weight=weight)

    first = Counter(keys.order(each)[0] for each in conversations(30_000))

    for id, weight in enumerate(weights, 1):
        assert 0.9 < first[id] / 30_000 / (weight / sum(weights)) < 1.1


def test_a_suspect_comes_after_others_of_the_same_bill(keys: Keys) -> None:
    keys.add(1, priority=9)
    keys.add(2)
    keys.add(3, account__counts_in_budgets=False)

    found = pool.order(keys.directory, mapping(), caller(), lambda: b"c", {1, 3})

    assert [key.id for key in found] == [3, 2, 1]
