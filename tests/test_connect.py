"""Connecting an app: what is offered to whom; and in a browser, that links and codes are right and the token stays there."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import pytest_asyncio
from django.contrib.staticfiles import finders
from django.test import Client
from playwright.async_api import Browser, Page, Request, Route

from accounts.models import AccessToken, token_digest
from relay.models import Bot
from relay.portal.apps import APPS
from tests import cast as people
from tests.cast import Cast
from tests.conftest import in_database
from tests.test_portal import PLAIN, signed_in
from tests.test_translations import english

PAGE = "/me/connect/"
SITE = "http://127.0.0.1"
in_browser = pytest.mark.asyncio(loop_scope="session")
PASTED = "sk-poe-" + "a1B2c3D4e5" * 4
# Of versions 1, 2 ... at the lowest correction, in bytes.
QR_BYTES = (17, 32, 53, 78, 106, 134, 154, 192, 230, 271, 321, 367, 425, 458, 520, 586, 644, 718, 792, 858)


def test_nobody_is_sent_to_sign_in(db: None, client: Client) -> None:
    assert client.get(PAGE).headers["Location"] == f"/?next={PAGE}"


def test_every_app_is_there_with_this_sites_address(cast: Cast) -> None:
    page = signed_in(cast.bob).get(PAGE).content.decode()

    assert [app.slug for app in APPS if f'data-app="{app.slug}"' not in page] == []
    assert page.count("<code>http://127.0.0.1/v1</code>") == 3  # LobeChat, Open WebUI, Cursor
    assert PLAIN.search(page) is None


def test_it_is_all_in_chinese(cast: Cast) -> None:
    assert english(signed_in(cast.bob, "zh-CN").get(PAGE)) == []


def test_a_pasted_token_has_no_name_by_which_a_form_could_send_it(cast: Cast) -> None:
    page = signed_in(cast.bob).get(PAGE).content.decode()

    given = re.search(r"<input[^>]*data-token[^>]*>", page)
    assert given is not None and "name=" not in given[0] and 'autocomplete="off"' in given[0]
    assert page.index(given[0]) > page.rindex("</form>", 0, page.index(given[0]))


def test_a_token_is_made_for_an_app_and_comes_back_with_it_open(cast: Cast) -> None:
    response = signed_in(cast.bob).post("/me/tokens/", {"name": "Chatbox", "app": "chatbox"})

    page = response.content.decode()
    token = PLAIN.search(page)
    assert token is not None and AccessToken.objects.get(digest=token_digest(token[0])).name == "Chatbox"
    assert re.search(r'data-app="chatbox" open>', page) and page.count(" open>") == 1
    assert page.count(token[0]) == 1


def test_who_may_not_issue_is_offered_no_token(cast: Cast) -> None:
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(points_per_day=5)

    page = signed_in(cast.bob).get(PAGE).content.decode()

    assert 'action="/me/tokens/"' not in page and "manager or administrator" in page


@dataclass
class Suggesting:
    cast: Cast

    def page(self) -> str:
        return signed_in(self.cast.bob).get(PAGE).content.decode()

    def models(self) -> list[str]:
        return re.findall(r"<option(?: selected)?>([^<]+)</option>", self.page())

    def suggested(self) -> str | None:
        found = re.search(r"<option selected>([^<]+)</option>", self.page())
        return found[1] if found else None


def test_models_of_another_team_are_not_offered(cast: Cast) -> None:
    people.mapping("for-all", "GPT")
    people.mapping("for-chemists", "GPT").teams.add(cast.chemistry)

    assert Suggesting(cast).models() == ["for-all"]


def test_a_model_that_answers_in_text_is_suggested_until_one_is_used_more(cast: Cast) -> None:
    for model, bot, gives in (("a-painter", "Painter", "image"), ("b-writer", "Writer", "text")):
        people.mapping(model, bot)
        Bot.objects.create(
            handle=bot,
            handle_key=bot.casefold(),
            output_modalities=[gives],
            first_seen_at="2026-01-01T00:00Z",
            last_seen_at="2026-01-01T00:00Z",
        )
    suggesting = Suggesting(cast)

    assert suggesting.suggested() == "b-writer"
    people.used(cast.bob, "a-painter", points=5)
    people.used(cast.charlie, "b-writer", points=500)
    assert suggesting.suggested() == "a-painter"


def test_a_new_token_offers_only_the_models_that_it_may_use(cast: Cast) -> None:
    people.mapping("gpt-4o", "GPT")
    people.mapping("claude", "Claude")

    page = signed_in(cast.bob).post("/me/tokens/", {"name": "x", "models": "gpt-*"}).content.decode()

    assert re.findall(r"<option(?: selected)?>([^<]+)</option>", page) == ["gpt-4o"]


# In a browser, whose every request is answered here.


@dataclass
class Visit:
    page: Page
    client: Client
    asked: list[str] = field(default_factory=list)

    async def answer(self, route: Route, request: Request) -> None:
        self.asked.append(f"{request.url} {await request.all_headers()} {request.post_data}")
        path = urlsplit(request.url).path
        if path.startswith("/static/"):
            file = Path(str(finders.find(path.removeprefix("/static/"))))
            await route.fulfill(body=file.read_bytes(), content_type=guess_type(file.name)[0])
            return
        kind = request.headers.get("content-type", "")
        response = await in_database(
            self.client.generic, request.method, path, request.post_data or "", content_type=kind
        )
        await route.fulfill(
            status=response.status_code, headers=dict(response.headers), body=response.content
        )

    async def open(self, slug: str) -> None:
        await self.page.click(f"[data-app={slug}] summary")

    async def link(self, slug: str) -> str:
        return await self.page.locator(f"[data-app={slug}] [data-link]").get_attribute("href") or ""

    def told(self, secret: str) -> list[str]:
        return [each for each in self.asked if secret in unquote(each)]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, cast: Cast) -> AsyncIterator[Visit]:
    await in_database(people.mapping, "gpt-4o", "GPT-4o")
    await in_database(people.mapping, "o3", "o3")
    context = await browser.new_context(locale="en-US")
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit = Visit(await context.new_page(), await in_database(signed_in, cast.bob))
    failures: list[str] = []
    visit.page.on("pageerror", lambda error: failures.append(str(error)))
    visit.page.on("console", lambda said: failures.append(said.text) if said.type == "error" else None)
    await context.route("**/*", visit.answer)
    await visit.page.goto(f"{SITE}{PAGE}")
    yield visit
    await context.close()
    assert failures == []


def config_of(link: str, name: str) -> Any:
    return json.loads(base64.b64decode(parse_qs(urlsplit(link).query)[name][0]))


@in_browser
async def test_links_hold_the_pasted_token_and_nobody_is_told(visit: Visit) -> None:
    await visit.page.fill("#token", f" {PASTED} ")
    await visit.page.select_option("#model", "o3")

    chatbox = config_of(await visit.link("chatbox"), "config")
    assert (chatbox["id"], chatbox["type"]) == ("poe-relay-127-0-0-1", "openai")
    assert chatbox["settings"] == {
        "apiHost": SITE,
        "apiKey": PASTED,
        "models": [{"modelId": "o3"}],
    }
    nextchat = urlsplit(await visit.link("nextchat"))
    assert (nextchat.netloc, nextchat.path, nextchat.query) == ("app.nextchat.dev", "/", "")
    assert json.loads(unquote(nextchat.fragment.removeprefix("/?settings="))) == {"key": PASTED, "url": SITE}
    assert visit.told(PASTED) == []
    parts = [urlsplit(each.split()[0]) for each in visit.asked]
    assert {part.path for part in parts if not part.path.startswith("/static/")} == {PAGE}
    assert {part.query for part in parts} == {""}


@in_browser
async def test_cherry_studio_can_read_its_link(visit: Visit) -> None:
    for token in (PASTED, "imported/token+with=signs", "~?>?>~~?>?>~~~?>?>"):
        await visit.page.fill("#token", token)

        data = urlsplit(await visit.link("cherry-studio")).query.removeprefix("v=1&data=")
        # As its src/main/services/protocol/handlers/providersImport.ts does.
        told = base64.b64decode(data.replace("_", "+").replace("-", "/") + "==")
        assert json.loads(told) == {
            "id": "poe-relay-127-0-0-1",
            "baseUrl": SITE,
            "apiKey": token,
            "name": "poe-relay",
            "type": "openai",
        }


@in_browser
async def test_a_nextchat_of_ones_own_gets_the_link_and_nothing_else_does(visit: Visit) -> None:
    await visit.page.fill("#token", PASTED)
    await visit.open("nextchat")

    await visit.page.fill("#nextchat", "https://chat.example.org/")
    assert (await visit.link("nextchat")).startswith("https://chat.example.org/#/?settings=")
    await visit.page.fill("#nextchat", "javascript:alert(1)")
    assert await visit.link("nextchat") == ""


@in_browser
async def test_what_is_no_token_fills_nothing(visit: Visit) -> None:
    await visit.page.fill("#token", "two words")

    assert await visit.link("chatbox") == ""
    assert await visit.page.locator("[data-app=chatbox] [data-fill=token]").text_content() == "sk-poe-…"


@in_browser
@pytest.mark.parametrize("slug", ["chatbox", "nextchat", "codex"])
async def test_a_qr_code_holds_the_link_or_else_the_token(visit: Visit, slug: str) -> None:
    await visit.page.fill("#token", PASTED)
    await visit.open(slug)

    drawn = visit.page.locator(f"[data-app={slug}] [data-qr] svg")
    await drawn.wait_for()
    expected = await visit.link(slug) if slug != "codex" else PASTED
    version = next(place for place, most in enumerate(QR_BYTES, 1) if most >= len(expected))
    side = 17 + 4 * version + 2 * 4  # with the quiet margin of four on each side
    assert await drawn.get_attribute("viewBox") == f"0 0 {side} {side}"
    # The three corners that a camera looks for begin dark.
    dots = await drawn.locator("path").get_attribute("d") or ""
    assert all(f"M{x} {y}h" in dots for x, y in ((4, 4), (side - 5, 4), (4, side - 5)))
    assert visit.told(PASTED) == []


@in_browser
async def test_a_field_is_copied_as_it_is_pasted(visit: Visit) -> None:
    await visit.open("claude-code")
    copy = visit.page.locator("[data-app=claude-code] [data-copy]")
    assert await copy.is_disabled()

    await visit.page.fill("#token", PASTED)
    await copy.click()
    await visit.page.get_by_text("Copied").wait_for()

    pasted = json.loads(await visit.page.evaluate("navigator.clipboard.readText()"))
    assert pasted["env"]["ANTHROPIC_AUTH_TOKEN"] == PASTED
    assert pasted["env"]["ANTHROPIC_BASE_URL"] == SITE and pasted["env"]["ANTHROPIC_MODEL"] == "gpt-4o"


@in_browser
async def test_a_new_token_is_in_the_links_at_once_and_in_no_request(visit: Visit) -> None:
    await visit.open("chatbox")
    await visit.page.click("text=Make a token for Chatbox")
    await visit.page.locator("[data-app=chatbox] [data-qr] svg").wait_for()

    token = await visit.page.locator("[data-token]").text_content() or ""
    assert PLAIN.fullmatch(token)
    assert config_of(await visit.link("chatbox"), "config")["settings"]["apiKey"] == token
    await visit.page.click("text=I have copied it")
    assert visit.told(token) == []


@in_browser
async def test_another_language_keeps_what_was_pasted(visit: Visit) -> None:
    await visit.page.fill("#token", PASTED)
    visit.client.defaults["HTTP_ACCEPT_LANGUAGE"] = "zh-CN"
    await visit.page.evaluate("document.querySelector('[data-language]').dispatchEvent(new Event('submit'))")
    await visit.page.reload()

    assert PASTED in json.dumps(config_of(await visit.link("chatbox"), "config"))
    assert await visit.page.locator("html").get_attribute("lang") == "zh-hans"
    assert visit.told(PASTED) == []
