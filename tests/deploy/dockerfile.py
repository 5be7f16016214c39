"""Reads a Dockerfile and a .dockerignore, and says which rules of good images a Dockerfile breaks; runs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

WORDS = "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL ONBUILD RUN SHELL STOPSIGNAL USER VOLUME WORKDIR"


class NotADockerfile(Exception):
    """A line that no builder would take."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction, its continued lines joined and its --options apart."""

    word: str
    options: tuple[str, ...]
    rest: str

    def as_list(self) -> list[str] | None:
        """The exec form as a list, or None for the shell form."""
        try:
            value = json.loads(self.rest)
        except ValueError:
            return None
        return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def parse(text: str) -> list[Step]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [_step(line) for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()]


def _step(line: str) -> Step:
    word, _, rest = line.strip().partition(" ")
    if word.upper() not in WORDS.split() or not rest.strip():
        raise NotADockerfile(line)
    options = []
    while found := re.match(r"\s*(--[a-z]\S*)\s+", rest):
        options.append(found.group(1))
        rest = rest[found.end() :]
    return Step(word.upper(), tuple(options), rest.strip())


def of(steps: list[Step], word: str) -> list[Step]:
    return [step for step in steps if step.word == word]


def environment(steps: list[Step]) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(step.rest for step in of(steps, "ENV"))))


def health_check(steps: list[Step]) -> list[str]:
    """The command of HEALTHCHECK as a list; empty where it is missing or in the shell form."""
    for step in of(steps, "HEALTHCHECK"):
        command = re.sub(r"^CMD\s+", "", step.rest)
        return Step("CMD", (), command).as_list() or []
    return []


# The rules: each one is a sentence and whether it holds.


def _fixed_tag(steps: list[Step]) -> bool:
    images = [step.rest.split()[0] for step in of(steps, "FROM")]
    return bool(images) and all(is_fixed(image) for image in images)


def is_fixed(image: str) -> bool:
    """A tag or a digest, not `latest`, and no registry's host before it."""
    name, _, tag = image.partition("@") if "@" in image else image.rpartition(":")
    return bool(name) and "/" not in tag and tag != "latest" and "." not in name.split("/")[0]


def _not_root(steps: list[Step]) -> bool:
    users = [step.rest.split(":")[0] for step in of(steps, "USER")]
    return bool(users) and users[-1].isdigit() and int(users[-1]) > 0


def _root_installs(steps: list[Step]) -> bool:
    users = [index for index, step in enumerate(steps) if step.word == "USER"]
    after = steps[users[0] :] if users else []
    return not any(step.word in ("RUN", "COPY", "ADD") for step in after)


def _exec_form(steps: list[Step]) -> bool:
    starts = of(steps, "CMD") + of(steps, "ENTRYPOINT")
    return bool(starts) and all(step.as_list() for step in starts)


def _signals_reach_it(steps: list[Step]) -> bool:
    """A shell that stays in front of the server would swallow the signal to stop."""
    scripts = [command[-1] for step in of(steps, "CMD") if (command := step.as_list()) and command[0] == "sh"]
    return all(script.split("&&")[-1].split()[:1] == ["exec"] for script in scripts)


def _pip(steps: list[Step]) -> bool:
    runs = [step.rest for step in of(steps, "RUN") if re.search(r"\bpip3? install\b", step.rest)]
    wanted = ("--require-hashes", "--no-cache-dir")
    return all(
        all(option in run for option in wanted) and not re.search(r"\s(-U|--upgrade)\b", run) for run in runs
    )


def _apt(steps: list[Step]) -> bool:
    runs = [step.rest for step in of(steps, "RUN") if re.search(r"\bapt(-get)? ", step.rest)]
    wanted = ("apt-get update", "install -y", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*")
    return all(all(part in run for part in wanted) for run in runs)


def _no_secrets(steps: list[Step]) -> bool:
    names = [step.rest for step in of(steps, "ARG")] + list(environment(steps))
    return not any(re.search(r"(PASSWORD|SECRET|TOKEN|_KEY)(?!\w*_FILE)", name) for name in names)


def _named_copies(steps: list[Step]) -> bool:
    sources = [source for step in of(steps, "COPY") for source in step.rest.split()[:-1]]
    return not any(source in (".", "./", "*") for source in sources)


def _volume_is_made(steps: list[Step]) -> bool:
    """What changes a folder after VOLUME is thrown away by the builder."""
    volumes = [index for index, step in enumerate(steps) if step.word == "VOLUME"]
    after = steps[volumes[0] :] if volumes else []
    return not any(step.word in ("RUN", "COPY") for step in after)


RULES: dict[str, Callable[[list[Step]], bool]] = {
    "FROM names a fixed tag and no registry": _fixed_tag,
    "USER is a number other than 0": _not_root,
    "everything is installed before USER": _root_installs,
    "CMD and ENTRYPOINT are lists": _exec_form,
    "a shell in CMD ends in exec": _signals_reach_it,
    "pip checks hashes and keeps no cache": _pip,
    "apt-get installs little and leaves no lists": _apt,
    "ENV and ARG hold no secret": _no_secrets,
    "COPY names what it copies": _named_copies,
    "VOLUME comes after what fills it": _volume_is_made,
    "files come by COPY, not ADD": lambda steps: not of(steps, "ADD"),
    "WORKDIR is absolute": lambda steps: all(step.rest.startswith("/") for step in of(steps, "WORKDIR")),
    "HEALTHCHECK is a list": lambda steps: bool(health_check(steps)),
    "there is one CMD": lambda steps: len(of(steps, "CMD")) == 1,
    "STOPSIGNAL is SIGTERM": lambda steps: [step.rest for step in of(steps, "STOPSIGNAL")] == ["SIGTERM"],
}


def broken(text: str) -> list[str]:
    steps = parse(text)
    return [sentence for sentence, holds in RULES.items() if not holds(steps)]


def ignored(ignore: str, path: str) -> bool:
    """Whether .dockerignore keeps the path from the builder: the last pattern that fits it or a parent decides."""
    verdict = False
    for line in ignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        if _fits(pattern.lstrip("!").strip("/"), PurePosixPath(path)):
            verdict = not pattern.startswith("!")
    return verdict


def _fits(pattern: str, path: PurePosixPath) -> bool:
    return any(_fits_parts(pattern.split("/"), list(each.parts)) for each in (path, *path.parents))


def _fits_parts(patterns: list[str], parts: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_fits_parts(patterns[1:], parts[skip:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _fits_parts(patterns[1:], parts[1:])
