"""The description of the API for people and programs: each route says beside itself what it takes, with an example.

A body's schema comes from the Struct that it is validated with, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from ninja import NinjaAPI

SCHEMAS = "#/components/schemas/"
JSON, EVENTS = "application/json", "text/event-stream"
ABOUT = """\
One access token, the models that it may ask for, and the bots of Poe behind them: for apps that speak as OpenAI or Anthropic do.
Every path is there with `/v1`, with `/v1/v1` and without either. What a bot cannot be told is named in `x-poe-relay-ignored`."""
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def described(
    summary: str,
    *,
    body: type[msgspec.Struct] | None = None,
    example: dict[str, Any] | None = None,
    answer: Any = None,
    streams: bool = False,
    refuses: bool = False,
    content_type: str = JSON,
) -> dict[str, Any]:
    """For a route's `openapi_extra`: the Struct of its body with an example, and what it answers to that."""
    operation: dict[str, Any] = {"summary": summary, "security": [{"bearer": []}, {"x-api-key": []}]}
    if example is not None:
        schema: Any = {"type": "object"} if body is None else body
        operation["requestBody"] = {
            "required": True,
            "content": {content_type: {"schema": schema, "example": example}},
        }
    content: dict[str, Any] = {} if answer is None else {JSON: {"example": answer}}
    if streams:
        content[EVENTS] = {"schema": {"type": "string"}}
    error = {"description": "An error", "content": {JSON: {"schema": {"$ref": f"{SCHEMAS}Error"}}}}
    operation["responses"] = (
        {400: error} if refuses else {200: {"description": "OK", "content": content}, "default": error}
    )
    return operation


@cache
def document(api: NinjaAPI) -> bytes:
    """The whole description as JSON; made when somebody first asks for it."""
    found: dict[str, Any] = dict(api.get_openapi_schema(path_prefix="/"))
    operations = [each for path in found["paths"].values() for each in path.values()]
    bodies = list(dict.fromkeys(each for operation in operations for each in _structs(operation)))
    references, schemas = msgspec.json.schema_components(bodies, ref_template=SCHEMAS + "{name}")
    schema_of = dict(zip(bodies, references, strict=True))
    for operation in operations:
        # It holds what a route was declared with, which stays as it is.
        if "requestBody" in operation:
            operation["requestBody"] = _with_schemas(operation["requestBody"], schema_of)
        if 400 in operation["responses"]:
            # Nothing else is ever answered, though Ninja says so.
            del operation["responses"][200]
    found["info"]["description"] = ABOUT
    found["servers"] = [{"url": "/v1"}]
    found["components"] = {
        "schemas": {**schemas, "Error": ERROR},
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        },
    }
    return msgspec.json.encode(found)


def _structs(operation: dict[str, Any]) -> Iterator[type[msgspec.Struct]]:
    for media in operation.get("requestBody", {}).get("content", {}).values():
        if isinstance(media["schema"], type):
            yield media["schema"]


def _with_schemas(body: dict[str, Any], schema_of: dict[Any, Any]) -> dict[str, Any]:
    content = {
        kind: {**media, "schema": schema_of[media["schema"]]} if isinstance(media["schema"], type) else media
        for kind, media in body["content"].items()
    }
    return {**body, "content": content}
