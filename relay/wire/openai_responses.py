"""OpenAI's responses: body -> ChatRequest and what is told back of it. Its items and its answers have modules of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, structs

from relay.errors import BadRequest
from relay.events import ChatRequest, Message, ResponseFormat
from relay.wire import responses_tools
from relay.wire.body import check_count, convert, decode, model_name
from relay.wire.responses_items import Conversation, Item, Reference, read, references
from relay.wire.responses_tools import Tool, Tools

NAME = "openai-responses"


class Format(Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(Struct):
    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesBody(Struct):
    model: str
    input: str | list[dict[str, Any]]
    stream: bool | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    background: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    extra_body: dict[str, Any] | UnsetType | None = UNSET


# Sent to a bot that declares them, else named in `x-poe-relay-ignored`.
RARE = frozenset({"frequency_penalty", "presence_penalty", "service_tier", "top_p"})
# Accepted in silence: they ask for nothing that the answer could lack.
SILENT = frozenset(
    {
        "background_options",
        "client_metadata",
        "include",
        "max_tool_calls",
        "prompt_cache_options",
        "prompt_cache_retention",
        "stream_options",
    }
)
# Asked for and not to be had: told in `x-poe-relay-ignored`.
IGNORED = frozenset({"access_programs", "context_management", "image", "moderation"})
# What a client builds upon and nobody here can give.
REFUSED = {
    "background": "The relay answers while you wait: `background` must be false.",
    "conversation": "The relay keeps no conversations: send `previous_response_id`, or the earlier items as `input`.",
    "prompt": "The relay has no stored prompts: send `instructions` and `input`.",
}
KNOWN = SILENT | IGNORED | frozenset(ResponsesBody.__struct_fields__) | frozenset(REFUSED)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, with what its response says of it again and what is kept of it."""

    chat: ChatRequest
    items: tuple[Item, ...] = field(repr=False)
    # The same as the client wrote them.
    written: tuple[dict[str, Any], ...] = field(repr=False)
    instructions: str | None
    previous_response_id: str | None
    # Items that the client only names: they must be kept here.
    references: tuple[str, ...]
    store: bool
    # Fields of the response.
    told: dict[str, Any] = field(repr=False)
    # Two names for the one by which the bot knows a tool.
    grouped: dict[str, tuple[str, str]] = field(default_factory=dict)


def parse(raw: bytes) -> Asked:
    """The request in this body, or BadRequest naming the parameter. What it refers to is filled in by `continued`."""
    body = decode(raw)
    asked = convert(body, ResponsesBody)
    _refuse(body, asked)
    model = model_name(asked.model)
    written = _written(asked.input)
    items = read(written)
    functions, grouped, without = responses_tools.functions(body.get("tools") or [])
    choice, tools = responses_tools.choice(asked.tool_choice, functions)
    parameters, rare, ignored = _parameters(body, asked)
    named = references(items)
    chat = ChatRequest(
        model=model,
        messages=() if named else _messages(asked.instructions, items),
        stream=bool(asked.stream),
        max_tokens=_max_tokens(asked.max_output_tokens),
        temperature=_temperature(asked.temperature),
        logit_bias=asked.logit_bias or {},
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        response_format=_response_format(asked.text),
        parameters=parameters,
        rare=rare,
        ignored=tuple(sorted({*ignored, *without})),
    )
    return Asked(
        chat=chat,
        items=tuple(items),
        written=tuple(written),
        instructions=asked.instructions,
        previous_response_id=asked.previous_response_id or None,
        references=named,
        store=asked.store is not False,
        told=_told(asked, functions),
        grouped=grouped,
    )


def continued(asked: Asked, before: list[dict[str, Any]], kept: Mapping[str, dict[str, Any]]) -> Asked:
    """The same request after these items, and with the items that it only names."""
    earlier = read(before) if before else []
    check_count("input", len(earlier) + len(asked.items))
    messages = _messages(asked.instructions, asked.items, earlier, kept)
    written = tuple(
        kept[item.id] if isinstance(item, Reference) else as_written
        for item, as_written in zip(asked.items, asked.written, strict=True)
    )
    return replace(asked, chat=structs.replace(asked.chat, messages=messages), written=written)


def without_store(asked: Asked) -> Asked:
    """The same request, whose answer is not kept though the client wants it: it is told."""
    ignored = tuple(sorted({*asked.chat.ignored, "store"}))
    return replace(asked, store=False, chat=structs.replace(asked.chat, ignored=ignored))


def _messages(
    instructions: str | None,
    items: list[Item] | tuple[Item, ...],
    earlier: list[Item] | tuple[Item, ...] = (),
    kept: Mapping[str, dict[str, Any]] | None = None,
) -> tuple[Message, ...]:
    conversation = Conversation(instructions, kept or {})
    for item in earlier:
        conversation.add(item, "previous_response_id")
    for i, item in enumerate(items):
        conversation.add(item, f"input[{i}]")
    messages = conversation.end()
    if not messages:
        raise BadRequest("`input` holds nothing that a bot could be told.", param="input")
    return messages


def _refuse(body: dict[str, Any], asked: ResponsesBody) -> None:
    for name, why in REFUSED.items():
        if body.get(name):
            raise BadRequest(why, code="unsupported_parameter", param=name)
    if asked.top_logprobs or "message.output_text.logprobs" in (asked.include or ()):
        raise BadRequest(
            "Poe's bots tell no log probabilities.", code="unsupported_parameter", param="top_logprobs"
        )


def _written(said: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(said, str):
        return [{"type": "message", "role": "user", "content": said}]
    check_count("input", len(said))
    return said


def _parameters(
    body: dict[str, Any], asked: ResponsesBody
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The bot's parameters by name, those that hardly a bot takes, and the names of what is not honoured."""
    extra = {name: value for name, value in body.items() if name not in KNOWN and value is not None}
    if asked.top_p is not None:
        extra["top_p"] = asked.top_p
    rare = {name: value for name, value in extra.items() if name in RARE}
    parameters = {name: value for name, value in extra.items() if name not in rare}
    ignored = {*rare, *(name for name in IGNORED if body.get(name) is not None)}
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        parameters["reasoning_effort"] = asked.reasoning.effort
    if asked.text is not None and asked.text.verbosity is not None:
        rare["verbosity"] = asked.text.verbosity
        ignored.add("verbosity")
    if asked.truncation == "auto":
        ignored.add("truncation")
    if isinstance(asked.extra_body, dict):
        parameters |= asked.extra_body
    return parameters, rare, tuple(ignored)


def _max_tokens(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise BadRequest("`max_output_tokens` must be at least 1.", param="max_output_tokens")
    return value


def _temperature(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 2:
        raise BadRequest("`temperature` must be between 0 and 2.", param="temperature")
    return value


def _response_format(text: TextOptions | None) -> ResponseFormat | None:
    wanted = text.format if text is not None else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ResponseFormat()
    if wanted.schema is None:
        raise BadRequest(
            "Missing required parameter: `text.format.schema`.",
            code="missing_required_parameter",
            param="text.format.schema",
        )
    return ResponseFormat(wanted.schema, wanted.name, bool(wanted.strict))


# What a response says again.


def _told(asked: ResponsesBody, functions: Tools) -> dict[str, Any]:
    text, reasoning = asked.text or TextOptions(), asked.reasoning or ReasoningOptions()
    return {
        "background": False,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": None,
        "model": asked.model.strip(),
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id or None,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": asked.safety_identifier,
        "service_tier": "default",
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "text": {"format": _told_format(text.format), "verbosity": text.verbosity or "medium"},
        "tool_choice": responses_tools.told_choice(asked.tool_choice),
        "tools": [
            {"type": "function", "description": None, "parameters": None, "strict": None, **tool["function"]}
            for tool in functions
        ],
        "top_logprobs": 0,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "truncation": asked.truncation or "disabled",
        "user": asked.user,
        "metadata": asked.metadata or {},
    }


def _told_format(wanted: Format | None) -> dict[str, Any]:
    if wanted is None or wanted.type != "json_schema":
        return {"type": "text" if wanted is None else wanted.type}
    return {
        "type": "json_schema",
        "name": wanted.name,
        "description": wanted.description,
        "schema": wanted.schema,
        "strict": bool(wanted.strict),
    }
