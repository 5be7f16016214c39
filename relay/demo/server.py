"""Serves the demo Poe server under Daphne until a signal, or until the process that started it is gone."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from relay.demo.account import NO_LAG, DemoKey, Lag
from relay.demo.app import make


class CannotListen(Exception):
    """The address is busy or not ours; the message says which and why."""


def serve(
    keys: str | Sequence[DemoKey],
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    with_parent: bool = False,
    lag: Lag = NO_LAG,
    catalogue: Sequence[dict[str, Any]] = (),
) -> None:
    """Block until stopped. `ready` is told the server's URL once it listens; port 0 takes a free one."""
    parent = os.getppid()
    _prefer_uvloop()
    # Importing Daphne's server installs the event loop, so it comes after the choice of the loop.
    from daphne.endpoints import build_endpoint_description_strings
    from daphne.server import Server
    from twisted.internet import reactor

    refused: list[str] = []

    class DemoPoe(Server):
        def listen_error(self, failure: Any) -> None:
            error = getattr(failure.value, "socketError", failure.value)
            refused.append(getattr(error, "strerror", None) or str(error))
            self.stop()

    def listening() -> None:
        url = _url(host, server.listening_addresses[0][1])
        server.application = make(keys, public_url=url, lag=lag, catalogue=catalogue)
        reactor.callLater(0, ready, url)  # by then the signals are handled too

    endpoints = build_endpoint_description_strings(host=host, port=port)
    server = DemoPoe(None, endpoints=endpoints, ready_callable=listening, verbosity=0, server_name="demo-poe")
    if with_parent:
        _stop_without(parent, reactor)
    server.run()
    _cancel_what_is_left(reactor._asyncioEventloop)
    if refused:
        raise CannotListen(
            f"The demo Poe server cannot listen on {host}:{port}: {refused[0].lower().rstrip('.')}."
        )


def _prefer_uvloop() -> None:
    if "daphne.server" in sys.modules:
        return
    try:
        import uvloop
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _url(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _stop_without(parent: int, reactor: Any) -> None:
    """Look twice a second: PR_SET_PDEATHSIG would also fire when only the thread that started us ends."""
    if os.getppid() == parent:
        reactor.callLater(0.5, _stop_without, parent, reactor)
    elif reactor.running:
        reactor.stop()


def _cancel_what_is_left(loop: asyncio.AbstractEventLoop) -> None:
    """sse-starlette leaves a watcher behind; ended unasked it would complain on the console."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=1))
