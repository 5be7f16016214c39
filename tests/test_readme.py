"""The documents say what is so: commands, links, settings, and the examples that people paste."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import get_commands

from accounts.models import AccessToken, token_digest
from proxy_site import config
from relay.models import PoeKey
from tests import cast as people
from tests.commands import run
from tests.conftest import ROOT, DemoPoe, Served

READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
SETTING = re.compile(r"POE_RELAY_[A-Z][A-Z_]*")
# Files and folders of this project, as `relay/pipeline.py` or relay/wire/ in a picture.
PLACE = re.compile(r"(?<![\w/.-])(?:proxy_site|accounts|relay|tests|bench|deploy|docs)/[\w./-]*[\w/]")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name)
each_readme = pytest.mark.parametrize("path", READMES, ids=name)


def read(path: Path) -> str:
    return path.read_text("utf-8")


def fences(text: str, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text) if found == language]


def code(text: str) -> str:
    """What is set as code, in lines of its own or inside of one."""
    return "\n".join([body for _language, body in FENCE.findall(text)] + re.findall(r"`([^`\n]+)`", text))


def commands(text: str) -> set[str]:
    return set(re.findall(r"manage\.py ([a-z]+)", code(text)))


def targets(text: str) -> set[str]:
    return set(re.findall(r"^\s*make ([a-z][\w-]*)", code(text), re.MULTILINE))


def shell_lines(text: str) -> list[list[str]]:
    """The commands of the shell examples as words, without their comments."""
    return [shlex.split(line, comments=True) for body in fences(text, "sh") for line in body.splitlines()]


def anchors(text: str) -> set[str]:
    """Where a link with # may point: the headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def known_settings() -> set[str]:
    keys = {
        f"POE_RELAY_{section}__{key}" if section else f"POE_RELAY_{key}"
        for section, keys in config.known_keys().items()
        for key in keys
    }
    return {key.upper() for key in keys | {f"POE_RELAY_{secret}_FILE" for secret in config.SECRETS}} | {
        "POE_RELAY_CONFIG"
    }


# What is named, exists.


@each_document
def test_every_command_that_is_named_exists(path: Path) -> None:
    assert commands(read(path)) <= set(get_commands())


@each_document
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    there = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))

    assert targets(read(path)) <= there


@each_document
def test_every_setting_that_is_named_exists(path: Path) -> None:
    assert set(SETTING.findall(read(path))) <= known_settings()


@each_document
def test_every_link_leads_somewhere(path: Path) -> None:
    dead = []
    for target in ("".join(found) for found in LINK.findall(FENCE.sub("", read(path)))):
        place, _, anchor = target.partition("#")
        if ":" in place:  # https: and mailto:
            continue
        there = path.parent / place if place else path
        if not there.exists() or (anchor and anchor not in anchors(read(there))):
            dead.append(target)

    assert dead == []


@each_document
def test_every_file_that_is_named_exists(path: Path) -> None:
    assert [place for place in PLACE.findall(read(path)) if not (ROOT / place).exists()] == []


@each_readme
def test_the_configuration_that_is_shown_loads(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [shown] = fences(read(path), "toml")
    for variable in [each for each in os.environ if each.startswith(config.PREFIX)]:
        monkeypatch.delenv(variable)
    (tmp_path / "config.toml").write_text(shown, "utf-8")
    monkeypatch.setenv("POE_RELAY_CONFIG", str(tmp_path / "config.toml"))

    loaded = config.load()

    for section, keys in tomllib.loads(shown).items():
        for key, value in keys.items():
            assert getattr(getattr(loaded, section), key) == value


# The two READMEs tell the same.


def test_both_readmes_name_the_same_commands() -> None:
    english, chinese = (read(path) for path in READMES)

    assert commands(english) == commands(chinese)
    assert targets(english) == targets(chinese)
    assert set(SETTING.findall(english)) == set(SETTING.findall(chinese))


def test_both_readmes_show_the_same_examples() -> None:
    english, chinese = (read(path) for path in READMES)

    assert shell_lines(english) == shell_lines(chinese)
    assert fences(english, "python") == fences(chinese, "python")
    [one], [other] = fences(english, "toml"), fences(chinese, "toml")
    assert tomllib.loads(one) == tomllib.loads(other)


@each_readme
def test_the_readmes_name_every_command_of_ours(path: Path) -> None:
    ours = {command for command, app in get_commands().items() if app in ("accounts", "relay")}

    assert commands(read(path)) >= ours


# The examples do what they say.


def test_the_first_setup_works_as_it_is_pasted(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    [block] = [body for body in fences(read(READMES[0]), "sh") if "addpoekey main" in body]
    served, *lines = block.splitlines()
    monkeypatch.setattr("sys.stdin", StringIO("a-made-up-poe-key-0123456789\n"))

    said = []
    for line in lines:
        python, script, *words = shlex.split(line, comments=True)
        assert (python, script) == (".venv/bin/python", "manage.py")
        said.append(run(*words))

    # The reader has `make run` in a terminal of its own; tests/test_run.py starts it.
    assert shlex.split(served, comments=True)[:2] == ["make", "run"]
    added, mapped, token, explained = said
    assert added.startswith(str(PoeKey.objects.get()))
    assert mapped == "gpt-4 -> gpt-5.4 (new)\n"
    assert AccessToken.objects.get().digest == token_digest(token.strip())
    assert explained.endswith("answer: would be asked\n")


@each_document
def test_every_shell_example_is_shell(path: Path) -> None:
    for body in fences(read(path), "sh"):
        checked = subprocess.run(["sh", "-n"], input=body, capture_output=True, text=True, check=False)
        assert checked.stderr == "", body


def test_the_sdk_example_prints_the_answer(
    demo: DemoPoe,
    cast: people.Cast,
    serve: Callable[..., Served],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [example] = fences(read(READMES[0]), "python")
    example = example.replace("http://127.0.0.1:3700", serve().url).replace("sk-poe-...", cast.bob.plain)
    (tmp_path / "example.py").write_text(example, "utf-8")

    names = runpy.run_path(str(tmp_path / "example.py"))

    names["client"].close()
    assert capsys.readouterr().out == "Hello there"
