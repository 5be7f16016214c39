"""The peers: how each is installed, and how it is started on its core, as it was in 2026-11: without keys, limits or a usage log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.peers import places
from bench.run import Around
from bench.scale import HELD
from bench.servers import Server, await_address, await_listener, free_port, process
from bench.works import WORKS, Target

# As long as is measured, and little more: some peers read on to the end of what nobody waits for any more.
STREAM = replace(HELD, bot="c360d50", chunks=360)
BOTS = sorted({work.bot for work in (*WORKS, STREAM)})
SCRIPTS = Path(__file__).parent / "scripts"

Started = Iterator[tuple[Target, Server]]


@dataclass(frozen=True, slots=True)
class Peer:
    """`start` gets the folder that `install` made."""

    name: str
    install: Callable[[], Path]
    start: Callable[[Path, Around], AbstractContextManager[tuple[Target, Server]]]


@contextmanager
def _tensorzero(place: Path, around: Around) -> Started:
    config, log = around.directory / "tensorzero.toml", around.directory / "tensorzero.log"
    config.write_text("[gateway]\nobservability.enabled = false\n" + "".join(_tensorzero_models(around.mock)))
    command = [str(place / "bin" / "python"), str(SCRIPTS / "tensorzero_gateway.py"), str(config)]
    with process(command, log, core=around.core, env=_environment(around)) as child:
        port = await_address(child, log)
        yield (
            Target(
                "TensorZero",
                port,
                path="/openai/v1/chat/completions",
                model_prefix="tensorzero::model_name::",
            ),
            Server(port, child.pid),
        )


def _tensorzero_models(mock: Server) -> Iterator[str]:
    for bot in BOTS:
        yield (
            f'[models.{bot}]\nrouting = ["mock"]\n[models.{bot}.providers.mock]\ntype = "openai"\n'
            f'model_name = "{bot}"\napi_base = "{_openai(mock)}/"\napi_key_location = "none"\n'
        )


@contextmanager
def _portkey(place: Path, around: Around) -> Started:
    # It listens on all addresses, and cannot be told otherwise.
    port = free_port()
    with _listening(
        "Portkey", ["node", str(place / places.PORTKEY), f"--port={port}", "--headless"], port, around
    ) as server:
        upstream = ("x-portkey-provider: openai", f"x-portkey-custom-host: {_openai(around.mock)}")
        yield Target("Portkey", port, token="unused", headers=upstream), server  # noqa: S106


@contextmanager
def _litellm(place: Path, around: Around) -> Started:
    port = free_port()
    config = around.directory / "litellm.json"
    models = [
        {
            "model_name": bot,
            "litellm_params": {
                "model": f"openai/{bot}",
                "api_base": _openai(around.mock),
                "api_key": "unused",
            },
        }
        for bot in BOTS
    ]
    keyless = {"dangerously_permit_weak_or_unset_master_key": True}
    # JSON is YAML.
    config.write_text(json.dumps({"model_list": models, "general_settings": keyless}))
    command = [str(place / "bin" / "litellm"), "--config", str(config), "--telemetry", "False"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # Its prices are in the package too.
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with _listening("LiteLLM", command, port, around, **offline) as server:
        yield Target("LiteLLM", port), server


def _yardstick(name: str, module: str) -> Peer:
    """One of ours, under Daphne as it is installed for the relay."""

    @contextmanager
    def start(_place: Path, around: Around) -> Started:
        port = free_port()
        command = [sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(port)]
        upstream = f"http://127.0.0.1:{around.mock.port}/bot/"
        with _listening(
            name, [*command, f"{module}:application"], port, around, BENCH_UPSTREAM=upstream
        ) as server:
            yield Target(name, port), server

    return Peer(name, lambda: Path(sys.prefix), start)


@contextmanager
def _listening(
    name: str, command: Sequence[str], port: int, around: Around, **environment: str
) -> Iterator[Server]:
    log = around.directory / f"{name}.log"
    env = _environment(around) | environment
    with process(list(command), log, core=around.core, env=env, stdout=subprocess.DEVNULL) as child:
        await_listener(child, port, log)
        yield Server(port, child.pid)


def _environment(around: Around) -> dict[str, str]:
    """Nobody's home and nobody's keys."""
    return {"PATH": os.environ["PATH"], "HOME": str(around.directory), "LANG": "C.UTF-8"}


def _openai(mock: Server) -> str:
    return f"http://127.0.0.1:{mock.port}/v1"


OBVIOUS, BARE = "the obvious build", "bare ASGI and aiohttp"
PEERS = (
    Peer("TensorZero", lambda: places.python_place("tensorzero"), _tensorzero),
    Peer("Portkey", places.portkey_place, _portkey),
    Peer("LiteLLM", lambda: places.python_place("litellm"), _litellm),
    _yardstick(OBVIOUS, "bench.peers.obvious"),
    _yardstick(BARE, "bench.peers.bare"),
)
# Those that PEERS.md has and this bench has not, and why.
ABSENT = {"poe-to-gpt": "it is no package: there is nothing to install it from"}
