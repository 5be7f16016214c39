"""The clients: what each needs, and the task that it does with the relay. A task raises Failed, or says what was seen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.clients import open_webui
from tests.clients.places import SCRIPTS, Failed, Place
from tests.clients.stage import Stage

SECRET = "the-cat-is-called-Erwin"


@dataclass(frozen=True, slots=True)
class Client:
    """`packages` are pinned; the first one's version is the client's. `finish` are scripts that complete an npm package."""

    name: str
    packages: tuple[str, ...]
    task: str
    do: Callable[[Stage, Place], str]
    node: bool = False
    finish: tuple[str, ...] = ()
    python: str = ""

    @property
    def version(self) -> str:
        return re.split(r"==|(?<=.)@", self.packages[0])[-1]


def script(name: str) -> Callable[[Stage, Place], str]:
    """A program in tests/clients/scripts, which prints a line for each thing that it has shown."""

    def do(stage: Stage, place: Place) -> str:
        return shown(place.python(SCRIPTS / name, stage=stage))

    return do


def shown(said: str) -> str:
    """The lines by which a script says what it has shown; libraries may warn in between."""
    return "; ".join(line.removeprefix("ok ") for line in said.splitlines() if line.startswith("ok "))


# Its asynchronous clients outlive a test, and keep their connections.
ONE_LOOP = (
    "-o",
    "asyncio_default_test_loop_scope=session",
    "-o",
    "asyncio_default_fixture_loop_scope=session",
)


def langchain(stage: Stage, place: Place) -> str:
    # Not beside our own pytest settings.
    copy = place.work / "test_standard.py"
    copy.write_text((SCRIPTS / "langchain_standard.py").read_text())
    options = ("-q", "-p", "no:cacheprovider", "--tb=short", "--asyncio-mode=auto", "-W", "ignore", *ONE_LOOP)
    return last_line(place.python("-m", "pytest", *options, copy, stage=stage))


def ai_sdk(stage: Stage, place: Place) -> str:
    # Node looks for packages beside the script.
    (place.work / "ai_sdk.mjs").write_text((SCRIPTS / "ai_sdk.mjs").read_text())
    (place.work / "node_modules").symlink_to(place.installed / "node_modules")
    return shown(place.run("node", "ai_sdk.mjs", stage=stage))


# Skipped with a model whose name does not promise it.
THINKERS = {
    "openai-chat": ("gpt-5-thinker", "chat-reasoning-summary"),
    "open-responses": ("gpt-5-thinker", "reasoning-summary"),
    "anthropic": ("claude-sonnet-4-thinker", "anth-thinking-display"),
}


def comply(wire: str, *options: str) -> Callable[[Stage, Place], str]:
    """The tests of a wire format, then those that want a model which thinks."""

    def run(stage: Stage, place: Place, model: str, *more: str) -> str:
        base = ("--base-url", f"{stage.url}/v1", "--api-key", stage.token, "--format", wire)
        return last_line(place.program("llm-comply", *base, "--model", model, *options, *more, stage=stage))

    def do(stage: Stage, place: Place) -> str:
        whole = run(stage, place, "demo-tools")
        model, test = THINKERS[wire]
        return f"{whole}; with a model that thinks: {run(stage, place, model, '--filter', test)}"

    return do


def llm(stage: Stage, place: Place) -> str:
    model = {
        "model_id": "relay",
        "model_name": "demo-tools",
        "api_base": f"{stage.url}/v1",
        "api_key_name": "relay",
        "supports_tools": True,
    }
    (place.work / "keys.json").write_text(json.dumps({"relay": stage.token}))
    (place.work / "extra-openai-models.yaml").write_text(json.dumps([model]))
    function = 'def cat_of(who: str) -> str:\n    "Whose cat is it"\n    return who + " has the cat Erwin"'
    said = place.program(
        "llm", "-m", "relay", "--functions", function, "--td", "Who has a cat, Alice",
        stage=stage, LLM_USER_PATH=str(place.work),
    )  # fmt: skip
    return seen("Alice has the cat Erwin", said)


def aider(stage: Stage, place: Place) -> str:
    (place.work / "greeting.py").write_text("print('nothing')\n")
    task = "greeting.py\n```\nprint('Erwin was here')\n```"
    said = place.program(
        "aider", "--model", "openai/demo-echo", "--edit-format", "whole", "--yes-always", "--no-git",
        "--no-show-model-warnings", "--no-check-update", "--analytics-disable", "--no-fancy-input", "--no-pretty",
        "--message", task, "greeting.py",
        stage=stage, OPENAI_API_BASE=f"{stage.url}/v1", OPENAI_API_KEY=stage.token,
    )  # fmt: skip
    if (place.work / "greeting.py").read_text().strip() != "print('Erwin was here')":
        raise Failed(said[-2000:])
    return "the file is changed"


def task_for(tool: str, arguments: dict[str, object]) -> str:
    """The demo bot does what it is told, and tells what the tool answered: the secret is only in the file."""
    return f"Find out what note.txt says: call {tool} with {json.dumps(arguments)}"


def codex(stage: Stage, place: Place) -> str:
    (place.work / "note.txt").write_text(SECRET)
    (place.work / ".codex").mkdir()
    (place.work / ".codex" / "config.toml").write_text(
        f'model = "demo-tools"\nmodel_provider = "relay"\n[model_providers.relay]\nname = "relay"\n'
        f'base_url = "{stage.url}/v1"\nenv_key = "TOKEN"\nwire_api = "responses"\n'
    )
    task = task_for("exec_command", {"cmd": "cat note.txt"})
    said = place.program(
        "codex",
        "exec",
        "--skip-git-repo-check",
        "--dangerously-bypass-approvals-and-sandbox",
        task,
        stage=stage,
    )
    return seen(f"The tool exec_command says:.*?{SECRET}", said)


def claude_code(stage: Stage, place: Place) -> str:
    (place.work / "note.txt").write_text(SECRET)
    task = task_for("Bash", {"command": "cat note.txt", "description": "Read the note"})
    said = place.program(
        "claude", "--print", task, "--model", "demo-tools", "--allowedTools", "Bash(cat:*)", stage=stage,
        ANTHROPIC_BASE_URL=stage.url, ANTHROPIC_AUTH_TOKEN=stage.token,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )  # fmt: skip
    return seen(f"The tool Bash says:.*?{SECRET}", said)


def opencode(stage: Stage, place: Place) -> str:
    (place.work / "note.txt").write_text(SECRET)
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{stage.url}/v1", "apiKey": stage.token},
        "models": {"demo-tools": {"name": "demo-tools", "tool_call": True}},
    }
    settings = {"provider": {"relay": provider}, "permission": {"bash": "allow"}, "autoupdate": False}
    (place.work / "opencode.json").write_text(json.dumps(settings))
    task = task_for("bash", {"command": "cat note.txt", "description": "Read the note"})
    # It quotes an argument that has spaces.
    said = place.program(
        "opencode",
        "run",
        "--model",
        "relay/demo-tools",
        *task.split(),
        stage=stage,
        OPENCODE_DISABLE_MODELS_FETCH="1",
    )
    return seen(f"The tool bash says:.*?{SECRET}", said)


def seen(pattern: str, said: str) -> str:
    """The words that show it, or Failed."""
    found = re.search(pattern, said, re.DOTALL)
    if found is None:
        raise Failed(said[-3000:])
    return f"“{' '.join(found[0].split())}”"


def last_line(said: str) -> str:
    lines = [line.strip(" =") for line in said.splitlines() if line.strip(" =")]
    return lines[-1] if lines else ""


COMPLY = "llm-comply==0.5.0"
AGENT = "reads a file with its own shell tool and tells what is in it"
CLIENTS: tuple[Client, ...] = (
    Client("llm-comply: OpenAI chat", (COMPLY,), "its whole suite", comply("openai-chat")),
    Client("llm-comply: Open Responses", (COMPLY,), "its whole suite", comply("open-responses")),
    Client(
        "llm-comply: Anthropic Messages",
        (COMPLY,),
        "its whole suite",
        comply(
            "anthropic",
            "--auth-header",
            "x-api-key",
            "--no-bearer",
            "--header",
            "anthropic-version:2023-06-01",
        ),
    ),
    Client(
        "LangChain",
        ("langchain-tests==1.1.9", "langchain-openai==1.7.4", "langchain-anthropic==1.7.10"),
        "ChatModelIntegrationTests over chat completions, Responses and Messages",
        langchain,
    ),
    Client(
        "pydantic-ai",
        ("pydantic-ai-slim[openai,anthropic]==2.68.0",),
        "an agent with a tool, and a typed answer",
        script("pydantic_ai_tools.py"),
    ),
    Client(
        "openai-agents", ("openai-agents==0.24.0",), "an agent with a tool", script("openai_agents_tools.py")
    ),
    Client(
        "AI SDK",
        (
            "ai@6.0.326",
            "@ai-sdk/openai@3.0.141",
            "@ai-sdk/openai-compatible@2.0.92",
            "@ai-sdk/anthropic@3.0.140",
            "zod@4.6.7",
        ),
        "a tool in several steps",
        ai_sdk,
        node=True,
    ),
    Client("llm", ("llm==0.36",), "runs a function that it was given, and tells what it says", llm),
    Client("aider", ("aider-chat==0.86.2",), "edits a file", aider),
    Client("Codex", ("@openai/codex@0.171.0",), AGENT, codex, node=True),
    Client(
        "Claude Code",
        ("@anthropic-ai/claude-code@2.1.197",),
        AGENT,
        claude_code,
        node=True,
        finish=("node_modules/@anthropic-ai/claude-code/install.cjs",),
    ),
    Client(
        "opencode",
        ("opencode-ai@1.18.33",),
        AGENT,
        opencode,
        node=True,
        finish=("node_modules/opencode-ai/postinstall.mjs",),
    ),
    Client(
        "Open WebUI",
        ("open-webui==0.12.4",),
        "a person in Chromium: models listed, a streamed answer, an image",
        open_webui.use,
        python="3.12",
    ),
)
