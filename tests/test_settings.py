"""From the configuration to Django's settings: databases, cookies, origins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from proxy_site import config as configuration
from proxy_site import settings as site

ROOT = Path(__file__).parent.parent


# Databases.


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////srv/relay/db.sqlite3", "/srv/relay/db.sqlite3"),
        ("sqlite:////srv/with%20space/db.sqlite3", "/srv/with space/db.sqlite3"),
        ("sqlite:////srv/%E4%B8%AD/db.sqlite3", "/srv/中/db.sqlite3"),
    ],
)
def test_a_file_is_a_database(url: str, path: str) -> None:
    database = site._database(url)

    assert (database["ENGINE"], database["NAME"]) == ("django.db.backends.sqlite3", path)
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        assert pragma in database["OPTIONS"]["init_command"]
    assert database["TEST"]["NAME"] != path and Path(database["TEST"]["NAME"]).parent == Path(path).parent


def test_a_relative_file_does_not_depend_on_where_a_command_is_run() -> None:
    assert site._database("sqlite:///db.sqlite3")["NAME"] == str(ROOT / "db.sqlite3")


@pytest.mark.parametrize("folder", ["plain", "with space", "100%25", "a%20b", "中", "a?b", "a#b"])
def test_the_default_database_is_in_the_data_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.delenv("POE_RELAY_DATABASE__URL", raising=False)
    monkeypatch.setenv("POE_RELAY_DATA_DIR", str(tmp_path / folder))

    database = site._database(configuration.load().database_url)

    assert database["NAME"] == str(tmp_path / folder / "poe-relay.sqlite3")


POSTGRES = {
    "postgresql://": ("postgres", "", "", "", "", {}),
    "postgresql:///relay": ("relay", "", "", "", "", {}),
    "postgres://bob@db/relay": ("relay", "bob", "", "db", "", {}),
    "postgresql://bob:secret@db.example:5433/relay": ("relay", "bob", "secret", "db.example", "5433", {}),
    "postgresql://bob:p%40ss%2F%3A%25@db/relay": ("relay", "bob", "p@ss/:%", "db", "", {}),
    "postgresql://b%40b:x@db/relay": ("relay", "b@b", "x", "db", "", {}),
    "postgresql://db/my%20relay": ("my relay", "", "", "db", "", {}),
    "postgresql://[::1]:5433/relay": ("relay", "", "", "::1", "5433", {}),
    "postgresql://bob@/relay?host=/run/pg": ("relay", "bob", "", "", "", {"host": "/run/pg"}),
    "postgresql://bob@/relay?host=%2Frun%2Fpg": ("relay", "bob", "", "", "", {"host": "/run/pg"}),
    "postgresql://db/relay?sslmode=require&connect_timeout=9": (
        *("relay", "", "", "db", ""),
        {"sslmode": "require", "connect_timeout": "9"},
    ),
    "postgresql://db/relay?options=-c%20a%3Db%26c": (*("relay", "", "", "db", ""), {"options": "-c a=b&c"}),
    "postgresql://%2Frun%2FPg/relay": ("relay", "", "", "/run/Pg", "", {}),
}


@pytest.mark.parametrize("url", POSTGRES)
def test_postgresql_is_reached(url: str) -> None:
    name, user, password, host, port, options = POSTGRES[url]

    database = site._database(url)

    assert database == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": user,
        "PASSWORD": password,
        "HOST": host,
        "PORT": port,
        "OPTIONS": {"connect_timeout": 5, **options},
    }


@pytest.mark.parametrize(
    "url",
    [
        *("mysql://db/relay", "relay.sqlite3", "/srv/db.sqlite3", "sqlite", "postgresql://db:0/relay"),
        *(
            "postgresql://db:port/relay",
            "sqlite://",
            "sqlite:///",
            "sqlite:/srv/db.sqlite3",
            "sqlite://srv/db",
        ),
    ],
)
def test_what_is_no_database_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("POE_RELAY_DATABASE__URL", url)

    with pytest.raises(configuration.ConfigError, match=r"database\.url") as refused:
        configuration.load()
    assert "\n" not in str(refused.value) and "sqlite:////path" in str(refused.value)


def test_a_password_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POE_RELAY_DATABASE__URL", "mysql://bob:" + quote("hunter2") + "@db/relay")

    with pytest.raises(configuration.ConfigError) as refused:
        configuration.load()
    assert "hunter2" not in str(refused.value)


# What follows from the address that people open.

NAMES = (
    "CSRF_TRUSTED_ORIGINS",
    "SESSION_COOKIE_SECURE",
    "CSRF_COOKIE_SECURE",
    "SESSION_COOKIE_HTTPONLY",
    "SESSION_COOKIE_SAMESITE",
    "DEBUG",
    "ALLOWED_HOSTS",
)
SCRIPT = "import json, proxy_site.settings as s; print(json.dumps({name: getattr(s, name) for name in %r}))"


def settings_of(tmp_path: Path, **environment: str) -> dict[str, Any]:
    """As another process reads them."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("POE_RELAY_")}
    given = {"POE_RELAY_DATA_DIR": str(tmp_path), "POE_RELAY_CONFIG": os.devnull, **environment}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % (NAMES,)],
        cwd=ROOT,
        env=own | given,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("public_url", "origin", "secure"),
    [
        ("", "http://127.0.0.1:3700", False),
        ("http://192.168.1.7:3700/", "http://192.168.1.7:3700", False),
        ("https://relay.example.org", "https://relay.example.org", True),
        # As a browser writes an origin: in small letters, without the port that the scheme implies.
        ("HTTPS://Relay.Example.org:443/", "https://relay.example.org", True),
    ],
)
def test_cookies_and_origins_follow_the_public_url(
    tmp_path: Path, public_url: str, origin: str, secure: bool
) -> None:
    found = settings_of(tmp_path, POE_RELAY_SERVER__PUBLIC_URL=public_url)

    assert found["CSRF_TRUSTED_ORIGINS"] == [origin]
    assert found["SESSION_COOKIE_SECURE"] is found["CSRF_COOKIE_SECURE"] is secure
    assert (found["SESSION_COOKIE_HTTPONLY"], found["SESSION_COOKIE_SAMESITE"]) == (True, "Lax")
    assert found["DEBUG"] is False and found["ALLOWED_HOSTS"] == ["*"]


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("http://relay.example.org:80", "http://relay.example.org"),
        ("http://relay.example.org:443", "http://relay.example.org:443"),
        ("https://RELAY.example.org:8443", "https://relay.example.org:8443"),
        ("http://[::1]:3700/", "http://[::1]:3700"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]"),
    ],
)
def test_an_origin_is_written_as_a_browser_does(
    monkeypatch: pytest.MonkeyPatch, given: str, origin: str
) -> None:
    monkeypatch.setenv("POE_RELAY_SERVER__PUBLIC_URL", given)

    assert configuration.load().public_url == origin


@pytest.mark.parametrize(
    "url",
    [
        *("relay.example.org", "ftp://relay.example.org", "https://", "https://relay.example.org/panel"),
        *("https://relay.example.org?x=1", "https://relay.example.org#x", "https://bob:x@relay.example.org"),
        *("https://relay.example.org:99999", "https://relay.example.org:x", "https://[::1"),
    ],
)
def test_what_is_no_origin_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("POE_RELAY_SERVER__PUBLIC_URL", url)

    with pytest.raises(configuration.ConfigError, match=r"server\.public_url"):
        configuration.load()
