"""`tool_choice` and `parallel_tool_calls`, for which Poe's protocol has no words: said to the bot, and seen to."""

from __future__ import annotations

from typing import Any

from relay.errors import BadRequest, UnfitAnswer
from relay.events import ChatRequest, Event, Finish, Text, ToolCall

ANY = "Do not answer in words: call one of the tools that you are given, now."
ONE = "Do not answer in words: call the tool `{name}`, now."
NOT_PARALLEL = "Call at most one tool at a time."
AGAIN = "You called no tool. Call one now, and say nothing else."


def check(chat: ChatRequest) -> None:
    """Raises BadRequest for a call that no tool of the request can answer."""
    choice = chat.tool_choice
    if choice.mode == "named" and choice.name not in map(name_of, chat.tools):
        raise BadRequest(f"`tool_choice`: {choice.name[:64]!r} is none of the tools.", param="tool_choice")
    if choice.mode == "required" and not chat.tools:
        raise BadRequest("`tool_choice` requires a call, but there are no tools.", param="tool_choice")


def name_of(tool: dict[str, Any]) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def callable_tools(chat: ChatRequest) -> tuple[dict[str, Any], ...]:
    """What the bot is given: it cannot call what it does not know."""
    match chat.tool_choice.mode:
        case "none":
            return ()
        case "named":
            return tuple(tool for tool in chat.tools if name_of(tool) == chat.tool_choice.name)
        case _:
            return chat.tools


def words(chat: ChatRequest) -> list[str]:
    if not chat.tools:
        return []
    said = []
    if chat.tool_choice.mode == "named":
        said.append(ONE.format(name=chat.tool_choice.name))
    if chat.tool_choice.mode == "required":
        said.append(ANY)
    if not chat.parallel_tool_calls:
        said.append(NOT_PARALLEL)
    return said


class FirstCall:
    """Lets one call through: the client can bear no second."""

    def __init__(self) -> None:
        self._index: int | None = None
        self.is_over = False

    def feed(self, events: list[Event]) -> list[Event]:
        said: list[Event] = []
        for event in events:
            if isinstance(event, ToolCall):
                if self._index is None:
                    self._index = event.index
                self.is_over = self.is_over or event.index != self._index
            if not self.is_over:
                said.append(event)
        return said

    def end(self, finish: Finish) -> list[Event]:
        return [finish]


class RequiredCall:
    """Holds back what is said until the call comes that must come."""

    is_over = False

    def __init__(self) -> None:
        self._held: list[Event] = []
        self._has_called = False

    def feed(self, events: list[Event]) -> list[Event]:
        said: list[Event] = []
        for event in events:
            if isinstance(event, ToolCall) and not self._has_called:
                self._has_called = True
                said += self._release()
            if isinstance(event, Text) and not self._has_called:
                self._held.append(event)
            else:
                said.append(event)
        return said

    def end(self, finish: Finish) -> list[Event]:
        if not self._has_called and finish.reason in ("stop", "tool_calls"):
            text = "".join(event.text for event in self._held if isinstance(event, Text))
            raise UnfitAnswer(
                "The bot called no tool, though `tool_choice` requires it.",
                code="tool_call_missing",
                param="tool_choice",
                said=text,
                again=AGAIN,
            )
        return [*self._release(), finish]

    def _release(self) -> list[Event]:
        held, self._held = self._held, []
        return held
