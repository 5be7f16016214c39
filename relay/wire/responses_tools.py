"""The tools of OpenAI's responses: functions, functions in groups, and those that OpenAI runs itself."""

from __future__ import annotations

from typing import Any, Literal, cast

from msgspec import Struct

from relay.errors import BadRequest
from relay.events import ToolChoice
from relay.wire.responses_items import flat_name

# OpenAI runs these tools itself. Clients declare them by default and work without them: they are left out, and it is told.
HOSTED_TOOLS = frozenset(
    {
        "code_interpreter",
        "image_generation",
        "local_shell",
        "programmatic_tool_calling",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)


class Tool(Struct):
    """Checked, and handed on as the client wrote it. A namespace has tools of its own."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    tools: list[Tool] | None = None


Tools = tuple[dict[str, Any], ...]


def functions(written: list[dict[str, Any]]) -> tuple[Tools, dict[str, tuple[str, str]], tuple[str, ...]]:
    """Functions as `ChatRequest` has them, the names of grouped ones, and what is left out."""
    found: list[dict[str, Any]] = []
    grouped: dict[str, tuple[str, str]] = {}
    without: list[str] = []
    for i, each in enumerate(written):
        where = f"tools[{i}]"
        if each["type"] == "namespace":
            for j, inner in enumerate(each.get("tools") or ()):
                name = _function_name(inner, f"{where}.tools[{j}]")
                group = each.get("name") or ""
                grouped[flat_name(name, group)] = (group, name)
                found.append(_function({**inner, "name": flat_name(name, group)}))
        elif each["type"] in HOSTED_TOOLS:
            without.append(f"tools.{each['type']}")
        else:
            _function_name(each, where)
            found.append(_function(each))
    return tuple(found), grouped, tuple(without)


def _function_name(tool: dict[str, Any], where: str) -> str:
    """Or BadRequest: this is no function."""
    kind = tool["type"]
    if kind == "custom":
        raise BadRequest(
            f"`{where}` ({str(tool.get('name'))[:50]}) is a custom tool, which takes free text. Poe's bots have none: "
            "declare it as a function. Codex sends one for models that it knows by name: give the bot another name.",
            code="unsupported_value",
            param=f"{where}.type",
        )
    if kind != "function":
        raise BadRequest(
            f"`{where}.type` is {kind[:50]!r}: the relay does not run this tool, and knows functions only.",
            code="unsupported_value",
            param=f"{where}.type",
        )
    if not tool.get("name"):
        raise BadRequest(
            f"Missing required parameter: `{where}.name`.",
            code="missing_required_parameter",
            param=f"{where}.name",
        )
    return str(tool["name"])


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {name: value for name, value in tool.items() if name != "type" and value is not None},
    }


def choice(said: str | dict[str, Any] | None, tools: Tools) -> tuple[ToolChoice, Tools]:
    """What is wanted of which tools, or BadRequest."""
    if said is None:
        return ToolChoice(), tools
    if isinstance(said, str):
        return _mode(said), () if said == "none" else tools
    if said.get("type") == "allowed_tools" and isinstance(said.get("tools"), list):
        allowed = [tool.get("name") for tool in said["tools"] if isinstance(tool, dict)]
        left = tuple(tool for tool in tools if tool["function"]["name"] in allowed)
        return _mode(str(said.get("mode", "auto"))), left
    name = said.get("name")
    if said.get("type") != "function" or not any(tool["function"]["name"] == name for tool in tools):
        raise BadRequest("`tool_choice` must name one of the functions in `tools`.", param="tool_choice")
    return ToolChoice("named", str(name)), tools


def told_choice(said: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """What was understood of it."""
    if said is None or isinstance(said, str):
        return said or "auto"
    if said["type"] == "function":
        return {"type": "function", "name": said["name"]}
    names = [tool.get("name") for tool in said["tools"] if isinstance(tool, dict)]
    allowed = [{"type": "function", "name": name} for name in names if isinstance(name, str)]
    return {"type": "allowed_tools", "mode": said.get("mode", "auto"), "tools": allowed}


def _mode(said: str) -> ToolChoice:
    if said not in ("auto", "none", "required"):
        raise BadRequest(
            f"`tool_choice` is {said[:50]!r}: auto, none, required, a function or allowed_tools is understood.",
            param="tool_choice",
        )
    return ToolChoice(cast(Literal["auto", "none", "required"], said))
