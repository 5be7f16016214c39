"""The image without an engine: the Dockerfile's rules, what reaches it, and its steps replayed in a fresh directory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from subprocess import PIPE, STDOUT
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from tests.deploy import dockerfile
from tests.deploy.dockerfile import Step, of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
STEPS = dockerfile.parse(TEXT)
IGNORE = (ROOT / ".dockerignore").read_text("utf-8")
BIN = Path(sys.executable).parent

GOOD = """
FROM python:3.11-slim
# a comment
ENV HOME=/data \\
    # another one
    LANG=C.UTF-8
WORKDIR /app
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
COPY requirements.txt ./
RUN pip install --no-cache-dir \\
    --require-hashes -r requirements.txt
USER 10001:10001
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s CMD ["python", "check.py"]
CMD ["sh", "-c", "python setup.py && exec python serve.py"]
"""


# The rules.


def test_the_dockerfile_breaks_no_rule() -> None:
    assert dockerfile.broken(TEXT) == []


def test_a_good_dockerfile_breaks_no_rule() -> None:
    assert dockerfile.broken(GOOD) == []


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("python:3.11-slim", "python", "FROM names a fixed tag and no registry"),
        ("python:3.11-slim", "python:latest", "FROM names a fixed tag and no registry"),
        ("python:3.11-slim", "registry.example.org/python:3.11", "FROM names a fixed tag and no registry"),
        ("USER 10001:10001\n", "", "USER is a number other than 0"),
        ("USER 10001:10001", "USER 0", "USER is a number other than 0"),
        ("USER 10001:10001", "USER relay", "USER is a number other than 0"),
        ("USER 10001:10001", "USER 10001\nRUN true", "everything is installed before USER"),
        (
            '["sh", "-c", "python setup.py && exec python serve.py"]',
            "python serve.py",
            "CMD and ENTRYPOINT are lists",
        ),
        ("\nCMD [", "\nENTRYPOINT entry.sh\nCMD [", "CMD and ENTRYPOINT are lists"),
        ("&& exec python serve.py", "&& python serve.py", "a shell in CMD ends in exec"),
        ("--require-hashes ", "", "pip checks hashes and keeps no cache"),
        ("--no-cache-dir ", "", "pip checks hashes and keeps no cache"),
        ("pip install", "pip install -U", "pip checks hashes and keeps no cache"),
        (" --no-install-recommends", "", "apt-get installs little and leaves no lists"),
        (" && rm -rf /var/lib/apt/lists/*", "", "apt-get installs little and leaves no lists"),
        ("LANG=C.UTF-8", "DB_PASSWORD=hunter2", "ENV and ARG hold no secret"),
        ("WORKDIR /app", "ARG ACCESS_TOKEN\nWORKDIR /app", "ENV and ARG hold no secret"),
        ("COPY requirements.txt ./", "COPY . .", "COPY names what it copies"),
        ("WORKDIR /app", "WORKDIR /app\nVOLUME /app", "VOLUME comes after what fills it"),
        ("COPY requirements.txt ./", "ADD requirements.txt ./", "files come by COPY, not ADD"),
        ("WORKDIR /app", "WORKDIR app", "WORKDIR is absolute"),
        ('CMD ["python", "check.py"]', "CMD python check.py", "HEALTHCHECK is a list"),
        ("\nCMD [", '\nCMD ["true"]\nCMD [', "there is one CMD"),
        ("SIGTERM", "SIGKILL", "STOPSIGNAL is SIGTERM"),
    ],
)
def test_a_bad_dockerfile_breaks_the_rule(before: str, after: str, rule: str) -> None:
    assert dockerfile.broken(GOOD.replace(before, after)) == [rule]


def test_no_rule_is_without_a_bad_dockerfile() -> None:
    (table,) = test_a_bad_dockerfile_breaks_the_rule.pytestmark  # type: ignore[attr-defined]

    assert {rule for _, _, rule in table.args[1]} == set(dockerfile.RULES)


@pytest.mark.parametrize("line", ["INSTALL everything", "RUN", "&& true"])
def test_it_refuses_what_is_no_dockerfile(line: str) -> None:
    with pytest.raises(dockerfile.NotADockerfile):
        dockerfile.parse(f"FROM python:3.11\n{line}\nUSER 1")


# What reaches the builder.


@pytest.mark.parametrize(
    ("path", "is_ignored"),
    [
        (".git/config", True),
        (".venv/bin/python", True),
        ("var/encryption_key", True),
        ("var/poe-relay.sqlite3", True),
        ("config.toml", True),
        (".env", True),
        ("secrets/poe.txt", True),
        ("tests/cast.py", True),
        ("docker-compose.yml", True),
        ("relay/__pycache__/models.cpython-311.pyc", True),
        ("relay/api/__pycache__/chat.cpython-311.pyc", True),
        ("relay/old.pyc", True),
        ("relay/models.py", False),
        ("relay/data/o200k_base.tiktoken.gz", False),
        ("accounts/static/portal/portal.css", False),
        ("requirements.txt", False),
        ("requirements-dev.txt", True),
    ],
)
def test_only_what_the_image_needs_reaches_the_builder(path: str, is_ignored: bool) -> None:
    assert dockerfile.ignored(IGNORE, path) is is_ignored


def test_the_dockerfile_copies_what_reaches_the_builder_and_nothing_else() -> None:
    let_through = {line.lstrip("!") for line in IGNORE.splitlines() if line.startswith("!")}

    assert {source for step in of(STEPS, "COPY") for source in step.rest.split()[:-1]} == let_through


# The packages.


def test_every_package_is_pinned_and_hashed() -> None:
    text = (ROOT / "requirements.txt").read_text("utf-8").replace("\\\n", " ")
    wanted = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]

    assert len(wanted) > 20
    assert [line for line in wanted if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_pip_takes_the_install_step_and_this_environment_is_what_it_installs() -> None:
    (step,) = (step for step in of(STEPS, "RUN") if "pip install" in step.rest)

    done = run(f"{step.rest} --dry-run --no-index --quiet", ROOT, {"PATH": f"{BIN}:{os.environ['PATH']}"})

    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_the_python_that_the_packages_are_resolved_for() -> None:
    resolved = re.search(r"--python-version (\S+)", (ROOT / "requirements.txt").read_text("utf-8"))

    assert resolved is not None
    assert of(STEPS, "FROM")[0].rest.startswith(f"python:{resolved.group(1)}-slim-")


# The replay: the files as COPY takes them, the steps after them, then CMD twice. Steps that need root are left out.


@dataclass(frozen=True, slots=True)
class Start:
    """What was seen of one start of the container, from its first line to its end."""

    output: str
    pages: dict[str, int]
    healthy: int
    exit_code: int
    healthy_when_gone: int
    app: dict[str, str]
    data: dict[str, str]


def run(script: str, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def copy(step: Step, app: Path) -> None:
    """As the builder does: a folder's contents, or files into a folder; an ignored file is not there."""
    *sources, target = step.rest.split()
    for source in sources:
        if (ROOT / source).is_file():
            place = app / target / source if target.endswith("/") else app / target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / source, place)
            continue
        (app / target).mkdir(parents=True)
        assert (ROOT / source).is_dir(), f"the Dockerfile copies {source}, which does not exist"
        for path in sorted((ROOT / source).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and not dockerfile.ignored(IGNORE, name):
                place = app / target / PurePosixPath(name).relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place)


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file, but the database and what is counted: those change while they are used."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
        and ".sqlite3" not in path.name
        and "metrics" not in path.relative_to(folder).parts[:1]
    }


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Nothing for SQLite; for PostgreSQL a database of its own, named in a file as docker-compose.yml does."""
    url = os.environ.get("POE_RELAY_DATABASE__URL", "")
    if not url.startswith("postgres"):
        yield {}
        return
    file = tmp_path_factory.mktemp("secrets") / "database_url"
    name = f"replay_{secrets.token_hex(4)}"
    file.write_text(urlunsplit(urlsplit(url)._replace(path=f"/{name}")))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield {"POE_RELAY_DATABASE__URL_FILE": str(file)}
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, database: dict[str, str]) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return {
        **dockerfile.environment(STEPS),
        **database,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "POE_RELAY_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "POE_RELAY_SERVER__PORT": str(port),
        # An engine may put its proxy into every container; nothing listens on this one.
        "http_proxy": "http://127.0.0.1:9",
    }


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The image's /app."""
    folder = tmp_path_factory.mktemp("app")
    copies = [index for index, step in enumerate(STEPS) if step.word == "COPY"]
    for index, step in enumerate(STEPS):
        if step.word == "COPY":
            copy(step, folder)
        if step.word == "RUN" and index > copies[-1]:
            done = run(step.rest, folder, environment)
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def fresh(app: Path) -> dict[str, str]:
    """What is in /app before the first start."""
    return contents(app)


@pytest.fixture(scope="module")
def starts(app: Path, fresh: dict[str, str], environment: dict[str, str]) -> tuple[Start, Start]:
    return start(app, environment), start(app, environment)


def start(app: Path, environment: dict[str, str]) -> Start:
    command = of(STEPS, "CMD")[0].as_list() or []
    assert "--host 0.0.0.0" in command[-1]
    command = [part.replace("0.0.0.0", "127.0.0.1") for part in command]  # noqa: S104
    with subprocess.Popen(
        command, cwd=app, env=environment, stdout=PIPE, stderr=STDOUT, text=True, start_new_session=True
    ) as process:
        too_long = threading.Timer(90, end_all_of, [process])
        too_long.start()
        try:
            output = read_until_it_listens(process)
            pages = look(f"http://127.0.0.1:{environment['POE_RELAY_SERVER__PORT']}")
            healthy = check_health(app, environment)
            process.send_signal(signal.SIGTERM)
            output += process.communicate()[0]
        finally:
            too_long.cancel()
            end_all_of(process)
    data = contents(Path(environment["POE_RELAY_DATA_DIR"]))
    gone = check_health(app, environment)
    return Start(output, pages, healthy, process.returncode, gone, contents(app), data)


def read_until_it_listens(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if "listens on" in line:
            return output
    raise AssertionError(f"it did not start: {output}")


def end_all_of(process: subprocess.Popen[str]) -> None:
    """The shell of CMD too, and whatever it left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def look(address: str) -> dict[str, int]:
    """The status of the first pages, and of the first static file that they use."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    pages = {}
    for path in ("/healthz", "/"):
        with direct.open(address + path, timeout=5) as answer:
            pages[path] = answer.status
            text = answer.read().decode()
    if static := re.search(r'href="(/static/[^"]+\.css)"', text):
        with direct.open(address + static.group(1), timeout=5) as answer:
            pages["css"] = answer.status
    return pages


def check_health(app: Path, environment: dict[str, str]) -> int:
    command = dockerfile.health_check(STEPS)
    return subprocess.run(
        command, cwd=app, env=environment, capture_output=True, timeout=10, check=False
    ).returncode


def test_the_first_start_shows_the_password_and_a_token(starts: tuple[Start, Start]) -> None:
    first, second = starts

    assert re.search(r"^Password: \S{20}$", first.output, re.MULTILINE)
    assert re.search(r"^Access token: sk-poe-\w{40}$", first.output, re.MULTILINE)
    assert "Password" not in second.output
    assert "sk-poe-" not in second.output


def test_each_start_answers(starts: tuple[Start, Start]) -> None:
    assert [each.pages for each in starts] == [{"/healthz": 200, "/": 200, "css": 200}] * 2


def test_the_health_check_tells_a_server_that_runs_from_one_that_is_gone(starts: tuple[Start, Start]) -> None:
    assert [(each.healthy, each.healthy_when_gone) for each in starts] == [(0, 1), (0, 1)]


def test_the_signal_to_stop_ends_each_start_cleanly(starts: tuple[Start, Start]) -> None:
    assert [each.exit_code for each in starts] == [0, 0]
    assert "Traceback" not in starts[0].output + starts[1].output


def test_the_second_start_changes_nothing(starts: tuple[Start, Start]) -> None:
    first, second = starts

    assert "Set up already: nothing changed." in second.output
    assert {"secret_key", "encryption_key"} <= set(first.data)
    assert second.data == first.data


def test_it_uses_the_database_that_the_file_names(
    starts: tuple[Start, Start], environment: dict[str, str]
) -> None:
    own = Path(environment["POE_RELAY_DATA_DIR"]) / "poe-relay.sqlite3"

    assert starts[1].exit_code == 0
    assert own.exists() is ("POE_RELAY_DATABASE__URL_FILE" not in environment)


def test_it_writes_nothing_beside_its_code(starts: tuple[Start, Start], fresh: dict[str, str]) -> None:
    """So docker-compose.yml may make everything but the volume read-only."""
    assert "manage.py" in fresh
    assert [each.app for each in starts] == [fresh, fresh]
