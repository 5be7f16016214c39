"""Pages of the panel that are no list and no form of a table. They come before the admin's own, whose addresses they go on."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from relay.panel import explaining, live, reconciling

urlpatterns = [
    path("relay/botmapping/explain/", admin.site.admin_view(explaining.page), name="relay-explain"),
    path("relay/live/", admin.site.admin_view(live.page), name="relay-live"),
    path("relay/reconciliation/", admin.site.admin_view(reconciling.page), name="relay-reconciliation"),
]
