"""How the demo Poe server says no: Poe's error bodies, and the check of the key."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

from starlette.responses import JSONResponse

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_credits",
    403: "moderation_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "provider_error",
    502: "upstream_error",
    529: "overloaded_error",
}


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    error = {
        "code": status,
        "type": TYPES.get(status, "provider_error"),
        "message": message,
        "metadata": None,
    }
    return JSONResponse({"error": error}, status, headers)


def is_bearer(authorization: str | None, key: str) -> bool:
    return is_plain(authorization, f"Bearer {key}")


def find_bearer(authorization: str | None, keys: Iterable[str]) -> str | None:
    """Which of the keys it is."""
    return next((key for key in keys if is_bearer(authorization, key)), None)


def is_plain(authorization: str | None, key: str) -> bool:
    """Poe's upload endpoint takes the key without the word Bearer."""
    return hmac.compare_digest((authorization or "").encode(), key.encode())
