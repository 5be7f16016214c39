"""`python -m bench.first_page`: how long a browser waits for the first pages, of a real `manage.py serve`, with nothing cached.

Chromium, as Debian has it, opens each page in a window of its own until its load event, and until what that begins is drawn:
the panel's charts. The database is that of `bench.reading`. Ends with 1 if a page's load event comes later, or one of the
portal weighs more, than it may.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import pages, reading, servers

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MOST_MS = 1000.0
MOST_KB = 150.0
ROUNDS = 7
# Bytes over the wire, heads included, of the page and of all that belongs to it.
SEEN = """
() => {
  const page = performance.getEntriesByType("navigation")[0], rest = performance.getEntriesByType("resource");
  return {answer: page.responseEnd, load: page.loadEventStart, drawn: page.loadEventEnd,
    bytes: [page, ...rest].reduce((sum, each) => sum + each.transferSize, 0), requests: 1 + rest.length};
}
"""


@dataclass(frozen=True, slots=True)
class FirstPage:
    name: str
    address: str
    # Whose session; "" is nobody's.
    who: str = ""
    most_kb: float = float("inf")


PAGES = (
    FirstPage("sign-in", "/", most_kb=MOST_KB),
    FirstPage("portal, signed in", "/", "user1", MOST_KB),
    FirstPage("panel, signed in", "/admin/", "root"),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """Medians, and the latest load."""

    page: FirstPage
    answer_ms: float
    load_ms: float
    latest_ms: float
    drawn_ms: float
    kb: float
    requests: int

    @property
    def is_missed(self) -> bool:
        return self.load_ms > MOST_MS or self.kb > self.page.most_kb

    def __str__(self) -> str:
        times = (self.answer_ms, self.load_ms, self.latest_ms, self.drawn_ms)
        figures = " | ".join(f"{each:.0f}" for each in (*times, self.kb, self.requests))
        return f"| {self.page.name} | {figures} |{' MISSED' if self.is_missed else ''}"


def look(browser: Browser, url: str, page: FirstPage, sessions: dict[str, str]) -> Seen:
    rounds = [_once(browser, url, page, sessions) for _round in range(ROUNDS + 1)]
    seen = rounds[1:]  # the first is the server's first, too
    medians = {name: statistics.median(each[name] for each in seen) for name in seen[0]}
    return Seen(
        page,
        medians["answer"],
        medians["load"],
        max(each["load"] for each in seen),
        medians["drawn"],
        medians["bytes"] / 1000,
        int(medians["requests"]),
    )


def _once(browser: Browser, url: str, page: FirstPage, sessions: dict[str, str]) -> dict[str, float]:
    """In a context of its own: its cache is empty."""
    from django.conf import settings

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    if page.who:
        cookie: Any = {"name": settings.SESSION_COOKIE_NAME, "value": sessions[page.who], "url": url}
        context.add_cookies([cookie])
    window = context.new_page()
    answer = window.goto(f"{url}{page.address}", wait_until="load")
    assert answer is not None and answer.status == 200, (page.name, answer)
    # The load event is over when its listeners are.
    window.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
    found: dict[str, float] = window.evaluate(SEEN)
    context.close()
    return found


def figures() -> Iterator[Seen]:
    from django.conf import settings
    from playwright.sync_api import sync_playwright

    sessions = {
        who: client.cookies[settings.SESSION_COOKIE_NAME].value for who, client in pages.clients().items()
    }
    # As `setup` does; pages name their files by what they hold.
    servers.output_of(dict(os.environ), "manage", "collectstatic", "--no-input")
    with tempfile.TemporaryDirectory(prefix="poe-relay-first-page-") as directory:
        log = Path(directory) / "relay.log"
        # Playwright runs an event loop: whatever asks the database comes before it.
        with servers.relay(dict(os.environ), "", log, None) as served, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
            for page in PAGES:
                yield look(browser, f"http://127.0.0.1:{served.port}", page, sessions)
            browser.close()


def _chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        raise servers.CannotStart("it needs Debian's Chromium: apt-get install chromium")
    return found


def in_process(rows: int) -> int:
    reading.prepare(rows)
    print(
        "| | answer ms | load ms | latest | drawn ms | KB | requests |\n|---|---:|---:|---:|---:|---:|---:|",
        flush=True,
    )
    missed = 0
    for seen in figures():
        missed += seen.is_missed
        print(seen, flush=True)
    return int(missed > 0)


def main(given: list[str] | None = None) -> int:
    return reading.on_each_database("bench.first_page", __doc__, in_process, given)


if __name__ == "__main__":
    sys.exit(main())
