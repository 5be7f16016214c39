"""`manage.py` whose server has a page that fails in the middle of its answer, two that count, and shorter deadlines if asked.

For `bench.faults.readers` and `bench.faults.soak` alone (`python -m bench.faulty serve ...`): nothing in the relay fails like this on purpose.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

FAILS, TRACKED, TASKS = "/fails", "/tracked", "/tasks"
# In the environment: seconds until a reader that reads nothing is cut.
STUCK = "BENCH_STUCK_SECONDS"

Application = Callable[[dict[str, Any], Any, Any], Awaitable[Any]]


def around(application: Application) -> Application:
    async def faulty(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        path = scope.get("path")
        if path not in (FAILS, TRACKED, TASKS):
            return await application(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if path == TRACKED:
            # `send` is a method of the server.
            tracked = len(send.func.__self__.connections)
            return await send({"type": "http.response.body", "body": b"%d" % tracked})
        if path == TASKS:
            return await send({"type": "http.response.body", "body": b"%d" % len(asyncio.all_tasks())})
        await send({"type": "http.response.body", "body": b"so far so good", "more_body": True})
        raise RuntimeError("this page fails")

    return faulty


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    import django
    from django.core.management import execute_from_command_line

    django.setup()
    from proxy_site import asgi, connection

    asgi.application = around(asgi.application)  # type: ignore[assignment]
    if seconds := os.environ.get(STUCK):
        connection.STUCK_SECONDS = float(seconds)
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
