"""What is measured: the four works, and how the load generator measures one of them on one target."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Chunks a second.
PACED_OFFERED = 25_600
# No count suits targets that differ by a factor of 100: the load generator ends by its clock.
UNCOUNTED = 1_000_000_000
MESSAGE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Work:
    """`bot` is what the mock upstream is to say: c20d0 is 20 chunks in one write, c200d10 is 200, 10 ms apart."""

    name: str
    bot: str
    chunks: int
    streamed: bool
    at_once: int
    warm_seconds: float
    seconds: float
    # Streams begin one after another over this time, not all in the same millisecond.
    ramp_seconds: float = 0.0
    # Of a conversation that is so long, 500 characters a message. None: a short question.
    messages: int | None = None
    # One for each request.
    new_connections: bool = False
    # Ends after so many, without a warm-up, and `seconds` is the most that they may take. None: `seconds` alone counts.
    requests: int | None = None

    def shortened(self, factor: float) -> Work:
        return replace(
            self,
            warm_seconds=self.warm_seconds * factor,
            seconds=self.seconds * factor,
            ramp_seconds=self.ramp_seconds * factor,
        )


WORKS = (
    Work("ns", "c20d0", 20, streamed=False, at_once=32, warm_seconds=1, seconds=4),
    Work("burst", "c200d0", 200, streamed=True, at_once=32, warm_seconds=1, seconds=4),
    # 256 streams of 100 chunks a second.
    Work("paced", "c200d10", 200, streamed=True, at_once=256, warm_seconds=3, seconds=5, ramp_seconds=2),
    Work("ttft", "c20d0", 20, streamed=True, at_once=1, warm_seconds=0.5, seconds=3),
)


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers on this port. Without process ids its CPU time is not measured."""

    name: str
    port: int
    token: str = ""
    pids: tuple[int, ...] = ()
    path: str = "/v1/chat/completions"
    # Before the bot's name.
    model_prefix: str = ""
    # Of its own, such as where the upstream is.
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """One work on one target, once. Times as their names say; None is "not measured"."""

    requests: int
    requests_per_s: float
    chunks_per_s: float
    cpu_us_per_request: float | None
    cpu_us_per_chunk: float | None
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    gap_p99_ms: float | None
    failure: str = ""


def measure(work: Work, target: Target, loadgen: Path, directory: Path) -> Figures:
    warm_seconds = work.warm_seconds if work.requests is None else 0
    seconds = warm_seconds + work.seconds
    command = asking(work, target, loadgen, directory, seconds)
    command += ["-n", str(work.requests or UNCOUNTED), "-m", f"{warm_seconds:g}", "-e", str(work.chunks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    return read(done.stdout, done.stderr)


def asking(work: Work, target: Target, loadgen: Path, directory: Path, seconds: float) -> list[str]:
    """The load generator's command line, but for how many requests there are."""
    body = directory / f"{work.name}.json"
    body.write_text(json.dumps(question(work, target.model_prefix)))
    headers = "\r\n".join((f"Authorization: Bearer {target.token}", *target.headers))
    command = [str(loadgen), "-p", str(target.port), "-u", target.path, "-b", str(body)]
    command += ["-H", headers, "-c", str(work.at_once), "-t", f"{seconds:g}"]
    command += ["-r", str(round(work.ramp_seconds * 1000))]
    if target.pids:
        command += ["-P", ",".join(map(str, target.pids))]
    if work.new_connections:
        command.append("-N")
    return command


def question(work: Work, model_prefix: str = "") -> dict[str, Any]:
    """`model` comes first: the mock upstream looks for it."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Write a few words about the weather, please."},
    ]
    if work.messages is not None:
        # The last one is the user's.
        messages = [
            {"role": "assistant" if left % 2 else "user", "content": _said(left)}
            for left in reversed(range(work.messages))
        ]
    return {"model": model_prefix + work.bot, "messages": messages, "stream": work.streamed}


def _said(number: int) -> str:
    """Words, no two messages alike: nothing that counts tokens may know it by heart."""
    return (f"{number} The weather of day {number} was fair, with a light wind from the west. " * 10)[
        :MESSAGE_CHARACTERS
    ]


def read(output: str, complaint: str) -> Figures:
    """What the load generator printed, as figures. Requests that its clock cut short count neither way."""
    try:
        raw: dict[str, float] = json.loads(output)
    except ValueError:  # nobody listens: it divides zero by zero and prints -nan
        return _nothing(complaint.strip() or "the load generator said nothing")
    failed = raw["bad"] + raw["badtok"] + raw["err"]
    if not failed and not raw["chunks"]:
        return _nothing("nothing was answered in the time measured")
    requests, chunks, cpu = raw["measured"], raw["chunks"], raw["cpu_w"] * 1e6
    return Figures(
        requests=int(requests),
        requests_per_s=raw["rps"],
        chunks_per_s=raw["chunks_s"],
        cpu_us_per_request=cpu / requests if cpu and requests else None,
        cpu_us_per_chunk=cpu / chunks if cpu and chunks else None,
        ttft_p50_ms=_measured(raw, "ttft_p50_ms"),
        ttft_p99_ms=_measured(raw, "ttft_p99_ms"),
        latency_p50_ms=_measured(raw, "lat_p50_ms"),
        latency_p99_ms=_measured(raw, "lat_p99_ms"),
        gap_p99_ms=_measured(raw, "gap_p99_ms"),
        failure=_failure(raw, complaint) if failed else "",
    )


def _measured(raw: dict[str, float], name: str) -> float | None:
    """The load generator prints -1000 ms for what did not happen."""
    value = raw.get(name, -1)
    return value if value >= 0 else None


def _failure(raw: dict[str, float], complaint: str) -> str:
    what = f"{raw['bad']:.0f} refused or broken, {raw['badtok']:.0f} of another length, {raw['err']:.0f} not sent"
    return f"{what}; {complaint.strip()}" if complaint.strip() else what


def _nothing(failure: str) -> Figures:
    return Figures(0, 0.0, 0.0, None, None, None, None, None, None, None, failure=failure)
