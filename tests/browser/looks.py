"""How people see the pages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """A person's browser: the language that it asks for, its width, light or dark."""

    locale: str
    width: int
    scheme: str

    def __str__(self) -> str:
        return f"{self.locale}-{self.width}-{self.scheme}"


DESKTOP = Look("en-US", 1280, "light")
PHONE = Look("zh-CN", 390, "dark")
