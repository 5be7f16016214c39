"""Takes out of log lines what an address may hold that nobody else should know: the secret of an invitation."""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote

PREFIX = "/join/"
SECRET = re.compile(r"/join/[^/\s?\"']+")
HIDDEN = "/join/***"


def path(value: str) -> str:
    """Of a request as it was sent: somebody may have written its letters in another way."""
    if "%" in value and PREFIX in unquote(value):
        return HIDDEN
    return SECRET.sub(HIDDEN, value) if PREFIX in value else value


class Mask(logging.Filter):
    """Django and others name the address of what failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if PREFIX in said:
            record.msg, record.args = SECRET.sub(HIDDEN, said), ()
        return True
