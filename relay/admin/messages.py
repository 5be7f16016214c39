"""What a page says after an action."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest
from django.utils.translation import ngettext


def told(page: Any, request: HttpRequest, count: int) -> None:
    said = ngettext("%(n)d row changed.", "%(n)d rows changed.", count) % {"n": count}
    page.message_user(request, said, messages.SUCCESS)
