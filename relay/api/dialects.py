"""In whose words a route speaks of errors and limits, whoever it is that speaks: a view, the handler, the bare connection."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from relay.errors import RelayError
from relay.limits import RateLimits
from relay.wire import anthropic_messages, openai_chat


@dataclass(frozen=True, slots=True)
class Dialect:
    """`error` is given the request's id, `rate_limits` are headers."""

    error: Callable[[RelayError, str], dict[str, Any]]
    rate_limits: Callable[[RateLimits], Iterator[tuple[str, str]]]


def _openai_limits(standing: RateLimits) -> Iterator[tuple[str, str]]:
    for kind, level in (("requests", standing.requests), ("tokens", standing.tokens)):
        if level is not None:
            yield f"x-ratelimit-limit-{kind}", str(level.limit)
            yield f"x-ratelimit-remaining-{kind}", str(level.remaining)
            yield f"x-ratelimit-reset-{kind}", duration(level.reset_seconds)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 20ms, 1.5s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _anthropic_limits(standing: RateLimits) -> Iterator[tuple[str, str]]:
    now = datetime.now(UTC)
    for kind, level in (("requests", standing.requests), ("tokens", standing.tokens)):
        if level is not None:
            back = now + timedelta(seconds=math.ceil(level.reset_seconds))
            yield f"anthropic-ratelimit-{kind}-limit", str(level.limit)
            yield f"anthropic-ratelimit-{kind}-remaining", str(level.remaining)
            yield f"anthropic-ratelimit-{kind}-reset", back.strftime("%Y-%m-%dT%H:%M:%SZ")


OPENAI = Dialect(lambda exc, request_id: openai_chat.error(exc), _openai_limits)
ANTHROPIC = Dialect(anthropic_messages.error, _anthropic_limits)

# Below /v1, below /v1 twice, or at the root.
_OF_ANTHROPIC = re.compile(r"(?:/+v1)*/+messages(?:/|$)")
_OF_BOTH = re.compile(r"(?:/+v1)*/+models(?:/|$)")
VERSION = b"anthropic-version"


def spoken(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Dialect:
    """At this path, by a client that sends these headers (names in lower case)."""
    if _OF_ANTHROPIC.match(path):
        return ANTHROPIC
    if _OF_BOTH.match(path) and any(name == VERSION for name, _value in headers):
        return ANTHROPIC
    return OPENAI
