"""Every page that tests/rights.py lists, seen in a browser: in two languages, on a desk and on a phone, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser

from tests import cast as people
from tests import rights
from tests.browser.looking import MOST_BYTES, Window
from tests.browser.looks import DESKTOP, PHONE, Look
from tests.cast import Cast
from tests.conftest import DemoPoe, Served, in_database
from tests.rights import Asker, Outcome
from tests.test_every_url import LINES, path_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
LOOKS = (DESKTOP, PHONE)
# Not pages: they answer with something else, or lead away.
NO_PAGES = re.compile(
    r"/sign-out/|/favicon\.ico|/i18n/.*|/admin/(logout|jsi18n|autocomplete|search|r)/.*|/admin/\(.*|/admin/nothing/.*"
    r"|/admin/login/"
)
# The same page with another row: unfold's own, and looked at once.
STOCK = re.compile(r"/admin/(?!accounts/user/).*/(history|delete)/|/admin/\w+/\w+/\d+/")


def paths(stage: rights.Stage, asker: Asker, look: Look) -> list[str]:
    """The portal's for its manager; the panel's for the administrator, half of them with each look."""
    found = [path_of(route, line, stage) for route, line in LINES.items() if _may_see(line, asker)]
    pages = sorted({each for each in found if not NO_PAGES.fullmatch(each) and not STOCK.fullmatch(each)})
    if asker is Asker.MANAGER:
        return [each for each in pages if not each.startswith("/admin/")]
    return [each for each in pages if each.startswith("/admin/")][LOOKS.index(look) :: len(LOOKS)]


def _may_see(line: rights.Line, asker: Asker) -> bool:
    return line.outcomes[asker] in (Outcome.ANSWERED, Outcome.READ_ONLY)


@pytest.mark.parametrize("look", LOOKS, ids=str)
async def test_every_page_as_a_browser_shows_it(
    browser: Browser, serve: Callable[..., Served], cast: Cast, demo: DemoPoe, look: Look
) -> None:
    stage = await in_database(rights.stage, cast)
    served = serve()
    problems: list[str] = []
    for asker in (Asker.MANAGER, Asker.ADMINISTRATOR):
        window = await Window.open(browser, served.url, look)
        await window.sign_in(stage.people[asker])
        for path in paths(stage, asker, look):
            status = await window.go(path)
            if status in (302, 405):  # it leads to another one, or is no page
                window.complaints.clear()
                continue
            language = await window.page.get_attribute("html", "lang")
            found = await window.problems() + await window.axe_problems()
            if status != 200 or not (language or "").lower().startswith(look.locale[:2]):
                found.append(f"status {status}, language {language}")
            problems += [f"{asker} at {path} ({look}): {each}" for each in found]
        await window.close()

    assert not problems, "\n".join(["", *problems])


async def test_the_first_page_is_light_and_quick(
    browser: Browser, serve: Callable[..., Served], cast: Cast
) -> None:
    window = await Window.open(browser, serve().url, DESKTOP)

    await window.go("/")
    first = await window.bytes_received()
    elsewhere = await window.page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
    await window.sign_in(cast.bob)
    await window.go("/")

    assert 0 < first <= MOST_BYTES
    assert {urlsplit(each).netloc for each in elsewhere} <= {urlsplit(window.url).netloc}
    assert await window.bytes_received() <= MOST_BYTES
    await window.close()


async def test_the_panel_loads_no_letters_that_the_system_has(
    browser: Browser, serve: Callable[..., Served], cast: Cast
) -> None:
    """unfold's, for text and for charts, are 450 KB."""
    await in_database(people.used, cast.bob, "gpt-4o")
    window = await Window.open(browser, serve().url, DESKTOP)
    await window.sign_in(cast.root)

    await window.go("/admin/")
    charts = await window.page.locator("canvas.chart").count()
    loaded = await window.page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")

    assert charts == 3 and [each for each in loaded if each.endswith(".woff2") and "/inter/" in each] == []
    await window.close()
