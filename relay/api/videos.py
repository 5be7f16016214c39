"""/videos: asked for, looked after until they are there, and downloaded."""

from __future__ import annotations

from typing import Literal

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router

from relay.api.answers import file_response, json_response, parsed
from relay.api.forms import MULTIPART, read_form
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.errors import BadRequest
from relay.wire import openai_videos
from relay.wire.listing import check_limit

router = Router()
VIDEO = {
    "id": "video_1f0c",
    "object": "video",
    "model": "veo-4",
    "status": "queued",
    "progress": 0,
    "created_at": 1764288000,
    "completed_at": None,
    "expires_at": 1766880000,
    "prompt": "A lighthouse at dusk",
    "seconds": "8",
    "size": "1280x720",
    "remixed_from_video_id": None,
    "error": None,
}
REFUSED = described("Refused: Poe has nothing of the kind", refuses=True)


@router.post(
    "/videos",
    url_name="videos",
    openapi_extra=described(
        "Have a video made: JSON, or a form with the picture that it begins with as `input_reference`",
        body=openai_videos.VideoBody,
        example={"model": "veo-4", "prompt": "A lighthouse at dusk", "seconds": "8", "size": "1280x720"},
        answer=VIDEO,
    ),
)
async def create(request: ApiRequest) -> HttpResponse:
    who = asking(request, openai_videos.NAME)
    caller = await request.relay.caller(who)
    if request.content_type == MULTIPART:
        asked, picture = openai_videos.parse_form(*await read_form(request, openai_videos.REFERENCE))
    else:
        asked, picture = await parsed(openai_videos.parse, request.body)
    job = await request.relay.videos.create(who, caller.token_id, asked, picture)
    return json_response(openai_videos.described(job))


@router.get(
    "/videos",
    openapi_extra=described(
        "List the videos of this access token",
        answer={
            "object": "list",
            "data": [VIDEO],
            "first_id": "video_1f0c",
            "last_id": "video_1f0c",
            "has_more": False,
        },
    ),
)
async def listed(
    request: ApiRequest, limit: int = 20, order: Literal["asc", "desc"] = "desc", after: str = ""
) -> HttpResponse:
    caller = await request.relay.caller(asking(request, openai_videos.NAME))
    check_limit(limit, 100)
    found = await request.relay.videos.listed(
        caller.token_id, limit=limit, after=after, is_ascending=order == "asc"
    )
    return json_response(openai_videos.page(found, limit))


@router.get(
    "/videos/{video_id}", url_name="video", openapi_extra=described("See how far a video is", answer=VIDEO)
)
async def retrieve(request: ApiRequest, video_id: str) -> HttpResponse:
    caller = await request.relay.caller(asking(request, openai_videos.NAME))
    return json_response(openai_videos.described(await request.relay.videos.find(caller.token_id, video_id)))


@router.delete(
    "/videos/{video_id}",
    openapi_extra=described(
        "Remove a video, or stop making it",
        answer={"id": "video_1f0c", "object": "video.deleted", "deleted": True},
    ),
)
async def delete(request: ApiRequest, video_id: str) -> HttpResponse:
    caller = await request.relay.caller(asking(request, openai_videos.NAME))
    await request.relay.videos.remove(caller.token_id, video_id)
    return json_response(openai_videos.deleted(video_id))


@router.get(
    "/videos/{video_id}/content",
    url_name="video-content",
    openapi_extra=described("Download a video: the answer is the file itself"),
)
async def content(
    request: ApiRequest, video_id: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
) -> StreamingHttpResponse:
    caller = await request.relay.caller(asking(request, openai_videos.NAME))
    if variant != "video":
        raise BadRequest(f"No Poe bot makes a {variant}.", code="unsupported_by_poe", param="variant")
    kept = await request.relay.videos.output(caller.token_id, video_id)
    return await file_response(kept, request.relay.files.pieces(kept))


@router.post("/videos/{video_id}/remix", url_name="video-remix", openapi_extra=REFUSED)
async def remix(request: ApiRequest, video_id: str) -> HttpResponse:
    await request.relay.caller(asking(request, openai_videos.NAME))
    raise BadRequest(
        "Poe has no remixes: ask for a new video with a prompt that says what is to change.",
        code="unsupported_by_poe",
    )
