"""OpenAI's files: a form with a file -> what is to be kept; what is kept -> OpenAI's file object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from relay.errors import BadRequest
from relay.events import FilePart
from relay.wire.listing import listing

NAME = "openai-files"
PURPOSES = ("assistants", "vision", "user_data", "evals")
# What OpenAI does with these, Poe has not.
NOT_AT_POE = ("batch", "fine-tune")
LEAST_SECONDS, MOST_SECONDS = 3600, 2_592_000


class File(Protocol):
    """One that is kept."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def purpose(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def expires_at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Upload:
    file: FilePart
    purpose: str
    lifetime: timedelta | None


def parse_form(fields: Mapping[str, str], files: list[FilePart]) -> Upload:
    """The upload in this form, or BadRequest naming the field."""
    if len(files) != 1:
        raise BadRequest(
            "Send one `file`.", code="missing_required_parameter" if not files else None, param="file"
        )
    if not files[0].data:
        raise BadRequest("The file is empty.", code="empty_file", param="file")
    purpose = fields.get("purpose", "")
    if purpose in NOT_AT_POE:
        raise BadRequest(f"Poe has nothing like {purpose}.", code="unsupported_by_poe", param="purpose")
    if purpose not in PURPOSES:
        raise BadRequest(f"`purpose` must be one of {', '.join(PURPOSES)}.", param="purpose")
    return Upload(files[0], purpose, _lifetime(fields))


def _lifetime(fields: Mapping[str, str]) -> timedelta | None:
    name = "expires_after[seconds]"
    if fields.get("expires_after[anchor]", "created_at") != "created_at":
        raise BadRequest("`expires_after[anchor]` must be created_at.", param="expires_after[anchor]")
    if name not in fields:
        return None
    text = fields[name]
    if not (re.fullmatch(r"[0-9]{1,9}", text) and LEAST_SECONDS <= int(text) <= MOST_SECONDS):
        raise BadRequest(f"`{name}` must be from {LEAST_SECONDS} to {MOST_SECONDS}.", param=name)
    return timedelta(seconds=int(text))


def described(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def page(files: Sequence[File], limit: int) -> dict[str, Any]:
    """`files` has one more than `limit` if there are more."""
    return listing([described(each) for each in files[:limit]], has_more=len(files) > limit, nothing="")


def deleted(id: str) -> dict[str, Any]:
    return {"id": id, "object": "file", "deleted": True}
