"""/metrics: what is counted, over several processes, for whom, and whose files are removed when."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from proxy_site import metrics
from proxy_site.config import Server
from proxy_site.health import MetricsPage
from proxy_site.lean import UNTOLD_PORT
from proxy_site.log_writer import LogWriter
from relay.directory import AccountEntry, KeyEntry
from relay.limits import Limits
from relay.visit import Visit
from tests import cast as people
from tests.cast import Cast
from tests.conftest import ROOT, DemoPoe, Served, wait_for

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


def series(text: str) -> Series:
    # Not by the library's own parser: it would be imported before there is a directory.
    return {
        (name, tuple(sorted(LABEL.findall(labels)))): float(number)
        for name, labels, number in SAMPLE.findall(text)
    }


def value(found: Series, name: str, **labels: str) -> float:
    """0 of what was never counted, as Prometheus takes it."""
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


# Counting.

NO_LIMITS = Limits.of(None, None, None)


def key(id_: int, account_id: int = 1, *, enabled: bool = True, secret: str = "s") -> KeyEntry:
    return KeyEntry(id_, f"key {id_}", account_id, enabled, 0, 1, NO_LIMITS, proxy="", secret=secret)


class StillRelay:
    """What the metrics look at, without a database."""

    def __init__(self, data_dir: Path) -> None:
        on = AccountEntry(1, "on", None, True, False, "", "", NO_LIMITS)
        keys = [key(1), key(2), key(3, enabled=False), key(4, 2), key(5, 9), key(6, secret="")]
        self.config = SimpleNamespace(data_dir=data_dir)
        self.directory = SimpleNamespace(
            version=7,
            read_at=1_700_000_000.0,
            accounts={1: on, 2: replace(on, id=2, enabled=False)},
            keys={each.id: each for each in keys},
        )
        self.ledger_work = (0, 0)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[metrics.Metrics, StillRelay]]:
    """One for all tests of this process: the library opens its files once."""
    before = os.environ.get(metrics.DIRECTORY)
    relay = StillRelay(tmp_path_factory.mktemp("data"))
    yield metrics.Metrics(relay, LogWriter()), relay  # type: ignore[arg-type]
    from prometheus_client.values import close_all_multiprocess_files

    close_all_multiprocess_files()  # type: ignore[no-untyped-call]
    os.environ.pop(metrics.DIRECTORY, None)
    if before is not None:
        os.environ[metrics.DIRECTORY] = before


def visit(**fields: Any) -> Visit:
    made = Visit("req_1", "POST", "/v1/chat/completions")
    for name, each in fields.items():
        setattr(made, name, each)
    made.end()
    return made


@pytest.mark.asyncio
async def test_a_request_is_counted_by_wire_status_and_outcome(
    counted: tuple[metrics.Metrics, StillRelay],
) -> None:
    count, _relay = counted
    before = series(count.page().decode())
    ended = [
        visit(wire="openai-chat", status=200, outcome="done", streamed=True, admit_seconds=0.003),
        visit(wire="openai-chat", status=200, outcome="done", admit_seconds=0.003),
        visit(wire="openai-chat", status=502, upstream_errors=("upstream_broken", "upstream_timeout")),
        visit(status=404, model="of the user's", path="/also/of/the/user", token_prefix="sk-poe-x"),
    ]
    for each in ended:
        each.first_byte_at = each.began + 0.2
        each.total_seconds = 3.0
        count.count(each)
    # Soon, of itself.
    await asyncio.sleep(1.5 * metrics.SAMPLE_SECONDS)
    page = count.page().decode()
    found = series(page)

    def gained(name: str, **labels: str) -> float:
        return value(found, name, **labels) - value(before, name, **labels)

    assert gained("poe_relay_requests_total", wire="openai-chat", status="200", outcome="done") == 2
    assert gained("poe_relay_requests_total", wire="openai-chat", status="502", outcome="failed") == 1
    assert gained("poe_relay_requests_total", wire="none", status="404", outcome="refused") == 1
    assert gained("poe_relay_request_seconds_sum", wire="openai-chat") == pytest.approx(9)
    assert gained("poe_relay_request_seconds_bucket", wire="openai-chat", le="2.5") == 0
    assert gained("poe_relay_request_seconds_bucket", wire="openai-chat", le="5.0") == 3
    # Where nothing is streamed the first byte is the last one.
    assert gained("poe_relay_first_byte_seconds_count", wire="openai-chat") == 1
    assert gained("poe_relay_first_byte_seconds_bucket", wire="openai-chat", le="0.25") == 1
    assert gained("poe_relay_admit_seconds_count") == 2
    assert gained("poe_relay_upstream_errors_total", code="upstream_broken") == 1
    assert gained("poe_relay_upstream_errors_total", code="upstream_timeout") == 1
    # What users choose is no label.
    assert "user" not in re.sub(r"^#.*$", "", page, flags=re.MULTILINE) and "sk-poe" not in page


@pytest.mark.asyncio
async def test_requests_in_flight_go_up_and_down(counted: tuple[metrics.Metrics, StillRelay]) -> None:
    count, _relay = counted
    seen = []
    for step in (count.begin, count.begin, count.end, count.end):
        step()
        count.sample()
        seen.append(value(series(count.page().decode()), "poe_relay_requests_in_flight"))

    assert seen == [1, 2, 1, 0]


def test_what_does_not_change_with_a_request_is_sampled(
    counted: tuple[metrics.Metrics, StillRelay],
) -> None:
    count, relay = counted
    (relay.config.data_dir / "spool").mkdir(exist_ok=True)
    (relay.config.data_dir / "spool" / "a.jsonl").write_bytes(b"x" * 30)
    (relay.config.data_dir / "spool" / "b.jsonl").write_bytes(b"x" * 12)
    count.sample()
    before = series(count.page().decode())
    transactions, items = relay.ledger_work
    relay.ledger_work = (transactions + 2, items + 9)
    count.sample()
    count.sample()
    found = series(count.page().decode())

    states = {state: value(found, "poe_relay_poe_keys", state=state) for state in metrics.STATES}
    assert states == {"enabled": 2, "disabled": 3, "unreadable": 1}
    assert value(found, "poe_relay_directory_version") == 7
    assert value(found, "poe_relay_directory_read_timestamp_seconds") == 1_700_000_000
    assert value(found, "poe_relay_spool_bytes") == 42
    for name, gained in (("transactions", 2), ("items", 9)):
        name = f"poe_relay_ledger_{name}_total"
        assert value(found, name) - value(before, name) == gained
    pid = str(os.getpid())
    assert value(found, "process_resident_memory_bytes", pid=pid) > 1_000_000
    assert value(found, "process_open_fds", pid=pid) > 3


# The directory.


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was, after the test."""
    monkeypatch.setenv(metrics.DIRECTORY, "")


def prepared_by_another(parent: Path, *, then: str) -> Path:
    """The directory of a process that has ended."""
    child = "import os, sys; from pathlib import Path; from proxy_site import metrics; "
    child += f"print(metrics.prepare(Path(sys.argv[1])), end='', flush=True); {then}"
    command = [sys.executable, "-c", child, str(parent)]
    return Path(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.usefixtures("environment")
def test_the_files_of_the_killed_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    living = metrics.prepare(tmp_path / "metrics")
    (living / "counter_1.db").touch()
    assert not prepared_by_another(tmp_path / "metrics", then="pass").exists()
    dead = prepared_by_another(tmp_path / "metrics", then="os._exit(0)")
    assert dead.parent == living.parent and dead.is_dir() and dead != living

    mine = metrics.prepare(tmp_path / "metrics")

    assert not dead.exists() and (living / "counter_1.db").exists()
    assert os.environ[metrics.DIRECTORY] == str(mine) != str(living)
    assert mine.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("environment")
def test_of_a_dead_worker_remains_what_it_counted(tmp_path: Path) -> None:
    directory = metrics.prepare(tmp_path)
    for name in ("counter_11", "histogram_11", "gauge_livesum_11", "gauge_livemax_11", "gauge_livesum_111"):
        (directory / f"{name}.db").touch()

    metrics.forget(11)
    metrics.forget(12)

    assert {path.stem for path in directory.glob("*.db")} == {
        "counter_11",
        "histogram_11",
        "gauge_livesum_111",
    }


def test_a_supervisor_needs_no_library_for_it() -> None:
    child = (
        "import sys; from proxy_site import metrics; print({'prometheus_client', 'django'} & {*sys.modules})"
    )

    said = subprocess.run([sys.executable, "-c", child], cwd=ROOT, capture_output=True, text=True, check=True)

    assert said.stdout == "set()\n"


# Real servers.


def ask(served: Served, token: str, **body: object) -> httpx2.Response:
    return httpx2.post(
        f"{served.url}/v1/chat/completions",
        json={"model": "demo-echo", "messages": [{"role": "user", "content": "hi"}], **body},
        headers={"Authorization": f"Bearer {token}"},
    )


def scraped(served: Served) -> Series:
    answer = httpx2.get(f"{served.url}/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(
        "text/plain; version=0.0.4"
    )
    return series(answer.text)


def done(found: Series) -> float:
    return value(found, "poe_relay_requests_total", wire="openai-chat", status="200", outcome="done")


def test_whichever_worker_is_asked_tells_of_all(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe, tmp_path: Path
) -> None:
    # It fails before the first word, so each key is tried: there is one.
    demo.script("gone", ("error", {"text": "no more", "allow_retry": False}))
    people.mapping("gone", "gone")
    shared = {metrics.DIRECTORY: str(tmp_path)}
    one, other = serve(**shared), serve(**shared)

    assert ask(one, cast.bob.plain).status_code == 200
    assert ask(other, cast.bob.plain, stream=True).status_code == 200
    assert ask(other, "sk-poe-nobody").status_code == 401
    assert ask(one, cast.bob.plain, model="gone").status_code == 502

    assert wait_for(lambda: done(scraped(one)) == 2)
    for served in (one, other):
        found = scraped(served)
        assert done(found) == 2
        assert value(found, "poe_relay_first_byte_seconds_count", wire="openai-chat") == 1
        assert value(found, "poe_relay_admit_seconds_count") == 3
        assert value(found, "poe_relay_upstream_errors_total", code="upstream_broken") == 1
        assert value(found, "poe_relay_requests_in_flight") == 0
        pids = {dict(labels)["pid"] for name, labels in found if name == "process_resident_memory_bytes"}
        assert pids == {str(one.process.pid), str(other.process.pid)}

    other.process.kill()
    other.process.wait()
    subprocess.run(
        [sys.executable, "-c", f"from proxy_site import metrics; metrics.forget({other.process.pid})"],
        cwd=ROOT,
        env={**os.environ, **shared},
        check=True,
    )
    found = scraped(one)
    assert done(found) == 2
    assert value(found, "process_resident_memory_bytes", pid=str(other.process.pid)) == 0


def test_two_servers_on_one_data_directory_do_not_share_their_counters(
    serve: Callable[..., Served], cast: Cast, demo: DemoPoe
) -> None:
    one = serve()
    assert ask(one, cast.bob.plain).status_code == 200
    other = serve()

    assert wait_for(lambda: done(scraped(one)) == 1)
    assert done(scraped(other)) == 0


def test_of_a_server_that_shows_nobody_nobody_learns_that_it_counts(
    serve: Callable[..., Served], cast: Cast
) -> None:
    served = serve(POE_RELAY_SERVER__METRICS_NETWORKS="192.0.2.0/24, 2001:db8::/32")

    assert httpx2.get(f"{served.url}/metrics").status_code == 404
    assert "poe_relay" not in httpx2.get(f"{served.url}/metrics").text


# Who may see it.


@pytest.mark.parametrize(
    ("client", "is_forwarded", "sees"),
    [
        (("127.0.0.1", 4711), False, True),
        (("::1", 4711), False, True),
        (("::ffff:127.0.0.1", 4711), False, True),
        (("192.0.2.7", 4711), False, False),
        (None, False, False),
        # Whoever asks through a proxy that nobody configured could be anybody.
        (("127.0.0.1", 4711), True, False),
        (("192.0.2.7", 4711), True, False),
        # One that is trusted has said who asks.
        (("127.0.0.5", UNTOLD_PORT), True, True),
        (("198.51.100.1", UNTOLD_PORT), True, False),
    ],
)
def test_only_configured_networks_see_it(
    client: tuple[str, int] | None, is_forwarded: bool, sees: bool
) -> None:
    page = MetricsPage(None, Server())  # type: ignore[arg-type]
    headers = [(b"x-forwarded-for", b"127.0.0.1")] * is_forwarded

    assert page._may_see({"client": client, "headers": headers}) is sees


def test_behind_a_trusted_proxy_the_client_counts(serve: Callable[..., Served], cast: Cast) -> None:
    served = serve(
        POE_RELAY_SERVER__TRUSTED_PROXIES="127.0.0.1", POE_RELAY_SERVER__METRICS_NETWORKS="10.0.0.0/8"
    )
    asked = ("10.1.2.3", "10.1.2.3:5678", "10.1.2.3, 127.0.0.1", "198.51.100.1", "10.1.2.3, 198.51.100.1")

    found = [
        httpx2.get(f"{served.url}/metrics", headers={"x-forwarded-for": hops}).status_code for hops in asked
    ]

    assert found == [200, 200, 200, 404, 404]
    assert httpx2.get(f"{served.url}/metrics").status_code == 404


@pytest.mark.parametrize("name", [b"forwarded", b"x-real-ip"])
def test_another_word_for_forwarded_is_no_way_in(name: bytes) -> None:
    page = MetricsPage(None, Server())  # type: ignore[arg-type]

    assert not page._may_see({"client": ("127.0.0.1", 4711), "headers": [(name, b"127.0.0.1")]})
