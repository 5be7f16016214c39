"""What a bot is sent for what a client asked: defaults of the mapping, history without reasoning, simulated roles."""

from __future__ import annotations

from msgspec.structs import replace

from relay import parameters, shaping
from relay.directory import Mapping
from relay.events import ChatRequest, FilePart, Message, Part, TextPart, ToolCallPart, ToolResultPart
from relay.transcript import strip_reasoning

ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


def for_bot(chat: ChatRequest, mapping: Mapping) -> ChatRequest:
    chat = shaping.asked(chat, mapping.declared, writes_calls=mapping.writes_calls)
    messages = tuple(_without_reasoning(message) for message in chat.messages)
    if mapping.simulate_roles == "on" or (mapping.simulate_roles == "auto" and len(messages) > 1):
        messages = (_as_one(messages),)
    # What the client may not ask of this bot was refused before, unless it is a fallback that it did not ask for.
    asked = parameters.for_bot(chat, mapping, is_fallback=True)
    return replace(asked, messages=messages, parameters={**mapping.parameters, **asked.parameters})


def _without_reasoning(message: Message) -> Message:
    """An assistant's thinking is not part of the conversation: bots that see it begin to imitate it."""
    if message.role != "assistant":
        return message
    parts = tuple(
        TextPart(strip_reasoning(part.text)) if isinstance(part, TextPart) else part for part in message.parts
    )
    return message if parts == message.parts else replace(message, parts=parts)


def _as_one(messages: tuple[Message, ...]) -> Message:
    """The whole conversation in one message, each turn under `||>Role:`, as poe-openai-proxy wrote it."""
    turns = [f"||>{ROLE_NAMES[message.role]}:\n{_written_out(message)}" for message in messages]
    files: list[Part] = [part for message in messages for part in message.parts if isinstance(part, FilePart)]
    return Message("user", (TextPart("\n\n".join([*turns, "||>Assistant:\n"])), *files))


def _written_out(message: Message) -> str:
    lines = []
    for part in message.parts:
        match part:
            case TextPart(text):
                lines.append(text)
            case ToolCallPart(name=name, arguments=arguments):
                lines.append(f"[calls {name} with {arguments}]")
            case ToolResultPart(name=name, content=content):
                lines.append(f"[{name} answers] {content}")
            case FilePart(name=name):
                lines.append(f"[file {name}]")
    return "\n".join(lines)
