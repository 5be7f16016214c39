"""A server that tells a list of bots as Poe does, for tests of whoever reads it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Poe's real list, without what the relay does not read.
REAL: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data/poe_catalogue.json").read_text())[
    "data"
]


class Listing:
    """`entries` is what it tells next; `answer` replaces the whole body."""

    def __init__(self) -> None:
        self.entries: list[Any] = REAL
        self.answer: tuple[int, bytes] | None = None
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def body(self) -> tuple[int, bytes]:
        return self.answer or (200, json.dumps({"object": "list", "data": self.entries}).encode())


@contextmanager
def serve() -> Iterator[Listing]:
    listing = Listing()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listing.headers.append(dict(self.headers))
            status, body = listing.body() if self.path == "/v1/models" else (404, b"{}")
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    listing.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield listing
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


def point_to(settings: Any, listing: Listing) -> None:
    """Poe's list is this one now."""
    config = settings.CONFIG
    settings.CONFIG = config.model_copy(
        update={"poe": config.poe.model_copy(update={"api_url": listing.url})}
    )
