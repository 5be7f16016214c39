from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy_site import config

EXAMPLE = config.BASE_DIR / "config.example.toml"
KEY_LINE = re.compile(r"^# (\w+ = .*)$", re.MULTILINE)
TO_THEMSELVES = """
    Llama-3.1-405B-T Llama-3.1-405B-FW-128k Llama-3.1-70B-T Llama-3.1-70B-FW-128k Claude-3.5-Sonnet Claude-3-Sonnet
    Claude-3-Haiku Llama-3-70b-Groq Gemini-1.5-Pro Gemini-1.5-Pro-128k DALL-E-3 StableDiffusionXL ChatGPT-4o-Latest
    Claude-3.5-Sonnet-200k Claude-3-Sonnet-200k Gemini-1.5-Pro-2M Gemini-1.5-Pro-Search Gemini-1.5-Flash
    Gemini-1.5-Flash-128k Gemini-1.5-Flash-Search Qwen2-72B-Instruct-T FLUX-dev FLUX-pro FLUX-pro-1.1
"""
CUSTOMERS = {
    "gpt-3.5-turbo-16k": "ChatGPT-16k",
    "gpt-3.5-turbo": "ChatGPT-16k",
    "gpt-4": "GPT-4",
    "gpt-4o": "GPT-4o",
    "gpt-4o-mini": "GPT-4o-Mini",
    "gpt-4-vision-preview": "GPT-4-128k",
    "gpt-4-turbo-preview": "Claude-3-Opus",
    **{bot: bot for bot in TO_THEMSELVES.split()},
}
CURRENT = """
    assistant gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.3-codex gpt-5-mini gpt-4.1 gpt-4.1-mini o3 gpt-oss-120b
    claude-opus-4.8 claude-sonnet-5.5 claude-sonnet-4.6 claude-haiku-5.5 gemini-3.8-flash gemini-3.5-flash-lite
    gemini-3.1-pro grok-4.7 llama-3.3-70b deepseek-v4-pro deepseek-v4-flash mistral-large-4 kimi-k3 glm-5.3
    qwen3.8-flash gpt-image-2 nano-banana-2.1 flux-2-pro seedream-5.0-lite ideogram-v3 veo-3.1 seedance-2.0
    kling-v3-pro elevenlabs-v3 lyria-3
"""
Load = Callable[..., config.Config]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Reads a config.toml of this text, in an environment that holds only these settings."""

    def read(text: str = "", **environment: str) -> config.Config:
        for name in os.environ:
            if name.startswith(config.PREFIX):
                monkeypatch.delenv(name)
        (tmp_path / "config.toml").write_text(text, "utf-8")
        monkeypatch.setenv("POE_RELAY_CONFIG", str(tmp_path / "config.toml"))
        for name, value in environment.items():
            monkeypatch.setenv(config.PREFIX + name, value)
        return config.load()

    return read


def uncommented() -> str:
    return KEY_LINE.sub(r"\1", EXAMPLE.read_text("utf-8"))


# The example.


def test_the_example_loads(load: Load) -> None:
    loaded = load(EXAMPLE.read_text("utf-8"))

    assert loaded.bot == config.example_bots()
    assert loaded.model_copy(update={"bot": None}) == load()


def test_the_example_s_values_are_the_defaults(load: Load) -> None:
    loaded = load(uncommented())

    assert config.BASE_DIR / loaded.data_dir == load().data_dir
    assert loaded.model_copy(update={"bot": None, "data_dir": load().data_dir}) == load()


def test_every_key_is_in_the_example_and_no_other() -> None:
    table = tomllib.loads(uncommented())

    sections = {
        name: list(value) for name, value in table.items() if isinstance(value, dict) and name != "bot"
    }
    top = [name for name, value in table.items() if name not in sections]
    assert {"": top, **sections} == config.known_keys()


def test_every_key_of_the_example_is_explained() -> None:
    paragraphs = EXAMPLE.read_text("utf-8").split("\n\n")

    with_keys = [paragraph for paragraph in paragraphs if KEY_LINE.search(paragraph)]
    assert with_keys
    for paragraph in with_keys:
        assert re.match(r"# (?!\w+ = )", paragraph.strip()), paragraph


def test_the_mappings_are_the_customer_s_and_current_ones() -> None:
    bots = config.example_bots()

    assert len(CUSTOMERS) == 31
    assert bots == {**{bot: bot for bot in CURRENT.split()}, **CUSTOMERS}
    assert len({model.casefold() for model in bots}) == len(bots) == 31 + len(CURRENT.split())


# Reading: which source wins, and what is said of a bad value.


def test_the_environment_wins_over_the_file(load: Load) -> None:
    loaded = load(
        '[server]\nport = 4000\nhost = "0.0.0.0"\n[bot]\n"a" = "b"\n',
        SERVER__PORT="5000",
        LOG__LEVEL="DEBUG",
        SERVER__TRUSTED_PROXIES="10.0.0.0/8,127.0.0.1",
        DATA_DIR="/srv/relay",
    )

    assert (loaded.server.port, loaded.server.host) == (5000, "0.0.0.0")  # noqa: S104
    assert loaded.log.level == "DEBUG"
    assert loaded.server.trusted_proxies == ["10.0.0.0/8", "127.0.0.1/32"]
    assert loaded.data_dir == Path("/srv/relay")
    assert loaded.bot == {"a": "b"}
    assert load(BOT='{"a": "c"}').bot == {"a": "c"}
    assert load(SERVER__TRUSTED_PROXIES="", SERVER__METRICS_NETWORKS="").server.metrics_networks == []


def test_a_secret_comes_from_a_file_unless_the_environment_has_it(load: Load, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://relay:made-up@db/relay\n")
    text = '[database]\nurl = "sqlite:////tmp/other.sqlite3"\n'

    from_file = load(text, DATABASE__URL_FILE=str(secret))
    from_environment = load(
        text, DATABASE__URL_FILE=str(secret), DATABASE__URL="sqlite:////tmp/third.sqlite3"
    )

    assert from_file.database_url == "postgresql://relay:made-up@db/relay"
    assert from_environment.database_url == "sqlite:////tmp/third.sqlite3"


@pytest.mark.parametrize("name", config.SECRETS)
def test_every_secret_can_come_from_a_file(load: Load, tmp_path: Path, name: str) -> None:
    values = {
        "secrets__secret_key": "made-up",
        "secrets__encryption_key": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        "database__url": "sqlite:////tmp/other.sqlite3",
        "alerts__webhook_url": "https://chat.example.org/hook/made-up",
        "mail__password": "made-up",
    }
    (tmp_path / "secret").write_text(values[name] + "\n")

    loaded = load(**{f"{name.upper()}_FILE": str(tmp_path / "secret")})

    section, key = name.split("__")
    assert getattr(getattr(loaded, section), key).get_secret_value() == values[name]


@pytest.mark.parametrize(
    ("text", "environment", "named"),
    [
        ("[server]\nprt = 1", {}, ("server.prt", "port", "public_url")),
        ("servr = 1", {}, ("servr", "server", "data_dir")),
        ("[relay]\nport = 1", {}, ("relay.port", "default_points")),
        ("", {"SERVER__PRT": "1"}, ("POE_RELAY_SERVER__PRT", "POE_RELAY_SERVER__PORT")),
        ("", {"XYZZY": "1"}, ("POE_RELAY_XYZZY",)),
        ("", {"SERVER__PORT_FILE": "/x"}, ("POE_RELAY_SERVER__PORT_FILE", "POE_RELAY_SERVER__PORT")),
        ("[server]\nport = 99999", {}, ("server.port", "99999", "a whole number from 1 up to 65535")),
        ("", {"SERVER__PORT": "many"}, ("server.port", "'many'", "a whole number from 1 up to 65535")),
        ("[server]\nlanguage = 'de'", {}, ("server.language", "'de'", "'en'", "'zh-hans'")),
        ("[server]\ntime_zone = 'Mars/Base'", {}, ("server.time_zone", "'Mars/Base'", "Asia/Shanghai")),
        (
            "[server]\npublic_url = 'https://x.test/y'",
            {},
            ("server.public_url", "https://x.test/y", "host and port"),
        ),
        ("[server]\ntrusted_proxies = 'x'", {}, ("server.trusted_proxies", "'x'", "list")),
        ("[server]\nmax_body_mb = 0", {}, ("server.max_body_mb", "0", "a number above 0 up to 500")),
        ("[poe]\nidle_seconds = 0", {}, ("poe.idle_seconds", "0", "a number above 0 up to 86400")),
        ("[poe]\nproxy = 'ftp://x'", {}, ("poe.proxy", "'ftp://x'", "socks5://")),
        ("[poe]\nbase_url = 'api.poe.com'", {}, ("poe.base_url", "'api.poe.com'", "https://")),
        ("[pool]\ntries = 2.5", {}, ("pool.tries", "2.5", "a whole number from 1 up to 20")),
        ("[log]\nlevel = 'debug'", {}, ("log.level", "'debug'", "'DEBUG'")),
        ("[bot]\n'gpt-4o' = 5", {}, ("bot.gpt-4o", "5", "string")),
        (
            "",
            {"SERVER__TRUSTED_PROXIES": "10.0.0.0/8,relay"},
            ("server.trusted_proxies", "'relay'", "10.0.0.0/8"),
        ),
        ("", {"DATABASE__URL_FILE": "/nowhere/url"}, ("POE_RELAY_DATABASE__URL_FILE", "/nowhere/url")),
        ("", {"CONFIG": "/nowhere/config.toml"}, ("POE_RELAY_CONFIG", "/nowhere/config.toml")),
        ("[server\nport = 1", {}, ("config.toml", "line 1")),
        ("server = 5", {}, ("server", "5", "a table, [server]")),
    ],
)
def test_one_sentence_names_the_key_its_value_and_what_is_allowed(
    load: Load, text: str, environment: dict[str, str], named: tuple[str, ...]
) -> None:
    with pytest.raises(config.ConfigError) as refusal:
        load(text, **environment)

    sentence = str(refusal.value)
    assert [part for part in named if part not in sentence] == []
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ('[database]\nurl = "mysql://u:hunter2@db/x"', {}),
        ("", {"DATABASE__URL": "mysql://u:hunter2@db/x"}),
        ('[secrets]\nencryption_key = "hunter2"', {}),
        ('[secrets]\nsecret_key = ["hunter2"]', {}),
        ("", {"SECRETS__ENCRYPTION_KEY": "hunter2"}),
        ('database = "postgresql://u:hunter2@db/x"', {}),
        ('secrets = "hunter2"', {}),
    ],
)
def test_a_bad_secret_is_named_and_not_shown(load: Load, text: str, environment: dict[str, str]) -> None:
    with pytest.raises(config.ConfigError, match=r"(database|secrets)(\.\w+)?: \(not shown\)") as refusal:
        load(text, **environment)

    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(refusal.value.__context__) or refusal.value.__suppress_context__


def test_the_password_of_a_bad_proxy_is_not_shown(load: Load) -> None:
    with pytest.raises(config.ConfigError, match=r"poe.proxy: 'socks://…@127.0.0.1:1080'"):
        load('[poe]\nproxy = "socks://u:hunter2@127.0.0.1:1080"')


def test_a_relative_data_directory_does_not_depend_on_the_working_directory(load: Load) -> None:
    assert load('data_dir = "data"').data_dir == config.BASE_DIR / "data"


def test_a_secret_file_beside_a_section_that_is_no_table_is_one_sentence(load: Load, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("postgresql://relay:made-up@db/relay")

    with pytest.raises(config.ConfigError, match=r"database: \(not shown\)"):
        load('database = "x"', DATABASE__URL_FILE=str(tmp_path / "secret"))


def test_a_byte_order_mark_does_not_matter(load: Load) -> None:
    assert load("\ufeff[server]\nport = 4000\n").server.port == 4000
