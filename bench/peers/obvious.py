"""A yardstick, not a part of the relay: what one would write first. Daphne, Django, Ninja and fastapi-poe's client with one
session for all; no tokens, no limits, no log. It suffers from a slow machine as the relay does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import django
import httpx
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse

settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY=uuid4().hex, MIDDLEWARE=[], USE_TZ=True
)
django.setup()

import fastapi_poe  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402
from ninja import NinjaAPI, Schema  # noqa: E402

UPSTREAM = os.environ["BENCH_UPSTREAM"]
ROLES = {"assistant": "bot"}

api = NinjaAPI()
# As many connections as there are streams.
session = httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None))


class Message(Schema):
    role: str
    content: str


class Question(Schema):
    model: str
    messages: list[Message]
    stream: bool = False


@api.post("/chat/completions")
async def complete(request: HttpRequest, question: Question) -> HttpResponseBase:
    if question.stream:
        return StreamingHttpResponse(_events(question), content_type="text/event-stream")
    text = "".join([said async for said in _answer(question)])
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JsonResponse(_completion("chat.completion", question, choice))


async def _answer(question: Question) -> AsyncIterator[str]:
    messages = [
        fastapi_poe.ProtocolMessage(role=ROLES.get(each.role, each.role), content=each.content)
        for each in question.messages
    ]
    async for partial in fastapi_poe.get_bot_response(
        messages, question.model, "a-key", base_url=UPSTREAM, session=session
    ):
        yield partial.text


async def _events(question: Question) -> AsyncIterator[str]:
    async for text in _answer(question):
        yield _event(question, {"content": text}, None)
    yield _event(question, {}, "stop")
    yield "data: [DONE]\n\n"


def _event(question: Question, delta: dict[str, str], finish_reason: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return f"data: {json.dumps(_completion('chat.completion.chunk', question, choice))}\n\n"


def _completion(kind: str, question: Question, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-bench",
        "object": kind,
        "created": int(time.time()),
        "model": question.model,
        "choices": [choice],
    }


urlpatterns = [path("v1/", api.urls)]
application = get_asgi_application()
