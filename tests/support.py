"""docs/support.md: what becomes of each parameter, found by asking each wire format's own `parse`.

`python -m tests.support` writes the page; tests/wire/test_support.py holds it. The parameters are those of the official SDKs:
a release of theirs that has a new one fails the test until a value to try it with stands here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from anthropic.types.beta import message_create_params as beta_messages
from anthropic.types.message_create_params import MessageCreateParamsBase
from openai.types.audio.speech_create_params import SpeechCreateParams
from openai.types.audio.transcription_create_params import TranscriptionCreateParamsBase
from openai.types.audio.translation_create_params import TranslationCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.completion_create_params import CompletionCreateParamsBase as LegacyParamsBase
from openai.types.image_edit_params import ImageEditParamsBase
from openai.types.image_generate_params import ImageGenerateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from openai.types.video_create_params import VideoCreateParams

from relay.errors import BadRequest
from relay.events import ChatRequest
from relay.wire import (
    anthropic_request,
    chat_request,
    openai_audio,
    openai_completions,
    openai_images,
    openai_responses,
    openai_videos,
)
from tests.fuzz.bodies import PARSES

PAGE = Path(__file__).parent.parent / "docs" / "support.md"

FORWARDED, EMULATED, ANSWERED = "forwarded", "held by the relay", "answered by the relay"
RARE, IGNORED, SILENT, REFUSED = "if the bot declares it", "ignored, and told so", "accepted", "refused"
MEANINGS = {
    FORWARDED: "the bot is sent it",
    EMULATED: "the relay sees to it, whether the bot can or not",
    ANSWERED: "it is about how the relay answers, and honoured",
    RARE: "sent to a bot that declares it in Poe's catalogue (or of which nothing is known); else named in `x-poe-relay-ignored`",
    IGNORED: "without effect, and named in `x-poe-relay-ignored`",
    SILENT: "without effect: nothing is lacking in the answer",
    REFUSED: "400 that says why, before anything is asked or counted",
}
# What of a ChatRequest the relay itself holds an answer to, and what says how it is to answer.
HELD = {"max_tokens", "stop", "tool_choice", "parallel_tool_calls", "response_format"}
# Without these it means nothing.
BESIDE = {"tool_choice": ("tools",), "function_call": ("functions",), "stream_options": ("stream",)}
OF_THE_ANSWER = {"stream", "include_usage", "shows_images", "model"}

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Wire:
    route: str
    parse: Callable[[bytes], Any]
    # The least that can be asked, and what each parameter is tried with.
    least: Mapping[str, Any]
    tried: Mapping[str, Any]
    # What the official SDK knows.
    known: frozenset[str]


CHAT = Wire(
    "POST /v1/chat/completions",
    chat_request.parse,
    {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    {
        "audio": {"voice": "alloy", "format": "mp3"},
        "frequency_penalty": 0.5,
        "function_call": {"name": "f"},
        "functions": [{"name": "f", "parameters": SCHEMA}],
        "logit_bias": {"50256": -100},
        "logprobs": True,
        "max_completion_tokens": 10,
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "Ho"}],
        "metadata": {"a": "b"},
        "modalities": ["image", "text"],
        "model": "n",
        "moderation": {"model": "m"},
        "n": 2,
        "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "x"},
        "presence_penalty": 0.5,
        "prompt_cache_key": "k",
        "prompt_cache_options": {"ttl": "1h"},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "safety_identifier": "x",
        "seed": 1,
        "service_tier": "flex",
        "stop": ["END"],
        "store": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "tool_choice": "required",
        "tools": [TOOL],
        "top_logprobs": 2,
        "top_p": 0.5,
        "user": "u",
        "verbosity": "low",
        "web_search_options": {},
    },
    frozenset({*CompletionCreateParamsBase.__annotations__, "stream"}),
)
RESPONSES = Wire(
    "POST /v1/responses",
    openai_responses.parse,
    {"model": "m", "input": "Hi"},
    {
        "access_programs": ["x"],
        "background": True,
        "background_options": {"a": 1},
        "context_management": [{"type": "compaction"}],
        "conversation": "conv_1",
        "image": {"a": 1},
        "include": ["reasoning.encrypted_content"],
        "input": "Ho",
        "instructions": "Be brief",
        "max_output_tokens": 10,
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "model": "n",
        "moderation": {"model": "m"},
        "parallel_tool_calls": False,
        "previous_response_id": "resp_1",
        "prompt": {"id": "p"},
        "prompt_cache_key": "k",
        "prompt_cache_options": {"ttl": "1h"},
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low"},
        "safety_identifier": "x",
        "service_tier": "flex",
        "store": False,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}},
        "tool_choice": "required",
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
        "top_logprobs": 2,
        "top_p": 0.5,
        "truncation": "auto",
        "user": "u",
    },
    frozenset({*ResponseCreateParamsBase.__annotations__, "stream"}),
)
MESSAGES = Wire(
    "POST /v1/messages",
    anthropic_request.parse,
    {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]},
    {
        "billing_policy": "x",
        "cache_control": {"type": "ephemeral"},
        "compaction": {"type": "x"},
        "container": "c",
        "context_management": {"edits": []},
        "diagnostics": {"a": 1},
        "fallback_credit_token": "x",
        "fallbacks": ["x"],
        "inference_geo": "us",
        "max_tokens": 10,
        "mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "x"}],
        "messages": [{"role": "user", "content": "Ho"}],
        "metadata": {"user_id": "u"},
        "model": "n",
        "output_config": {"effort": "low"},
        "service_tier": "auto",
        "speed": "fast",
        "stop_sequences": ["END"],
        "stream": True,
        "system": "Be brief",
        "temperature": 0.5,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "thread": {"id": "x"},
        "tool_choice": {"type": "any"},
        "tools": [{"name": "f", "input_schema": SCHEMA}],
        "top_k": 5,
        "top_p": 0.5,
        "user_profile_id": "x",
        "workspace_id": "x",
    },
    frozenset(
        {
            *MessageCreateParamsBase.__annotations__,
            *beta_messages.MessageCreateParamsBase.__annotations__,
            "stream",
        }
        - {"betas"}  # a header
    ),
)
COMPLETIONS = Wire(
    "POST /v1/completions",
    openai_completions.parse,
    {"model": "m", "prompt": "Hi"},
    {
        "best_of": 2,
        "echo": True,
        "frequency_penalty": 0.5,
        "logit_bias": {"50256": -100},
        "logprobs": 2,
        "max_tokens": 10,
        "model": "n",
        "n": 2,
        "presence_penalty": 0.5,
        "prompt": "Ho",
        "seed": 1,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "suffix": "x",
        "temperature": 0.5,
        "top_p": 0.5,
        "user": "u",
    },
    frozenset({*LegacyParamsBase.__annotations__, "stream"}),
)
IMAGES = Wire(
    "POST /v1/images/generations",
    openai_images.parse,
    {"model": "m", "prompt": "Hi"},
    {
        "background": "transparent",
        "model": "n",
        "moderation": "low",
        "n": 2,
        "output_compression": 50,
        "output_format": "webp",
        "partial_images": 2,
        "prompt": "Ho",
        "quality": "high",
        "response_format": "b64_json",
        "size": "1024x1024",
        "stream": True,
        "style": "vivid",
        "complexity": "low",
        "safety_identifier": "x",
        "frame_count": 4,
        "frame_duration_ms": 100,
        "svg": True,
        "user": "u",
    },
    frozenset({*ImageGenerateParamsBase.__annotations__, "stream"}),
)
EDITS = Wire(
    "POST /v1/images/edits",
    PARSES["openai-images-edits-form"].read,
    {"model": "m", "prompt": "Hi", "image": "a.png"},
    {
        "background": "transparent",
        "complexity": "low",
        "frame_count": 4,
        "frame_duration_ms": 100,
        "image": "b.png",
        "input_fidelity": "high",
        "markup": "x",
        "mask": "mask.png",
        "model": "n",
        "n": 2,
        "output_compression": 50,
        "output_format": "webp",
        "partial_images": 2,
        "prompt": "Ho",
        "quality": "high",
        "response_format": "b64_json",
        "safety_identifier": "x",
        "size": "1024x1024",
        "stream": True,
        "svg": True,
        "user": "u",
    },
    frozenset({*ImageEditParamsBase.__annotations__, "stream"}),
)
SPEECH = Wire(
    "POST /v1/audio/speech",
    openai_audio.parse_speech,
    {"model": "m", "input": "Hi"},
    {
        "input": "Ho",
        "instructions": "Cheerfully",
        "model": "n",
        "response_format": "wav",
        "speed": 1.5,
        "stream_format": "sse",
        "voice": "alloy",
    },
    frozenset(SpeechCreateParams.__annotations__),
)
TRANSCRIPTIONS = Wire(
    "POST /v1/audio/transcriptions",
    PARSES["openai-audio-transcriptions"].read,
    {"model": "m", "file": "a.mp3"},
    {
        "chunking_strategy": "auto",
        "file": "b.mp3",
        "include": ["logprobs"],
        "keywords": ["Erwin"],
        "known_speaker_names": ["agent"],
        "known_speaker_references": ["data:audio/wav;base64,aGk="],
        "language": "de",
        "languages": ["de", "en"],
        "model": "n",
        "prompt": "Erwin is a cat",
        "response_format": "verbose_json",
        "stream": True,
        "temperature": 0.5,
        "timestamp_granularities": ["word"],
    },
    frozenset({*TranscriptionCreateParamsBase.__annotations__, "stream"}),
)
TRANSLATIONS = Wire(
    "POST /v1/audio/translations",
    PARSES["openai-audio-translations"].read,
    {"model": "m", "file": "a.mp3"},
    {
        "file": "b.mp3",
        "model": "n",
        "prompt": "Erwin is a cat",
        "response_format": "verbose_json",
        "temperature": 0.5,
    },
    frozenset(TranslationCreateParams.__annotations__),
)
VIDEOS = Wire(
    "POST /v1/videos",
    lambda raw: openai_videos.parse(raw)[0],
    {"model": "m", "prompt": "Hi"},
    {
        "input_reference": {"image_url": "https://example.org/a.png"},
        "model": "n",
        "prompt": "Ho",
        "seconds": "8",
        "size": "1280x720",
    },
    frozenset(VideoCreateParams.__annotations__),
)
WIRES = (
    CHAT,
    RESPONSES,
    MESSAGES,
    COMPLETIONS,
    IMAGES,
    EDITS,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    VIDEOS,
)


def verdict(wire: Wire, name: str) -> str:
    """What becomes of the value that this parameter is tried with."""
    least = {**wire.least, **{other: wire.tried[other] for other in BESIDE.get(name, ())}}
    before = wire.parse(msgspec.json.encode(least))
    try:
        after = wire.parse(msgspec.json.encode({**least, name: wire.tried[name]}))
    except BadRequest:
        return REFUSED
    chat = _chat(after)
    if name in chat.rare and name in chat.ignored:
        return RARE
    if name in chat.ignored:
        return IGNORED
    changed = _changed(_chat(before), chat)
    if changed & {"messages", "tools", "temperature", "logit_bias"}:
        return FORWARDED
    if "parameters" in changed:
        return RARE
    if changed & HELD:
        return EMULATED
    return ANSWERED if changed & OF_THE_ANSWER or before != after else SILENT


def _chat(parsed: Any) -> ChatRequest:
    chat = parsed if isinstance(parsed, ChatRequest) else parsed.chat
    assert isinstance(chat, ChatRequest)
    return chat


def _changed(before: ChatRequest, after: ChatRequest) -> set[str]:
    names = ChatRequest.__struct_fields__
    return {name for name in names if getattr(before, name) != getattr(after, name)}


def page() -> str:
    lines = [
        "# What becomes of each parameter",
        "",
        "Written by `python -m tests.support`: each parameter of the official SDKs was given to the relay. Do not edit.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {meaning} |" for name, meaning in MEANINGS.items()),
        "",
        "Whatever else a body holds is taken for a parameter of the bot's own, and treated as *if the bot declares it*.",
    ]
    for wire in WIRES:
        lines += ["", f"## {wire.route}", "", "| parameter | |", "|---|---|"]
        lines += [f"| `{name}` | {verdict(wire, name)} |" for name in sorted(wire.tried)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE} is written", file=sys.stderr)
