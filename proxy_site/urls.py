"""The pages. API routes do not come this way: see asgi.py."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from accounts import own_settings
from accounts.preferences import choose_language
from accounts.signing_in import to_panel

urlpatterns = [
    path("", include("accounts.urls")),
    path("", include("relay.portal.urls")),
    path("i18n/setlang/", choose_language, name="set_language"),
    path("admin/login/", to_panel),
    path("admin/password_change/", own_settings.password),
    path("admin/", include("relay.panel.urls")),
    path("admin/", admin.site.urls),
]
