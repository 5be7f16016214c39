"""What Anthropic's Messages are asked with: body -> ChatRequest. How they answer is in `anthropic_messages.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct

from relay.errors import BadRequest
from relay.events import (
    ChatRequest,
    Message,
    Part,
    ResponseFormat,
    TextPart,
    ToolChoice,
    ToolResultPart,
)
from relay.wire.anthropic_blocks import Block, parts_of
from relay.wire.body import check_count, convert, decode, model_name

# The body, as far as it is validated in one pass. Blocks are read in `anthropic_blocks.py`.


class MessageBody(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(Struct):
    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoiceBody(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class Format(Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct):
    effort: str | None = None
    format: Format | None = None


class CountBody(Struct, kw_only=True):
    """What the counting of tokens takes, and all that a request without a length would be."""

    model: str
    messages: list[MessageBody]
    system: str | list[Block] | None = None
    stream: bool | None = None
    temperature: float | None = None
    stop_sequences: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None


class MessagesBody(CountBody, kw_only=True):
    max_tokens: int


# Anthropic's own parameters that hardly a Poe bot can be told: sent to one that declares them, else named in
# `x-poe-relay-ignored`.
RARE = frozenset(
    {
        "container",
        "context_management",
        "fallbacks",
        "inference_geo",
        "mcp_servers",
        "service_tier",
        "speed",
        "top_k",
        "top_p",
    }
)
# Accepted in silence: they ask for nothing that the answer could lack.
SILENT = frozenset({"betas", "cache_control", "diagnostics", "metadata", "user_profile_id", "workspace_id"})
KNOWN = SILENT | frozenset(MessagesBody.__struct_fields__)

# Claude Code asks so for a longer context than usual; a bot has the one that it has.
_LONG_CONTEXT = re.compile(r"\[\d+[km]\]$", re.IGNORECASE)
_HEADER_WORD = re.compile(r"\w{1,64}", re.ASCII)
# Of a budget for thinking with less than so many tokens, the effort.
_EFFORTS = ((4096, "low"), (16_384, "medium"))
MOST_EFFORT = "high"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and whether its client wants to see how the bot thinks."""

    chat: ChatRequest
    shows_thinking: bool = False


def parse(raw: bytes) -> Asked:
    """The request in this body, or BadRequest naming the parameter."""
    body = decode(raw)
    asked = convert(body, MessagesBody)
    if asked.max_tokens < 1:
        raise BadRequest("`max_tokens` must be at least 1.", param="max_tokens")
    return Asked(_chat(body, asked, asked.max_tokens), _shows_thinking(asked.thinking))


def parse_count(raw: bytes) -> ChatRequest:
    """The request whose tokens are to be counted: as above, but of any length."""
    body = decode(raw)
    return _chat(body, convert(body, CountBody), None)


def _chat(body: dict[str, Any], asked: CountBody, max_tokens: int | None) -> ChatRequest:
    check_count("messages", len(asked.messages))
    extra = {name: value for name, value in body.items() if name not in KNOWN and value is not None}
    rare = {name: value for name, value in extra.items() if name in RARE}
    parameters = {name: value for name, value in extra.items() if name not in RARE}
    if effort := _effort(asked):
        parameters["reasoning_effort"] = effort
    tools, left_out = _tools(asked.tools or [])
    choice = _tool_choice(asked.tool_choice, tools, asked.tools or [])
    return ChatRequest(
        model=model_name(_LONG_CONTEXT.sub("", asked.model.strip())),
        messages=_messages(asked),
        stream=bool(asked.stream),
        include_usage=True,
        max_tokens=max_tokens,
        temperature=_temperature(asked.temperature),
        stop=tuple(stop for stop in asked.stop_sequences or () if stop),
        tools=tools if choice.mode != "none" else (),
        tool_choice=choice,
        parallel_tool_calls=not (asked.tool_choice and asked.tool_choice.disable_parallel_tool_use),
        response_format=_response_format(asked),
        parameters=parameters,
        rare=rare,
        ignored=tuple(sorted({*rare, *left_out})),
    )


def _temperature(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise BadRequest("`temperature` must be between 0 and 1.", param="temperature")
    return value


def _shows_thinking(thinking: Thinking | None) -> bool:
    return thinking is not None and thinking.type != "disabled" and thinking.display != "omitted"


def _effort(asked: CountBody) -> str | None:
    """How much the bot is to think, in the word that OpenAI has for it; None: as it likes."""
    if asked.output_config is not None and asked.output_config.effort is not None:
        return asked.output_config.effort
    budget = asked.thinking.budget_tokens if asked.thinking and asked.thinking.type == "enabled" else None
    if budget is None:
        return None
    return next((effort for tokens, effort in _EFFORTS if budget < tokens), MOST_EFFORT)


def _response_format(asked: CountBody) -> ResponseFormat | None:
    said = (asked.output_config and asked.output_config.format) or asked.output_format
    return ResponseFormat(said.schema, strict=True) if said else None


# Tools.


def _tools(tools: list[Tool]) -> tuple[tuple[dict[str, Any], ...], set[str]]:
    """The client's own tools, and the kinds of those that only Anthropic's own servers or models know."""
    own: list[dict[str, Any]] = []
    left_out = set()
    for i, tool in enumerate(tools):
        if tool.type not in (None, "custom"):
            left_out.add(tool.type if _HEADER_WORD.fullmatch(tool.type or "") else "tools")
            continue
        if not tool.name:
            raise BadRequest(
                f"Missing required parameter: `tools[{i}].name`.",
                code="missing_required_parameter",
                param=f"tools[{i}].name",
            )
        function: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.input_schema is not None:
            function["parameters"] = tool.input_schema
        if tool.strict is not None:
            function["strict"] = tool.strict
        own.append({"type": "function", "function": function})
    return tuple(own), {kind for kind in left_out if kind}


def _tool_choice(
    said: ToolChoiceBody | None, own: tuple[dict[str, Any], ...], tools: list[Tool]
) -> ToolChoice:
    """Or BadRequest. A tool that was left out cannot be insisted on."""
    if said is None or said.type == "auto":
        return ToolChoice()
    if said.type == "none":
        return ToolChoice("none")
    if said.type == "any":
        if not tools:
            raise BadRequest("`tool_choice` is any, but there are no `tools`.", param="tool_choice")
        return ToolChoice("required" if own else "auto")
    if not any(tool.name == said.name for tool in tools):
        raise BadRequest("`tool_choice.name` is none of the `tools`.", param="tool_choice.name")
    if not any(tool["function"]["name"] == said.name for tool in own):
        return ToolChoice()
    return ToolChoice("named", said.name or "")


# Messages.


def _messages(asked: CountBody) -> tuple[Message, ...]:
    names: dict[str, str] = {}
    turns = [turn for i, body in enumerate(asked.messages) for turn in _turns(body, names, f"messages[{i}]")]
    if not turns:
        raise BadRequest("`messages` say nothing.", param="messages")
    return (*_system(asked.system), *_ending_with_a_question(turns))


def _ending_with_a_question(turns: list[Message]) -> list[Message]:
    """What the system says last is said before the user's last words: a bot answers what is said last to it."""
    end = len(turns)
    while end and turns[end - 1].role == "system":
        end -= 1
    asked = [at for at in range(end) if turns[at].role == "user"]
    if end == len(turns) or not asked:
        return turns
    return [*turns[: asked[-1]], *turns[end:], *turns[asked[-1] : end]]


def _system(system: str | list[Block] | None) -> Iterator[Message]:
    if system:
        parts = parts_of(system, {}, "system")
        said = tuple(_paragraphs(part for part in parts if not _is_for_anthropic(part)))
        if said:
            yield Message("system", said)


def _is_for_anthropic(part: Part) -> bool:
    """Claude Code tells Anthropic's servers so who pays; it changes with each question, and no bot is to read it."""
    return isinstance(part, TextPart) and part.text.startswith("x-anthropic-billing-header:")


def _turns(body: MessageBody, names: dict[str, str], where: str) -> Iterator[Message]:
    """The results of tools, which Anthropic has the user say, each in a message of its own; then the rest."""
    parts = parts_of(body.content, names, f"{where}.content")
    rest: list[Part] = []
    for part in parts:
        if isinstance(part, ToolResultPart):
            yield Message("tool", (part,))
        else:
            rest.append(part)
    if said := tuple(_paragraphs(rest)):
        yield Message(body.role, said)
    elif not parts and body.role == "user":
        raise BadRequest(f"`{where}.content` is empty.", param=f"{where}.content")


def _paragraphs(parts: Iterable[Part]) -> Iterator[Part]:
    """Each text block is a paragraph; a bot is given them all in one text. An empty one says nothing."""
    before = ""
    for part in parts:
        if isinstance(part, TextPart):
            if not part.text:
                continue
            is_apart = not before or before.endswith("\n") or part.text.startswith("\n")
            before = part.text
            part = part if is_apart else TextPart("\n\n" + part.text)
        yield part
