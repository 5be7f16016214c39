"""What is wrong with a page as a browser shows it: broken rules of the browser's, of layout, of size and of accessibility."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from django.conf import settings
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Response

from tests.browser.looks import Look
from tests.cast import Person
from tests.conftest import ROOT, in_database
from tests.test_live import cookie_of

# The first page that somebody sees, over the wire.
MOST_BYTES = 150_000
MOST_SHIFT = 0.1
SERIOUS = ("serious", "critical")
AXE = ROOT / ".venv" / "node" / "node_modules" / "axe-core" / "axe.min.js"
SHIFTS = """
() => new Promise(resolve => {
  let sum = 0;
  new PerformanceObserver(list => { for (const each of list.getEntries()) if (!each.hadRecentInput) sum += each.value; })
    .observe({type: "layout-shift", buffered: true});
  setTimeout(() => resolve(sum), 50);
})
"""


@cache
def axe() -> str:
    if not AXE.is_file():
        pytest.skip("NOT TESTED: axe-core is not installed: it needs npm, then `make test` fetches it")
    return AXE.read_text()


async def weight(response: Response) -> int:
    """In bytes; of one whose page was left meanwhile, nobody knows."""
    try:
        sizes = await response.request.sizes()
    except Exception:
        return 0
    return sizes["responseBodySize"] + sizes["responseHeadersSize"]


@dataclass
class Window:
    """One person's browser window; notes what the browser complains about."""

    context: BrowserContext
    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    weighing: list[asyncio.Task[int]] = field(default_factory=list)

    @classmethod
    async def open(cls, browser: Browser, url: str, look: Look) -> Window:
        context = await browser.new_context(
            locale=look.locale,
            color_scheme="dark" if look.scheme == "dark" else "light",
            viewport={"width": look.width, "height": 900},
        )
        window = cls(context, await context.new_page(), url)
        window.page.on("console", window._hear)
        window.page.on("pageerror", lambda error: window.complaints.append(str(error)))
        window.page.on(
            "response", lambda response: window.weighing.append(asyncio.create_task(weight(response)))
        )
        return window

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    async def bytes_received(self) -> int:
        """Of all responses so far. The browser tells their sizes a while after the page is there."""
        return sum(await asyncio.gather(*self.weighing))

    async def sign_in(self, person: Person) -> None:
        """With a session: a served process does not know the hashes of the tests' passwords."""
        name, session = str(settings.SESSION_COOKIE_NAME), await in_database(cookie_of, person)
        await self.context.add_cookies([{"name": name, "value": session, "url": self.url}])

    async def go(self, path: str) -> int:
        """What it is answered with; what only forms ask for, and what is a download, is not shown: 405."""
        asked = await self.context.request.get(f"{self.url}{path}", max_redirects=0)
        if asked.status == 405 or "attachment" in asked.headers.get("content-disposition", ""):
            return 405
        await self.page.goto(f"{self.url}{path}", wait_until="load")
        return asked.status

    async def problems(self) -> list[str]:
        """Of the page that is shown; complaints are told once."""
        found, self.complaints = self.complaints, []
        wide = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if wide > 0:
            found.append(f"it is {wide} pixels wider than the window")
        if (shift := await self.page.evaluate(SHIFTS)) > MOST_SHIFT:
            found.append(f"it moves while it loads: {shift:.2f}")
        return found

    async def axe_problems(self) -> list[str]:
        """What people with a keyboard or a screen reader cannot use, as axe-core sees it."""
        await self.page.evaluate(axe())
        seen: dict[str, Any] = await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {each['help']}: {node['html'][:150]}"
            for each in seen["violations"]
            if each["impact"] in SERIOUS
            for node in each["nodes"][:3]
        ]

    async def close(self) -> None:
        await self.context.close()
