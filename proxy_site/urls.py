"""The pages. API routes do not come this way: see asgi.py."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("accounts.urls")),
    path("", include("relay.portal.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
    path("admin/", include("relay.panel.urls")),
    path("admin/", admin.site.urls),
]
