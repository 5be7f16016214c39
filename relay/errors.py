"""Every failure that a client can be told, with its HTTP status and public code.

RelayError                      500 internal_error
├── BadRequest                  400 a wire format says which parameter
│   ├── UserError               400 the bot refused what the user sent (too long, moderation): never the key's fault
│   ├── UnsupportedMedia        415
│   ├── TooSlow                 408 its head or body took too long to arrive
│   ├── BeyondLimit             400 more than a whole limit: no waiting makes it fit
│   ├── AddressTooLong          414
│   └── HeadersTooLarge         431
├── Unauthenticated             401 no token, unknown token, malformed token: told alike
├── Forbidden                   403 a real token that may not be used now or here, with the reason
│   └── Stopped                 403 an administrator ended this request
├── NotFound                    404 no such route, no such object
│   └── UnknownModel            404
├── MethodNotAllowed            405
├── PayloadTooLarge             413
├── RateLimited                 429 a limit is reached: come back after `retry_after` seconds
│   ├── BudgetExceeded          429 no points left until the day or the month ends: trying again is no use before
│   └── AllKeysBusy             429 no Poe key has a slot free
├── Unavailable                 503 the relay itself cannot serve now (database down, stopping)
│   ├── NoKeyAvailable          503 no Poe key may serve this request
│   └── GivenUp                 503 its record was counted as lost while the relay's database was away
└── UpstreamError               502 Poe or the bot failed
    ├── UpstreamUnauthorized    502 Poe refused the key (401, 403)
    ├── UpstreamOutOfPoints     502 the Poe account has no points left (402, insufficient_fund)
    ├── UpstreamRateLimited     429 Poe says too many requests for this account
    ├── UpstreamUnknownBot      502 Poe has no such bot (404)
    ├── UnfitAnswer             502 the bot answered, but not as `tool_choice` or `response_format` asks
    ├── UpstreamTimeout         504 a deadline passed
    │   └── UpstreamOutOfTime   504 the answer took as long as one may take
    └── UpstreamBroken          502 cut off, or it sent what nobody can read
        ├── UpstreamUnreachable 502 no connection to Poe by this key's way, or it broke before an answer
        └── UpstreamFailed      502 Poe answered with 5xx

Messages name the thing and never hold a key, a token or an upstream's raw text beyond what a bot says to its user.
"""

from __future__ import annotations

from typing import ClassVar

from relay.limits import RateLimits


class RelayError(Exception):
    """Something a client is told. `param` is the request's field it is about, `retry_after` is in seconds."""

    status: ClassVar[int] = 500
    code: str = "internal_error"
    # Whether the same request may be answered if it is sent again: what clients are told, who would try by themselves.
    passes: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code

    def may_pass(self) -> bool:
        return self.passes


class BadRequest(RelayError):
    status = 400
    code = "invalid_value"


class UserError(BadRequest):
    code = "user_error"


class UnsupportedMedia(BadRequest):
    status = 415
    code = "unsupported_media_type"


class TooSlow(BadRequest):
    status = 408
    code = "request_timeout"
    passes = True


class BeyondLimit(BadRequest):
    code = "tokens_per_minute_exceeded"
    limit = "tokens_per_minute"


class AddressTooLong(BadRequest):
    status = 414
    code = "uri_too_long"


class HeadersTooLarge(BadRequest):
    status = 431
    code = "headers_too_large"


class Unauthenticated(RelayError):
    status = 401
    code = "invalid_api_key"


class Forbidden(RelayError):
    status = 403
    code = "access_denied"


class Stopped(Forbidden):
    """No 5xx: clients would ask the same again at once."""

    code = "stopped_by_administrator"


class NotFound(RelayError):
    status = 404
    code = "not_found"


class UnknownModel(NotFound):
    code = "model_not_found"


class MethodNotAllowed(RelayError):
    status = 405
    code = "method_not_allowed"


class PayloadTooLarge(RelayError):
    status = 413
    code = "request_too_large"


class RateLimited(RelayError):
    """`limit` is the limit's name; `rate_limits` say how the caller's limits stand, where that is known."""

    status = 429
    code = "rate_limit_exceeded"
    passes = True
    limit: str = ""
    rate_limits: RateLimits | None = None


class BudgetExceeded(RateLimited):
    code = "insufficient_quota"
    passes = False


class AllKeysBusy(RateLimited):
    code = "all_keys_busy"
    limit = "poe_keys"

    def may_pass_within(self, seconds: float) -> bool:
        """Whether a key may be free in so long. A second is said where nobody knows: somebody's answer ends."""
        return seconds > 0 and (self.retry_after or 0) <= max(seconds, 1)


class Unavailable(RelayError):
    status = 503
    code = "service_unavailable"
    passes = True


class NoKeyAvailable(Unavailable):
    code = "no_poe_key"

    def may_pass(self) -> bool:
        """Only where one is tried again by then."""
        return self.retry_after is not None


class GivenUp(Unavailable):
    code = "given_up"


class UpstreamError(RelayError):
    """`is_hearsay`: a bot said so in words of its own, or it is guessed: the client is told, no Poe key is blamed for it."""

    status = 502
    code = "upstream_error"
    passes = True
    is_hearsay = False


class UpstreamUnauthorized(UpstreamError):
    code = "upstream_unauthorized"
    passes = False


class UpstreamOutOfPoints(UpstreamError):
    code = "upstream_out_of_points"
    passes = False


class UpstreamRateLimited(UpstreamError):
    status = 429
    code = "upstream_rate_limited"


class UpstreamUnknownBot(UpstreamError):
    code = "upstream_unknown_bot"
    passes = False


class UnfitAnswer(UpstreamError):
    """`said` is the bot's answer, and `again` what it is told to do better. Not for any log."""

    code = "unfit_answer"
    # It has been asked for twice.
    passes = False
    is_hearsay = True

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        said: str = "",
        again: str = "",
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.said = said
        self.again = again


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class UpstreamOutOfTime(UpstreamTimeout):
    code = "upstream_out_of_time"


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"


class UpstreamUnreachable(UpstreamBroken):
    code = "upstream_unreachable"


class UpstreamFailed(UpstreamBroken):
    code = "upstream_failed"
