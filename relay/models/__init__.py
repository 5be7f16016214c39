"""What we relay with: Poe accounts, keys and how they fare, mappings from models to bots, and the usage records."""

from __future__ import annotations

from relay.models.directory import DirectoryChange, DirectoryVersion
from relay.models.fields import points, validate_http_url, validate_object, validate_proxy
from relay.models.mapping import Bot, BotMapping
from relay.models.poe import (
    AccountHealth,
    BalanceReading,
    Health,
    KeyHealth,
    Lease,
    PoeAccount,
    PoeCharge,
    PoeKey,
    PoolEvent,
    State,
    Upload,
)
from relay.models.rollups import (
    AddedUp,
    LateHour,
    ModelDay,
    RefusalHour,
    TeamHour,
    TokenDay,
    UsageHour,
)
from relay.models.stored import FilePiece, StoredFile, StoredResponse, VideoJob
from relay.models.usage import Cancellation, Meter, Process, Pruning, UsageRecord

__all__ = [
    "AccountHealth",
    "AddedUp",
    "BalanceReading",
    "Bot",
    "BotMapping",
    "Cancellation",
    "DirectoryChange",
    "DirectoryVersion",
    "FilePiece",
    "Health",
    "KeyHealth",
    "LateHour",
    "Lease",
    "Meter",
    "ModelDay",
    "PoeAccount",
    "PoeCharge",
    "PoeKey",
    "PoolEvent",
    "Process",
    "Pruning",
    "RefusalHour",
    "State",
    "StoredFile",
    "StoredResponse",
    "TeamHour",
    "TokenDay",
    "Upload",
    "UsageHour",
    "UsageRecord",
    "VideoJob",
    "points",
    "validate_http_url",
    "validate_object",
    "validate_proxy",
]
