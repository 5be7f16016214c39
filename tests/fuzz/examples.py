"""What clients really send, for every wire format, with as many of its parameters as there are: to be spoiled."""

from __future__ import annotations

from typing import Any

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
MODEL = "demo-echo"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "$defs": {"City": {"type": "string", "enum": ["Paris", "Rome"]}},
    "additionalProperties": False,
}

CHAT: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello there"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 1,
        "max_tokens": 50,
        "stop": ["END"],
        "logit_bias": {"50256": -100},
        "seed": 7,
        "user": "u-1",
        "metadata": {"a": "b"},
        "store": False,
        "n": 1,
    },
    {
        "model": "demo-tools",
        "messages": [
            {"role": "user", "content": "Weather in Paris?", "name": "bob"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "The weather",
                    "parameters": SCHEMA,
                    "strict": True,
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": True,
    },
    {
        "model": MODEL,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    {
                        "type": "file",
                        "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
                    },
                    {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
                ],
            }
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
        },
        "reasoning_effort": "low",
        "max_completion_tokens": 100,
        "logprobs": False,
        "extra_body": {"delay": 0},
    },
)


RESPONSES: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "input": "Hello there",
        "instructions": "Be brief.",
        "stream": True,
        "store": True,
        "temperature": 0.5,
        "top_p": 1,
        "max_output_tokens": 50,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "include": ["reasoning.encrypted_content"],
        "truncation": "disabled",
        "metadata": {"a": "b"},
        "user": "u-1",
    },
    {
        "model": "demo-tools",
        "input": [
            {"type": "message", "role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
                    {"type": "input_file", "filename": "a.txt", "file_data": "aGVsbG8="},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c1",
                "output": [{"type": "input_text", "text": "sunny"}],
            },
        ],
        "tools": [
            {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": True},
            {"type": "web_search"},
            {"type": "namespace", "name": "mcp__x", "tools": [{"type": "function", "name": "go"}]},
        ],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "go"}],
        },
        "parallel_tool_calls": False,
        "store": False,
    },
)

MESSAGES: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "Hello there"}],
        "stream": True,
        "temperature": 0.5,
        "top_k": 5,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u-1"},
        "thinking": {"type": "enabled", "budget_tokens": 2048, "display": "summarized"},
    },
    {
        "model": "demo-tools",
        "max_tokens": 50,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                    },
                    {
                        "type": "document",
                        "title": "a.txt",
                        "source": {"type": "text", "media_type": "text/plain", "data": "hello"},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": [{"type": "text", "text": "sunny"}],
                        "is_error": False,
                    }
                ],
            },
        ],
        "tools": [{"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    },
)

COMPLETIONS: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "prompt": "Hello there",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 1,
        "stop": ["END", "\n\n"],
        "logit_bias": {"50256": -100},
        "seed": 7,
        "user": "u-1",
    },
    {
        "model": MODEL,
        "prompt": ["Hello there"],
        "n": 1,
        "best_of": 1,
        "echo": True,
        "suffix": "",
        "logprobs": None,
        "frequency_penalty": 0,
        "presence_penalty": 0,
    },
)

# A bot that paints takes its time, and hundreds of pictures are no better a test than hundreds of refusals.
IMAGES: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "prompt": "A lighthouse",
        "n": 2,
        "size": "1024x1024",
        "quality": "auto",
        "background": "transparent",
        "moderation": "low",
        "response_format": "b64_json",
        "stream": False,
        "user": "u-1",
    },
    {"model": MODEL, "prompt": "A lighthouse", "response_format": "url", "aspect": "16:9"},
)

EDITS: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "prompt": "The same at night",
        "images": [
            {"image_url": f"data:image/png;base64,{PIXEL}"},
            {"image_url": "https://example.org/a.png"},
        ],
        "mask": {"image_url": f"data:image/png;base64,{PIXEL}"},
        "n": 1,
        "input_fidelity": "high",
        "size": "auto",
    },
)

SPEECH: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "input": "Good morning",
        "voice": "alloy",
        "instructions": "Cheerfully",
        "response_format": "mp3",
        "speed": 1.25,
        "stream_format": "audio",
    },
    {"model": MODEL, "input": "Good morning", "voice": {"id": "voice_1"}},
)

VIDEOS: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "prompt": "A lighthouse",
        "seconds": "8",
        "size": "1280x720",
        "input_reference": {"image_url": f"data:image/png;base64,{PIXEL}"},
    },
    {"model": MODEL, "prompt": "A lighthouse", "seconds": 4, "input_reference": {"file_id": "file-abc"}},
)

# Forms: each field is told as text, and what is called like a file of the form is one.

EDIT_FORMS: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "prompt": "The same at night",
        "image": "a.png",
        "mask": "mask.png",
        "n": 2,
        "size": "1024x1024",
        "response_format": "b64_json",
        "stream": False,
        "user": "u-1",
    },
    {"model": MODEL, "prompt": "The same at night", "image[]": "a.png", "quality": "high"},
)

RECORDINGS: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "file": "a.mp3",
        "language": "de",
        "prompt": "Erwin is a cat",
        "response_format": "verbose_json",
        "temperature": 0,
        "stream": False,
        "timestamp_granularities[]": "word",
    },
    {"model": MODEL, "file": "a.wav", "response_format": "text"},
)

VIDEO_FORMS: tuple[dict[str, Any], ...] = (
    {
        "model": MODEL,
        "prompt": "A lighthouse",
        "seconds": "8",
        "size": "1280x720",
        "input_reference": "a.png",
    },
    {
        "model": MODEL,
        "prompt": "A lighthouse",
        "input_reference[image_url]": "https://example.org/a.png",
        "input_reference[file_id]": "file-abc",
    },
)

UPLOADS: tuple[dict[str, Any], ...] = (
    {
        "file": "a.pdf",
        "purpose": "user_data",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    },
    {"file": "a.png", "purpose": "vision"},
)
