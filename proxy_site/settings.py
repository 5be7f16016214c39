"""Django's settings, read from config.py only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.templatetags.static import static
from django.urls import reverse_lazy

from proxy_site import config as configuration

CONFIG = configuration.get()
configuration.prepare_data_dir(CONFIG)
BASE_DIR = configuration.BASE_DIR


def _database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        # Like the data directory, not in the working directory.
        path = str(BASE_DIR / unquote(url.removeprefix("sqlite:///")))
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": path,
            "OPTIONS": {
                "timeout": 5,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
            },
            # A file, so that the ledger's own connection and other processes see what a test wrote.
            "TEST": {"NAME": str(Path(path).with_suffix(".test.sqlite3"))},
        }
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "postgres",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": _postgres_options(parts.query),
    }


def _postgres_options(query: str) -> dict[str, Any]:
    pairs = (pair.partition("=") for pair in query.split("&") if "=" in pair)
    return {"connect_timeout": 5, **{unquote(name): unquote(value) for name, _, value in pairs}}


SECRET_KEY = configuration.secret_key(CONFIG)
DEBUG = False
# proxy_site.hosts checks the Host header: any address of this machine, and the name in server.public_url.
ALLOWED_HOSTS = ["*"]
CSRF_TRUSTED_ORIGINS = [CONFIG.public_url]

HTTPS = CONFIG.public_url.startswith("https://")
SESSION_ENGINE = "accounts.sessions"
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = [
    "security.W004",  # HSTS is the reverse proxy's to promise: the relay also serves plain http on a LAN
    "security.W008",  # no redirect to https: there may be none (LAN), or the reverse proxy makes it
    "security.W012",  # secure cookies follow server.public_url
    "security.W016",  # the same for the CSRF cookie
]

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "ninja",  # the scripts and styles of its page about the API
    "accounts",
    "relay",
]
MIDDLEWARE = [
    "proxy_site.hosts.allowed_hosts",
    "proxy_site.policy.content_security_policy",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.preferences.as_preferred",
    "django.contrib.messages.middleware.MessageMiddleware",
    "accounts.signing_in.second_factor_first",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "proxy_site.urls"
ASGI_APPLICATION = "proxy_site.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": _database(CONFIG.database_url)}
if CONFIG.database_url.startswith("sqlite"):
    # unfold looks for PostgreSQL's form fields and does without them; looking loads psycopg (9 MB).
    sys.modules.setdefault("django.contrib.postgres.fields", None)  # type: ignore[arg-type]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = LOGIN_REDIRECT_URL = reverse_lazy("portal:home")
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# Of the link by which somebody who was made without a password sets the first one.
PASSWORD_RESET_TIMEOUT = 14 * 86400

LANGUAGE_CODE = CONFIG.server.language
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = CONFIG.server.time_zone
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = CONFIG.data_dir / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

DATA_UPLOAD_MAX_MEMORY_SIZE = 2_500_000

EMAIL_HOST = CONFIG.mail.host
EMAIL_PORT = CONFIG.mail.port
EMAIL_HOST_USER = CONFIG.mail.user
EMAIL_HOST_PASSWORD = CONFIG.mail.password.get_secret_value()
EMAIL_USE_TLS = CONFIG.mail.security == "starttls"
EMAIL_USE_SSL = CONFIG.mail.security == "tls"
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = CONFIG.mail.sender
SERVER_EMAIL = CONFIG.mail.sender

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"format": "{asctime} {levelname} {name} {message}", "style": "{"},
        "json": {"()": "proxy_site.log_writer.JsonFormatter"},
    },
    "filters": {"mask": {"()": "proxy_site.masking.Mask"}},
    "handlers": {
        "stderr": {
            "class": "proxy_site.log_writer.Handler",
            "formatter": CONFIG.log.format,
            "filters": ["mask"],
        }
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "relay": {"level": CONFIG.log.level},
        "accounts": {"level": CONFIG.log.level},
        "proxy_site": {"level": CONFIG.log.level},
    },
}

UNFOLD = {
    "SITE_TITLE": "poe-relay",
    "SITE_HEADER": "poe-relay",
    "SITE_SYMBOL": "hub",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("portal/icon.svg")}
    ],
    "SHOW_LANGUAGES": True,
    "SHOW_HISTORY": True,
    "STYLES": [lambda request: static("panel/panel.css")],
    "SCRIPTS": [lambda request: static("panel/names.js")],
    "DASHBOARD_CALLBACK": "relay.panel.dashboard.context",
    "SIDEBAR": {"show_search": True, "navigation": "relay.panel.sidebar.navigation"},
}
