"""Open WebUI as a person meets it: started over the relay, used in Chromium, photographed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Error, Page, expect, sync_playwright

from tests.clients.places import CannotInstall, Failed, Place
from tests.clients.stage import ROOT, Stage, free_port

PICTURE = ROOT / "docs" / "screenshots" / "open-webui.png"
# What Demo-Painter paints.
PICTURE_WIDTH = 192
START_SECONDS = 420
# It is alone on this machine: no accounts, no models of its own, nothing fetched from anywhere.
OFFLINE = {
    "WEBUI_AUTH": "False",
    "OFFLINE_MODE": "True",
    "HF_HUB_OFFLINE": "1",
    "ENABLE_OLLAMA_API": "False",
    "ENABLE_VERSION_UPDATE_CHECK": "False",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ENABLE_TITLE_GENERATION": "False",
    "ENABLE_TAGS_GENERATION": "False",
    "ENABLE_FOLLOW_UP_GENERATION": "False",
    "ENABLE_AUTOCOMPLETE_GENERATION": "False",
    "WEBUI_SECRET_KEY": "only-for-this-test",
    "ANONYMIZED_TELEMETRY": "False",
}


def use(stage: Stage, place: Place) -> str:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise CannotInstall("it needs Chromium: apt-get install chromium")
    with started(stage, place) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-US")
        try:
            return visit(page, url)
        except (AssertionError, Error) as failed:
            page.screenshot(path=str(place.installed / "failed.png"))
            raise Failed(f"{failed}; see {place.installed / 'failed.png'}") from None
        finally:
            browser.close()


def visit(page: Page, url: str) -> str:
    page.goto(f"{url}/?models=demo-echo")
    greeting = page.get_by_role("button", name="Okay, Let's Go!")
    greeting.wait_for(timeout=60_000)
    greeting.click()

    page.locator("[id^=model-selector-][id$=-button]").first.click()
    listed = page.get_by_role("option")
    expect(listed.filter(has_text="demo-painter").first).to_be_visible()
    count = listed.count()
    page.keyboard.press("Escape")

    say(page, "Good morning, this is a person in a browser")
    expect(page.locator("#response-content-container").last).to_contain_text(
        "this is a person in a browser", timeout=90_000
    )

    page.goto(f"{url}/?models=demo-painter")
    say(page, "A garden in the evening")
    image = page.locator('#response-content-container img[alt="A garden in the evening"]')
    expect(image).to_be_visible(timeout=90_000)
    expect(image).to_have_js_property("naturalWidth", PICTURE_WIDTH)
    page.wait_for_timeout(3_000)
    # In place of a picture that is told beside the text it would draw its own icon.
    drawn = page.locator("img").evaluate_all(
        "all => all.filter(each => each.width > 64).map(each => each.alt)"
    )
    assert drawn == ["A garden in the evening"], drawn
    page.screenshot(path=str(PICTURE))
    return f"{count} models listed, an answer streamed, an image shown: docs/screenshots/{PICTURE.name}"


def say(page: Page, text: str) -> None:
    box = page.locator("#chat-input")
    box.wait_for(timeout=30_000)
    box.click()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


@contextmanager
def started(stage: Stage, place: Place) -> Iterator[str]:
    port = free_port()
    data = place.work / "data"
    data.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place.work),
        "DATA_DIR": str(data),
        "OPENAI_API_BASE_URL": f"{stage.url}/v1",
        "OPENAI_API_KEY": stage.token,
        **OFFLINE,
    }
    log = place.installed / "open-webui.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [place.installed / "bin" / "open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=place.work,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_healthy(url, process)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise Failed(f"it did not start within {START_SECONDS} s")
