"""What Poe, a bot, aiohttp or a proxy calls a failure -> our RelayError; the guesses about words stand here.

No message holds the Poe key, a proxy's password or a library's own text.
"""

from __future__ import annotations

import email.utils
import math
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import msgspec
import python_socks

from relay.errors import (
    RelayError,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamOutOfPoints,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnknownBot,
    UpstreamUnreachable,
    UserError,
)

from .sse import EventTooLarge, SSEReader

MAX_ERROR_BODY = 16 * 1024
_MAX_TEXT = 300
_MAX_RETRY_AFTER = 24 * 3600.0


class _Verdict(NamedTuple):
    error: type[RelayError]
    code: str | None = None


class _Complaint(NamedTuple):
    """What an error body or event says: its machine-readable type, and its words."""

    kind: str = ""
    text: str = ""


_TOO_LONG = _Verdict(UserError, "context_length_exceeded")
_FILTERED = _Verdict(UserError, "content_filter")

# Types that mean the same wherever they stand: Poe's bot protocol first, then Poe's API.
_BY_TYPE = {
    "insufficient_fund": _Verdict(UpstreamOutOfPoints),
    "user_message_too_long": _TOO_LONG,
    "user_caused_error": _Verdict(UserError),
    # The account's owner has not agreed to something this bot wants: the key is good and must not be retired.
    "privacy_authorization_error": _Verdict(UserError),
    "insufficient_credits": _Verdict(UpstreamOutOfPoints),
    "moderation_error": _FILTERED,
    "authentication_error": _Verdict(UpstreamUnauthorized),
    "rate_limit_error": _Verdict(UpstreamRateLimited),
    "not_found_error": _Verdict(UpstreamUnknownBot),
    "timeout_error": _Verdict(UpstreamTimeout),
    "request_too_large": _Verdict(UserError),
}

_BY_STATUS = {
    401: _Verdict(UpstreamUnauthorized),
    402: _Verdict(UpstreamOutOfPoints),
    403: _Verdict(UpstreamUnauthorized),
    404: _Verdict(UpstreamUnknownBot),
    408: _Verdict(UpstreamTimeout),
    422: _Verdict(UserError),
    429: _Verdict(UpstreamRateLimited),
    451: _Verdict(UserError),
    504: _Verdict(UpstreamTimeout),
}

# Poe does not document its texts. The first line that occurs in the text, in any case, decides.
_BY_WORDS = (
    ("rate limit", _Verdict(UpstreamRateLimited)),
    ("too many requests", _Verdict(UpstreamRateLimited)),
    ("invalid token", _Verdict(UpstreamUnauthorized)),
    ("unauthorized", _Verdict(UpstreamUnauthorized)),
    ("bot does not exist", _Verdict(UpstreamUnknownBot)),
    ("insufficient point", _Verdict(UpstreamOutOfPoints)),
    ("insufficient fund", _Verdict(UpstreamOutOfPoints)),
    ("insufficient credit", _Verdict(UpstreamOutOfPoints)),
    ("insufficient balance", _Verdict(UpstreamOutOfPoints)),
    ("not enough points", _Verdict(UpstreamOutOfPoints)),
    ("enough compute points", _Verdict(UpstreamOutOfPoints)),
    ("out of points", _Verdict(UpstreamOutOfPoints)),
    ("took too long", _Verdict(UpstreamTimeout)),  # before "too long": a slow bot is not the user's fault
    ("taking too long", _Verdict(UpstreamTimeout)),
    ("timed out", _Verdict(UpstreamTimeout)),
    ("context length", _TOO_LONG),
    ("context window", _TOO_LONG),
    ("context_length", _TOO_LONG),
    ("maximum context", _TOO_LONG),
    ("token limit", _TOO_LONG),
    ("too many tokens", _TOO_LONG),
    ("too long", _TOO_LONG),
    ("content policy", _FILTERED),
    ("content_policy", _FILTERED),
    ("content filter", _FILTERED),
    ("content_filter", _FILTERED),
    ("content management policy", _FILTERED),
    ("usage polic", _FILTERED),
    ("safety system", _FILTERED),
    ("moderation", _FILTERED),
)

# What Poe says with a 403 when it means what was asked, and no type for it.
_MODERATION = ("moderation", "flagged", "policy", "safety", "not allowed to ask", "inappropriate")
# The one type in a bot's own event that is about the account and not about the bot: Poe's protocol has it.
_CERTAIN_IN_EVENT = "insufficient_fund"

# Told in our own words: a client has no business with what Poe says to the key's owner.
_OUR_WORDS: dict[type[RelayError], str] = {
    UpstreamUnauthorized: "Poe refused the key",
    UpstreamOutOfPoints: "the Poe account has no points left",
    UpstreamRateLimited: "Poe says: too many requests for this account",
    UpstreamUnknownBot: "Poe has no such bot",
    UpstreamTimeout: "the bot took too long",
}


def from_event(data: bytes, secret: str) -> RelayError:
    """The meaning of an `error` event."""
    said = _object(data)
    if said is None:
        return unreadable("error")
    complaint = _complaint(said)
    verdict = _BY_TYPE.get(complaint.kind) or _by_words(complaint.text)
    error = _error(
        verdict, _shorten(complaint.text, secret), "the bot reported an error and did not say which"
    )
    return error if complaint.kind == _CERTAIN_IN_EVENT else as_hearsay(error)


def from_status(status: int, headers: Mapping[str, str], body: bytes, secret: str) -> RelayError:
    """The meaning of an answer that is not 200; `body` is at most its first MAX_ERROR_BODY bytes.

    The headers have names in small letters, or take them in any.
    """
    complaint = _complaint_of_body(body)
    verdict = _BY_TYPE.get(complaint.kind) or _by_status(status, complaint)
    is_certain = verdict is not None and not (status == 403 and complaint == _Complaint())
    verdict = verdict or _by_words(complaint.text)
    unknown = UpstreamFailed if status >= 500 else UpstreamBroken
    error = _error(verdict, _shorten(complaint.text, secret), f"Poe answered HTTP {status}", unknown)
    error.retry_after = retry_after(headers.get("retry-after"))
    return error if is_certain or verdict is None else as_hearsay(error)


def _by_status(status: int, complaint: _Complaint) -> _Verdict | None:
    text = complaint.text.lower()
    if status == 403 and any(word in text for word in _MODERATION):
        return _FILTERED
    if status == 413 or (status == 400 and complaint.kind == "invalid_request_error"):
        return _by_words(text) or _Verdict(UserError)
    return _BY_STATUS.get(status)


def as_hearsay(error: RelayError) -> RelayError:
    if isinstance(error, UpstreamError):
        error.is_hearsay = True
    return error


def unreadable(event: str) -> UpstreamBroken:
    return UpstreamBroken(f"the bot sent a {event!r} event that nobody can read")


def retry_after(value: str | None) -> float | None:
    """Seconds from a `Retry-After` header, which holds seconds or a date; None if it holds neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    if not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _seconds_until(date: str) -> float:
    try:
        then = email.utils.parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return math.nan
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return (then - datetime.now(UTC)).total_seconds()


def _error(
    verdict: _Verdict | None, text: str, otherwise: str, unknown: type[RelayError] = UpstreamBroken
) -> RelayError:
    if verdict is None:
        return unknown(text or otherwise)
    return verdict.error(_OUR_WORDS.get(verdict.error) or text or otherwise, code=verdict.code)


def _by_words(text: str) -> _Verdict | None:
    lowered = text.lower()
    return next((verdict for words, verdict in _BY_WORDS if words in lowered), None)


def _shorten(text: str, secret: str) -> str:
    if secret:
        text = text.replace(secret, "***")
    text = " ".join(text.split())
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."


def _complaint_of_body(body: bytes) -> _Complaint:
    said = _object(body)
    if said is not None:
        return _complaint(said)
    try:
        events = SSEReader(MAX_ERROR_BODY).feed(body)
    except EventTooLarge as error:
        events = error.events
    for name, data in events:
        if name == "error" and (said := _object(data)) is not None:
            return _complaint(said)
    return _Complaint()


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        said = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _complaint(said: dict[str, Any]) -> _Complaint:
    """Poe's `{"text", "error_type"}`, its API's `{"error": {"message", "type"}}`, FastAPI's `{"detail"}`."""
    inner = said.get("error")
    if isinstance(inner, dict):
        return _Complaint(_first_text(inner, "type", "code"), _first_text(inner, "message", "text"))
    return _Complaint(
        _first_text(said, "error_type", "type"), _first_text(said, "text", "message", "error", "detail")
    )


def _first_text(said: dict[str, Any], *names: str) -> str:
    values = (said.get(name) for name in names)
    return next((value for value in values if value and isinstance(value, str)), "")


Meanings = tuple[tuple[type[BaseException], type[RelayError], str], ...]
# The first line whose exception fits decides, so the narrow ones come first.
_FAILURES: Meanings = (
    (python_socks.ProxyTimeoutError, UpstreamTimeout, "the outbound proxy did not answer in time"),
    (python_socks.ProxyConnectionError, UpstreamUnreachable, "cannot reach the outbound proxy"),
    (python_socks.ProxyError, UpstreamUnreachable, "the outbound proxy refused"),
    (TimeoutError, UpstreamTimeout, "Poe did not answer in time"),
    (ssl.SSLCertVerificationError, UpstreamUnreachable, "Poe's certificate cannot be trusted"),
    (ssl.SSLError, UpstreamUnreachable, "no secure connection to Poe"),
    (socket.gaierror, UpstreamUnreachable, "the name of Poe's server cannot be resolved"),
    (OSError, UpstreamUnreachable, "the connection to Poe broke"),
)


@cache
def _failures(has_aiohttp: bool) -> Meanings:
    return (*_failures_of_uploads(), *_FAILURES) if has_aiohttp else _FAILURES


def _failures_of_uploads() -> Meanings:
    """Only where the first upload has loaded what they are made with: it takes 8 MB."""
    import aiohttp
    from aiohttp.http_exceptions import HttpProcessingError
    from aiohttp_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError

    return (
        (ProxyTimeoutError, UpstreamTimeout, "the outbound proxy did not answer in time"),
        (ProxyConnectionError, UpstreamUnreachable, "cannot reach the outbound proxy"),
        (ProxyError, UpstreamUnreachable, "the outbound proxy refused"),
        (aiohttp.ConnectionTimeoutError, UpstreamTimeout, "no connection to Poe in time"),
        (TimeoutError, UpstreamTimeout, "Poe did not answer in time"),
        (aiohttp.ClientProxyConnectionError, UpstreamUnreachable, "cannot reach the outbound proxy"),
        (aiohttp.ClientHttpProxyError, UpstreamUnreachable, "the outbound proxy refused"),
        (
            aiohttp.InvalidURL,
            UpstreamUnreachable,
            "the address of Poe or of the outbound proxy cannot be used",
        ),
        (aiohttp.ClientConnectorCertificateError, UpstreamUnreachable, "Poe's certificate cannot be trusted"),
        (aiohttp.ServerFingerprintMismatch, UpstreamUnreachable, "Poe's certificate cannot be trusted"),
        (aiohttp.ClientSSLError, UpstreamUnreachable, "no secure connection to Poe"),
        (aiohttp.ClientConnectorDNSError, UpstreamUnreachable, "the name of Poe's server cannot be resolved"),
        (aiohttp.ClientConnectorError, UpstreamUnreachable, "cannot reach Poe"),
        (aiohttp.ClientResponseError, UpstreamBroken, "Poe sent an answer that is not HTTP"),
        (HttpProcessingError, UpstreamBroken, "Poe sent an answer that is not HTTP"),
        (aiohttp.ClientPayloadError, UpstreamBroken, "the answer was cut off"),
        (aiohttp.ClientError, UpstreamUnreachable, "the connection to Poe broke"),
    )


def _meaning(failure: Exception) -> RelayError | None:
    """Of what a library, a proxy or the system raised; None for what is ours, or a bug."""
    for kind, error, message in _failures("aiohttp" in sys.modules):
        if isinstance(failure, kind):
            return error(message)
    return None


@contextmanager
def failures_told() -> Iterator[None]:
    """Raises ours for theirs. Theirs is not shown as the cause: it prints headers, the key among them."""
    try:
        yield
    except Exception as failure:
        meaning = _meaning(failure)
        if meaning is None:
            raise
        raise meaning from None
