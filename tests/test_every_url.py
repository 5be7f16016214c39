"""Every route of the site, asked as everybody: what each is told stands in tests/rights.py, and a route that does not fails here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import aiohttp
import httpx2
import pytest
from django.conf import settings
from django.contrib import admin
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from relay.api.urls import is_api
from tests import cast as people
from tests import rights
from tests.conftest import ROOT, Api, DemoPoe, Served, in_database
from tests.rights import API, PAGES, PANEL, SECRETS, SERVER, SOCKETS, Asker, Line, Outcome, Stage

ASKERS = pytest.mark.parametrize("asker", list(Asker))
PARAMETER = re.compile(r"<[^>]+>|\(\?P<\w+>[^)]*\)")


# Which routes there are.


def routes(urlconf: str) -> Iterator[tuple[str, URLPattern]]:
    yield from _below(get_resolver(urlconf), "")


def _below(resolver: URLResolver, prefix: str) -> Iterator[tuple[str, URLPattern]]:
    for each in resolver.url_patterns:
        route = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from _below(each, route)
        else:
            yield route, each


def page_routes() -> dict[str, URLPattern]:
    return dict(routes("proxy_site.urls"))


def api_routes() -> dict[str, URLPattern]:
    return {route.removeprefix("v1/"): each for route, each in routes("relay.api.urls")}


def panel_lines() -> dict[str, Line]:
    """A model's pages are about its row of `things`, where their address is about one."""
    return {
        f"admin/{label.replace('.', '/')}/{route}": line.of(label) if "<" in route else line
        for label, lines in PANEL.items()
        for route, line in lines.items()
    }


LINES = {**panel_lines(), **PAGES}
# Read, not imported: asgi.py would count and log in this process from then on.
_ASGI = (ROOT / "proxy_site" / "asgi.py").read_text()
OWN_PAGES = set(re.findall(r'^    "(/\w+)": ', _ASGI, re.MULTILINE))
OWN_SOCKETS = set(re.findall(r'"(/ws/[^"]+)": ', _ASGI))


def unlisted() -> Iterator[str]:
    models = {model._meta.label_lower for model in admin.site._registry}
    for label in sorted(models - set(PANEL)):
        yield f"{label!r} is new in the panel: who may edit it? Add it to PANEL, and a row of it to `things`."
    news = tuple(f"admin/{label.replace('.', '/')}/" for label in models - set(PANEL))
    for route in page_routes():
        if route not in LINES and not (news and route.startswith(news)):
            yield f"{route!r} is a new page: who may see it? Add a line to PAGES."
    for table, name, found in (
        (API, "API", set(api_routes())),
        (SERVER, "SERVER", OWN_PAGES),
        (SOCKETS, "SOCKETS", OWN_SOCKETS),
    ):
        yield from (
            f"{route!r} is new: who may ask it? Add a line to {name}." for route in found - set(table)
        )


def listed_in_vain() -> Iterator[str]:
    known = {*page_routes(), *api_routes(), *OWN_PAGES, *OWN_SOCKETS}
    lines = {*LINES, *API, *SERVER, *SOCKETS}
    yield from (f"{route!r} is no route any more: remove its line." for route in sorted(lines - known))


def test_every_route_says_who_may_ask_it() -> None:
    wrong = [f"tests/rights.py: {sentence}" for sentence in (*unlisted(), *listed_in_vain())]

    assert not wrong, "\n".join(["", *wrong])


def test_a_page_is_no_route_of_the_api_and_is_safe_from_forged_forms() -> None:
    for route, each in page_routes().items():
        assert not is_api(f"/{route}") and f"/{route}" not in OWN_PAGES, route
        assert not getattr(each.callback, "csrf_exempt", False), route


# What everybody is told.


def path_of(route: str, line: Line, stage: Stage) -> str:
    """The route with what it is about in the places of its parameters."""
    plain = route.replace("^", "").replace("$", "")
    given = iter(stage.things[line.thing] if line.thing else ())
    path = PARAMETER.sub(lambda _found: str(next(given)), plain)
    assert next(given, None) is None, f"{route!r} is about less than {line.thing!r}"
    return f"/{path}"


def outcome_of(status: int, location: str = "") -> Outcome | None:
    """None: not by this method."""
    assert status < 500
    if status in (301, 302, 303):
        if location.startswith("/?next="):
            return Outcome.SIGN_IN
        return Outcome.PANEL_SIGN_IN if location.startswith("/admin/login/") else Outcome.ANSWERED
    told = {401: Outcome.UNKNOWN, 403: Outcome.FORBIDDEN, 404: Outcome.MISSING, 405: None}
    return told.get(status, Outcome.ANSWERED)


def heard(outcomes: dict[str, Outcome | None]) -> Outcome | str:
    """By all methods that there are: one outcome, or what each of them says."""
    told = {method: outcome for method, outcome in outcomes.items() if outcome is not None}
    if told.get("GET") is Outcome.ANSWERED and told.get("POST") in (Outcome.FORBIDDEN, Outcome.MISSING):
        return Outcome.READ_ONLY
    if not told:
        return Outcome.NO_ROUTE
    return next(iter(told.values())) if len(set(told.values())) == 1 else str(told)


def judged(asker: Asker, path: str, line: Line, outcomes: dict[str, Outcome | None]) -> Iterator[str]:
    if (told := heard(outcomes)) != line.outcomes[asker]:
        yield f"{asker} {told} at {path}; tests/rights.py says: {asker} {line.outcomes[asker]}"


def overheard(asker: Asker, path: str, said: str) -> Iterator[str]:
    """What is in the path is no news to whoever asks for it."""
    news = said.replace(path.strip("/").rpartition("/")[2], "") if path.strip("/") else said
    for word in SECRETS[asker]:
        if re.search(rf"\b{word}\b", news, re.IGNORECASE):
            yield f"{asker} reads {word!r} at {path}"


@pytest.fixture
def stage(db: None) -> Stage:
    return rights.stage(people.make())


def session_of(asker: Asker, stage: Stage) -> dict[str, str]:
    """As a header, which outlives that somebody signs out."""
    if asker not in stage.people:
        return {}
    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(stage.people[asker].user)
    return {"cookie": f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"}


@ASKERS
def test_every_page(stage: Stage, asker: Asker) -> None:
    signed_in = session_of(asker, stage)
    wrong: list[str] = []
    for route, line in LINES.items():
        path, outcomes = path_of(route, line, stage), {}
        for method in ("GET", "POST"):
            with transaction.atomic():
                response = Client(SERVER_NAME="127.0.0.1", headers=signed_in).generic(method, path)
                transaction.set_rollback(True)
            outcomes[method] = outcome_of(response.status_code, response.headers.get("Location", ""))
            wrong += overheard(asker, path, f"{response.headers} {response.getvalue().decode()}")
            if asker is Asker.ADMINISTRATOR and outcomes[method] == line.outcomes[asker]:
                break  # the panel's pages are slow, and hide nothing
        wrong += judged(asker, path, line, outcomes)
    assert not wrong, "\n".join(["", *wrong])


# What every caller of the API is told, by the token that is sent.


@ASKERS
@pytest.mark.asyncio
async def test_every_route_of_the_api(api: Api, cast: people.Cast, demo: DemoPoe, asker: Asker) -> None:
    stage = await in_database(rights.stage, cast)
    kept = await api.openai(cast.bob.plain).responses.create(model="demo-echo", input="x", store=True)
    stage.things["response"] = (kept.id,)
    sdk = api.openai(cast.bob.plain)
    file = await sdk.files.create(file=("x.txt", b"x", "text/plain"), purpose="user_data")
    stage.things["file"] = (file.id,)
    asked = {"model": "demo-filmer", "prompt": "dusk"}
    bearer = {"Authorization": f"Bearer {cast.bob.plain}"}
    video = await api.http.post("/v1/videos", json=asked, headers=bearer)
    stage.things["video"] = (video.json()["id"],)
    token = stage.people[asker].plain if asker in stage.people else "sk-poe-nonsense"
    paths = {base + path_of(route, line, stage): line for route, line in API.items() for base in ("", "/v1")}
    outcomes: dict[str, dict[str, Outcome | None]] = {path: {} for path in paths}
    wrong: list[str] = []
    for method in ("GET", "POST", "DELETE"):
        for path in paths:
            if method == "DELETE" and not path.startswith("/v1"):
                continue  # it can be deleted once
            response = await api.http.request(
                method, path, content=b"{}", headers={"Authorization": f"Bearer {token}"}
            )
            is_route = response.status_code != 404 or response.json()["error"]["code"] != "unknown_route"
            outcomes[path][method] = outcome_of(response.status_code) if is_route else None
            wrong += overheard(asker, path, f"{response.headers} {response.text}")
    for path, line in paths.items():
        wrong += judged(asker, path, line, outcomes[path])
    assert not wrong, "\n".join(["", *wrong])


# What the server itself tells machines, and who may open a WebSocket.


def test_machines_are_told_whoever_they_are(serve: Callable[..., Served]) -> None:
    served = serve()
    for path, line in SERVER.items():
        assert line == rights.ANYBODY
        assert httpx2.get(f"{served.url}{path}").status_code == 200


@pytest.mark.asyncio
async def test_every_websocket(serve: Callable[..., Served], cast: people.Cast) -> None:
    stage = await in_database(rights.stage, cast)
    served = serve()
    for asker in Asker:
        signed_in = await in_database(session_of, asker, stage)
        for path in (*SOCKETS, "/ws/nothing/"):
            line = SOCKETS.get(path)
            expected = line.outcomes[asker] if line else Outcome.FORBIDDEN

            assert await _opened(served, path, signed_in) is expected, (asker, path)


async def _opened(served: Served, path: str, headers: dict[str, str]) -> Outcome:
    """One that is refused is not opened, or closed at once."""
    async with aiohttp.ClientSession(headers={"Origin": served.url, **headers}) as session:
        try:
            async with session.ws_connect(f"{served.url}{path}") as socket:
                said = await socket.receive(timeout=10)
        except aiohttp.WSServerHandshakeError as exc:
            assert exc.status == 403
            return Outcome.FORBIDDEN
    return Outcome.ANSWERED if said.type is aiohttp.WSMsgType.TEXT else Outcome.FORBIDDEN
