"""Bad news about the Poe keys: who is told, once, and what happens when nobody can be told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from ast import literal_eval
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from django.core import mail
from pydantic import SecretStr

from proxy_site.config import Alerts as AlertsSection
from proxy_site.config import Config, Mail
from relay import alerts
from relay.alerts import Alerts
from relay.aside import Aside
from relay.models import PoeKey, PoolEvent
from tests import cast as people
from tests.conftest import in_database
from tests.upstreams import scripted
from tests.upstreams.scripted import Request, Upstream

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]
NOON = datetime(2026, 10, 22, 12, tzinfo=UTC)


class Hook:
    """A webhook that answers with the status that a test sets; 0 hangs up."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.status = 200

    @property
    def heard(self) -> list[Any]:
        return [request.json for request in self.upstream.requests]


@pytest_asyncio.fixture
async def hook() -> AsyncIterator[Hook]:
    async def answer(_: Request, writer: asyncio.StreamWriter) -> None:
        if not found.status:
            writer.close()
            return
        writer.write(f"HTTP/1.1 {found.status} Said\r\nContent-Length: 2\r\n\r\nok".encode())
        await writer.drain()

    async with scripted.upstream(answer) as upstream:
        found = Hook(upstream)
        yield found


@pytest.fixture
def key(transactional_db: None) -> Iterator[PoeKey]:
    yield people.poe_key(name="main key", account_name="house")


class Telling:
    """Alerts to a webhook, to e-mail addresses or to both, with a clock that a test moves."""

    def __init__(self, config: Config, hook: Hook | None = None, emails: tuple[str, ...] = ()) -> None:
        url = f"http://127.0.0.1:{hook.upstream.port}/secret-path?token=word" if hook else ""
        self.seconds = 1000.0
        self.aside = Aside("test")
        self.alerts = Alerts(
            config.model_copy(
                update={
                    "alerts": AlertsSection(webhook_url=SecretStr(url), emails=list(emails)),
                    "mail": Mail(host="127.0.0.1" if emails else ""),
                }
            ),
            self.aside,
            clock=lambda: self.seconds,
        )

    async def tell(self, after: float = 0) -> list[str]:
        """What is untold after it."""
        self.seconds += after
        await self.alerts.tell()
        return await in_database(
            lambda: list(
                PoolEvent.objects.filter(is_news=True, told_at=None)
                .order_by("pk")
                .values_list("reason", flat=True)
            )
        )

    async def close(self) -> None:
        self.alerts.close()
        await self.aside.close()


async def happened(of: PoeKey, *reasons: str, **fields: Any) -> None:
    values: dict[str, Any] = {
        "at": datetime.now(UTC),
        "account": of.account,
        "key": of,
        "was": "ok",
        "became": "retired",
        "is_news": True,
        **fields,
    }
    for reason in reasons:
        await in_database(PoolEvent.objects.create, reason=reason, **values)


async def test_a_webhook_gets_each_event_once(config: Config, hook: Hook, key: PoeKey) -> None:
    telling = Telling(config, hook)
    await happened(key, "Poe refused the key", at=NOON)
    await in_database(PoolEvent.objects.update, at=datetime.now(UTC) - timedelta(hours=1))
    await happened(key, "all is well", became="ok", is_news=False)

    assert await telling.tell() == await telling.tell(after=10) == []
    await telling.close()

    (said,) = hook.heard
    assert said["text"] == "The Poe key “main key” is retired: Poe refused the key."
    assert {**said["event"], "at": ""} == {
        "at": "",
        "account": "house",
        "key": "main key",
        "was": "ok",
        "became": "retired",
        "reason": "Poe refused the key",
        "until": None,
    }
    request = hook.upstream.requests[0]
    assert (request.method, request.target) == ("POST", "/secret-path?token=word")
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == said


async def test_many_at_once_are_one_email(config: Config, key: PoeKey) -> None:
    telling = Telling(config, emails=("root@example.org", "ops@example.org"))
    await happened(key, "one", "two")
    await happened(key, "40 points left", key=None, became="low_balance")

    assert await telling.tell() == []
    await telling.close()

    (email,) = mail.outbox
    assert email.subject == "poe-relay: 3 events of the Poe keys"
    assert email.to == ["root@example.org", "ops@example.org"]
    lines = email.body.splitlines()
    assert lines[0].endswith("The Poe key “main key” is retired: one.")
    assert lines[2].endswith("The Poe account “house” has few points: 40 points left.")
    assert lines[4].startswith("http://127.0.0.1:3700/admin/")


async def test_one_is_the_subject(config: Config, key: PoeKey, settings: Any) -> None:
    settings.DEFAULT_FROM_EMAIL = "relay@example.org"
    telling = Telling(config, emails=("root@example.org",))
    await happened(key, "says\r\nBcc: everybody@example.org")

    assert await telling.tell() == []
    await telling.close()

    (email,) = mail.outbox
    assert email.subject == ("poe-relay: The Poe key “main key” is retired: says Bcc: everybody@example.org.")
    assert email.from_email == "relay@example.org"


@pytest.mark.parametrize("emails", [(), ("root@example.org",)])
async def test_without_a_way_nobody_is_told_and_nothing_waits(
    config: Config, key: PoeKey, emails: tuple[str, ...]
) -> None:
    """An address without a server is no way."""
    telling = Telling(config, emails=emails)
    telling.alerts = Alerts(
        config.model_copy(update={"alerts": AlertsSection(emails=list(emails)), "mail": Mail()}),
        telling.aside,
    )
    await happened(key, "one")

    assert await telling.tell() == []
    await telling.close()
    assert mail.outbox == []


@pytest.mark.parametrize("status", [500, 302, 0])
async def test_a_webhook_that_fails_is_told_later_and_less_and_less_often(
    config: Config, hook: Hook, key: PoeKey, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    telling = Telling(config, hook)
    await happened(key, "one", "two")
    hook.status = status

    assert await telling.tell() == ["one", "two"]
    assert await telling.tell(after=1) == ["one", "two"]
    assert len(hook.heard) == 1
    await telling.tell(after=1)
    await telling.tell(after=2)
    assert len(hook.heard) == 2
    hook.status = 204
    assert await telling.tell(after=2) == []
    await telling.close()

    assert [said["event"]["reason"] for said in hook.heard] == ["one", "one", "one", "two"]
    assert "webhook" in caplog.text
    assert "secret-path" not in caplog.text and "word" not in caplog.text


async def test_it_is_given_up_after_a_day(config: Config, hook: Hook, key: PoeKey) -> None:
    telling = Telling(config, hook)
    await happened(key, "old", at=datetime.now(UTC) - timedelta(hours=25))
    await happened(key, "new", at=datetime.now(UTC) - timedelta(hours=23))
    hook.status = 500

    assert await telling.tell() == ["new"]
    await telling.close()
    assert [said["event"]["reason"] for said in hook.heard] == ["new"]


async def test_what_one_way_told_is_not_told_again_because_the_other_failed(
    config: Config, hook: Hook, key: PoeKey
) -> None:
    telling = Telling(config, hook, ("root@example.org",))
    await happened(key, "one")
    hook.status = 500
    assert await telling.tell() == ["one"]

    await happened(key, "two")
    hook.status = 200
    assert await telling.tell(after=60) == []
    await telling.close()

    assert [email.body.splitlines()[0].rpartition(": ")[2] for email in mail.outbox] == ["one.", "two."]
    assert [said["event"]["reason"] for said in hook.heard] == ["one", "one", "two"]


async def test_a_mail_server_that_fails_is_asked_again(
    config: Config, key: PoeKey, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telling = Telling(config, emails=("root@example.org",))
    await happened(key, "one")
    working = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    assert await telling.tell() == ["one"]
    assert "no e-mail can be sent: ConnectionRefusedError" in caplog.text

    settings.EMAIL_BACKEND = working
    assert await telling.tell(after=60) == []
    await telling.close()
    assert len(mail.outbox) == 1


@pytest.mark.parametrize(
    ("became", "of_key", "words"),
    [
        ("retired", True, "The Poe key “main key” is retired: why."),
        ("failing", True, "The Poe key “main key” fails again and again: why."),
        ("resting", False, "The Poe account “house” is out of points: why."),
        ("leak", True, "Points of the Poe account “house” may leak: why."),
        ("same_account", False, "The Poe account “house” is another one's twin: why."),
        ("cooling", True, "The Poe key “main key” is now “cooling down”: why."),
        ("new_kind", False, "The Poe account “house” is now “new_kind”: why."),
    ],
)
async def test_each_event_has_a_sentence(key: PoeKey, became: str, of_key: bool, words: str) -> None:
    event = PoolEvent(account=key.account, key=key if of_key else None, became=became, reason="why.")

    assert alerts.sentence(event) == words


async def test_a_sign_in_a_name_is_no_placeholder(key: PoeKey) -> None:
    key.name = "100%(s"
    event = PoolEvent(account=key.account, key=key, became="retired", reason="%s %(key)s")

    assert alerts.sentence(event) == "The Poe key “100%(s” is retired: %s %(key)s."


@pytest.mark.parametrize(
    ("security", "tls", "ssl"), [("starttls", True, False), ("tls", False, True), ("none", False, False)]
)
async def test_the_configuration_says_how_mail_is_sent(security: str, tls: bool, ssl: bool) -> None:
    names = ["HOST", "PORT", "HOST_USER", "HOST_PASSWORD", "USE_TLS", "USE_SSL"]
    script = (
        f"from django.conf import settings; print([getattr(settings, 'EMAIL_' + name) for name in {names}])"
    )
    mail_section = {"HOST": "mx", "PORT": "465", "USER": "me", "PASSWORD": "pw", "SECURITY": security}
    env = {f"POE_RELAY_MAIL__{name}": value for name, value in mail_section.items()}
    said = subprocess.check_output(
        [sys.executable, "-c", script],
        env={**os.environ, **env, "DJANGO_SETTINGS_MODULE": "proxy_site.settings"},
    )

    assert literal_eval(said.decode()) == ["mx", 465, "me", "pw", tls, ssl]
