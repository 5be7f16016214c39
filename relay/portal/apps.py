"""The apps that people connect: where the settings are in each, and what goes into which field.

`{base}` is the relay's address, `{token}` the access token and `{model}` a model: the browser fills in the last two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

PLACEHOLDER = re.compile(r"\{(base|token|model)\}")
NEXTCHAT = "https://app.nextchat.dev"


@dataclass(frozen=True, slots=True)
class Field:
    """What to paste, with the label that it has in the app; a file or a program in more lines than one."""

    label: Any
    content: str

    @property
    def is_text(self) -> bool:
        return "\n" in self.content

    def pieces(self, base: str) -> Iterator[tuple[str, str]]:
        """In order: ("", text) as it is, or ("token", "") and ("model", "") for the browser to fill in."""
        for place, piece in enumerate(PLACEHOLDER.split(self.content)):
            if place % 2 and piece != "base":
                yield piece, ""
            elif piece:
                yield "", base if place % 2 else piece


@dataclass(frozen=True, slots=True)
class App:
    slug: str
    name: str
    where: Any
    fields: tuple[Field, ...]
    # It opens a link that holds the settings; connect.js builds it.
    has_link: bool = False
    is_on_the_web: bool = False
    note: Any = ""


CODEX = """\
model = "{model}"
model_provider = "poe-relay"

[model_providers.poe-relay]
name = "poe-relay"
base_url = "{base}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""
CLAUDE_CODE = """\
{
  "env": {
    "ANTHROPIC_BASE_URL": "{base}",
    "ANTHROPIC_AUTH_TOKEN": "{token}",
    "ANTHROPIC_MODEL": "{model}",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": "{model}",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"
  }
}
"""
PYTHON = """\
from openai import OpenAI

client = OpenAI(base_url="{base}/v1", api_key="{token}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{"role": "user", "content": "Hello there"}],
)
print(answer.choices[0].message.content)
"""
NODE = """\
import OpenAI from "openai";

const client = new OpenAI({ baseURL: "{base}/v1", apiKey: "{token}" });
const answer = await client.chat.completions.create({
  model: "{model}",
  messages: [{ role: "user", content: "Hello there" }],
});
console.log(answer.choices[0].message.content);
"""

APPS = (
    App(
        "chatbox",
        "Chatbox",
        _("Settings → Model Provider → Add. Choose “OpenAI API Compatible” as API Mode."),
        (
            Field(_("Name"), "poe-relay"),
            Field(_("API Key"), "{token}"),
            Field(_("API Host"), "{base}"),
            Field(_("Model"), "{model}"),
        ),
        has_link=True,
    ),
    App(
        "cherry-studio",
        "Cherry Studio",
        _("Settings → Model Provider → Add. Choose “OpenAI” as type, and take models with “Manage”."),
        (
            Field(_("Provider Name"), "poe-relay"),
            Field(_("API Key"), "{token}"),
            Field(_("API Host"), "{base}"),
            Field(_("Model"), "{model}"),
        ),
        has_link=True,
    ),
    App(
        "lobechat",
        "LobeChat",
        _("Settings → AI Service Provider → Add Custom Provider. Then fetch the list of models."),
        (
            Field(_("Provider ID"), "poe-relay"),
            Field(_("Provider Name"), "poe-relay"),
            Field(_("Request Format"), "openai"),
            Field(_("Proxy URL"), "{base}/v1"),
            Field(_("API Key"), "{token}"),
        ),
        is_on_the_web=True,
        note=_("The server on which LobeChat runs must be able to reach this address."),
    ),
    App(
        "nextchat",
        "NextChat",
        _("Settings → switch on “Custom Endpoint”. Choose “OpenAI” as provider."),
        (
            Field(_("OpenAI Endpoint"), "{base}"),
            Field("OpenAI API Key", "{token}"),
            Field(_("Custom Models"), "{model}"),
        ),
        has_link=True,
        is_on_the_web=True,
    ),
    App(
        "open-webui",
        "Open WebUI",
        _("Admin Settings → Connections → OpenAI → Add New Connection."),
        (Field("URL", "{base}/v1"), Field(_("API Key"), "{token}")),
    ),
    App(
        "cursor",
        "Cursor",
        _("Cursor Settings → Models → API Keys. Switch on both fields there, then add the model."),
        (
            Field("OpenAI API Key", "{token}"),
            Field("Override OpenAI Base URL", "{base}/v1"),
            Field("Add model", "{model}"),
        ),
        note=_(
            "Cursor asks from its own servers, so this address must be reachable from the internet. Models of one's own "
            "need a paid plan of Cursor's."
        ),
    ),
    App(
        "codex",
        "Codex",
        _("Put the first text into the file that is named, and tell Codex the token in the terminal."),
        (
            Field("~/.codex/config.toml", CODEX),
            Field(_("macOS and Linux"), "export OPENAI_API_KEY={token}"),
            Field(_("Windows (for new terminals)"), "setx OPENAI_API_KEY {token}"),
        ),
    ),
    App(
        "claude-code",
        "Claude Code",
        _("Put this text into the file that is named. Leave ANTHROPIC_API_KEY unset."),
        (Field("~/.claude/settings.json", CLAUDE_CODE),),
    ),
    App(
        "openai-sdk",
        "OpenAI SDK",
        _("Any program that speaks OpenAI's API does. With the SDKs of OpenAI:"),
        (Field("Python: pip install openai", PYTHON), Field("Node.js: npm install openai", NODE)),
    ),
)
