"""`python -m tests.browser.shots [PATH ...]`: pictures of every page in both languages, into docs/screenshots.

A site of its own on a free port, with people, teams and an hour of traffic over the demo Poe server. English on a desk in
light colours, Chinese on a phone in dark ones. Look at them: a picture that nobody looked at shows nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import openai
from playwright.async_api import Browser, FloatRect, async_playwright

from tests.browser.looks import DESKTOP, PHONE, Look
from tests.clients.stage import ROOT, relay

INTO = ROOT / "docs" / "screenshots"
PASSWORD = "for these pictures only"  # noqa: S105
PAGES = (
    "/",
    "/me/tokens/",
    "/me/connect/",
    "/me/usage/",
    "/me/requests/",
    "/me/models/",
    "/me/playground/",
    "/me/poe-key/",
    "/me/settings/",
    "/me/settings/second-factor/",
    "/team/",
    "/team/usage/",
    "/team/requests/",
    "/team/members/2/",
    "/team/invitations/",
    "/admin/",
    "/admin/accounts/team/",
    "/admin/accounts/user/",
    "/admin/accounts/accesstoken/",
    "/admin/accounts/invitation/",
    "/admin/accounts/invitation/add/",
    "/admin/accounts/limitpreset/",
    "/admin/relay/live/",
    "/admin/relay/usagerecord/",
    "/admin/relay/botmapping/",
    "/admin/relay/botmapping/explain/",
    "/admin/relay/poeaccount/",
    "/admin/relay/poekey/",
    "/admin/relay/bot/",
    "/admin/relay/poolevent/",
    "/admin/relay/poecharge/",
    "/admin/relay/reconciliation/",
)
PEOPLE = """
from accounts.models import AccessToken, Team, User
from relay.models import BotMapping
BotMapping.objects.update(points_per_request=20)
physics = Team.objects.create(name="Physics", time_zone="Asia/Shanghai", points_per_month=50000)
root = User.objects.get(is_superuser=True)
root.set_password({password!r}); root.team = physics; root.save()
for name, role in (("alice", "manager"), ("bob", "member"), ("小明", "member")):
    user = User.objects.create_user(name, team=physics, role=role, points_per_day=2000)
    print("token", AccessToken.objects.issue(user, "Chatbox")[1])
print("token", AccessToken.objects.issue(root, "Codex")[1])
"""


async def traffic(url: str, tokens: list[str]) -> None:
    for number, token in enumerate(tokens * 4):
        async with openai.AsyncOpenAI(api_key=token, base_url=f"{url}/v1", max_retries=0) as sdk:
            model = ("demo-echo", "demo-thinker", "demo-painter", "demo-tools", "demo-faulty")[number % 5]
            said = f"status-500 {number}" if model == "demo-faulty" else f"Good morning, number {number}"
            try:
                await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": said}])
            except openai.APIError:
                continue  # it is the faulty one's


def name_of(path: str, look: Look) -> str:
    page = re.sub(r"\W+", "-", path.strip("/")) or "home"
    return f"{page}-{'en' if look is DESKTOP else 'zh'}.jpg"


async def take(browser: Browser, url: str, look: Look, paths: tuple[str, ...]) -> None:
    context = await browser.new_context(
        locale=look.locale,
        color_scheme="dark" if look.scheme == "dark" else "light",
        viewport={"width": look.width, "height": 800},
    )
    page = await context.new_page()
    await page.goto(url)
    await page.screenshot(path=INTO / name_of("sign-in", look), type="jpeg", quality=70)
    await page.fill("input[name=username]", "admin")
    await page.fill("input[name=password]", PASSWORD)
    await page.press("input[name=password]", "Enter")
    await page.wait_for_selector("nav")
    for path in paths:
        await page.goto(f"{url}{path}", wait_until="load")
        await page.wait_for_timeout(600)  # charts are drawn, sockets opened
        height = await page.evaluate("document.documentElement.scrollHeight")
        clip = FloatRect(x=0, y=0, width=look.width, height=min(height, 2000))
        await page.screenshot(
            path=INTO / name_of(path, look), type="jpeg", quality=70, full_page=True, clip=clip
        )
    await context.close()


async def main(paths: tuple[str, ...]) -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None, "apt-get install chromium"
    with tempfile.TemporaryDirectory(prefix="poe-relay-shots-") as folder, relay(Path(folder)) as stage:
        made = subprocess.run(
            [sys.executable, "manage.py", "shell", "-c", PEOPLE.format(password=PASSWORD)],
            cwd=ROOT,
            env={**os.environ, "POE_RELAY_DATA_DIR": folder},
            check=True,
            capture_output=True,
            text=True,
        )
        await traffic(stage.url, re.findall(r"^token (\S+)", made.stdout, re.MULTILINE))
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for look in (DESKTOP, PHONE):
                await take(browser, stage.url, look, paths)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main(tuple(sys.argv[1:]) or PAGES))
