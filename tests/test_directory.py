"""The directory: what an edit changes in memory, and that other processes see it on their next request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from django.db import connection
from django.utils import timezone

from accounts.models import AccessToken, Team, User
from relay import directory as module
from relay.directory import Directory, read_changes, read_version
from relay.errors import Forbidden, RelayError, Unauthenticated
from relay.models import BotMapping, DirectoryChange, PoeAccount, PoeKey
from tests import cast as people
from tests.cast import Cast
from tests.conftest import DemoPoe, Served, in_database

TABLES = [
    "accounts_team",
    "accounts_user",
    "accounts_accesstoken",
    "relay_poeaccount",
    "relay_poekey",
    "relay_botmapping",
    "relay_botmapping_teams",
]


@pytest_asyncio.fixture
async def directory() -> AsyncIterator[Directory]:
    found = Directory()
    yield found
    found.close()


@pytest.mark.parametrize("table", TABLES)
def test_every_table_it_reads_has_its_triggers(db: None, table: str) -> None:
    """A migration that rebuilds a table on SQLite drops its triggers: it must make them again."""
    if connection.vendor == "sqlite":
        query, expected = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", 3
    else:
        query, expected = (
            "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = %s::regclass",
            4,
        )
    with connection.cursor() as cursor:
        cursor.execute(query, [table])
        assert cursor.fetchone()[0] == expected


# Each edit: the version rises, and the notes name the rows.

EDITS: dict[str, tuple[Callable[[Cast], object], set[str]]] = {
    "a new token": (lambda c: AccessToken.objects.issue(c.bob.user, "new"), {"tokens"}),
    "a disabled token": (
        lambda c: AccessToken.objects.filter(owner=c.bob.user).update(enabled=False),
        {"tokens"},
    ),
    "a new mapping": (lambda c: people.mapping("m", "M"), {"mappings"}),
    "a team for a mapping": (
        lambda c: BotMapping.objects.get(model="old").teams.add(c.physics),
        {"mappings"},
    ),
    "a team of a mapping cleared": (
        lambda c: BotMapping.objects.get(model="old").teams.clear(),
        {"mappings"},
    ),
    "a moved user": (lambda c: User.objects.filter(pk=c.bob.user.pk).update(team=c.chemistry), {"users"}),
    "a deleted user takes the tokens along": (lambda c: c.bob.user.delete(), {"users", "tokens"}),
    "a renamed team": (lambda c: Team.objects.filter(pk=c.physics.pk).update(name="P"), {"teams"}),
    "a deleted account takes keys and mappings along": (
        lambda c: PoeAccount.objects.all().delete(),
        {"accounts", "keys", "mappings"},
    ),
    "a key's weight": (lambda c: PoeKey.objects.update(weight=3), {"keys"}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_noted_with_its_rows(cast: Cast, edit: str) -> None:
    key = people.poe_key()
    people.mapping("old", "Old", account=key.account).teams.add(cast.chemistry)
    # SQLite's triggers note the flush between two tests, too.
    DirectoryChange.objects.all().delete()
    before = read_version()
    change, kinds = EDITS[edit]

    change(cast)
    changes = read_changes(before)

    assert changes is not None and changes.version > before
    assert set(changes.entries) == kinds and not changes.whole


def test_what_traffic_writes_is_no_change(cast: Cast) -> None:
    before = read_version()

    cast.bob.user.last_login = timezone.now()
    cast.bob.user.save(update_fields=["last_login"])

    assert read_version() == before and read_changes(before) is None


def test_a_bulk_edit_of_many_rows_is_read_as_all_of_that_table(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    BotMapping.objects.bulk_create(
        [BotMapping(model=f"m{i}", model_key=f"m{i}", bot="M") for i in range(1200)]
    )
    before = read_version()
    monkeypatch.setattr(module, "MANY_ROWS", 1000)

    BotMapping.objects.update(hidden=True)
    changes = read_changes(before)

    assert changes is not None and changes.whole == {"mappings"} and len(changes.entries["mappings"]) == 1200
    if connection.vendor == "postgresql":
        assert changes.version == before + 1


def test_whoever_is_too_far_behind_reads_everything(cast: Cast) -> None:
    before = read_version()
    people.mapping("a", "A")
    DirectoryChange.objects.all().delete()
    people.mapping("b", "B")

    changes = read_changes(before)

    assert changes is not None and changes.whole == set(module.LOADERS)


@pytest.mark.asyncio
async def test_a_snapshot_that_followed_every_edit_equals_a_fresh_one(
    cast: Cast, directory: Directory
) -> None:
    await in_database(lambda: people.mapping("old", "Old", account=people.poe_key().account))
    await directory.load()
    for change, _kinds in EDITS.values():
        await in_database(change, cast)
        await directory.refresh()
    fresh = Directory()
    await fresh.load()

    for kind in module.LOADERS:
        assert getattr(directory, kind) == getattr(fresh, kind), kind
    assert directory._exact.keys() == fresh._exact.keys()
    fresh.close()


@pytest.mark.asyncio
async def test_a_flood_of_unknown_tokens_shares_its_reads(
    cast: Cast, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await directory.load()
    reads = 0

    def counted(known: int) -> module.Changes | None:
        nonlocal reads
        reads += 1
        return read_changes(known)

    monkeypatch.setattr(module, "read_changes", counted)
    refused = await asyncio.gather(
        *[directory.authenticate(f"unknown-token-{i}", "") for i in range(500)], return_exceptions=True
    )

    assert all(isinstance(each, Unauthenticated) for each in refused)
    assert reads <= 2


@pytest.mark.asyncio
async def test_whoever_comes_during_a_read_waits_for_the_next_one(cast: Cast, directory: Directory) -> None:
    """The running read may have looked before the edit."""
    await directory.load()
    running = asyncio.create_task(directory.refresh())
    await asyncio.sleep(0)
    _token, plain = await in_database(AccessToken.objects.issue, cast.bob.user, "new")

    caller = await directory.authenticate(plain, "")

    assert caller.user_name == "bob"
    await running


TOLD: dict[str, tuple[dict[str, Any], str, str]] = {
    "disabled": ({"enabled": False, "disabled_reason": "lost phone"}, "token_disabled", "lost phone"),
    "expired": ({"expires_at": timezone.now() - timedelta(days=1)}, "token_expired", "expired on"),
    "elsewhere": ({"allowed_networks": ["10.0.0.0/8"]}, "network_not_allowed", "192.0.2.7"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("why", TOLD)
async def test_who_holds_a_real_token_is_told_why(cast: Cast, directory: Directory, why: str) -> None:
    fields, code, text = TOLD[why]
    await in_database(AccessToken.objects.filter(pk=cast.bob.token.pk).update, **fields)
    await directory.load()

    with pytest.raises(Forbidden) as refused:
        await directory.authenticate(cast.bob.plain, "192.0.2.7")

    assert refused.value.code == code and text in refused.value.message


@pytest.mark.asyncio
async def test_unknown_and_malformed_are_told_alike(cast: Cast, directory: Directory) -> None:
    await directory.load()
    said = set()
    unknown = cast.bob.plain[:-1] + ("A" if cast.bob.plain[-1] != "A" else "B")
    from accounts import tokens

    for token in (unknown, tokens.make(), "x", "sk-poe-", "sk-" + "a" * 48, "ü", "\x00", "a" * 10_000):
        with pytest.raises(RelayError) as refused:
            await directory.authenticate(token, "")
        said.add((type(refused.value), refused.value.message, refused.value.code))

    assert len(said) == 1 and next(iter(said))[0] is Unauthenticated


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        (["192.0.2.0/24"], "192.0.2.7", True),
        (["192.0.2.0/24"], "::ffff:192.0.2.7", True),
        (["192.0.2.0/24"], "198.51.100.1", False),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["192.0.2.7"], "not an address", False),
        ([], "anything", True),
    ],
)
async def test_networks(
    cast: Cast, directory: Directory, networks: list[str], address: str, allowed: bool
) -> None:
    await in_database(AccessToken.objects.filter(pk=cast.bob.token.pk).update, allowed_networks=networks)
    await directory.load()

    if allowed:
        assert (await directory.authenticate(cast.bob.plain, address)).user_name == "bob"
    else:
        with pytest.raises(Forbidden):
            await directory.authenticate(cast.bob.plain, address)


# Two servers, one database: an edit is seen by both on their next request.


def status(served: Served, token: str, model: str = "demo-echo") -> tuple[int, str]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    response = httpx2.post(
        f"{served.url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )
    return response.status_code, (response.json().get("error") or {}).get("code", "")


def test_two_servers_see_each_edit_on_their_next_request(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    servers = [serve(), serve()]

    def both(token: str, model: str = "demo-echo") -> set[tuple[int, str]]:
        return {status(each, token, model) for each in servers}

    assert both(cast.bob.plain) == {(200, "")}

    _new, plain = AccessToken.objects.issue(cast.bob.user, "new")
    assert both(plain) == {(200, "")}

    AccessToken.objects.filter(pk=cast.bob.token.pk).update(enabled=False)
    assert both(cast.bob.plain) == {(403, "token_disabled")}

    assert both(plain, "brand-new") == {(404, "model_not_found")}
    people.mapping("brand-new", "Demo-Echo")
    assert both(plain, "brand-new") == {(200, "")}

    BotMapping.objects.filter(model__startswith="demo").update(enabled=False)
    assert both(plain) == {(404, "model_not_found")}
    assert both(plain, "brand-new") == {(200, "")}

    BotMapping.objects.get(model="brand-new").teams.add(cast.chemistry)
    assert both(plain, "brand-new") == {(404, "model_not_found")}
    BotMapping.objects.get(model="brand-new").teams.set([])

    PoeKey.objects.update(enabled=False)
    assert both(plain, "brand-new") == {(503, "no_poe_key")}
    PoeKey.objects.update(enabled=True)
    assert both(plain, "brand-new") == {(200, "")}

    cast.bob.user.delete()
    assert both(plain, "brand-new") == {(401, "invalid_api_key")}
