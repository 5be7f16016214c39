"""/files: what a client uploads once and names by its id in chat, responses, messages and images."""

from __future__ import annotations

from typing import Literal

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router

from relay.api.answers import file_response, json_response
from relay.api.forms import MULTIPART, read_form
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.errors import BadRequest
from relay.wire import openai_files
from relay.wire.listing import check_limit

router = Router()
MOST_LISTED = 10_000
FILE = {
    "id": "file-1f0c",
    "object": "file",
    "bytes": 120_000,
    "created_at": 1764288000,
    "expires_at": 1766880000,
    "filename": "report.pdf",
    "purpose": "user_data",
    "status": "processed",
}


@router.post(
    "/files",
    url_name="files",
    openapi_extra=described(
        "Upload a file, to be named by its id in a message",
        content_type=MULTIPART,
        example={"file": "(the file)", "purpose": "user_data"},
        answer=FILE,
    ),
)
async def upload(request: ApiRequest) -> HttpResponse:
    caller = await request.relay.caller(asking(request, openai_files.NAME))
    request.relay.files.check_kept()
    if request.content_type != MULTIPART:
        raise BadRequest("Send a form (multipart/form-data) with `file` and `purpose`.", code="invalid_form")
    asked = openai_files.parse_form(*await read_form(request, "file"))
    kept = await request.relay.files.keep(caller.token_id, asked.file, asked.purpose, asked.lifetime)
    return json_response(openai_files.described(kept))


@router.get(
    "/files",
    openapi_extra=described(
        "List the files of this access token",
        answer={
            "object": "list",
            "data": [FILE],
            "first_id": "file-1f0c",
            "last_id": "file-1f0c",
            "has_more": False,
        },
    ),
)
async def listed(
    request: ApiRequest,
    limit: int = MOST_LISTED,
    order: Literal["asc", "desc"] = "desc",
    after: str = "",
    purpose: str = "",
) -> HttpResponse:
    caller = await request.relay.caller(asking(request, openai_files.NAME))
    check_limit(limit, MOST_LISTED)
    found = await request.relay.files.listed(
        caller.token_id, limit=limit, after=after, is_ascending=order == "asc", purpose=purpose
    )
    return json_response(openai_files.page(found, limit))


@router.get("/files/{file_id}", url_name="file", openapi_extra=described("Look up a file", answer=FILE))
async def retrieve(request: ApiRequest, file_id: str) -> HttpResponse:
    caller = await request.relay.caller(asking(request, openai_files.NAME))
    return json_response(openai_files.described(await request.relay.files.find(caller.token_id, file_id)))


@router.delete(
    "/files/{file_id}",
    openapi_extra=described("Remove a file", answer={"id": "file-1f0c", "object": "file", "deleted": True}),
)
async def delete(request: ApiRequest, file_id: str) -> HttpResponse:
    caller = await request.relay.caller(asking(request, openai_files.NAME))
    await request.relay.files.remove(caller.token_id, file_id)
    return json_response(openai_files.deleted(file_id))


@router.get(
    "/files/{file_id}/content",
    url_name="file-content",
    openapi_extra=described("Download a file: the answer is the file itself"),
)
async def content(request: ApiRequest, file_id: str) -> StreamingHttpResponse:
    caller = await request.relay.caller(asking(request, openai_files.NAME))
    kept = await request.relay.files.find(caller.token_id, file_id)
    return await file_response(kept, request.relay.files.pieces(kept))
