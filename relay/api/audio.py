"""POST /audio/speech, /audio/transcriptions and /audio/translations, by bots that speak or listen."""

from __future__ import annotations

from functools import partial

from django.http import HttpResponse
from ninja import Router

from relay.api.answers import json_response, parsed, told_of
from relay.api.forms import MULTIPART, read_form
from relay.api.openapi import described
from relay.api.request import ApiRequest, asking
from relay.errors import BadRequest, UserError
from relay.wire import openai_audio

router = Router()
SPEECH = described(
    "Speak a text: the answer is the sound file",
    body=openai_audio.SpeechBody,
    example={"model": "elevenlabs-v3", "input": "Good morning!"},
)
FORM = partial(
    described,
    content_type=MULTIPART,
    example={"model": "gemini-3.8-flash", "file": "(the recording)", "response_format": "json"},
    answer={"text": "Good morning!"},
)


@router.post("/audio/speech", url_name="audio-speech", openapi_extra=SPEECH)
async def speech(request: ApiRequest) -> HttpResponse:
    who = asking(request, openai_audio.NAME)
    caller = await request.relay.caller(who)
    chat = await parsed(openai_audio.parse_speech, request.body)
    answer = await request.relay.ask(who, caller, chat)
    sound = openai_audio.recording(await answer.whole())
    if sound is None:
        raise UserError(
            f"The model {chat.model!r} answered in words and made no sound. Is it one that speaks?",
            code="no_sound",
            param="model",
        )
    content = await request.relay.download(sound.url, answer)
    return told_of(HttpResponse(content, content_type=sound.content_type), answer)


@router.post(
    "/audio/transcriptions",
    url_name="audio-transcriptions",
    openapi_extra=FORM("Write down what a recording says"),
)
async def transcriptions(request: ApiRequest) -> HttpResponse:
    return await _written(request, translates=False)


@router.post(
    "/audio/translations",
    url_name="audio-translations",
    openapi_extra=FORM("Write down in English what a recording says"),
)
async def translations(request: ApiRequest) -> HttpResponse:
    return await _written(request, translates=True)


async def _written(request: ApiRequest, *, translates: bool) -> HttpResponse:
    who = asking(request, openai_audio.NAME)
    caller = await request.relay.caller(who)
    if request.content_type != MULTIPART:
        raise BadRequest("Send a form (multipart/form-data) with `file` and `model`.", code="invalid_form")
    fields, files = await read_form(request, "file")
    asked = openai_audio.parse_transcription(fields, files, translates=translates)
    answer = await request.relay.ask(who, caller, asked.chat)
    text = openai_audio.text_of(await answer.whole())
    if asked.form == "text":
        return told_of(HttpResponse(f"{text}\n", content_type="text/plain; charset=utf-8"), answer)
    return told_of(json_response(openai_audio.collect(text, asked, translates=translates)), answer)
