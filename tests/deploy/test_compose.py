"""docker-compose.yml without an engine: its shape and rules, and the script of its init service run for real."""

from __future__ import annotations

import copy
import re
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from proxy_site import config
from tests.deploy import compose as lint
from tests.deploy import dockerfile

ROOT = Path(__file__).parents[2]
RAW = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
COMPOSE = lint.interpolated(RAW)
RELAY = COMPOSE["services"]["relay"]
POSTGRES = COMPOSE["services"]["postgres"]
INIT = COMPOSE["services"]["init"]
STEPS = dockerfile.parse((ROOT / "Dockerfile").read_text("utf-8"))
GONE = object()


def changed(path: str, value: object) -> dict[str, Any]:
    """The file with one value replaced, added or gone."""
    result: dict[str, Any] = copy.deepcopy(COMPOSE)
    *parents, key = path.split("/")
    place = result
    for parent in parents:
        place = place[parent]
    if value is GONE:
        del place[key]
    else:
        place[key] = value
    return result


# Shape and rules.


def test_the_compose_file_has_nothing_to_complain_about() -> None:
    assert lint.complaints(COMPOSE, image_checks_itself=bool(dockerfile.health_check(STEPS))) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("name", GONE, "'name' is a required property"),
        ("services/relay/stop_grace_periode", "60s", "'stop_grace_periode' was unexpected"),
        ("services/relay/stop_grace_period", "60", "'60' does not match"),
        ("services/init/restart", False, "False is not one of"),
        ("services/relay/ports", ["3700"], "'3700' does not match"),
        ("services/relay/environment", ["A=b"], "is not of type 'object'"),
        ("services/relay/environment/DEBUG", True, "True is not of type 'string', 'null'"),
        ("services/relay/depends_on/postgres/condition", "healthy", "'healthy' is not one of"),
        ("services/postgres/healthcheck/test", GONE, "'test' is a required property"),
        ("services/relay/restart", GONE, "relay: is not restarted"),
        ("services/postgres/restart", "no", "postgres: is not restarted"),
        ("services/init/restart", "unless-stopped", "init: runs once but would be restarted"),
        ("services/relay/stop_grace_period", "10s", "relay: does not get 60 s to stop"),
        ("services/postgres/stop_grace_period", GONE, "postgres: does not get 60 s to stop"),
        ("services/relay/logging", GONE, "relay: its log grows without end"),
        ("services/postgres/healthcheck", GONE, "postgres: has no health check"),
        ("services/postgres/healthcheck", GONE, "relay: waits for postgres, which has no health check"),
        (
            "services/postgres/healthcheck/test",
            ["CMD", "pg_isready"],
            "postgres: its health check is content",
        ),
        (
            "services/relay/depends_on/postgres/condition",
            "service_started",
            "relay: does not wait until postgres",
        ),
        (
            "services/relay/depends_on/db",
            {"condition": "service_healthy"},
            "relay: depends on db, which is not",
        ),
        ("services/postgres/image", "postgres:18", "postgres: is not PostgreSQL 18 on a named release"),
        ("services/postgres/image", "postgres:17-trixie", "postgres: is not PostgreSQL 18"),
        ("services/relay/image", "poe-relay", "relay: its image has no fixed tag"),
        ("services/relay/image", "poe-relay:latest", "relay: its image has no fixed tag"),
        (
            "services/postgres/volumes",
            ["postgres:/var/lib/postgresql/data", "secrets:/secrets:ro"],
            "postgres: has no volume at /var/lib/postgresql",
        ),
        ("services/relay/volumes", ["data:/data", "secrets:/secrets"], "relay: may change the secrets"),
        (
            "services/relay/volumes",
            ["keys:/data", "secrets:/secrets:ro"],
            "relay: volume keys is not declared",
        ),
        ("services/relay/volumes", ["data:/data"], "URL_FILE names a file that is in no volume"),
        ("volumes/more", None, "volume more is not used"),
        ("services/relay/cap_drop", GONE, "relay: keeps capabilities"),
        ("services/init/cap_drop", ["NET_RAW"], "init: keeps capabilities"),
        ("services/relay/security_opt", GONE, "relay: may gain privileges"),
        ("services/relay/ports", ["3700:3700"], "relay: port 3700:3700 is open to everybody"),
        (
            "services/relay/environment/POE_RELAY_SERVER__PROT",
            "1",
            "relay: POE_RELAY_SERVER__PROT is no setting",
        ),
        (
            "services/relay/environment/POE_RELAY_DATABASE__URL",
            "postgresql://x",
            "DATABASE__URL holds a secret",
        ),
        (
            "services/relay/environment/POE_RELAY_SECRETS__SECRET_KEY",
            "abc",
            "SECRETS__SECRET_KEY holds a secret",
        ),
        ("services/postgres/environment/POSTGRES_PASSWORD", "hunter2", "POSTGRES_PASSWORD holds a secret"),
        ("services/relay/environment/POE_RELAY_POE__PROXY", "http://me:pw@proxy:1", "PROXY holds a secret"),
    ],
)
def test_a_bad_compose_file_is_complained_about(path: str, value: object, complaint: str) -> None:
    found = lint.complaints(changed(path, value))

    assert [sentence for sentence in found if complaint in sentence], found


def test_a_service_that_is_built_here_needs_a_health_check_too() -> None:
    assert "relay: has no health check" in lint.complaints(COMPOSE, image_checks_itself=False)


def test_a_single_dollar_is_refused() -> None:
    with pytest.raises(ValueError, match="single"):
        lint.interpolated({"command": ["echo $(cat x)"]})


def test_the_port_can_be_opened_without_editing_the_file() -> None:
    opened = lint.interpolated(RAW, {"RELAY_LISTEN": "0.0.0.0:8080"})

    assert opened["services"]["relay"]["ports"] == ["0.0.0.0:8080:3700"]
    assert RELAY["ports"] == ["127.0.0.1:3700:3700"]


def test_what_the_relay_writes_to_is_a_volume_or_in_memory() -> None:
    folders = [mount.split(":")[1] for mount in RELAY["volumes"] if not mount.endswith(":ro")]

    assert RELAY["read_only"] is True
    assert folders == [step.rest for step in dockerfile.of(STEPS, "VOLUME")]
    assert folders == [dockerfile.environment(STEPS)["POE_RELAY_DATA_DIR"]]
    assert RELAY["tmpfs"][0].startswith("/tmp:")  # noqa: S108


def test_the_published_port_is_the_one_that_the_relay_listens_on() -> None:
    port = config.Server().port

    assert RELAY["ports"][0].endswith(f":{port}")
    assert [step.rest for step in dockerfile.of(STEPS, "EXPOSE")] == [str(port)]
    assert "POE_RELAY_SERVER__PORT" not in RELAY["environment"]


def test_running_answers_can_finish_before_the_engine_kills_the_relay() -> None:
    seconds = float(RELAY["stop_grace_period"].removesuffix("s"))
    notice = float(RELAY["environment"]["POE_RELAY_SERVER__DRAIN_NOTICE_SECONDS"])

    assert notice + config.Server().drain_seconds + 20 <= seconds


def test_a_worker_runs_on_each_core_and_another_number_needs_no_edit() -> None:
    name = "POE_RELAY_SERVER__WORKERS"
    told = lint.interpolated(RAW, {name: "3"})

    assert RELAY["environment"][name] == "auto"
    assert told["services"]["relay"]["environment"][name] == "3"


def test_everything_waits_for_the_password() -> None:
    done = {"condition": "service_completed_successfully"}

    assert [service["depends_on"]["init"] for service in (POSTGRES, RELAY)] == [done, done]


@pytest.mark.parametrize(
    "file",
    ["docker-compose.yml", "Dockerfile", "deploy/poe-relay.service", "docs/deploy.md", ".dockerignore"],
)
def test_every_setting_that_is_named_exists(file: str) -> None:
    named = set(re.findall(r"\bPOE_RELAY_[A-Z_]*[A-Z]\b", (ROOT / file).read_text("utf-8")))

    assert named <= lint.settings()


# The init service, as the engine would run it, in a fresh directory for its volume.


def run_init(volume: Path) -> None:
    subprocess.run(
        [*INIT["entrypoint"], *INIT["command"]], cwd=volume, check=True, capture_output=True, timeout=10
    )


def read(volume: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in volume.iterdir()}


def test_init_works_in_the_volume() -> None:
    assert f"secrets:{INIT['working_dir']}" in INIT["volumes"]


def test_init_makes_a_password_and_the_address_that_holds_it(tmp_path: Path) -> None:
    run_init(tmp_path)

    made = read(tmp_path)
    address = urlsplit(made["database_url"])
    environment = POSTGRES["environment"]
    assert set(made) == {"postgres_password", "database_url"}
    assert re.fullmatch("[0-9a-f]{48}", made["postgres_password"])
    assert address.password == made["postgres_password"]
    assert (address.username, address.path) == (
        environment["POSTGRES_USER"],
        f"/{environment['POSTGRES_DB']}",
    )
    assert COMPOSE["services"][address.hostname] is POSTGRES


def test_every_secret_file_is_one_that_init_makes(tmp_path: Path) -> None:
    run_init(tmp_path)

    named = [
        value
        for service in (POSTGRES, RELAY)
        for name, value in service["environment"].items()
        if name.endswith("_FILE")
    ]
    assert sorted(named) == sorted(f"/secrets/{name}" for name in read(tmp_path))


def test_the_relay_takes_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_init(tmp_path)
    monkeypatch.delenv("POE_RELAY_DATABASE__URL", raising=False)
    monkeypatch.setenv("POE_RELAY_DATABASE__URL_FILE", str(tmp_path / "database_url"))

    assert config.load().database_url == read(tmp_path)["database_url"]


def test_both_services_may_read_the_files_though_neither_is_root(tmp_path: Path) -> None:
    run_init(tmp_path)

    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o444}


def test_init_keeps_the_password_that_is_there(tmp_path: Path) -> None:
    run_init(tmp_path)
    before = read(tmp_path)

    run_init(tmp_path)

    assert read(tmp_path) == before


def test_two_installations_have_two_passwords(tmp_path: Path) -> None:
    volumes = [tmp_path / "one", tmp_path / "two"]
    for volume in volumes:
        volume.mkdir()
        run_init(volume)

    assert read(volumes[0]) != read(volumes[1])


def test_init_finishes_what_a_cut_run_began(tmp_path: Path) -> None:
    (tmp_path / "postgres_password").touch()
    (tmp_path / "postgres_password.new").write_text("abc")

    run_init(tmp_path)

    assert len(read(tmp_path)["postgres_password"]) == 48
