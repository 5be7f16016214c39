"""config.toml and the environment, read once into one frozen typed object. Knows nothing of Django.

Order, first wins: `POE_RELAY_<SECTION>__<KEY>` in the environment, the same name with `_FILE` for a secret (the value
is what the file holds), config.toml (its path in `POE_RELAY_CONFIG`), the defaults below. The data directory
holds the secrets that were not given: they are made on first use.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import json
import os
import re
import secrets
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import quote, urlsplit
from zoneinfo import available_timezones

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

BASE_DIR = Path(__file__).resolve().parent.parent
PREFIX = "POE_RELAY_"
MOST_WORKERS = 256
PORTS = {"http": 80, "https": 443}
# Keys of the programs that `importconfig` takes over; none of them is ours.
OLD_KEYS = {
    "port",
    "tokens",
    "apikey",
    "accessTokens",
    "proxy",
    "timeout",
    "api-timeout",
    "rate-limit",
    "cool-down",
}
OLD_KEYS |= {"simulate-roles", "bot_names", "gateway", "gateway-port"}
SECRETS = (
    "secrets__secret_key",
    "secrets__encryption_key",
    "database__url",
    "alerts__webhook_url",
    "mail__password",
)


class ConfigError(Exception):
    """One sentence for whoever edits the configuration: which key, what it was, what is allowed."""


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address such as https://relay.example.org")
    return value


def _base_url(value: str) -> str:
    return _http_url(value).rstrip("/") + "/"


def _origin(value: str) -> str:
    if not value:
        return value
    parts = urlsplit(_http_url(value))
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc or port == 0:
        raise ValueError("must be scheme, host and port only, such as https://relay.example.org")
    # As browsers write an origin: in small letters, without the port that the scheme implies.
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in (None, PORTS[parts.scheme]) else f":{port}")


def _proxy(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https", "socks4", "socks5", "socks5h") or not parts.hostname):
        raise ValueError("must be empty or such as http://127.0.0.1:7890 or socks5://127.0.0.1:1080")
    return value


def _database_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("postgresql", "postgres") and parts.port != 0
        known = known or bool(re.match("sqlite:///[^?#]", url))
    except ValueError:
        known = False
    if url and not known:
        raise ValueError(
            "must be such as sqlite:////path/to/file or postgresql://user:password@host:5432/name"
        )
    return value


def _webhook_url(value: SecretStr) -> SecretStr:
    if value.get_secret_value():
        _http_url(value.get_secret_value())
    return value


def _time_zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError("must be a time zone such as Asia/Shanghai")
    return value


def _encryption_key(value: SecretStr) -> SecretStr:
    if value.get_secret_value():
        try:
            size = len(base64.urlsafe_b64decode(value.get_secret_value()))
        except ValueError:
            size = 0
        if size != 32:
            raise ValueError("must be 32 bytes in URL-safe base64")
    return value


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError("must be an address or a network such as 127.0.0.1 or 10.0.0.0/8") from None


def _in_base_dir(value: Path) -> Path:
    # Not in the working directory: `serve` and a cron job must mean the same folder.
    return BASE_DIR / value.expanduser()


Workers = int | Literal["auto"]


def number_of_workers(value: Any) -> Workers:
    if value == "auto":
        return "auto"
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if type(number) is not int or not 1 <= number <= MOST_WORKERS:
        raise ValueError(f'must be a whole number from 1 up to {MOST_WORKERS}, or "auto"')
    return number


Network = Annotated[str, AfterValidator(_network)]
Url = Annotated[str, AfterValidator(_http_url)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Origin = Annotated[str, AfterValidator(_origin)]
Proxy = Annotated[str, AfterValidator(_proxy)]
WebhookUrl = Annotated[SecretStr, AfterValidator(_webhook_url)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _as_json_list(value: str | None) -> str | None:
    """`a, b` in the environment is the list ["a", "b"], and nothing the empty one."""
    if value is None or value.lstrip().startswith("["):
        return value
    return json.dumps([item.strip() for item in value.split(",") if item.strip()])


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    host: str = "127.0.0.1"
    port: Port = 3700
    public_url: Origin = ""
    max_body_mb: Annotated[float, Field(gt=0, le=500)] = 50
    body_memory_mb: Annotated[float, Field(gt=0, le=1_000_000)] = 256
    workers: Annotated[Workers, BeforeValidator(number_of_workers)] = 1
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 30
    drain_notice_seconds: Annotated[float, Field(ge=0, le=600)] = 0
    trusted_proxies: list[Network] = []
    metrics_networks: list[Network] = ["127.0.0.0/8", "::1/128"]
    language: Literal["en", "zh-hans"] = "en"
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"


class Accounts(Section):
    second_factor: Literal["optional", "administrators", "everybody"] = "optional"


class Database(Section):
    url: Annotated[SecretStr, AfterValidator(_database_url)] = SecretStr("")


class Secrets(Section):
    secret_key: SecretStr = SecretStr("")
    encryption_key: Annotated[SecretStr, AfterValidator(_encryption_key)] = SecretStr("")


class Poe(Section):
    base_url: BaseUrl = "https://api.poe.com/bot/"
    upload_url: BaseUrl = "https://www.quora.com/poe_api/"
    api_url: Url = "https://api.poe.com"
    proxy: Proxy = ""
    file_hosts: list[str] = ["poecdn.net", "poe.com"]
    connect_seconds: Seconds = 10
    first_event_seconds: Seconds = 120
    idle_seconds: Seconds = 120
    total_seconds: Seconds = 600


class Relay(Section):
    keep_alive_seconds: Seconds = 15
    default_output_tokens: Annotated[int, Field(ge=1)] = 4096
    default_points: Annotated[int, Field(ge=1)] = 100
    token_overlap_hours: Annotated[float, Field(ge=0, le=8760)] = 24


class Pool(Section):
    tries: Annotated[int, Field(ge=1, le=20)] = 5
    queue_seconds: Annotated[float, Field(ge=0, le=600)] = 10
    poll_seconds: Annotated[float, Field(ge=10, le=86400)] = 300
    points_per_usd: Annotated[float, Field(gt=0, le=10_000_000)] = 33_333
    upload_cache_hours: Annotated[float, Field(ge=0, le=8760)] = 24


class Responses(Section):
    keep_hours: Annotated[float, Field(ge=0, le=8760)] = 720
    max_mb: Annotated[float, Field(gt=0, le=50)] = 8
    token_mb: Annotated[float, Field(gt=0, le=100_000)] = 200


class Files(Section):
    keep_hours: Annotated[float, Field(ge=0, le=8760)] = 720
    token_mb: Annotated[float, Field(gt=0, le=100_000)] = 200


class Alerts(Section):
    webhook_url: WebhookUrl = SecretStr("")
    emails: list[str] = []


class Mail(Section):
    host: str = ""
    port: Port = 587
    user: str = ""
    password: SecretStr = SecretStr("")
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str = "poe-relay@localhost"


class Demo(Section):
    port: Port = 3701


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
    access: bool = True


class Config(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    data_dir: Annotated[Path, AfterValidator(_in_base_dir)] = BASE_DIR / "var"
    server: Server = Server()
    accounts: Accounts = Accounts()
    database: Database = Database()
    secrets: Secrets = Secrets()
    poe: Poe = Poe()
    relay: Relay = Relay()
    pool: Pool = Pool()
    responses: Responses = Responses()
    files: Files = Files()
    alerts: Alerts = Alerts()
    mail: Mail = Mail()
    demo: Demo = Demo()
    log: Log = Log()
    bot: dict[str, str] | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(env_settings, EnvSettingsSource)
        # `..._FILE` names the file that holds a secret; it is no key of its own (see _take_secret_file).
        files = {f"{PREFIX}{name}_FILE".lower() for name in SECRETS}
        lists = {
            f"{PREFIX}{name}".lower()
            for name in ("server__trusted_proxies", "server__metrics_networks", "alerts__emails")
        }
        env_settings.env_vars = {
            name: _as_json_list(value) if name.lower() in lists else value
            for name, value in env_settings.env_vars.items()
            # compose passes a variable that nobody set as an empty one: that is no folder.
            if name.lower() not in files and not (name.lower() == f"{PREFIX}data_dir".lower() and not value)
        }
        return env_settings, init_settings

    @property
    def public_url(self) -> str:
        return self.server.public_url or f"http://127.0.0.1:{self.server.port}"

    @property
    def database_url(self) -> str:
        return (
            self.database.url.get_secret_value()
            or f"sqlite:///{quote(str(self.data_dir / 'poe-relay.sqlite3'))}"
        )


def known_keys() -> dict[str, list[str]]:
    """Every key of config.toml by section; the top level is the section ''."""
    keys: dict[str, list[str]] = {"": []}
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            keys[name] = list(section.model_fields)
        else:
            keys[""].append(name)
    return keys


def load() -> Config:
    """Read everything, or raise ConfigError with one sentence."""
    env = dict(os.environ)
    _reject_unknown_environment(env)
    table = _read_toml(env)
    _refuse_old_format(env, table)
    for name in SECRETS:
        _take_secret_file(env, table, name)
    try:
        return Config(**table)
    except ValidationError as exc:
        raise ConfigError(_sentence(exc)) from None
    except SettingsError as exc:
        raise ConfigError(f"{exc}: in the environment, lists and tables are written as JSON.") from None


def _read_toml(env: dict[str, str]) -> dict[str, Any]:
    named = env.get(PREFIX + "CONFIG")
    path = Path(named) if named else BASE_DIR / "config.toml"
    if not path.exists():
        if named:
            raise ConfigError(f"POE_RELAY_CONFIG names {path}, which does not exist.")
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}.") from None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}.") from None


def _take_secret_file(env: dict[str, str], table: dict[str, Any], name: str) -> None:
    path = env.get(f"{PREFIX}{name.upper()}_FILE")
    if path is None or env.get(PREFIX + name.upper()) is not None:
        return
    try:
        value = Path(path).read_text("utf-8").strip()
    except OSError as exc:
        raise ConfigError(
            f"{PREFIX}{name.upper()}_FILE names {path}, which cannot be read: {exc.strerror}."
        ) from None
    if not value:
        raise ConfigError(f"{PREFIX}{name.upper()}_FILE names {path}, which is empty.")
    section, key = name.split("__")
    # Anything but a table is left for the validation to name.
    if isinstance(table.setdefault(section, {}), dict):
        table[section][key] = value


def _refuse_old_format(env: dict[str, str], table: dict[str, Any]) -> None:
    if old := OLD_KEYS & set(table):
        path = env.get(PREFIX + "CONFIG") or BASE_DIR / "config.toml"
        raise ConfigError(
            f"{path} is of poe-to-gpt or poe-openai-proxy (it has {', '.join(sorted(old))}): rename it, "
            "to old.toml say, and take it over with `python manage.py importconfig old.toml`."
        )


def _reject_unknown_environment(env: dict[str, str]) -> None:
    allowed = {PREFIX + "CONFIG"}
    for section, keys in known_keys().items():
        allowed |= {PREFIX + (f"{section}__{key}" if section else key).upper() for key in keys}
    allowed |= {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}
    for name in env:
        if name.startswith(PREFIX) and name.upper() not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f"did you mean {near[0]}?" if near else "config.example.toml lists every key."
            raise ConfigError(f"unknown setting {name} in the environment: {hint}")


def _sentence(exc: ValidationError) -> str:
    error = exc.errors(include_url=False)[0]
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        section = path[0] if len(path) > 1 else ""
        names = known_keys().get(section, [])
        allowed = names if section else names + [name for name in known_keys() if name]
        value = "" if secret_like(key) or isinstance(error["input"], dict) else f" = {error['input']!r}"
        return f"unknown key {key}{value}: allowed here are {', '.join(sorted(allowed))}."
    # A whole section of the wrong type may be the secret itself: database = "postgresql://..."
    secret = "__".join(path) in SECRETS or key in ("secrets", "database")
    value = "(not shown)" if secret else re.sub(r"//[^/]*@", "//…@", repr(error["input"]))
    return f"bad value for {key}: {value}; it should be: {_allowed(path, error['msg'])}."


def secret_like(key: str) -> bool:
    """Whether a mistyped key may hold what nobody should read in a log."""
    return bool(re.search("key|secret|token|password|url|proxy", key, re.IGNORECASE))


def _allowed(path: list[str], message: str) -> str:
    sections = known_keys()
    if len(path) == 1 and path[0] in sections:
        return f"a table, [{path[0]}]"
    field = None
    if len(path) == 2 and path[1] in sections.get(path[0], []):
        field = cast(type[BaseModel], Config.model_fields[path[0]].annotation).model_fields[path[1]]
    if field is not None and field.annotation in (int, float):
        return f"a {'whole ' if field.annotation is int else ''}number {_bounds(field.metadata)}"
    return message.removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("must be ")


def _bounds(metadata: list[Any]) -> str:
    words = []
    for bound in metadata:
        match bound:
            case Ge(ge=low):
                words.append(f"from {low}")
            case Gt(gt=low):
                words.append(f"above {low}")
            case Le(le=high):
                words.append(f"up to {high}")
    return " ".join(words)


def example_bots() -> dict[str, str]:
    """The mappings that a new installation starts with: the `[bot]` table of config.example.toml."""
    table = tomllib.loads((BASE_DIR / "config.example.toml").read_text("utf-8"))
    return dict(table["bot"])


# The data directory: made by whoever comes first, for its owner alone.


def prepare_data_dir(config: Config) -> None:
    """Make the data directory (0700), or raise ConfigError with one sentence."""
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(config.data_dir, os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
    except OSError as exc:
        raise ConfigError(
            f"the data directory {config.data_dir} cannot be written ({(exc.strerror or '').lower()}): "
            "change its owner or set POE_RELAY_DATA_DIR to another one."
        ) from None


def secret_key(config: Config) -> str:
    return config.secrets.secret_key.get_secret_value() or _kept_secret(config, "secret_key", size=48)


def encryption_key(config: Config) -> bytes:
    """32 bytes: Poe keys are encrypted and token digests are made with keys derived from it."""
    return base64.urlsafe_b64decode(
        config.secrets.encryption_key.get_secret_value() or _kept_secret(config, "encryption_key")
    )


def demo_key(config: Config) -> str:
    """The key that the demo Poe server asks for: 32 characters, as Poe's own bots have."""
    return _kept_secret(config, "demo_key", size=24)


def _kept_secret(config: Config, name: str, *, size: int = 32) -> str:
    """Read the secret file, or make it. Two processes that start together agree: the first link wins."""
    prepare_data_dir(config)
    path = config.data_dir / name
    try:
        if not path.exists():
            fresh = config.data_dir / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(base64.urlsafe_b64encode(secrets.token_bytes(size)).decode())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_text().strip()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read or written: {(exc.strerror or '').lower()}.") from None


@cache
def get() -> Config:
    return load()
