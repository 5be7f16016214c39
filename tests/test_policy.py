"""What pages may load: nothing from elsewhere and nothing inline, wherever one looks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.test import Client

from tests.cast import Cast

ROOT = Path(__file__).parent.parent
PORTAL = sorted(path for path in (ROOT / "templates").rglob("*.html") if "admin" not in path.parts)
SCRIPTS = sorted((ROOT / "accounts" / "static" / "portal").rglob("*.js"))


def policy(response: object) -> dict[str, str]:
    said = response.headers["Content-Security-Policy"]  # type: ignore[attr-defined]
    return {name: value for name, _, value in (each.partition(" ") for each in said.split("; "))}


@pytest.mark.parametrize("path", ["/", "/nothing/here/", "/static/portal/portal.css"])
def test_the_portal_runs_no_script_but_its_own(db: None, client: Client, path: str) -> None:
    told = policy(client.get(path))

    assert told["default-src"] == "'none'" and told["frame-ancestors"] == "'none'"
    assert (told["script-src"], told["style-src"], told["connect-src"]) == ("'self'",) * 3


def test_the_panel_may_evaluate_but_not_inline(cast: Cast, client: Client) -> None:
    client.force_login(cast.root.user)

    told = policy(client.get("/admin/"))

    assert told["script-src"] == "'self' 'unsafe-eval'"
    assert told["default-src"] == "'none'" and "unsafe-inline" not in told["script-src"]


@pytest.mark.parametrize("path", PORTAL, ids=lambda path: path.name)
def test_a_template_has_nothing_inline(path: Path) -> None:
    found = re.findall(
        r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\s(?:src=|type=\"application/json\"))|javascript:|https?://",
        path.read_text(),
    )

    assert found == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_makes_no_markup_of_text(path: Path) -> None:
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", path.read_text()
    )

    assert found == []


def test_a_page_says_what_else_it_has_no_use_for(db: None, client: Client) -> None:
    headers = client.get("/").headers

    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "same-origin"
