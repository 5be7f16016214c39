"""One HTTP request as the access log and the metrics tell of it. Never holds what was said, or a secret."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from relay.chance import chance

# As nginx writes it: the client left before there was an answer.
CLIENT_LEFT = 499
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Before, an id was chance from its first letter on.
FIRST_TOLD = datetime(2026, 11, 29, tzinfo=UTC)
REQUEST_ID = re.compile(r"req_([0-9a-f]{11})[0-9a-f]{13}", re.ASCII)


def new_request_id() -> str:
    """It begins with the moment, in milliseconds: so its usage record is found among millions without an index more."""
    return f"req_{time.time_ns() // 1_000_000:011x}{chance().hex()[:13]}"


def request_began(request_id: str) -> datetime | None:
    """None for what is no such id, or tells of a moment at which none was given."""
    found = REQUEST_ID.fullmatch(request_id)
    if found is None:
        return None
    came = EPOCH + timedelta(milliseconds=int(found[1], 16))
    return came if FIRST_TOLD <= came <= datetime.now(UTC) + timedelta(days=1) else None


@dataclass(slots=True)
class Visit:
    """Filled by whoever comes to know; what is empty at the end was never known. Moments are of time.perf_counter()."""

    request_id: str = ""
    method: str = ""
    # Without the query string, as it was sent.
    path: str = ""
    # Where it comes from.
    address: str = ""
    began: float = field(default_factory=time.perf_counter)
    # 0: no answer was begun.
    status: int = 0
    first_byte_at: float | None = None
    sent_bytes: int = 0
    wire: str = ""
    token_prefix: str = ""
    model: str = ""
    streamed: bool = False
    # An admitted request's is that of its usage record.
    outcome: str = ""
    error_code: str = ""
    # How long the ledger took to admit it.
    admit_seconds: float | None = None
    # What Poe keys failed with, one after the other; the last one may be the answer's own failure.
    upstream_errors: tuple[str, ...] = ()
    # By the clock, and since it began; known when it has ended.
    ended: float = 0.0
    total_seconds: float = 0.0

    def begin_answer(self, status: int) -> None:
        self.status, self.first_byte_at = status, time.perf_counter()

    def fail(self) -> None:
        """Nobody foresaw why. If nothing was answered, the server says 500 itself."""
        self.status = self.status or 500
        self.outcome = self.outcome or "failed"

    @property
    def first_byte_seconds(self) -> float | None:
        return None if self.first_byte_at is None else self.first_byte_at - self.began

    def end(self) -> None:
        self.ended, self.total_seconds = time.time(), time.perf_counter() - self.began
        if not self.outcome:
            self.outcome = _outcome(self.status)
        if not self.status:
            self.status = CLIENT_LEFT


def _outcome(status: int) -> str:
    """Of a request that no usage record tells of."""
    if not status:
        return "disconnected"
    if status < 400:
        return "done"
    return "refused" if status < 500 or status == 503 else "failed"


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks and how, apart from what: with a token as it was sent, or by its id where it was accepted before."""

    credential: str
    address: str
    request_id: str
    wire: str
    # What comes to be known of the request is noted there.
    visit: Visit = field(default_factory=Visit)
    token_id: int | None = None
