"""Says what is wrong with a docker-compose.yml: its shape, and the rules that this project has for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from proxy_site import config
from tests.deploy.dockerfile import is_fixed

# The parts of the Compose specification that this project uses. A misspelt key is an unknown one.
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1, "uniqueItems": True}
DURATION = {"type": "string", "pattern": r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 2}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


HEALTH_CHECK = _object(
    {
        "test": {**TEXTS, "uniqueItems": False},
        "interval": DURATION,
        "timeout": DURATION,
        "start_period": DURATION,
        "retries": {"type": "integer", "minimum": 1},
    },
    required=["test"],
)
CONDITION = _object(
    {"condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}},
    required=["condition"],
)
SERVICE = _object(
    {
        "build": TEXT,
        "image": TEXT,
        "user": {"type": "string", "pattern": r"^\w+(:\w+)?$"},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "stop_grace_period": DURATION,
        "init": {"type": "boolean"},
        "read_only": {"type": "boolean"},
        "network_mode": {"enum": ["none", "host", "bridge"]},
        "working_dir": {"type": "string", "pattern": "^/"},
        "entrypoint": {**TEXTS, "uniqueItems": False},
        "command": {**TEXTS, "uniqueItems": False},
        "environment": {
            "type": "object",
            "patternProperties": {r"^[A-Z][A-Z0-9_]*$": {"type": ["string", "null"]}},
            "additionalProperties": False,
        },
        "depends_on": {"type": "object", "additionalProperties": CONDITION},
        "healthcheck": HEALTH_CHECK,
        "volumes": {"type": "array", "items": {"type": "string", "pattern": r"^[\w.-]+:/[^:]*(:ro)?$"}},
        "tmpfs": {"type": "array", "items": {"type": "string", "pattern": r"^/[^:]+(:[\w=,]+)?$"}},
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^([0-9.]+:)?[0-9]+:[0-9]+$"}},
        "extra_hosts": {"type": "array", "items": {"type": "string", "pattern": r"^[\w.]+:[\w.-]+$"}},
        "cap_drop": TEXTS,
        "security_opt": TEXTS,
        "ulimits": _object({"nofile": {"type": "integer", "minimum": 1}}),
        "logging": _object({"driver": {"enum": ["local", "json-file", "journald"]}}),
    },
    anyOf=[{"required": ["image"]}, {"required": ["build"]}],
)
SCHEMA = _object(
    {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"type": "object", "additionalProperties": SERVICE, "minProperties": 1},
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
    },
    required=["name", "services"],
)

Service = dict[str, Any]


def interpolated(value: Any, environment: dict[str, str] | None = None) -> Any:
    """As Compose does it: ${NAME:-default} and ${NAME}, and $$ for one dollar. Any other $ is an error."""
    if isinstance(value, dict):
        return {key: interpolated(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        if found.group() == "$$":
            return "$"
        if not found["name"]:
            raise ValueError(f"a single $ in {value!r}")
        return (environment or {}).get(found["name"]) or found["default"] or ""

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(:-(?P<default>[^}]*))?\}|\$", replace, value)


def settings() -> set[str]:
    """Every POE_RELAY_ name that proxy_site.config takes from the environment."""
    names = {
        f"{section}__{key}" if section else key
        for section, keys in config.known_keys().items()
        for key in keys
    }
    return {
        config.PREFIX + name.upper() for name in names | {f"{secret}_FILE" for secret in config.SECRETS}
    } | {config.PREFIX + "CONFIG"}


def complaints(compose: dict[str, Any], *, image_checks_itself: bool = True) -> list[str]:
    """Sentences; none for a good file. An image that is built here may bring its own health check."""
    found = [
        f"{'.'.join(map(str, error.path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(compose)
    ]
    return found or list(_broken_rules(compose, image_checks_itself=image_checks_itself))


def _broken_rules(compose: dict[str, Any], *, image_checks_itself: bool) -> Iterator[str]:
    services: dict[str, Service] = compose["services"]
    volumes = compose.get("volumes", {})
    once = {
        name
        for each in services.values()
        for name, how in each.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    healthy = {
        name
        for name, each in services.items()
        if "healthcheck" in each or ("build" in each and image_checks_itself)
    }
    for name, service in services.items():
        problems = [
            *(_once(service) if name in once else _kept_running(service, name in healthy)),
            *_dependencies(service, services, healthy),
            *_rights(service),
            *_mounts(service, volumes, writes=name in once),
            *_environment(service),
        ]
        if service.get("image", "").startswith("postgres:"):
            problems += _postgres(service, is_server=name not in once)
        yield from (f"{name}: {problem}" for problem in problems)
    used = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    yield from (f"volume {name} is not used" for name in volumes if name not in used)


def _once(service: Service) -> Iterator[str]:
    if service.get("restart") != "no":
        yield "runs once but would be restarted"


def _kept_running(service: Service, has_health_check: bool) -> Iterator[str]:
    if service.get("restart") != "unless-stopped":
        yield "is not restarted"
    if service.get("stop_grace_period") != "60s":
        yield "does not get 60 s to stop"
    if not has_health_check:
        yield "has no health check"
    if "logging" not in service:
        yield "its log grows without end"


def _dependencies(service: Service, services: dict[str, Service], healthy: set[str]) -> Iterator[str]:
    for other, how in service.get("depends_on", {}).items():
        if other not in services:
            yield f"depends on {other}, which is not there"
        elif how["condition"] == "service_started":
            yield f"does not wait until {other} is ready"
        elif how["condition"] == "service_healthy" and other not in healthy:
            yield f"waits for {other}, which has no health check"


def _rights(service: Service) -> Iterator[str]:
    if service.get("cap_drop") != ["ALL"]:
        yield "keeps capabilities"
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield "may gain privileges"
    if "image" in service and not is_fixed(service["image"]):
        yield "its image has no fixed tag"
    for port in service.get("ports", []):
        if not port.startswith("127.0.0.1:"):
            yield f"port {port} is open to everybody"


def _mounts(service: Service, volumes: dict[str, Any], *, writes: bool) -> Iterator[str]:
    for mount in service.get("volumes", []):
        name = mount.split(":")[0]
        if name not in volumes:
            yield f"volume {name} is not declared"
        if name == "secrets" and not writes and not mount.endswith(":ro"):
            yield "may change the secrets"


def _environment(service: Service) -> Iterator[str]:
    mounted = tuple(mount.split(":")[1] + "/" for mount in service.get("volumes", []))
    for name, value in service.get("environment", {}).items():
        if name.startswith(config.PREFIX) and name not in settings():
            yield f"{name} is no setting"
        if name.endswith("_FILE"):
            if not str(value).startswith(mounted):
                yield f"{name} names a file that is in no volume"
        elif re.search(r"PASSWORD|SECRET|TOKEN|_KEY$|DATABASE__URL", name) or re.search(
            r"://[^/]*@", value or ""
        ):
            yield f"{name} holds a secret"


def _postgres(service: Service, *, is_server: bool) -> Iterator[str]:
    if not service["image"].startswith("postgres:18-"):
        yield "is not PostgreSQL 18 on a named release of Debian"
    if is_server and "/var/lib/postgresql" not in [
        mount.split(":")[1] for mount in service.get("volumes", [])
    ]:
        yield "has no volume at /var/lib/postgresql"
    if is_server and "--host=127.0.0.1" not in service.get("healthcheck", {}).get("test", []):
        yield "its health check is content with the server that only sets the database up"
