"""Which Poe keys may serve a request, best first. In memory: nothing is claimed here."""

from __future__ import annotations

import math
from hashlib import blake2b

from relay.directory import AccountEntry, Caller, Directory, KeyEntry, Mapping
from relay.errors import NoKeyAvailable
from relay.events import ChatRequest


def order(directory: Directory, mapping: Mapping, caller: Caller, conversation: bytes) -> list[KeyEntry]:
    """Own team's keys first, then by priority; inside a tier by a rendezvous hash of the conversation and weight.

    So a conversation stays on one key (Poe's caches help) while nothing is stored for it. Raises NoKeyAvailable.
    """
    usable = []
    for key in directory.keys.values():
        account = directory.accounts.get(key.account_id)
        if account and key.enabled and key.secret and _may_serve(account, mapping, caller):
            usable.append(
                (account.team_id != caller.team_id, -key.priority, -_score(key, conversation), key.id, key)
            )
    if not usable:
        raise NoKeyAvailable(_reason(mapping))
    return [key for *_rank, key in sorted(usable)]


def _may_serve(account: AccountEntry, mapping: Mapping, caller: Caller) -> bool:
    if not account.enabled or account.team_id not in (None, caller.team_id):
        return False
    if mapping.account_id is not None:
        return account.id == mapping.account_id
    return not account.is_demo


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


def conversation_of(caller: Caller, chat: ChatRequest) -> bytes:
    """What stays the same from turn to turn: the token, the model and all up to the user's first message."""
    digest = blake2b(f"{caller.token_id} {chat.model.casefold()}".encode(), digest_size=16)
    for message in chat.messages[:2]:
        digest.update(message.role.encode() + message.text[:2000].encode())
        if message.role == "user":
            break
    return digest.digest()
