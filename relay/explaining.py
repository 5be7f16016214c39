"""What would become of a request: which mapping, bot and Poe keys answer a model for a token now, and why not.

It asks what a request asks, in the same order and of the same rules, on a copy: nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from accounts.models import AccessToken
from proxy_site.config import Config
from relay import admitting, mappings, pool, standings, turn
from relay.directory import LOADERS, AccountEntry, Caller, Changes, Directory, KeyEntry, Mapping, matches
from relay.directory import read_version as directory_version
from relay.errors import AllKeysBusy, NoKeyAvailable, RelayError, Unauthenticated
from relay.events import ChatRequest
from relay.ledger import Admitted, deciding, periods
from relay.ledger import meters as rules
from relay.limits import UNLIMITED, Limits
from relay.models import BotMapping, PoeKey
from relay.models import Meter as MeterRow
from relay.pool import Tier
from relay.standings import Standing

# A short question, without `max_tokens`.
PROMPT_TOKENS = 20
WHOSE = ("token", "user", "team")
NOT_ASKED = {
    "disabled": "disabled",
    "secret": "its secret does not open with this encryption key",
    "other_team": "another team's",
    "other_user": "another person's",
    "never": "its owner wants it not to be used",
    "bound": "the mapping is bound to another account",
    "demo": "the demo's serves only what is bound to it",
    "own_key_only": "the caller's own key is to be used alone",
}
METER_COLUMNS = (
    *("id", "at", "requests_level", "tokens_level", "in_flight"),
    *("day_ends", "day_points", "month_ends", "month_points", "blocked_until"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """A mapping that matches the name. `verdict`: fits, disabled, other_team, not_allowed."""

    model: str
    bot: str
    verdict: str


@dataclass(frozen=True, slots=True)
class KeyLook:
    """A Poe key in the order in which it is asked. `tier`: own, team, shared. `left`: of its account, this minute."""

    id: int
    name: str
    account: str
    tier: str
    priority: int
    weight: int
    standing: Standing
    is_being_tried: bool
    in_flight: int
    slots: int | None
    left: int
    per_minute: int


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A Poe key that is not asked. `why` is a name of NOT_ASKED."""

    id: int
    name: str
    account: str
    why: str


@dataclass(frozen=True, slots=True)
class LimitLook:
    """`resets` where all of it comes back at once."""

    whose: str
    limit: str
    value: int
    used: int
    left: int
    resets: datetime | None = None


@dataclass(frozen=True, slots=True)
class Fallback:
    model: str
    bot: str
    refusal: str = ""


@dataclass(slots=True)
class Explanation:
    """`refusal` is None if it would be asked: then `key` is asked first."""

    model: str
    caller: Caller | None = None
    token: str = ""
    user: str = ""
    team: str = ""
    looks: list[Look] = field(default_factory=list)
    allowed_models: tuple[str, ...] = ()
    mapping: Mapping | None = None
    # Defaults of the mapping that its bot does not take any more: they are not sent.
    dropped: dict[str, Any] = field(default_factory=dict)
    fallbacks: list[Fallback] = field(default_factory=list)
    keys: list[KeyLook] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    limits: list[LimitLook] = field(default_factory=list)
    refusal: RelayError | None = None
    key: str = ""
    is_probe: bool = False
    queue_seconds: float = 0

    @property
    def waits(self) -> bool:
        """Whether it would stand in line before it is refused."""
        return isinstance(self.refusal, AllKeysBusy) and self.refusal.may_pass_within(self.queue_seconds)


class Excerpt(Directory):
    """The directory as it is stored now, but of users and tokens only these two."""

    def __init__(self, token: AccessToken | None) -> None:
        super().__init__()
        version = directory_version()
        only = {
            "tokens": {token.pk} if token else set(),
            "users": {token.owner_id} if token else set(),
        }
        entries: dict[str, dict[int, Any]] = {
            kind: dict(load(only.get(kind))) for kind, load in LOADERS.items()
        }
        self._apply(Changes(version, entries, frozenset(LOADERS)))


def explain(config: Config, model: str, token: AccessToken | None = None) -> Explanation:
    """The steps of a request. Without a token: as one without limits would find it."""
    directory = Excerpt(token)
    told = Explanation(model, queue_seconds=config.pool.queue_seconds)
    try:
        caller = told.caller = _caller(directory, told, token)
        told.allowed_models = caller.allowed_models
        told.looks = list(_looks(directory, model, caller))
        found = told.mapping = mappings.resolve(directory, model, caller)
        told.dropped = _dropped(found)
        told.fallbacks = [_fallback(directory, each, caller) for each in found.fallback_models]
        told.passed_over = list(_passed_over(directory, found, caller))
        chat = ChatRequest(model=model, messages=())
        tiers = pool.tiers(directory, found, caller, lambda: pool.conversation_of(caller, chat))
        _ask(config, directory, told, caller, found, tiers)
    except RelayError as exc:
        told.refusal = exc
    return told


def _caller(directory: Directory, told: Explanation, token: AccessToken | None) -> Caller:
    if token is None:
        return Caller(
            version=directory.version,
            token_id=0,
            token_prefix="",
            user_id=0,
            user_name="",
            team_id=0,
            team_name="(none)",
            time_zone="UTC",
            is_superuser=True,
            allowed_models=(),
            limits=(UNLIMITED, UNLIMITED, UNLIMITED),
        )
    entry = directory.tokens.get(token.pk)
    if entry is None:
        raise Unauthenticated("This access token was just removed.")
    user = directory.users[entry.owner_id]
    told.token, told.user, told.team = entry.prefix, user.name, directory.teams[user.team_id].name
    return directory.caller_of(entry, address=None)


def _looks(directory: Directory, model: str, caller: Caller) -> Iterator[Look]:
    exact = directory.find_exact(model)
    for mapping in [exact] if exact else directory.find_wildcards(model):
        if mapping.team_ids and caller.team_id not in mapping.team_ids:
            yield Look(mapping.model, mapping.bot, "other_team")
        elif caller.allowed_models and not matches(model, caller.allowed_models):
            yield Look(mapping.model, mapping.bot, "not_allowed")
        else:
            yield Look(mapping.model, mapping.bot, "fits")
    for mapping in directory.mappings.values():
        if not mapping.enabled and matches(model, [mapping.model]):
            yield Look(mapping.model, mapping.bot, "disabled")


def _dropped(mapping: Mapping) -> dict[str, Any]:
    row = BotMapping.objects.filter(pk=mapping.id).first()
    stored = row.parameters if row else {}
    return {name: value for name, value in stored.items() if name not in mapping.parameters}


def _fallback(directory: Directory, model: str, caller: Caller) -> Fallback:
    try:
        return Fallback(model, mappings.resolve(directory, model, caller).bot)
    except RelayError as exc:
        return Fallback(model, "", exc.message)


def _passed_over(directory: Directory, mapping: Mapping, caller: Caller) -> Iterator[PassedOver]:
    try:
        asked = {key.id for key in pool.order(directory, mapping, caller, bytes)}
    except NoKeyAvailable:
        asked = set()
    for key in directory.keys.values():
        if key.id not in asked and (account := directory.accounts.get(key.account_id)) is not None:
            yield PassedOver(key.id, key.name, account.name, _why_not(key, account, mapping, caller))


def _why_not(key: KeyEntry, account: AccountEntry, mapping: Mapping, caller: Caller) -> str:
    """The first reason, as relay.pool.choosing has them."""
    if not key.enabled or not account.enabled:
        return "disabled"
    if not key.secret:
        return "secret"
    if account.team_id not in (None, caller.team_id):
        return "other_team"
    if account.user_id not in (None, caller.user_id):
        return "other_user"
    if not account.counts_in_budgets and account.own_use == "never":
        return "never"
    if mapping.account_id is not None and account.id != mapping.account_id:
        return "bound"
    if mapping.account_id is None and account.is_demo:
        return "demo"
    return "own_key_only"


# What the ledger would say, of meters as they are now.


def _ask(
    config: Config,
    directory: Directory,
    told: Explanation,
    caller: Caller,
    mapping: Mapping,
    tiers: list[Tier],
) -> None:
    """Fills in keys, limits and what comes of it."""
    keys = [key for tier in tiers for key in tier.keys]
    meters = _meters(caller, keys)
    now = turn.now() * rules.SECOND
    told.keys = list(_key_looks(directory, keys, meters, now))
    told.limits = list(_limit_looks(caller, meters, now)) if caller.token_id else []
    failure: RelayError | None = None
    chat = ChatRequest(model=mapping.model, messages=())
    for tier in tiers:
        admission = admitting.admission(
            config, directory, caller, chat, mapping, tier, prompt_tokens=PROMPT_TOKENS
        )
        copies = deciding.Meters({id_: copy(meter) for id_, meter in meters.items()})
        page = deciding.Page(directory.version, now, copies, {})
        answer = deciding.admit(page, admission)
        if isinstance(answer, Admitted):
            told.key, told.is_probe = directory.keys[answer.key_id].name, answer.is_probe
            return
        assert isinstance(answer, RelayError)
        if not isinstance(answer, AllKeysBusy | NoKeyAvailable):
            raise answer
        if not isinstance(failure, AllKeysBusy):
            failure = answer
    assert failure is not None
    raise failure


def _meters(caller: Caller, keys: list[KeyEntry]) -> dict[str, rules.Meter]:
    ids = {f"token:{caller.token_id}", f"user:{caller.user_id}", f"team:{caller.team_id}"}
    ids |= {f"key:{key.id}" for key in keys} | {f"account:{key.account_id}" for key in keys}
    rows = MeterRow.objects.filter(pk__in=ids).values_list(*METER_COLUMNS)
    return {id_: rules.Meter(id_) for id_ in ids} | {row[0]: rules.Meter(*row) for row in rows}


def _key_looks(
    directory: Directory, keys: list[KeyEntry], meters: dict[str, rules.Meter], now: int
) -> Iterator[KeyLook]:
    stored = PoeKey.objects.select_related("health", "account__health").in_bulk([key.id for key in keys])
    for key in keys:
        account = directory.accounts[key.account_id]
        row = stored.get(key.id)
        standing = standings.of_key(row) if row else Standing("ok")
        own, its = (copy(meters[id_]) for id_ in (f"key:{key.id}", f"account:{account.id}"))
        rules.drain(its, account.limits, now)
        per_minute = account.limits.requests_per_minute or 0
        yield KeyLook(
            id=key.id,
            name=key.name,
            account=account.name,
            tier=_tier(account),
            priority=key.priority,
            weight=key.weight,
            standing=standing,
            is_being_tried=standing.is_due and min(own.blocked_until, its.blocked_until) < -now,
            in_flight=own.in_flight,
            slots=key.limits.requests_in_flight,
            left=_left(its.requests_level, per_minute),
            per_minute=per_minute,
        )


def _tier(account: AccountEntry) -> str:
    if account.user_id is not None or not account.counts_in_budgets:
        return "own"
    return "shared" if account.team_id is None else "team"


def _left(level: int, per_minute: int) -> int:
    return max(0, per_minute - -(-level // rules.UNIT))


def _limit_looks(caller: Caller, meters: dict[str, rules.Meter], now: int) -> Iterator[LimitLook]:
    ids = (f"token:{caller.token_id}", f"user:{caller.user_id}", f"team:{caller.team_id}")
    found = token, user, team = [copy(meters[id_]) for id_ in ids]
    for meter, limits in zip(found, caller.limits, strict=True):
        rules.drain(meter, limits, now)
    periods.turn(token, user, team, caller.time_zone, now)
    for whose, meter, limits in zip(WHOSE, found, caller.limits, strict=True):
        yield from _limits_of(whose, meter, limits)


def _limits_of(whose: str, meter: rules.Meter, limits: Limits) -> Iterator[LimitLook]:
    day, month = (datetime.fromtimestamp(ends, UTC) for ends in (meter.day_ends, meter.month_ends))
    used = (
        ("requests_per_minute", limits.requests_per_minute, -(-meter.requests_level // rules.UNIT), None),
        ("tokens_per_minute", limits.tokens_per_minute, -(-meter.tokens_level // rules.UNIT), None),
        ("requests_in_flight", limits.requests_in_flight, meter.in_flight, None),
        ("points_per_day", limits.points_per_day, meter.day_points, day),
        ("points_per_month", limits.points_per_month, meter.month_points, month),
    )
    for limit, value, so_far, resets in used:
        if value is not None:
            yield LimitLook(whose, limit, value, so_far, max(0, value - so_far), resets)


# In plain words, for a terminal.


def lines(told: Explanation) -> Iterator[str]:
    """The steps; the last line says what would happen now."""
    if told.token:
        yield f"token: {told.token}… of {told.user}, team {told.team}"
    elif told.caller is not None:
        yield "token: none named, taken as one without limits"
    for look in told.looks:
        yield _look_line(told, look)
    if told.mapping is not None:
        yield f"bot: {told.mapping.bot}"
        if told.mapping.parameters:
            yield f"default parameters: {told.mapping.parameters}"
        if told.dropped:
            yield f"not sent, since the bot does not take them: {told.dropped}"
    for fallback in told.fallbacks:
        yield f"fallback model {fallback.model!r}: {fallback.refusal or f'bot {fallback.bot}'}"
    for place, key in enumerate(told.keys, 1):
        yield _key_line(place, key)
    for other in told.passed_over:
        yield f"Poe key {other.name} of {other.account}: not asked, {NOT_ASKED[other.why]}"
    for limit in told.limits:
        yield _limit_line(limit)
    if told.key:
        yield f"asked first: {told.key}{', as a try after its pause' if told.is_probe else ''}"
    yield f"answer: {_answer(told)}"


def _look_line(told: Explanation, look: Look) -> str:
    match look.verdict:
        case "other_team":
            return f"mapping {look.model!r} -> {look.bot!r}: not for team {told.team or '(none)'!r}"
        case "not_allowed":
            return f"mapping {look.model!r}: the token allows only {', '.join(told.allowed_models)}"
        case verdict:
            return f"mapping {look.model!r}: {verdict}"


def _key_line(place: int, key: KeyLook) -> str:
    slots = "" if key.slots is None else f" of {key.slots}"
    return (
        f"Poe key {place}: {key.name} of {key.account}, priority {key.priority}, weight {key.weight}, "
        f"{key.tier}, {_fares(key)}, {key.in_flight}{slots} in flight, "
        f"{key.left:,} of {key.per_minute:,} requests left this minute"
    )


def _fares(key: KeyLook) -> str:
    standing = key.standing
    if not standing.is_out:
        return standing.state
    if key.is_being_tried:
        when = "being tried right now"
    elif standing.is_due:
        when = "the next request tries it"
    else:
        when = f"until {standing.ends:%Y-%m-%d %H:%M:%S} UTC" if standing.ends else "until somebody acts"
    whose = "its account is " if standing.of_account else ""
    return f"{whose}{standing.state} ({when}: {standing.reason})"


def _limit_line(limit: LimitLook) -> str:
    name = limit.limit.replace("_", " ")
    until = f" until {limit.resets:%Y-%m-%d %H:%M} UTC" if limit.resets else ""
    return (
        f"limit of the {limit.whose}, {limit.value:,} {name}: {limit.used:,} used, {limit.left:,} left{until}"
    )


def _answer(told: Explanation) -> str:
    if told.refusal is None:
        return "would be asked"
    exc = told.refusal
    waits = f" (after up to {told.queue_seconds:g} seconds in line)" if told.waits else ""
    return f"{exc.status} {exc.code}: {exc.message}{waits}"
