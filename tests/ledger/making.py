"""What the ledger is told, made up for tests: admissions, changes and settlements of token 1 of user 1 in team 1."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from relay.ledger.deciding import Meters, Page, Row
from relay.ledger.items import Admission, Candidate, Change, Reservation, Settlement
from relay.ledger.meters import Meter
from relay.limits import UNLIMITED, Limits

# Noon of a day in UTC: neither a day nor a month is about to end. In microseconds, as a page says it.
NOON = int(datetime(2026, 5, 13, 12, tzinfo=UTC).timestamp()) * 1_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE
VERSION = 7
NOTHING = Reservation(0, 0, 0, 0)


def candidate(key: int = 1, account: int = 1, **fields: Any) -> Candidate:
    values: dict[str, Any] = {"key_name": f"key {key}", "key_limits": UNLIMITED, "account_limits": UNLIMITED}
    return Candidate(key_id=key, account_id=account, **values | fields)


def reservation(points: int = 1, output: int = 10, prompt: int = 5, images: int = 0) -> Reservation:
    return Reservation(prompt, output, images, points)


def admission(*reservations: Reservation, **fields: Any) -> Admission:
    """`token`, `user`, `team` are their numbers; `of_token`, `of_user`, `of_team` their limits."""
    limits = tuple(fields.pop(whose, UNLIMITED) for whose in ("of_token", "of_user", "of_team"))
    numbers = {f"{whose}_id": fields.pop(whose, 1) for whose in ("token", "user", "team")}
    values: dict[str, Any] = {
        "version": VERSION,
        "request_id": "req_1",
        "token_prefix": "sk-poe-abcdef",
        "user_name": "bob",
        "team_name": "Physics",
        "time_zone": "UTC",
        "limits": limits,
        "model": "gpt-4o",
        "bot": "GPT-4o",
        "wire": "openai-chat",
        "streamed": True,
        "reservations": reservations or (reservation(),),
        "candidates": (candidate(),),
    }
    return Admission(**values | numbers | fields)


def settlement(of: Admission, outcome: str = "done", **fields: Any) -> Settlement:
    """By default it used what was reserved first."""
    values: dict[str, Any] = {
        "id": of.id,
        "token_id": of.token_id,
        "user_id": of.user_id,
        "team_id": of.team_id,
        "key_id": of.candidates[0].key_id,
        "completion_tokens": of.reservations[0].output_tokens,
        "points": of.reservations[0].points,
        "first_byte_ms": 5,
        "total_ms": 50,
    }
    return Settlement(outcome=outcome, **values | fields)


def not_started(of: Admission) -> Settlement:
    nothing = {"completion_tokens": 0, "points": 0, "first_byte_ms": None, "total_ms": None}
    return settlement(of, "failed", error_code="not_started", **nothing)


def lost(of: Admission) -> Settlement:
    return settlement(of, "lost", error_code="process_died", completion_tokens=0, points=0)


def change(of: Admission, wanted: Reservation | None = None, *, key: int = 1, **fields: Any) -> Change:
    return Change(of, key, wanted or of.reservations[0], **fields)


def row(**fields: Any) -> Row:
    values: dict[str, Any] = {
        "id": uuid.uuid4(),
        "token_id": 1,
        "user_id": 1,
        "team_id": 1,
        "model": "gpt-4o",
        "prompt_tokens": 5,
        "day_ends": 0,
        "month_ends": 0,
        "own_day_ends": 0,
        "own_month_ends": 0,
        "started_at": datetime(2026, 5, 13, 12, 34, 56, tzinfo=UTC),
        "outcome": "done",
        "error_code": "",
        "finish_reason": "stop",
        "completion_tokens": 10,
        "images": 0,
        "points": 3,
        "bot": "GPT-4o",
        "key_id": 1,
        "key_name": "key 1",
        "accounting": "estimated",
        "first_byte_ms": 400,
        "total_ms": 900,
    }
    return Row(**values | fields)


def page(*ids: str, now: int = NOON, version: int = VERSION) -> Page:
    return Page(version=version, now=now, meters=Meters({id_: Meter(id_) for id_ in ids}), rows={})


def a_minute(requests: int | None = None, tokens: int | None = None) -> Limits:
    return Limits(requests_per_minute=requests, tokens_per_minute=tokens)
