"""Ends an answer at the client's stop sequences, whatever the bot makes of them."""

from __future__ import annotations

from relay.events import Attachment, Event, Finish, Text, ToolCall


class Stops:
    """Holds back the end of a text only as long as it may be the beginning of a stop sequence."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self._hit = ""

    @property
    def is_over(self) -> bool:
        return bool(self._hit)

    def feed(self, events: list[Event]) -> list[Event]:
        said: list[Event] = []
        for event in events:
            if self._hit:
                break
            match event:
                case Text(text):
                    said += self._read(text)
                case ToolCall() | Attachment():
                    said += [*self._release(), event]
                case _:
                    said.append(event)
        return said

    def end(self, finish: Finish) -> list[Event]:
        return [Finish("stop", self._hit)] if self._hit else [*self._release(), finish]

    def _read(self, text: str) -> list[Event]:
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, self._hit = min(found)
            self._held = ""
        else:
            end = len(text) - max(_begun(text, stop) for stop in self._stops)
            self._held = text[end:]
        return [Text(text[:end])] if end else []

    def _release(self) -> list[Event]:
        held, self._held = self._held, ""
        return [Text(held)] if held else []


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of the text may be the beginning of this."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
