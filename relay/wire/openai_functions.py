"""`functions` and `function_call`, which OpenAI's chat completions had before `tools`: read as tools, and told as they were."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from relay.errors import BadRequest
from relay.events import ToolCall, ToolChoice


class FunctionName(Struct):
    name: str


def tools(functions: list[dict[str, Any]], said: str | FunctionName | None) -> tuple[dict[str, Any], ...]:
    """Those that may be called, as tools."""
    if said == "none":
        return ()
    return tuple({"type": "function", "function": function} for function in functions)


def choice(functions: list[dict[str, Any]], said: str | FunctionName | None) -> ToolChoice:
    """Or BadRequest."""
    if isinstance(said, FunctionName):
        if said.name not in (function["name"] for function in functions):
            raise BadRequest(
                f"`function_call`: {said.name[:64]!r} is none of the functions.", param="function_call"
            )
        return ToolChoice("named", said.name)
    match said:
        case None | "auto":
            return ToolChoice()
        case "none":
            return ToolChoice("none")
        case _:
            raise BadRequest(
                f"`function_call` is {said[:50]!r}: auto, none or a function's name is understood.",
                param="function_call",
            )


def delta(call: ToolCall) -> dict[str, Any]:
    """A piece of the call in a stream: the first one has the name."""
    told = {"name": call.name} if call.name else {}
    return {"function_call": {**told, "arguments": call.arguments}}


def reason(said: str) -> str:
    return "function_call" if said == "tool_calls" else said


def amend(choice: dict[str, Any]) -> None:
    """The choice of a whole answer: its call, of which there is one, and how it ended."""
    calls = choice["message"].pop("tool_calls", None)
    if calls:
        choice["message"]["function_call"] = calls[0]["function"]
    choice["finish_reason"] = reason(choice["finish_reason"])
