"""What OpenAI, Open Responses and Anthropic publish of their answers, held against every answer that a test is given.

The documents are those of llm-comply's wheel. A `Witness` reads along with an HTTP client and notes what differs;
it never raises in the middle, where an SDK would make a connection error of it, and the test pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

import httpx2
import jsonschema_rs

OPENAI, RESPONSES, ANTHROPIC = "openai_chat", "openresponses", "anthropic"

# Name of a document, name of one of its schemas.
Schema: TypeAlias = tuple[str, str]


def null_until_the_end(properties: dict[str, Any]) -> None:
    """Every chunk but the last, as OpenAI's own example of a stream and its `stream_options.include_usage` have it."""
    properties["choices"]["items"]["properties"].update(
        finish_reason={"enum": ["stop", "length", "content_filter", None]}
    )
    properties.update(usage={"anyOf": [properties["usage"], {"type": "null"}]})


# OpenAI has more than the documents published on that day know; its own SDK has these.
NEWER: dict[Schema, Callable[[dict[str, Any]], None]] = {
    (OPENAI, "OpenAIFile"): lambda schema: schema["properties"]["purpose"]["enum"].append("user_data"),
    # Its document says of a schema that it is null, and no more.
    (RESPONSES, "JsonSchemaResponseFormat"): lambda schema: schema["properties"].update(
        schema={"type": "object"}
    ),
    (OPENAI, "CreateCompletionResponse"): lambda schema: null_until_the_end(schema["properties"]),
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What a route answers with: any of these schemas as a whole, any of these as a server-sent event."""

    whole: tuple[Schema, ...] = ()
    event: tuple[Schema, ...] = ()


CHAT = Answers(
    ((OPENAI, "CreateChatCompletionResponse"),),
    ((OPENAI, "CreateChatCompletionStreamResponse"),),
)
COMPLETION = Answers(((OPENAI, "CreateCompletionResponse"),), ((OPENAI, "CreateCompletionResponse"),))
# Open Responses' events are found by their type; OpenAI's own `error` event is flat.
RESPONSE = Answers(((RESPONSES, "ResponseResource"),), ((OPENAI, "ResponseErrorEvent"),))
MESSAGE = Answers(((ANTHROPIC, "Message"),), ((ANTHROPIC, "MessageStreamEvent"),))
TRANSCRIPTION = Answers(
    ((OPENAI, "CreateTranscriptionResponseJson"), (OPENAI, "CreateTranscriptionResponseVerboseJson")),
    ((OPENAI, "CreateTranscriptionResponseStreamEvent"),),
)
IMAGES = Answers(((OPENAI, "ImagesResponse"),))
FILE = Answers(((OPENAI, "OpenAIFile"),))
UNPUBLISHED = Answers()

ROUTES: tuple[tuple[str, str, Answers], ...] = (
    ("POST", r"/chat/completions", CHAT),
    ("POST", r"/completions", COMPLETION),
    ("POST", r"/responses", RESPONSE),
    ("POST", r"/responses/compact", Answers(((RESPONSES, "CompactResource"),))),
    ("GET", r"/responses/[^/]+", RESPONSE),
    ("POST", r"/responses/[^/]+/cancel", RESPONSE),
    ("GET", r"/responses/[^/]+/input_items", Answers(((OPENAI, "ResponseItemList"),))),
    ("DELETE", r"/responses/[^/]+", UNPUBLISHED),
    ("POST", r"/responses/input_tokens", UNPUBLISHED),
    ("POST", r"/messages", MESSAGE),
    ("POST", r"/messages/count_tokens", Answers(((ANTHROPIC, "CountMessageTokensResponse"),))),
    ("GET", r"/models", Answers(((OPENAI, "ListModelsResponse"), (ANTHROPIC, "ListResponse_ModelInfo_")))),
    ("GET", r"/models/.+", Answers(((OPENAI, "Model"), (ANTHROPIC, "ModelInfo")))),
    ("POST", r"/images/(generations|edits|variations)", IMAGES),
    ("POST", r"/audio/(transcriptions|translations)", TRANSCRIPTION),
    ("GET", r"/files", Answers(((OPENAI, "ListFilesResponse"),))),
    ("POST", r"/files", FILE),
    ("GET", r"/files/[^/]+", FILE),
    ("GET", r"/files/[^/]+/content", UNPUBLISHED),
    ("DELETE", r"/files/[^/]+", Answers(((OPENAI, "DeleteFileResponse"),))),
    ("GET|POST|DELETE", r"/videos(/.*)?", UNPUBLISHED),
    ("GET", r"/dashboard/billing/.*", UNPUBLISHED),
    ("GET", r"/|/openapi\.json|/docs(/.*)?", UNPUBLISHED),
)
OPENAI_ERROR = Answers(((OPENAI, "ErrorResponse"),), ((OPENAI, "ErrorResponse"),))
ANTHROPIC_ERROR = Answers(((ANTHROPIC, "ErrorResponse"),), ((ANTHROPIC, "ErrorResponse"),))
# Models are told in the shape that the client asks for.
EITHER_ERROR = Answers(OPENAI_ERROR.whole + ANTHROPIC_ERROR.whole)


def answers_of(method: str, path: str) -> Answers | None:
    """What the route may answer with; None for one that the table does not know."""
    method = "GET" if method == "HEAD" else method
    for methods, pattern, answers in ROUTES:
        if method in methods.split("|") and re.fullmatch(pattern, path):
            return answers
    return None


def errors_of(path: str) -> Answers:
    if path.startswith("/messages"):
        return ANTHROPIC_ERROR
    return EITHER_ERROR if path.startswith("/models") else OPENAI_ERROR


def bare(path: str) -> str:
    """Without /v1, however often it is there, and without slashes that are doubled or at the end."""
    return re.sub(r"^(/v1)+(?=/|$)", "", re.sub(r"/+", "/", path)).rstrip("/") or "/"


# The documents.


@cache
def document(name: str) -> dict[str, Any]:
    text = resources.files("llm_comply").joinpath("specs", f"{name}.json").read_text()
    components: dict[str, Any] = without_nullable(json.loads(text)["components"])
    for (of, schema), amend in NEWER.items():
        if of == name:
            amend(components["schemas"][schema])
    return components


def without_nullable(found: Any) -> Any:
    """OpenAPI 3.0's `nullable: true`, which JSON Schema does not know, in JSON Schema's words."""
    if isinstance(found, list):
        return [without_nullable(item) for item in found]
    if not isinstance(found, dict):
        return found
    plain = {key: without_nullable(value) for key, value in found.items()}
    # Not a schema's property of that name.
    if isinstance(plain.get("nullable"), bool) and plain.pop("nullable"):
        return {"anyOf": [plain, {"type": "null"}]}
    return plain


@cache
def validator(schema: Schema) -> jsonschema_rs.Draft202012Validator:
    name, of = schema
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{of}", "components": document(name)}
    )


@cache
def response_events() -> dict[str, Schema]:
    """Open Responses' events by their type."""
    return {
        kind: (RESPONSES, name)
        for name, schema in document(RESPONSES)["schemas"].items()
        if name.endswith("StreamingEvent")
        for kind in schema["properties"]["type"]["enum"]
    }


def differences(body: Any, schemas: tuple[Schema, ...]) -> list[str]:
    """Nothing if one of them fits; else what the nearest one says."""
    said = []
    for schema in schemas:
        errors = [
            f"{schema[1]} at {'.'.join(map(str, e.instance_path)) or 'top'}: {e.message[:300]}"
            for e in validator(schema).iter_errors(body)
        ]
        if not errors:
            return []
        said.append(errors)
    return min(said, key=len, default=[])


# Reading along.


@dataclass
class Witness:
    """`hear` and `overhear` are response hooks of an httpx2 client: asynchronous, and not."""

    problems: list[str] = field(default_factory=list)

    async def hear(self, response: httpx2.Response) -> None:
        if response.headers.get("content-type", "").startswith("application/json"):
            await response.aread()
            self.judge_whole(response)
        elif reading := self._reading(response):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _HeardAsync(response.stream, reading)

    def overhear(self, response: httpx2.Response) -> None:
        if response.headers.get("content-type", "").startswith("application/json"):
            response.read()
            self.judge_whole(response)
        elif reading := self._reading(response):
            assert isinstance(response.stream, httpx2.SyncByteStream)
            response.stream = _Heard(response.stream, reading)

    def judge_whole(self, response: httpx2.Response) -> None:
        method, path = response.request.method, bare(response.request.url.path)
        if not response.content:
            return
        found = errors_of(path) if response.status_code >= 400 else answers_of(method, path)
        if found is None:
            self.problems.append(f"{method} {path}: tests/specifications.py knows no such route")
        elif found.whole:
            self._note(f"{method} {path}", differences(response.json(), found.whole))

    def judge_event(self, path: str, body: dict[str, Any], answers: Answers) -> None:
        kind = body.get("type")
        if answers is MESSAGE and kind == "ping":
            found: tuple[Schema, ...] = ()
        elif "error" in body and answers is not RESPONSE:
            found = errors_of(path).event
        elif answers is RESPONSE:
            known = response_events().get(str(kind))
            found = (known,) if known else answers.event
            found = (*found, *answers.event) if kind == "error" else found
        else:
            found = answers.event
        self._note(f"{path} (event {kind or 'chunk'})", differences(body, found))

    def _reading(self, response: httpx2.Response) -> _Reading | None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return None
        path = bare(response.request.url.path)
        answers = answers_of(response.request.method, path)
        if answers is None:
            self.problems.append(f"{path}: tests/specifications.py knows no such route")
            return None
        return _Reading(self, path, answers)

    def _note(self, where: str, found: list[str]) -> None:
        self.problems += [f"{where}: {each}" for each in found]


@dataclass
class _Reading:
    """A stream of server-sent events, judged one by one as they pass."""

    witness: Witness
    path: str
    answers: Answers
    rest: bytes = b""

    def take(self, part: bytes) -> None:
        *events, self.rest = (self.rest + part).split(b"\n\n")
        for event in events:
            lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
            data = b"\n".join(lines).strip()
            if data and data != b"[DONE]":
                self.witness.judge_event(self.path, json.loads(data), self.answers)


@dataclass
class _Heard(httpx2.SyncByteStream):
    stream: httpx2.SyncByteStream
    reading: _Reading

    def __iter__(self) -> Iterator[bytes]:
        for part in self.stream:
            self.reading.take(part)
            yield part

    def close(self) -> None:
        self.stream.close()


@dataclass
class _HeardAsync(httpx2.AsyncByteStream):
    stream: httpx2.AsyncByteStream
    reading: _Reading

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.stream:
            self.reading.take(part)
            yield part

    async def aclose(self) -> None:
        await self.stream.aclose()
