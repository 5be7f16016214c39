"""Which Poe keys may serve a request, best first. In memory: nothing is claimed here."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby

from relay.directory import AccountEntry, Caller, Directory, KeyEntry, Mapping
from relay.errors import NoKeyAvailable
from relay.events import ChatRequest


@dataclass(frozen=True, slots=True)
class Tier:
    """Keys that are asked one after the other, and whether what they use counts in the caller's budgets."""

    keys: tuple[KeyEntry, ...]
    counts_in_budgets: bool


def order(
    directory: Directory,
    mapping: Mapping,
    caller: Caller,
    conversation: Callable[[], bytes],
    suspects: Collection[int] = (),
) -> list[KeyEntry]:
    """The caller's own keys first, the own team's next, then by priority; inside of that by a rendezvous hash of the
    conversation and weight.

    So a conversation stays on one key (Poe's caches help) while nothing is stored for it. Keys that just failed, though it
    may have been the bot, come after the others that go on the same bill. `conversation` tells them apart, and is asked only
    where there is a choice. Raises NoKeyAvailable.
    """
    theirs = [
        (account, key)
        for key in directory.keys.values()
        if (account := directory.accounts.get(key.account_id)) and _is_for(account, caller)
    ]
    only = _only({account.id: account for account, _key in theirs}.values())
    usable = [
        (account, key)
        for account, key in theirs
        if key.enabled
        and key.secret
        and _may_serve(account, mapping)
        and (only is None or account.id in only)
    ]
    if not usable:
        raise NoKeyAvailable(_reason(mapping) if only is None else _reason_of_only(mapping))
    if len(usable) == 1:
        return [usable[0][1]]
    same = conversation()
    ranked = [
        (
            account.counts_in_budgets,
            key.id in suspects,
            _distance(account, caller),
            -key.priority,
            -_score(key, same),
            key.id,
            key,
        )
        for account, key in usable
    ]
    return [key for *_rank, key in sorted(ranked)]


def tiers(
    directory: Directory,
    mapping: Mapping,
    caller: Caller,
    conversation: Callable[[], bytes],
    suspects: Collection[int] = (),
) -> list[Tier]:
    """The same order, cut where the bill goes to somebody else. Raises NoKeyAvailable."""
    keys = order(directory, mapping, caller, conversation, suspects)
    return [
        Tier(tuple(some), counts)
        for counts, some in groupby(keys, lambda key: directory.accounts[key.account_id].counts_in_budgets)
    ]


def _is_for(account: AccountEntry, caller: Caller) -> bool:
    return account.team_id in (None, caller.team_id) and account.user_id in (None, caller.user_id)


def _may_serve(account: AccountEntry, mapping: Mapping) -> bool:
    if not account.enabled or (_is_own(account) and account.own_use == "never"):
        return False
    if mapping.account_id is not None:
        return account.id == mapping.account_id
    return not account.is_demo


def _only(accounts: Iterable[AccountEntry]) -> frozenset[int] | None:
    """To which of these the caller keeps, or the caller's team: a key of them that cannot serve opens no other."""
    own = [account for account in accounts if _is_own(account)]
    if not any(account.own_use == "only" for account in own):
        return None
    persons = [account for account in own if account.user_id is not None and account.own_use == "only"]
    return frozenset(account.id for account in persons or own)


def _is_own(account: AccountEntry) -> bool:
    """Brought along by the user or the team that it serves."""
    return not account.counts_in_budgets


def _distance(account: AccountEntry, caller: Caller) -> int:
    if account.user_id is not None:
        return 0
    if account.team_id is None:
        return 3
    return 1 if _is_own(account) else 2


def _score(key: KeyEntry, conversation: bytes) -> float:
    """Weighted rendezvous hashing: the highest score wins, in proportion to the weights over many conversations."""
    seed = blake2b(conversation, digest_size=8, key=key.id.to_bytes(8, "big")).digest()
    # 52 bits, so that the half is not rounded away: the logarithm of 1 would be 0.
    uniform = ((int.from_bytes(seed, "big") >> 12) + 0.5) / 2**52
    return -key.weight / math.log(uniform)


def _reason(mapping: Mapping) -> str:
    if mapping.account_id is not None:
        return f"The model {mapping.model!r} is bound to a Poe account that has no key for you."
    return (
        "No Poe key is stored yet that may serve you. "
        "An administrator can add one in the panel: Relay, Poe keys (/admin/relay/poekey/add/)."
    )


def _reason_of_only(mapping: Mapping) -> str:
    return (
        f"You or your team chose to ask no Poe key but your own, and it cannot serve the model {mapping.model!r}. "
        "See /me/poe-key/ and /team/poe-key/."
    )


def conversation_of(caller: Caller, chat: ChatRequest) -> bytes:
    """What stays the same from turn to turn: the token, the model and all up to the user's first message."""
    digest = blake2b(f"{caller.token_id} {chat.model.casefold()}".encode(), digest_size=16)
    for message in chat.messages[:2]:
        digest.update(message.role.encode() + message.text[:2000].encode())
        if message.role == "user":
            break
    return digest.digest()
