"""POST /images/generations and /images/edits: as many questions at once as pictures are wanted, each with a record of its own."""

from __future__ import annotations

import asyncio

from django.http import HttpResponse
from ninja import Router

from relay.answering import Answer
from relay.api.answers import json_response, parsed, told_of
from relay.api.forms import MULTIPART, read_form
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.directory import Caller
from relay.errors import BadRequest, RelayError, UserError
from relay.visit import Asking
from relay.wire import openai_images
from relay.wire.openai_images import Asked

router = Router()
ANSWER = {"created": 1764288000, "data": [{"url": "https://pfst.cf2.poecdn.net/base/image/1f0c"}]}
GENERATIONS = described(
    "Paint pictures",
    body=openai_images.GenerationBody,
    example={"model": "flux-2-pro", "prompt": "A lighthouse at dusk", "n": 1},
    answer=ANSWER,
)
EDITS = described(
    "Paint pictures from others: JSON with `images`, or a form with `image` or `image[]` and perhaps `mask`",
    body=openai_images.EditBody,
    example={
        "model": "nano-banana",
        "prompt": "The same at night",
        "images": [{"image_url": "https://example.org/lighthouse.png"}],
    },
    answer=ANSWER,
)


@router.post("/images/generations", url_name="images-generations", openapi_extra=GENERATIONS)
async def generations(request: ApiRequest) -> HttpResponse:
    who = asking(request, openai_images.NAME)
    caller = await request.relay.caller(who)
    return await _painted(request, who, caller, await parsed(openai_images.parse, request.body))


@router.post("/images/edits", url_name="images-edits", openapi_extra=EDITS)
async def edits(request: ApiRequest) -> HttpResponse:
    who = asking(request, openai_images.NAME)
    caller = await request.relay.caller(who)
    if request.content_type == MULTIPART:
        fields, files = await read_form(request, "image", "image[]", "mask")
        asked = openai_images.parse_form(fields, tuple(files))
    else:
        asked = await parsed(openai_images.parse_edit, request.body)
    return await _painted(request, who, caller, asked)


@router.post(
    "/images/variations",
    url_name="images-variations",
    openapi_extra=described("Refused: Poe has nothing of the kind", refuses=True),
)
async def variations(request: ApiRequest) -> HttpResponse:
    await request.relay.caller(asking(request, openai_images.NAME))
    raise BadRequest(
        "Poe has no variations: use /v1/images/edits with a prompt that says what is to change.",
        code="unsupported_by_poe",
    )


async def _painted(request: ApiRequest, who: Asking, caller: Caller, asked: Asked) -> HttpResponse:
    """What could be painted; if nothing could, why the first one could not."""

    async def paint() -> tuple[Answer, list[str] | list[bytes]]:
        answer = await request.relay.ask(who, caller, asked.chat)
        urls = openai_images.pictures(await answer.whole())
        if not urls:
            raise UserError(
                f"The model {asked.chat.model!r} answered in words and made no picture. Is it one that does?",
                code="no_picture",
                param="model",
            )
        if not asked.wants_bytes:
            return answer, urls
        return answer, [await request.relay.download(url, answer) for url in urls]

    made = await asyncio.gather(*(paint() for _ in range(asked.n)), return_exceptions=True)
    good = [each for each in made if not isinstance(each, BaseException)]
    if not good:
        raise _worst(made)
    response = json_response(openai_images.collect([each for _answer, found in good for each in found]))
    return told_of(response, good[0][0])


def _worst(made: list[tuple[Answer, list[str] | list[bytes]] | BaseException]) -> BaseException:
    """A bug rather than a refusal: nobody is to take it for one."""
    failures = [each for each in made if isinstance(each, BaseException)]
    return next((each for each in failures if not isinstance(each, RelayError)), failures[0])
