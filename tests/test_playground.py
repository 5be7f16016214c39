"""The playground's tokens: whose they are, what holds for them, when they end; and the page in a browser over a real server."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.utils import timezone
from playwright.async_api import Browser, Locator, Page, expect

from accounts.models import AccessToken, Playground, User
from accounts.playground import WINDOW_SECONDS
from relay import reports
from relay.demo.bots import paint
from relay.models import Bot, BotMapping, UsageRecord
from tests import cast as people
from tests.cast import Cast, Person
from tests.conftest import Api, DemoPoe, Served, in_database, wait_for
from tests.test_live import cookie_of
from tests.test_portal import PLAIN, signed_in
from tests.test_server import collect_static_files
from tests.test_translations import english

PAGE = "/me/playground/"
TOKEN = "/me/playground/token/"  # noqa: S105  (an address)


def opened(browser: Client) -> str:
    response = browser.post(TOKEN)
    assert response.status_code == 200 and "no-store" in response.headers["Cache-Control"]
    return str(response.json()["token"])


async def status(api: Api, token: str, model: str = "demo-echo") -> tuple[int, str]:
    response = await api.chat(token, model)
    return response.status_code, response.json().get("error", {}).get("code", "")


# Who may have one.


def test_nobody_is_told_a_token(db: None, client: Client) -> None:
    assert client.post(TOKEN).headers["Location"].startswith("/?next=")


def test_another_site_cannot_have_one_made(cast: Cast) -> None:
    browser = Client(SERVER_NAME="127.0.0.1", enforce_csrf_checks=True)
    browser.force_login(cast.bob.user)

    assert browser.post(TOKEN).status_code == 403 and browser.get(TOKEN).status_code == 405
    assert not Playground.objects.exists()


def test_the_page_itself_holds_no_token(cast: Cast) -> None:
    people.mapping("gpt-4o", "GPT-4o")
    bob = signed_in(cast.bob)
    opened(bob)

    response = bob.get(PAGE)

    assert PLAIN.search(response.content.decode()) is None
    assert "img-src 'self' data: blob: https:" in response.headers["Content-Security-Policy"]


@pytest.mark.asyncio
async def test_it_works_on_the_very_next_request(api: Api, cast: Cast, demo: DemoPoe) -> None:
    assert await status(api, cast.bob.plain) == (200, "")  # the directory is loaded

    token = await in_database(lambda: opened(signed_in(cast.bob)))

    assert await status(api, token) == (200, "")


def test_pages_of_a_session_share_one_and_sessions_do_not(cast: Cast) -> None:
    bob, elsewhere, charlie = (signed_in(each) for each in (cast.bob, cast.bob, cast.charlie))

    told = [opened(each) for each in (bob, bob, elsewhere, charlie, bob)]

    assert told[0] == told[1] == told[4] and len(set(told)) == 3
    assert Playground.objects.filter(token__owner=cast.bob.user).count() == 2


def test_it_is_another_one_after_half_an_hour_and_lasts_an_hour_at_most(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = signed_in(cast.bob)
    first = bob.post(TOKEN).json()
    monkeypatch.setattr(time, "time", lambda: timezone.now().timestamp() + WINDOW_SECONDS)

    second = bob.post(TOKEN).json()

    assert first["token"] != second["token"]
    assert WINDOW_SECONDS - 5 < first["seconds"] <= 2 * WINDOW_SECONDS
    assert Playground.objects.count() == 1


def test_it_does_not_outlast_the_session(cast: Cast) -> None:
    bob = signed_in(cast.bob)
    session = bob.session
    session.set_expiry(60)
    session.save()

    assert bob.post(TOKEN).json()["seconds"] <= 60


# How it ends.


def sign_out(browser: Client, person: Person) -> None:
    browser.post("/sign-out/")


def sign_out_of_the_panel(browser: Client, person: Person) -> None:
    browser.post("/admin/logout/")


def sign_in_as_somebody_else(browser: Client, person: Person) -> None:
    browser.force_login(get_user_model().objects.get(username="charlie"))


def change_the_password(browser: Client, person: Person) -> None:
    user = User.objects.get(pk=person.user.pk)
    user.set_password("another good password")
    user.save()


def take_the_password_away(browser: Client, person: Person) -> None:
    user = User.objects.get(pk=person.user.pk)
    user.set_unusable_password()
    user.save(update_fields=["password"])


def disable_the_user(browser: Client, person: Person) -> None:
    User.objects.filter(pk=person.user.pk).update(is_active=False)


def delete_the_user(browser: Client, person: Person) -> None:
    User.objects.get(pk=person.user.pk).delete()


def forget_the_session(browser: Client, person: Person) -> None:
    browser.session.flush()


@pytest.mark.parametrize(
    "end",
    [
        sign_out,
        sign_out_of_the_panel,
        sign_in_as_somebody_else,
        change_the_password,
        take_the_password_away,
        disable_the_user,
        delete_the_user,
        forget_the_session,
    ],
    ids=lambda end: end.__name__,
)
@pytest.mark.asyncio
async def test_it_ends_with_the_session(
    api: Api, cast: Cast, demo: DemoPoe, end: Callable[[Client, Person], None]
) -> None:
    browser = await in_database(signed_in, cast.root)
    token = await in_database(opened, browser)
    assert await status(api, token) == (200, "")

    await in_database(end, browser, cast.root)

    code, _error = await status(api, token)
    assert code in (401, 403)


@pytest.mark.asyncio
async def test_another_sessions_end_is_not_its_own(api: Api, cast: Cast, demo: DemoPoe) -> None:
    here, there = [await in_database(signed_in, cast.bob) for _ in range(2)]
    token = await in_database(opened, here)
    await in_database(opened, there)

    await in_database(sign_out, there, cast.bob)

    assert await status(api, token) == (200, "")


def test_the_row_of_a_session_that_is_over_is_taken_again(cast: Cast) -> None:
    for _ in range(3):
        bob = signed_in(cast.bob)
        opened(bob)
        bob.post("/sign-out/")

    row = Playground.objects.get()
    assert row.token.name == "Playground" and row.token.is_expired()


def test_who_signs_in_does_not_end_it(cast: Cast) -> None:
    token = opened(signed_in(cast.bob))

    Client(SERVER_NAME="127.0.0.1").post("/", {"username": "bob", "password": people.PASSWORD})

    assert not AccessToken.objects.get(prefix=token[:13], owner=cast.bob.user).is_expired()


def test_none_is_opened_for_a_session_or_a_password_that_is_gone(cast: Cast) -> None:
    browser = signed_in(cast.bob)
    key, until = str(browser.session.session_key), timezone.now() + timedelta(hours=1)
    stale = User.objects.get(pk=cast.bob.user.pk)
    change_the_password(browser, cast.bob)

    with pytest.raises(PermissionDenied):
        AccessToken.objects.open_playground(stale, key, until)
    Session.objects.all().delete()
    with pytest.raises(PermissionDenied):
        AccessToken.objects.open_playground(User.objects.get(pk=stale.pk), key, until)
    assert not Playground.objects.exists()


# What holds for it.


@pytest.mark.parametrize("holder", ["user", "team"])
@pytest.mark.asyncio
async def test_limits_of_the_person_and_the_team_hold(
    api: Api, cast: Cast, demo: DemoPoe, holder: str
) -> None:
    bounded: Any = cast.bob.user if holder == "user" else cast.physics
    bounded.requests_per_minute = 1
    await in_database(bounded.save)
    token = await in_database(lambda: opened(signed_in(cast.bob)))

    assert await status(api, cast.bob.plain) == (200, "")
    assert await status(api, token) == (429, "rate_limit_exceeded")


@pytest.mark.asyncio
async def test_it_uses_up_the_token_that_binds_its_owner(api: Api, cast: Cast, demo: DemoPoe) -> None:
    given = AccessToken.objects.filter(pk=cast.bob.token.pk)
    await in_database(given.update, requests_per_minute=1, allowed_models=["demo-e*"])
    browser = await in_database(signed_in, cast.bob)
    token = await in_database(opened, browser)

    page = (await in_database(browser.get, PAGE)).content.decode()
    asked = [await status(api, token, model) for model in ("demo-painter", "demo-echo")]
    asked += [await status(api, each) for each in (cast.bob.plain, token)]

    assert "demo-echo" in page and "demo-painter" not in page and "bob&#x27;s phone" in page
    assert asked == [(404, "model_not_found"), (200, ""), *[(429, "rate_limit_exceeded")] * 2]
    names = await in_database(lambda: list(UsageRecord.objects.values_list("token_id", flat=True)))
    assert set(names) == {cast.bob.token.pk}


@pytest.mark.parametrize(
    ("changed", "code"),
    [({"enabled": False}, "token_disabled"), ({"expires_at": timezone.now()}, "token_expired"), (None, "")],
    ids=["disabled", "expired", "deleted"],
)
@pytest.mark.asyncio
async def test_it_ends_with_the_token_that_it_stands_for(
    api: Api, cast: Cast, demo: DemoPoe, changed: dict[str, Any] | None, code: str
) -> None:
    given = AccessToken.objects.filter(pk=cast.bob.token.pk)
    await in_database(given.update, points_per_day=1000)
    token = await in_database(lambda: opened(signed_in(cast.bob)))
    assert (await status(api, token))[0] == 200

    await in_database(given.delete) if changed is None else await in_database(given.update, **changed)

    assert (await status(api, token)) == ((401, "invalid_api_key") if changed is None else (403, code))


@pytest.mark.parametrize("given", [{"enabled": False}, {"points_per_day": 5, "expires_at": timezone.now()}])
def test_who_was_taken_the_last_token_has_no_playground(cast: Cast, given: dict[str, Any]) -> None:
    AccessToken.objects.filter(pk=cast.bob.token.pk).update(**given)
    bob = signed_in(cast.bob)

    assert bob.post(TOKEN).status_code == 403
    assert "Ask your manager or administrator." in bob.get(PAGE).content.decode()
    assert not Playground.objects.exists()


@pytest.mark.asyncio
async def test_use_is_seen_under_its_name(api: Api, cast: Cast, demo: DemoPoe) -> None:
    token = await in_database(lambda: opened(signed_in(cast.bob)))
    await status(api, token)
    scope = reports.Scope(
        timezone.now() - timedelta(hours=2), timezone.now() + timedelta(hours=1), user_id=cast.bob.user.pk
    )

    shares: Any = await in_database(lambda: wait_for(lambda: reports.by_token(scope)))

    assert [(share.name, share.requests) for share in shares] == [("Playground", 1)]


# Where it is not.


def test_it_is_in_no_list_of_tokens(cast: Cast) -> None:
    for who in (cast.bob, cast.root):
        opened(signed_in(who))
    root = signed_in(cast.root)

    pages = ["/", "/me/tokens/", "/admin/accounts/accesstoken/"]
    shown = [root.get(page).content.decode() for page in pages]

    assert all("root&#x27;s phone" in page and "…</code>" in page for page in shown)
    assert not any(
        each.prefix in page for page in shown for each in AccessToken.objects.filter(name="Playground")
    )


def test_it_is_neither_rotated_nor_revoked_nor_does_it_bind(cast: Cast) -> None:
    bob = signed_in(cast.bob)
    opened(bob)
    token = Playground.objects.get().token

    assert [bob.post(f"/me/tokens/{token.pk}/{act}/").status_code for act in ("rotate", "revoke")] == [
        404
    ] * 2
    with pytest.raises(PermissionDenied):
        token.rotate(timedelta(hours=1))
    assert User.objects.get(pk=cast.bob.user.pk).may_issue_tokens


@pytest.mark.asyncio
async def test_it_is_in_no_log(api: Api, cast: Cast, demo: DemoPoe, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    browser = await in_database(signed_in, cast.bob)
    token = await in_database(opened, browser)
    await status(api, token)
    await in_database(sign_out, browser, cast.bob)
    await status(api, token)

    assert token not in caplog.text and caplog.text


def test_it_is_stored_nowhere(cast: Cast) -> None:
    browser = signed_in(cast.bob)
    token = opened(browser)

    stored = [repr(row) for model in (AccessToken, Playground, Session) for row in model.objects.values()]

    assert stored and not any(token in row for row in stored)
    assert str(browser.session.session_key) not in repr(list(Playground.objects.values()))


# The page.


def test_only_usable_models_are_offered(cast: Cast) -> None:
    people.mapping("for-all", "GPT-4o")
    people.mapping("hidden", "GPT-4o", hidden=True)
    people.mapping("for-chemists", "GPT-4o").teams.add(cast.chemistry)

    page = signed_in(cast.bob).get(f"{PAGE}?model=for-all").content.decode()

    assert 'value="for-all"' in page and " selected>for-all" in page
    assert "for-chemists" not in page and 'value="hidden"' not in page


def test_a_model_that_takes_no_pictures_says_so(cast: Cast) -> None:
    now = timezone.now()
    BotMapping.objects.all().delete()
    people.mapping("reader", "Reader", points_per_request=15)
    Bot.objects.create(
        handle="Reader", handle_key="reader", input_modalities=["text"], first_seen_at=now, last_seen_at=now
    )

    page = signed_in(cast.bob).get(PAGE).content.decode()

    assert 'data-pictures="no"' in page and "points per request: 15" in page


@pytest.mark.parametrize("page", ["with models", "without models", "refused"])
def test_it_is_all_in_chinese(cast: Cast, page: str) -> None:
    if page == "with models":
        people.mapping("gpt-4o", "GPT-4o")
    if page == "refused":
        AccessToken.objects.update(enabled=False)

    assert english(signed_in(cast.bob, "zh-CN").get(PAGE)) == []


def test_what_an_answer_took_is_told_to_its_owner_alone(cast: Cast) -> None:
    record = UsageRecord.objects.create(
        id=uuid.uuid4(),
        request_id="req_1",
        started_at=timezone.now(),
        token_id=cast.bob.token.pk,
        user_id=cast.bob.user.pk,
        team_id=cast.physics.pk,
        streamed=True,
        points=7,
    )
    address = f"{PAGE}answers/req_1/"
    while_open = signed_in(cast.bob).get(address).json()
    UsageRecord.objects.filter(pk=record.pk).update(outcome="done")

    others = [signed_in(each).get(address).status_code for each in (cast.alice, cast.charlie, cast.root)]

    assert while_open == {} and signed_in(cast.bob).get(address).json()["points"] == 7
    assert others == [404, 404, 404]


# In a browser, over a real server.

in_browser = pytest.mark.asyncio(loop_scope="session")
# On a busy machine, too.
expect.set_options(timeout=20_000)


@dataclass
class Tried:
    """The page, open for somebody who is signed in."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def ask(self, model: str, text: str) -> Locator:
        """The answer's place on the page, which takes no question while it answers one."""
        await expect(self.page.locator("#send")).to_be_visible()
        await self.page.get_by_label("Model").select_option(model)
        await self.page.get_by_label("Your message").fill(text)
        await self.page.get_by_label("Your message").press("Enter")
        return self.page.locator(".reply").last

    async def another(self) -> Tried:
        page = await self.page.context.new_page()
        found = Tried(page, self.url)
        page.on("console", lambda said: found.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("request", lambda request: found.asked.append(request.url))
        await page.goto(f"{self.url}{PAGE}")
        return found


@pytest_asyncio.fixture(loop_scope="session")
async def bob_tries(
    browser: Browser, serve: Callable[..., Served], cast: Cast, demo: DemoPoe, settings: Any
) -> AsyncIterator[Tried]:
    collect_static_files(settings)
    # Bots of their own: a script stays with the demo server, which other tests ask as well.
    words = [("text", {"text": f"word{number} "}) for number in range(8)]
    demo.script("many-words", *words, ("done", {}), delay=0.1)
    demo.script("slow-words", *[("text", {"text": each}) for each in ("first ", "second")], delay=20)
    for name in ("many-words", "slow-words"):
        await in_database(people.mapping, name, name)
    served = serve()
    context = await browser.new_context(locale="en-US", viewport={"width": 390, "height": 800})
    name, cookie = str(django_settings.SESSION_COOKIE_NAME), await in_database(cookie_of, cast.bob)
    await context.add_cookies([{"name": name, "value": cookie, "url": served.url}])
    yield await Tried(await context.new_page(), served.url).another()
    await context.close()


@in_browser
async def test_a_person_tries_models(bob_tries: Tried, demo: DemoPoe, tmp_path: Path) -> None:
    echo = await bob_tries.ask("many-words", "Good morning")
    await expect(echo.locator(".answer")).to_have_text(re.compile("^word0"))
    assert "word7" not in await echo.locator(".answer").inner_text()  # it streams
    await expect(echo.locator(".answer")).to_have_text(re.compile("word7"))
    await expect(echo.locator("[data-fact=points]")).to_have_text(re.compile(r"^\d+$"))
    await expect(echo.locator("[data-fact=tokens]")).to_have_text(re.compile(r"\d+ asked, \d+ answered"))
    await expect(echo.locator("[data-fact=total]")).to_have_text(re.compile(r"[\d.]+ s"))

    thinker = await bob_tries.ask("demo-thinker", "And now?")
    await expect(thinker.locator("[data-fact=points]")).to_be_visible()
    await expect(thinker.locator(".thoughts")).not_to_be_visible()
    await thinker.get_by_text("Reasoning").click()
    await expect(thinker.locator(".thoughts")).to_contain_text("That is all I need to know.")

    picture = tmp_path / "cat.png"
    picture.write_bytes(paint("a cat"))
    await bob_tries.page.locator("#picker").set_input_files(picture)
    await expect(bob_tries.page.get_by_alt_text("Picture 1")).to_be_visible()
    hostile = "**bold** <img src=x onerror=alert(1)> [x](javascript:alert(1))"
    seen = await bob_tries.ask("demo-replacer", hostile)
    await expect(seen.locator("strong")).to_have_text("bold")
    await expect(seen).to_contain_text(hostile.replace("*", ""))
    assert await seen.locator(".answer img, .answer a").count() == 0
    assert await bob_tries.page.locator(".question img").count() == 1
    assert bob_tries.complaints == []


@in_browser
async def test_a_person_is_told_what_became_of_an_answer(bob_tries: Tried, demo: DemoPoe, cast: Cast) -> None:
    page = bob_tries.page
    stopped = await bob_tries.ask("slow-words", "Good morning")
    await expect(stopped.locator(".answer")).to_have_text("first")
    await page.get_by_role("button", name="Stop").click()
    await expect(stopped).to_contain_text("You stopped it here.")
    await expect(stopped.locator("[data-fact=points]")).to_be_visible()

    await page.get_by_role("button", name="简体中文").click()
    await expect(page.locator(".reply")).to_contain_text("你在这里停止了回答。")
    await page.get_by_role("button", name="English").click()
    await page.get_by_role("button", name="New conversation").click()
    await expect(page.locator(".reply")).to_have_count(0)

    # Two pages of one session, side by side.
    other = await bob_tries.another()
    for tried in (bob_tries, other, bob_tries):
        reply = await tried.ask("demo-thinker", "Good morning")
        await expect(reply.locator(".answer")).to_contain_text("You asked with 2 words.")

    await in_database(User.objects.filter(pk=cast.bob.user.pk).update, requests_per_minute=1)
    for _ in range(2):
        limited = await bob_tries.ask("demo-thinker", "Once more")
        await expect(limited).to_have_attribute("aria-busy", "false")
    await expect(limited.get_by_role("alert")).to_contain_text("a limit is reached. It works again in ")

    await in_database(lambda: Session.objects.all().delete())
    await in_database(AccessToken.objects.close_playground, owner=cast.bob.user)
    refused = await other.ask("demo-thinker", "Again")
    await expect(refused.get_by_role("alert")).to_contain_text("You are signed out.")
    assert not any("sk-poe" in url for tried in (bob_tries, other) for url in tried.asked)
    assert PLAIN.search(await other.page.content()) is None
