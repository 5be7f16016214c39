"""The systemd unit: what it starts exists and takes those options, and it stops and shuts itself in as it should."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest
from django.core.management import CommandError, load_command_class

from proxy_site import config
from relay.management.commands.serve import supervised

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "poe-relay.service"
FOLDER = "/opt/poe-relay"
START = ("ExecStartPre", "ExecStart")


@pytest.fixture(scope="module")
def unit() -> configparser.RawConfigParser:
    """Strict: a section or an option that comes twice is an error."""
    parser = configparser.RawConfigParser(strict=True, delimiters=["="], comment_prefixes=["#"])
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text("utf-8"))
    return parser


def environment(unit: configparser.RawConfigParser) -> dict[str, str]:
    return dict(each.split("=", 1) for each in shlex.split(unit["Service"]["Environment"]))


@pytest.mark.parametrize("option", START)
def test_what_it_starts_exists_and_takes_these_options(
    unit: configparser.RawConfigParser, option: str
) -> None:
    python, script, name, *arguments = shlex.split(unit["Service"][option])

    assert unit["Service"]["WorkingDirectory"] == FOLDER
    assert python == f"{FOLDER}/.venv/bin/python"
    assert "\n.venv/bin/python:" in (ROOT / "Makefile").read_text("utf-8")
    assert (ROOT / script).is_file()
    load_command_class("relay", name).create_parser(script, name).parse_args(arguments)


def test_an_option_that_the_command_does_not_have_is_noticed() -> None:
    parser = load_command_class("relay", "serve").create_parser("manage.py", "serve")

    with pytest.raises(CommandError, match="--no-such-option"):
        parser.parse_args(["--no-such-option"])


def test_it_sets_up_before_it_serves(unit: configparser.RawConfigParser) -> None:
    assert [shlex.split(unit["Service"][option])[2] for option in START] == ["setup", "serve"]


def test_running_answers_can_finish_before_systemd_kills_it(unit: configparser.RawConfigParser) -> None:
    service = unit["Service"]

    assert (service["KillSignal"], service["KillMode"], service["TimeoutStopSec"]) == (
        "SIGTERM",
        "mixed",
        "60",
    )
    server = config.Server()
    assert server.drain_notice_seconds + server.drain_seconds + 20 <= float(service["TimeoutStopSec"])


def test_a_reload_replaces_its_workers(
    unit: configparser.RawConfigParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(unit).items():
        monkeypatch.setenv(name, value)

    assert unit["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"
    # A supervisor runs: SIGHUP would stop a process that serves alone.
    assert supervised(config.load().server.workers) >= 1


def test_its_data_is_where_systemd_lets_it_write(unit: configparser.RawConfigParser) -> None:
    service = unit["Service"]

    assert environment(unit)["POE_RELAY_DATA_DIR"] == f"/var/lib/{service['StateDirectory']}"
    assert service["StateDirectoryMode"] == "0700"
    assert service["EnvironmentFile"].startswith("-/etc/poe-relay/")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("User", "poe-relay"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectControlGroups", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
        ("RestrictNamespaces", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("LockPersonality", "yes"),
        ("SystemCallFilter", "@system-service"),
        ("UMask", "0077"),
    ],
)
def test_it_is_shut_in(unit: configparser.RawConfigParser, option: str, value: str) -> None:
    assert unit["Service"][option] == value


def test_it_starts_with_the_machine_and_again_after_a_crash(unit: configparser.RawConfigParser) -> None:
    assert unit["Service"]["Restart"] == "always"
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_the_guide_installs_it_where_it_looks() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text("utf-8")

    assert set(re.findall(r"/opt/[\w-]+", guide)) == {FOLDER}
    assert (
        f"cp {FOLDER}/deploy/{UNIT.name} /etc/systemd/system/ && systemctl enable --now {UNIT.stem}" in guide
    )
