"""What a caller may newly do holds on the next request, though this process has an old snapshot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from accounts.models import AccessToken, User
from relay.models import BotMapping
from tests.cast import Cast
from tests.conftest import Api, DemoPoe, in_database

pytestmark = pytest.mark.asyncio
Ask = Callable[[Api, Cast], Awaitable[tuple[int, int]]]


async def asked(api: Api, cast: Cast) -> tuple[int, int]:
    path, headers = "/v1/models/demo-echo", {"Authorization": f"Bearer {cast.bob.plain}"}
    chat = await api.chat(cast.bob.plain, "demo-echo")
    return chat.status_code, (await api.http.get(path, headers=headers)).status_code


async def model_shown_first(api: Api, cast: Cast) -> tuple[int, int]:
    path, headers = "/v1/models/demo-echo", {"Authorization": f"Bearer {cast.bob.plain}"}
    shown = await api.http.get(path, headers=headers)
    return (await api.chat(cast.bob.plain, "demo-echo")).status_code, shown.status_code


@pytest.mark.parametrize("ask", [asked, model_shown_first])
async def test_a_model_more_for_a_token(api: Api, cast: Cast, demo: DemoPoe, ask: Ask) -> None:
    tokens = AccessToken.objects.filter(pk=cast.bob.token.pk)
    await in_database(tokens.update, allowed_models=["demo-thinker"])
    assert await asked(api, cast) == (404, 404)

    await in_database(tokens.update, allowed_models=["demo-*"])

    assert await ask(api, cast) == (200, 200)


@pytest.mark.parametrize("ask", [asked, model_shown_first])
async def test_another_team(api: Api, cast: Cast, demo: DemoPoe, ask: Ask) -> None:
    mapping = await in_database(BotMapping.objects.get, model="demo-echo")
    await in_database(mapping.teams.set, [cast.chemistry])
    assert await asked(api, cast) == (404, 404)

    await in_database(User.objects.filter(pk=cast.bob.user.pk).update, team=cast.chemistry)

    assert await ask(api, cast) == (200, 200)
