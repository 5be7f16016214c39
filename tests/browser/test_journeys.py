"""What people do, from the first click to the answer, in a browser over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import openai
import pytest
from playwright.async_api import Browser, expect

from accounts.models import AccessToken
from tests.browser.looking import Window
from tests.browser.looks import DESKTOP, PHONE
from tests.cast import PASSWORD, Cast
from tests.conftest import DemoPoe, Served, in_database
from tests.test_live import ask_slowly

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def asked(served: Served, token: str, model: str = "demo-echo") -> str | None:
    async with openai.AsyncOpenAI(api_key=token, base_url=f"{served.url}/v1", max_retries=0) as sdk:
        answer = await sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Good morning"}]
        )
        return answer.choices[0].message.content


async def test_an_administrator_issues_a_token_in_two_clicks_and_the_member_uses_it(
    browser: Browser, serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = serve()
    window = await Window.open(browser, served.url, DESKTOP)
    await window.sign_in(cast.root)
    page = window.page
    await window.go("/admin/accounts/user/")

    await page.locator(f'a[href*="/user/{cast.bob.user.pk}/issue/"]').first.click()
    await page.locator("form:has([name=name]) button[type=submit]").click()
    token = (await page.locator("#issued-token").inner_text()).strip()

    assert await asked(served, token) == "Good morning"
    assert await window.problems() == []
    await window.close()


async def test_who_is_invited_has_the_first_answer_a_minute_later(
    browser: Browser, serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = serve()
    office = await Window.open(browser, served.url, DESKTOP)
    await office.sign_in(cast.root)
    await office.go(f"/admin/accounts/invitation/add/?team={cast.physics.pk}")
    await office.page.locator("[name=_save]").click()
    link = (await office.page.locator("#invitation-link").inner_text()).strip()

    window = await Window.open(browser, served.url, PHONE)
    page = window.page
    await page.goto(link)
    assert link.rpartition("/join/")[2] not in page.url
    await page.fill("[name=username]", "dawn")
    for name in ("password1", "password2"):
        await page.fill(f"[name={name}]", PASSWORD)
    await page.locator("main form button").click()
    token = (await page.locator("[data-token]").first.inner_text()).strip()

    assert await asked(served, token) == "Good morning"
    assert await window.problems() == [] == await office.problems()
    await page.goto(link)
    await expect(page.locator("main")).not_to_contain_text("sk-poe-")
    await window.close()
    await office.close()


async def test_a_mapping_is_edited_while_a_stream_runs(
    browser: Browser, serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    served = serve()
    window = await Window.open(browser, served.url, DESKTOP)
    await window.sign_in(cast.root)
    page = window.page
    sdk = openai.AsyncOpenAI(api_key=cast.bob.plain, base_url=f"{served.url}/v1", max_retries=0)
    stream = await sdk.chat.completions.create(
        model="demo-echo",
        messages=[{"role": "user", "content": "one two three four five six"}],
        stream=True,
        extra_body={"delay": 0.7},
    )
    chunks: AsyncIterator[str] = (
        chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices
    )
    said = [await anext(chunks)]

    await window.go("/admin/relay/botmapping/?q=demo-echo")
    await page.locator("#result_list a", has_text="demo-echo").first.click()
    await page.fill("[name=bot]", "Demo-Painter")
    await page.locator("[name=_save]").click()
    await expect(page.locator("#result_list")).to_be_visible()
    changed = await asked(served, cast.bob.plain)
    said += [each async for each in chunks]
    await sdk.close()

    assert "".join(said).split() == ["one", "two", "three", "four", "five", "six"]
    assert changed is not None and changed.startswith("![Good morning]")
    await window.close()


async def test_what_two_workers_relay_is_watched_and_stopped(
    browser: Browser, two_workers: Served, cast: Cast, demo: DemoPoe
) -> None:
    window = await Window.open(browser, two_workers.url, DESKTOP)
    await window.sign_in(cast.root)
    await window.go("/admin/relay/live/")
    streams = [asyncio.create_task(ask_slowly(two_workers, cast.bob.plain)) for _ in range(4)]
    stop = window.page.locator(".live-stop:visible")

    await expect(stop).to_have_count(4, timeout=15_000)
    for button in await stop.all():
        await button.dispatch_event("click")
    await expect(stop).to_have_count(0, timeout=15_000)

    assert await asyncio.gather(*streams) == ["stopped_by_administrator"] * 4
    assert await window.problems() == []
    await window.close()


async def test_the_language_changes_and_no_work_is_lost(
    browser: Browser, serve: Callable[..., Served], cast: Cast
) -> None:
    window = await Window.open(browser, serve().url, PHONE)
    await window.sign_in(cast.bob)
    page = window.page
    await window.go("/me/tokens/")
    assert await page.get_attribute("html", "lang") == "zh-hans"
    await page.fill("[name=name]", "我的电脑")

    await page.locator("form[data-language] button[value=en]").click()

    await expect(page.locator("html")).to_have_attribute("lang", "en")
    await expect(page.locator("[name=name]")).to_have_value("我的电脑")
    assert await window.problems() == []
    await window.close()


async def test_everything_can_be_done_with_the_keyboard(
    browser: Browser, serve: Callable[..., Served], cast: Cast
) -> None:
    window = await Window.open(browser, serve().url, DESKTOP)
    await window.sign_in(cast.bob)
    page = window.page
    await window.go("/me/tokens/")

    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    await page.focus("[name=name]")
    await page.keyboard.type("By keyboard")
    await page.keyboard.press("Enter")

    await expect(page.locator("main")).to_contain_text("sk-poe-")
    assert await in_database(cast.bob.user.access_tokens.filter(name="By keyboard").count) == 1
    await window.close()


async def test_a_double_click_makes_one_token(
    browser: Browser, serve: Callable[..., Served], cast: Cast
) -> None:
    window = await Window.open(browser, serve().url, PHONE)
    await window.sign_in(cast.bob)
    await window.go("/me/tokens/")
    await window.page.locator("form:has([name=name]) [name=name]").fill("clicked twice")

    async with window.page.expect_navigation():
        await window.page.evaluate(
            "const form = document.querySelector('form:has([name=name])');"
            "form.requestSubmit(); setTimeout(() => form.requestSubmit(), 1);"
        )

    await expect(window.page.locator("body")).to_contain_text("sk-poe-")
    made = AccessToken.objects.filter(owner=cast.bob.user, name="clicked twice")
    assert await in_database(made.count) == 1
    await window.close()
