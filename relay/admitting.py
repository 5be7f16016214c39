"""What a request asks the ledger for: how much is set aside, with which Poe keys, on whose account. Nothing is asked here."""

from __future__ import annotations

from collections.abc import Iterable

from proxy_site.config import Config
from relay.directory import Caller, Directory, KeyEntry, Mapping
from relay.events import ChatRequest
from relay.ledger import Admission, Candidate, Reservation, reserve
from relay.limits import RateCard
from relay.pool import Tier

# Enough to begin with, where a guess of ours does not fit.
FIRST_TOKENS = 512
# What counts in nobody's budget.
FREE = RateCard()
# No bot answers with more; what a client asks for beyond is reserved in steps, if it ever comes.
MOST_RESERVED_TOKENS = 1_000_000


def admission(
    config: Config,
    directory: Directory,
    caller: Caller,
    chat: ChatRequest,
    mapping: Mapping,
    tier: Tier,
    *,
    prompt_tokens: int,
    request_id: str = "",
    wire: str = "",
    queue_seconds: float = 0.0,
) -> Admission:
    return Admission(
        version=caller.version,
        request_id=request_id,
        token_id=caller.token_id,
        token_prefix=caller.token_prefix,
        user_id=caller.user_id,
        user_name=caller.user_name,
        team_id=caller.team_id,
        team_name=caller.team_name,
        time_zone=caller.time_zone,
        limits=caller.limits,
        model=chat.model,
        bot=mapping.bot,
        wire=wire,
        streamed=chat.stream,
        reservations=_reservations(
            config, caller, chat, mapping, prompt_tokens, rates(config, mapping, tier)
        ),
        candidates=candidates(directory, tier.keys),
        accounting=accounting(tier),
        queue_seconds=queue_seconds,
    )


def rates(config: Config, mapping: Mapping, tier: Tier) -> RateCard:
    """What counts in the caller's budgets: nothing of what is asked with a key of their own."""
    if not tier.counts_in_budgets:
        return FREE
    return mapping.rates or RateCard(request=config.relay.default_points * 10_000)


def accounting(tier: Tier) -> str:
    return "estimated" if tier.counts_in_budgets else "own"


def candidates(directory: Directory, keys: Iterable[KeyEntry]) -> tuple[Candidate, ...]:
    """Without those whose account was removed in this moment."""
    accounts = directory.accounts
    return tuple(
        Candidate(key.id, key.name, key.limits, key.account_id, accounts[key.account_id].limits)
        for key in keys
        if key.account_id in accounts
    )


def _reservations(
    config: Config,
    caller: Caller,
    chat: ChatRequest,
    mapping: Mapping,
    prompt_tokens: int,
    rates: RateCard,
) -> tuple[Reservation, ...]:
    """What the answer may need: as the client says, or else a guess; if that is too much, enough to begin with."""
    images = 1 if rates.image else 0
    if chat.max_tokens is not None:
        return (reserve(rates, prompt_tokens, min(chat.max_tokens, MOST_RESERVED_TOKENS), images),)
    guess = mapping.default_output_tokens or config.relay.default_output_tokens
    per_minute = [each.tokens_per_minute for each in caller.limits if each.tokens_per_minute is not None]
    if per_minute and min(per_minute) > prompt_tokens:
        # A guess of ours is no reason to refuse what would fit.
        guess = min(guess, min(per_minute) - prompt_tokens)
    sizes = (guess, FIRST_TOKENS) if guess > FIRST_TOKENS else (guess,)
    return tuple(reserve(rates, prompt_tokens, tokens, images) for tokens in sizes)
