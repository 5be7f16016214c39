"""The in-memory snapshot of tokens, mappings and Poe keys that requests read, and how it learns of a change.

Every table that it reads has triggers that count `relay_directoryversion.n` up and note which row changed. A request is
admitted only at the current version, and nothing is refused before the version was read, so an edit takes effect on
the next request in every process, on every machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

from django.db import DatabaseError, InterfaceError, connection

from accounts import tokens
from accounts.models import AccessToken, Team, User, token_digest
from relay import parameters, vault
from relay.errors import Forbidden, Unauthenticated, Unavailable
from relay.limits import Limits, RateCard
from relay.models import BotMapping, DirectoryChange, PoeAccount, PoeKey
from relay.parameters import Parameter
from relay.transcript import Policy

log = logging.getLogger(__name__)
T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Notes older than this many versions are dropped; a process that is further behind reads everything again.
KEPT_CHANGES = 10_000
DROP_EVERY = 1_000
# SQLite takes at most 250,000 parameters, PostgreSQL 65,535: more changed rows than this are read as "all".
MANY_ROWS = 5_000
UNKNOWN_TOKEN = "Incorrect access token. Ask your administrator for one."  # noqa: S105  (a message)


@dataclass(frozen=True, slots=True)
class TeamEntry:
    id: int
    name: str
    enabled: bool
    time_zone: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class UserEntry:
    id: int
    name: str
    team_id: int
    enabled: bool
    is_superuser: bool
    limits: Limits


@dataclass(frozen=True, slots=True)
class TokenEntry:
    id: int
    digest: str
    prefix: str
    owner_id: int
    enabled: bool
    disabled_reason: str
    expires_at: float | None
    allowed_models: tuple[str, ...]
    networks: tuple[Network, ...]
    limits: Limits
    # The playground's asks as this one, with all its conditions.
    stands_for: int | None = None


@dataclass(frozen=True, slots=True)
class AccountEntry:
    id: int
    name: str
    team_id: int | None
    enabled: bool
    is_demo: bool
    base_url: str
    upload_url: str
    limits: Limits
    # Whose own it is, if it serves one person alone.
    user_id: int | None = None
    counts_in_budgets: bool = True
    own_use: str = "first"


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A Poe key, its secret unsealed in memory. `secret` is empty when it does not open."""

    id: int
    name: str
    account_id: int
    enabled: bool
    priority: int
    weight: int
    limits: Limits
    proxy: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Mapping:
    id: int
    model: str
    bot: str
    enabled: bool
    hidden: bool
    account_id: int | None
    team_ids: frozenset[int]
    parameters: dict[str, Any]
    fallback_models: tuple[str, ...]
    replace_policy: Policy
    simulate_roles: str
    default_output_tokens: int | None
    # None: nobody knows what it costs.
    rates: RateCard | None
    created: int
    # What the bot takes by name, as Poe's catalogue has it; empty: nobody knows.
    declared: tuple[Parameter, ...] = ()
    # It has no tool calls of its own: it is told to write them, and they are read from its text.
    writes_calls: bool = False

    @property
    def key(self) -> str:
        return self.model.casefold()

    @property
    def is_wildcard(self) -> bool:
        return "*" in self.model


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the owner of an access token that may be used now and from here, as of a directory's version."""

    version: int
    token_id: int
    token_prefix: str
    user_id: int
    user_name: str
    team_id: int
    team_name: str
    time_zone: str
    is_superuser: bool
    allowed_models: tuple[str, ...]
    # The token's, its owner's, the team's.
    limits: tuple[Limits, Limits, Limits]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a read of the database found: the version it is of, and the entries by kind; None: the row is gone."""

    version: int
    entries: dict[str, dict[int, Any]]
    whole: frozenset[str]


def matches(model: str, patterns: Iterable[str]) -> bool:
    """Whether a model's name is one of these names and wildcards; case does not matter."""
    name = model.casefold()
    return any(
        name == pattern.casefold() or wildcard(pattern).match(name) is not None for pattern in patterns
    )


def wildcard(pattern: str) -> re.Pattern[str]:
    """`*` stands for anything; every other character for itself."""
    return re.compile(
        ".*".join(re.escape(piece) for piece in pattern.casefold().split("*")) + r"\Z", re.DOTALL
    )


class Directory:
    def __init__(self) -> None:
        self.version = -1
        # When this was last seen to be what the database has; None: never.
        self.read_at: float | None = None
        self.teams: dict[int, TeamEntry] = {}
        self.users: dict[int, UserEntry] = {}
        self.tokens: dict[int, TokenEntry] = {}
        self.accounts: dict[int, AccountEntry] = {}
        self.keys: dict[int, KeyEntry] = {}
        self.mappings: dict[int, Mapping] = {}
        self._by_digest: dict[str, int] = {}
        self._exact: dict[str, Mapping] = {}
        self._wildcards: list[tuple[re.Pattern[str], Mapping]] = []
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="directory")
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    # Learning of a change.

    async def load(self) -> None:
        """Read everything, or raise Unavailable."""
        await self.refresh()

    async def refresh(self) -> None:
        """Be at least as new as the database is at the moment of this call, or raise Unavailable.

        At most one read is in flight. Whoever comes while one is running shares the next one: the running one may
        have looked before the edit that this caller must see.
        """
        if self._next is None:
            if self._running is None or self._running.done():
                self._running = asyncio.create_task(self._read())
                return await asyncio.shield(self._running)
            self._next = asyncio.create_task(self._read_after(self._running))
        return await asyncio.shield(self._next)

    async def _read_after(self, earlier: asyncio.Task[None]) -> None:
        await asyncio.wait([earlier])
        self._running, self._next = self._next, None
        await self._read()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        asked_at = time.time()
        try:
            changes = await loop.run_in_executor(self._reader, _on_own_connection, read_changes, self.version)
        except (DatabaseError, InterfaceError, OSError) as exc:
            log.warning("the directory cannot be read: %s", type(exc).__name__)
            raise Unavailable(
                "The relay's database cannot be reached. Try again shortly.", retry_after=2
            ) from None
        if changes is not None:
            self._apply(changes)
        self.read_at = asked_at

    def _apply(self, changes: Changes) -> None:
        """One step on the event loop: no request sees half of a change."""
        for row in changes.entries.get("tokens", ()):
            if row in self.tokens:
                self._by_digest.pop(self.tokens[row].digest, None)
        for kind, entries in changes.entries.items():
            table: dict[int, Any] = getattr(self, kind)
            if kind in changes.whole:
                table.clear()
            for row, entry in entries.items():
                if entry is None:
                    table.pop(row, None)
                else:
                    table[row] = entry
        if "tokens" in changes.entries:
            self._index_tokens(changes)
        if "mappings" in changes.entries:
            self._index_mappings()
        self.version = changes.version

    def _index_tokens(self, changes: Changes) -> None:
        if "tokens" in changes.whole:
            self._by_digest.clear()
        for row, entry in changes.entries["tokens"].items():
            if entry is not None:
                self._by_digest[entry.digest] = row

    def _index_mappings(self) -> None:
        enabled = [mapping for mapping in self.mappings.values() if mapping.enabled]
        self._exact = {mapping.key: mapping for mapping in enabled if not mapping.is_wildcard}
        # The longest pattern says most about what its author meant.
        patterns = sorted((m for m in enabled if m.is_wildcard), key=lambda m: (-len(m.model), m.model))
        self._wildcards = [(wildcard(mapping.model), mapping) for mapping in patterns]

    def close(self) -> None:
        # In the reader's thread: `connection` stands for another connection in each thread.
        self._reader.submit(lambda: connection.close())
        self._reader.shutdown()

    # Reading.

    async def authenticate(self, token: str, address: str) -> Caller:
        """Who holds this token, or Unauthenticated, Forbidden, Unavailable. Never refuses from an old snapshot."""
        if not token:
            raise Unauthenticated("No access token. Send it as `Authorization: Bearer sk-poe-...`.")
        digest = token_digest(token)
        try:
            return self._caller(digest, address)
        except (Unauthenticated, Forbidden):
            if not tokens.is_well_formed(token):
                raise  # it can be nobody's, in no snapshot
            await self.refresh()
        return self._caller(digest, address)

    async def holder_of(self, token_id: int, address: str) -> Caller:
        """The same for a token that was known when something was accepted."""
        await self.refresh()
        token = self.tokens.get(token_id)
        if token is None:
            raise Unauthenticated(UNKNOWN_TOKEN)
        return self.caller_of(token, address)

    def _caller(self, digest: str, address: str) -> Caller:
        # A dictionary look-up of an HMAC tells by its time nothing about the token it was made from.
        token = self.tokens.get(self._by_digest.get(digest, 0))
        if token is None or token.digest != digest:
            raise Unauthenticated(UNKNOWN_TOKEN)
        return self.caller_of(token, address)

    def caller_of(self, token: TokenEntry, address: str | None) -> Caller:
        """Who holds this token, or Forbidden with the reason why it may not be used. Without an address: from anywhere."""
        user = self.users.get(token.owner_id)
        team = self.teams.get(user.team_id) if user else None
        if user is None or team is None:
            raise Unauthenticated(UNKNOWN_TOKEN)
        if not token.enabled:
            reason = f": {token.disabled_reason}" if token.disabled_reason else "."
            raise Forbidden(f"This access token is disabled{reason}", code="token_disabled")
        if not user.enabled:
            raise Forbidden("The account of this access token's owner is disabled.", code="user_disabled")
        if not team.enabled:
            raise Forbidden("The team of this access token is disabled.", code="team_disabled")
        if token.expires_at is not None and token.expires_at <= time.time():
            day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(token.expires_at))
            raise Forbidden(f"This access token expired on {day}.", code="token_expired")
        if token.networks and address is not None and not _is_in(address, token.networks):
            raise Forbidden(
                f"This access token may not be used from {address or 'here'}.", code="network_not_allowed"
            )
        if token.stands_for is not None:
            given = self.tokens.get(token.stands_for)
            if given is None:
                raise Unauthenticated(UNKNOWN_TOKEN)
            return self.caller_of(given, address)
        return Caller(
            version=self.version,
            token_id=token.id,
            token_prefix=token.prefix,
            user_id=user.id,
            user_name=user.name,
            team_id=team.id,
            team_name=team.name,
            time_zone=team.time_zone,
            is_superuser=user.is_superuser,
            allowed_models=token.allowed_models,
            limits=(token.limits, user.limits, team.limits),
        )

    def limits_of(self, token_id: int, user_id: int, team_id: int) -> tuple[Limits, Limits, Limits] | None:
        """As they are now; None if one of these is gone."""
        token, user, team = self.tokens.get(token_id), self.users.get(user_id), self.teams.get(team_id)
        return (token.limits, user.limits, team.limits) if token and user and team else None

    def time_zone_of(self, team_id: int) -> str:
        """As it is now; empty if the team is gone."""
        team = self.teams.get(team_id)
        return team.time_zone if team else ""

    def find_exact(self, model: str) -> Mapping | None:
        return self._exact.get(model.casefold())

    def find_wildcards(self, model: str) -> list[Mapping]:
        """Best first."""
        name = model.casefold()
        return [mapping for pattern, mapping in self._wildcards if pattern.match(name)]

    def listed_mappings(self) -> list[Mapping]:
        return [m for m in self._exact.values() if not m.hidden]


def _is_in(address: str, networks: Iterable[Network]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip.version == network.version and ip in network for network in networks)


# Reading the database: runs in the directory's own thread, on that thread's own connection.


def _on_own_connection(function: Callable[..., T], *args: Any) -> T:
    try:
        return function(*args)
    except (DatabaseError, InterfaceError):
        # Once more on a new connection: the old one may have died with a restarted database.
        connection.close()
        return function(*args)
    finally:
        if connection.errors_occurred:
            connection.close()


def read_version() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT n FROM relay_directoryversion WHERE id = 1")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def read_changes(known: int) -> Changes | None:
    """What has changed since version `known`; None: nothing.

    The version is read first: rows read later may be newer than it, which only means that they are read again.
    """
    version = read_version()
    if version == known:
        return None
    rows = _changed_rows(known, version) if 0 <= known < version else None
    if rows is None:
        _drop_old_changes(version)
        return Changes(
            version, {kind: dict(load(None)) for kind, load in LOADERS.items()}, frozenset(LOADERS)
        )
    if version // DROP_EVERY != known // DROP_EVERY:
        _drop_old_changes(version)
    entries: dict[str, dict[int, Any]] = {}
    whole = set()
    for kind, ids in rows.items():
        if ids is None:
            whole.add(kind)
            entries[kind] = dict(LOADERS[kind](None))
        else:
            entries[kind] = {**dict.fromkeys(ids), **dict(LOADERS[kind](ids))}
    return Changes(version, entries, frozenset(whole))


KINDS = {
    "team": "teams",
    "user": "users",
    "token": "tokens",
    "account": "accounts",
    "key": "keys",
    "mapping": "mappings",
}


def _changed_rows(known: int, version: int) -> dict[str, set[int] | None] | None:
    """Changed row ids by kind (None: too many, all of that kind), or None if the notes do not reach back so far."""
    noted = DirectoryChange.objects.filter(n__gt=known, n__lte=version)
    ids: dict[str, set[int] | None] = defaultdict(set)
    first = version + 1
    for n, kind, row in noted.values_list("n", "kind", "row").iterator():
        first = min(first, n)
        rows = ids[KINDS[kind]]
        if rows is not None:
            rows.add(row)
            if row == 0 or len(rows) > MANY_ROWS:
                ids[KINDS[kind]] = None
    return dict(ids) if first == known + 1 else None


def _drop_old_changes(version: int) -> None:
    DirectoryChange.objects.filter(n__lt=version - KEPT_CHANGES).delete()


Loader = Callable[[set[int] | None], Iterable[tuple[int, Any]]]


LIMITS = tuple(each.name for each in fields(Limits))


def _rows(model: Any, ids: set[int] | None) -> Any:
    return model.objects.all() if ids is None else model.objects.filter(pk__in=ids)


def _load_teams(ids: set[int] | None) -> Iterable[tuple[int, TeamEntry]]:
    for row in _rows(Team, ids).values_list("id", "name", "enabled", "time_zone", *LIMITS):
        id_, name, enabled, time_zone, *limits = row
        yield id_, TeamEntry(id_, name, enabled, time_zone, Limits.of(*limits))


def _load_users(ids: set[int] | None) -> Iterable[tuple[int, UserEntry]]:
    columns = ("id", "username", "team_id", "is_active", "is_superuser")
    for row in _rows(User, ids).values_list(*columns, *LIMITS):
        id_, name, team_id, enabled, is_superuser, *limits = row
        yield id_, UserEntry(id_, name, team_id, enabled, is_superuser, Limits.of(*limits))


def _load_tokens(ids: set[int] | None) -> Iterable[tuple[int, TokenEntry]]:
    columns = (
        "id",
        "digest",
        "prefix",
        "owner_id",
        "enabled",
        "disabled_reason",
        "expires_at",
        "allowed_models",
        "allowed_networks",
        "playground__stands_for",
    )
    for row in _rows(AccessToken, ids).values(*columns, *LIMITS).iterator():
        limits = Limits.of(*(row.pop(name) for name in LIMITS))
        networks, expires_at = row.pop("allowed_networks"), row.pop("expires_at")
        stands_for = row.pop("playground__stands_for")
        row["allowed_models"] = tuple(row["allowed_models"])
        yield (
            row["id"],
            TokenEntry(
                **row,
                expires_at=expires_at.timestamp() if expires_at else None,
                networks=tuple(ipaddress.ip_network(network, strict=False) for network in networks),
                limits=limits,
                stands_for=stands_for,
            ),
        )


def _load_accounts(ids: set[int] | None) -> Iterable[tuple[int, AccountEntry]]:
    columns = (
        *("id", "name", "team_id", "user_id", "enabled", "is_demo", "base_url", "upload_url"),
        *("counts_in_budgets", "own_use"),
    )
    for row in _rows(PoeAccount, ids).values(*columns, "requests_per_minute"):
        row["limits"] = Limits.of(row.pop("requests_per_minute"), None, None)
        yield row["id"], AccountEntry(**row)


def _load_keys(ids: set[int] | None) -> Iterable[tuple[int, KeyEntry]]:
    columns = ("id", "name", "account_id", "enabled", "priority", "weight", "proxy", "secret")
    for row in _rows(PoeKey, ids).values(*columns, "requests_per_minute", "requests_in_flight"):
        row["limits"] = Limits.of(row.pop("requests_per_minute"), None, row.pop("requests_in_flight"))
        try:
            row["secret"] = vault.unseal(row["secret"])
        except vault.VaultError as exc:
            log.error("Poe key %r cannot be used: %s", row["name"], exc)
            row["secret"] = ""
        yield row["id"], KeyEntry(**row)


def _load_mappings(ids: set[int] | None) -> Iterable[tuple[int, Mapping]]:
    teams: dict[int, set[int]] = defaultdict(set)
    through = BotMapping.teams.through.objects.all()
    if ids is not None:
        through = through.filter(botmapping_id__in=ids)
    for mapping_id, team_id in through.values_list("botmapping_id", "team_id"):
        teams[mapping_id].add(team_id)
    for row in _rows(BotMapping, ids):
        declared = parameters.declared(row.parameters_of_bot)
        yield (
            row.pk,
            Mapping(
                id=row.pk,
                model=row.model,
                bot=row.bot,
                enabled=row.enabled,
                hidden=row.hidden,
                account_id=row.account_id,
                team_ids=frozenset(teams[row.pk]),
                parameters=parameters.defaults(row.parameters, declared),
                fallback_models=tuple(row.fallback_models),
                replace_policy=cast(Policy, row.replace_policy),
                simulate_roles=row.simulate_roles,
                writes_calls=row.writes_calls,
                default_output_tokens=row.default_output_tokens,
                rates=RateCard.of_points(
                    row.points_per_request,
                    row.points_per_1000_input_tokens,
                    row.points_per_1000_output_tokens,
                    row.points_per_image,
                ),
                created=int(row.created_at.timestamp()),
                declared=declared,
            ),
        )


LOADERS: dict[str, Loader] = {
    "teams": _load_teams,
    "users": _load_users,
    "tokens": _load_tokens,
    "accounts": _load_accounts,
    "keys": _load_keys,
    "mappings": _load_mappings,
}
