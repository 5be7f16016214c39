"""Reads the old config.toml or .env of poe-to-gpt and of poe-openai-proxy. Knows nothing of the database.

Both programs changed often, so a key counts in either format, whatever its case, with - or with _.
Nothing that is said about a value shows a whole secret.
"""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from accounts import tokens

SHORTEST_ACCESS_TOKEN = 8
SHORTEST_SHOWN = 12

# What an old key, written with "-" and in small letters, is about.
SUBJECTS = {
    "tokens": "Poe keys",
    "apikey": "Poe keys",
    "api-key": "Poe keys",
    "poe-api-keys": "Poe keys",
    "accesstokens": "access tokens",
    "access-tokens": "access tokens",
    "bot": "mappings",
    "bot-names": "bot names",
    "proxy": "proxy",
    "rate-limit": "rate limit",
    "simulate-roles": "simulate roles",
    "port": "port",
    "timeout": "timeout",
    "api-timeout": "first event",
}
USELESS = {
    "cool-down": "it slowed down the old site's cookies; Poe's API keys have no such need",
    "gateway": "the relay asks Poe itself, without a gateway",
    "gateway-port": "the relay asks Poe itself, without a gateway",
}
# The names inside of Poe's former web site that poe-openai-proxy asked for, and the bots they stood for.
FORMER_NAMES = {
    "capybara": "Sage",
    "chinchilla": "ChatGPT",
    "beaver": "GPT-4",
    "a2": "Claude-instant",
    "a2_100k": "Claude-instant-100k",
    "a2_2": "Claude+",
}
# SHA-256 of access tokens that are printed in the public sample configurations.
PUBLISHED_TOKENS = {
    "1b5552370b218dcdc5dc827df52c7708f1a5068ba563e5c59cbcb7857f6c5ff6",
    "067c0cfc9b5b225ed03cb78f38a834ec09770224e877fae9f65a9944677b125e",
}
ROLES = {
    "0": "off",
    "false": "off",
    "off": "off",
    "1": "on",
    "true": "on",
    "on": "on",
    "2": "auto",
    "auto": "auto",
}
PLACEHOLDER = re.compile(r"your[-_ ].*(key|token)", re.IGNORECASE)
COOKIE = re.compile(r"p-b=|%3D|==$|[;|]", re.IGNORECASE)
ENV_LINE = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?(?P<key>[A-Za-z_][\w-]*)[ \t]*=[ \t]*
    (?:'(?P<single>[^']*)' | "(?P<double>(?:\\.|[^"\\])*)" | (?P<bare>[^\n]*?))
    [ \t]*(?:(?<=\s)\#[^\n]*)?$""",
    re.MULTILINE | re.VERBOSE,
)
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class OldConfigError(Exception):
    """One sentence: why this file is no configuration of the two programs."""


@dataclass(frozen=True, slots=True)
class OldConfig:
    """What an old file says, in the relay's words. What it does not say is empty or None."""

    poe_keys: tuple[str, ...] = ()
    access_tokens: tuple[str, ...] = ()
    bots: tuple[tuple[str, str], ...] = ()
    proxy: str = ""
    rate_limit: int | None = None
    simulate_roles: str = ""
    port: int | None = None
    idle_seconds: float | None = None
    first_event_seconds: float | None = None
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read(path: Path) -> OldConfig:
    """Read a file, or raise OldConfigError."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise OldConfigError(f"{path} cannot be read: {exc.strerror}.") from None
    # Windows editors write a byte order mark, PowerShell also UTF-16.
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        raise OldConfigError(f"{path} is not a text file in UTF-8.") from None
    if not text.strip():
        raise OldConfigError(f"{path} is empty.")
    return parse(path.name, text)


def parse(name: str, text: str) -> OldConfig:
    """The file's text in the relay's words. Its name counts only for what is said about broken TOML."""
    ignored: list[str] = []
    table = _table(name, text.replace("\r\n", "\n"), ignored)
    if not any(_plain(key) in SUBJECTS or _plain(key) in USELESS for key in table):
        raise OldConfigError(
            f"{name} holds no setting of poe-to-gpt or poe-openai-proxy, such as apikey or POE_API_KEYS."
        )
    said: dict[str, list[tuple[str, Any]]] = {}
    for key, value in table.items():
        subject = SUBJECTS.get(_plain(key))
        if subject is None:
            ignored.append(
                f"{key}: {USELESS.get(_plain(key), 'neither of the two programs has this setting')}"
            )
        else:
            said.setdefault(subject, []).append((key, value))
    return _in_our_words(said, ignored)


def _in_our_words(said: dict[str, list[tuple[str, Any]]], ignored: list[str]) -> OldConfig:
    def one(subject: str, read_value: Callable[[str, Any, list[str]], Any]) -> Any:
        values = [read_value(key, value, ignored) for key, value in said.get(subject, [])]
        return values[-1] if values else None

    access_tokens = _secrets(said.get("access tokens", []), "access token", why_not_an_access_token, ignored)
    bots = _bots(said.get("mappings", []), said.get("bot names", []), ignored)
    idle = one("timeout", _seconds)
    first_event = one("first event", _seconds)
    return OldConfig(
        poe_keys=_secrets(said.get("Poe keys", []), "Poe key", why_not_a_poe_key, ignored),
        access_tokens=access_tokens,
        bots=bots,
        proxy=one("proxy", _proxy) or "",
        rate_limit=one("rate limit", _whole(1, 1_000_000)),
        simulate_roles=one("simulate roles", _simulate_roles) or "",
        port=one("port", _whole(1, 65535)),
        idle_seconds=idle,
        # Where there is no api-timeout, the one timeout was also that of the first words.
        first_event_seconds=idle if first_event is None else first_event,
        ignored=tuple(ignored),
        warnings=tuple(_published(access_tokens)),
    )


def _plain(key: str) -> str:
    return key.lower().replace("_", "-")


# The two formats.


def _table(name: str, text: str, ignored: list[str]) -> dict[str, Any]:
    """An .env is often TOML by chance, and some .env files are TOML on purpose: what it holds decides."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        if name.lower().endswith(".toml"):
            raise OldConfigError(f"{name} is not valid TOML: {exc}.") from None
        return _env_table(text, ignored)
    if name.lower().endswith(".toml") or any(_plain(key) in SUBJECTS and key != key.upper() for key in table):
        return table
    return _env_table(text, ignored)


def _env_table(text: str, ignored: list[str]) -> dict[str, Any]:
    rest = ENV_LINE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(rest.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            ignored.append(f"line {number}: not of the form KEY=VALUE")
    return {match["key"]: _env_value(match) for match in ENV_LINE.finditer(text)}


def _env_value(match: re.Match[str]) -> str:
    if match["single"] is not None:
        return match["single"]
    if match["double"] is not None:
        return re.sub(r"\\(.)", lambda escape: ESCAPES.get(escape[1], escape[1]), match["double"])
    return _unquoted(match["bare"])


def _unquoted(text: str) -> str:
    """Without its outer quotes, also where they hold more quotes: "["a", "b"]"."""
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


# Lists: of Poe keys, access tokens and bot names.


def _items(key: str, value: Any, ignored: list[str]) -> list[str]:
    """A list, a list written as text, texts with commas between them, or one text."""
    if isinstance(value, str):
        value = _list_in_text(key, value.strip(), ignored)
    if not isinstance(value, list):
        ignored.append(f"{key}: not a list")
        return []
    texts = [item.strip() for item in value if isinstance(item, str)]
    if len(texts) < len(value):
        ignored.append(f"{key}: {len(value) - len(texts)} of its values are not text")
    return texts


def _list_in_text(key: str, text: str, ignored: list[str]) -> Any:
    if not text:
        return []
    if not text.startswith("["):
        return [_unquoted(part) for part in text.split(",")]
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        # The same with 'single' quotes or a comma at its end.
        return tomllib.loads(f"list = {text}")["list"]
    except tomllib.TOMLDecodeError:
        ignored.append(f"{key}: not a list in JSON")
        return []


def _secrets(
    said: list[tuple[str, Any]], noun: str, why_not: Callable[[str], str], ignored: list[str]
) -> tuple[str, ...]:
    kept: dict[str, None] = {}
    for key, value in said:
        for secret in _items(key, value, ignored):
            reason = "given twice" if secret in kept else why_not(secret)
            if reason:
                ignored.append(f"{noun} {shown(secret)} in {key}: {reason}")
            else:
                kept[secret] = None
    return tuple(kept)


def shown(secret: str) -> str:
    """By what a person recognises a secret: its end, if that leaves enough unsaid. Padding tells nothing."""
    secret = re.sub(r"(%3D|=)+$", "", secret)
    return f"…{secret[-4:]}" if len(secret) >= SHORTEST_SHOWN else f"of {len(secret)} characters"


def why_not_a_poe_key(secret: str) -> str:
    """Why this cannot be a Poe key, or nothing."""
    if not secret:
        return "empty"
    if PLACEHOLDER.match(secret):
        return "the placeholder of the sample"
    if COOKIE.search(secret):
        return "a cookie of poe.com; these do not work any more, a key from poe.com/api/keys is needed"
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        return "it holds a space, a control character or a letter that no Poe key has"
    return ""


def why_not_an_access_token(token: str) -> str:
    """Why this cannot be taken over as an access token, or nothing."""
    if not token:
        return "empty"
    if PLACEHOLDER.match(token):
        return "the placeholder of the sample, which everybody knows"
    if len(token) < SHORTEST_ACCESS_TOKEN:
        return f"weak: shorter than {SHORTEST_ACCESS_TOKEN} characters, it can be guessed"
    if tokens.is_well_formed(token):
        return ""
    if token.startswith(tokens.PREFIX):
        return f"it begins with {tokens.PREFIX} like the relay's own tokens, but its checksum is wrong"
    return "longer than 500 characters or not printable"


# Mappings.


def _bots(
    tables: list[tuple[str, Any]], names: list[tuple[str, Any]], ignored: list[str]
) -> tuple[tuple[str, str], ...]:
    """Models and their bots. The relay's models do not differ by case alone, so the first of them counts."""
    kept: dict[str, tuple[str, str]] = {}
    for model, bot in [*_pairs(tables, ignored), *_names(names, ignored)]:
        first = kept.setdefault(model.casefold(), (model, bot))
        if first[1] != bot and first != (model, bot):
            ignored.append(f"{model} -> {bot}: the same model as {first[0]} -> {first[1]}")
    return tuple(kept.values())


def _pairs(tables: list[tuple[str, Any]], ignored: list[str]) -> Iterable[tuple[str, str]]:
    for key, table in tables:
        if not isinstance(table, dict):
            ignored.append(f"{key}: one bot for every model; name them with `manage.py setmapping MODEL BOT`")
            continue
        for model, bot in table.items():
            if isinstance(bot, str) and bot.strip() and model.strip():
                yield model.strip(), bot.strip()
            else:
                ignored.append(f"{key}.{model}: not a mapping from a model to a bot")


def _names(names: list[tuple[str, Any]], ignored: list[str]) -> Iterable[tuple[str, str]]:
    for key, value in names:
        for name in _items(key, value, ignored):
            if name:
                yield name, name


def _published(access_tokens: Iterable[str]) -> list[str]:
    return [
        f"access token {shown(token)} is printed in the public sample configuration: everybody knows it, "
        "give its users another one and disable it"
        for token in access_tokens
        if sha256(token.encode("utf-8", "surrogatepass")).hexdigest() in PUBLISHED_TOKENS
    ]


# Single values.


def _whole(low: int, high: int) -> Callable[[str, Any, list[str]], int | None]:
    def read_value(key: str, value: Any, ignored: list[str]) -> int | None:
        number = _number(value)
        if number is not None and number.is_integer() and low <= number <= high:
            return int(number)
        ignored.append(f"{key}: not a whole number from {low} to {high}")
        return None

    return read_value


def _seconds(key: str, value: Any, ignored: list[str]) -> float | None:
    number = _number(value)
    if number is not None and 0 < number <= 86400:
        return number
    ignored.append(f"{key}: not a number of seconds up to 86400")
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _simulate_roles(key: str, value: Any, ignored: list[str]) -> str:
    role = ROLES.get(str(value).strip().lower(), "")
    if not role:
        ignored.append(f"{key}: none of 0, 1 and 2")
    return role


def _proxy(key: str, value: Any, ignored: list[str]) -> str:
    if isinstance(value, str):
        return proxy_url(value)
    ignored.append(f"{key}: not an address")
    return ""


def proxy_url(value: str) -> str:
    """A proxy's address as the relay writes it. Whether it is one, is not looked at."""
    value = value.strip()
    if not value:
        return ""
    scheme, _, rest = (value if "://" in value else f"http://{value}").partition("://")
    scheme, rest = scheme.lower(), rest.rstrip("/")
    return f"{'socks5' if scheme == 'socks' else scheme}://{rest}"


def without_password(url: str) -> str:
    return re.sub(r"//.*@", "//…@", url)
