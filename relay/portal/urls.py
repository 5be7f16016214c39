from __future__ import annotations

from django.urls import path

from relay.portal import views

app_name = "own-key"
urlpatterns = [
    path("me/poe-key/", views.own_key, {"whose": "me"}, name="me"),
    path("me/poe-key/test/", views.test, {"whose": "me"}, name="me-test"),
    path("me/poe-key/remove/", views.remove, {"whose": "me"}, name="me-remove"),
    path("team/poe-key/", views.own_key, {"whose": "team"}, name="team"),
    path("team/poe-key/test/", views.test, {"whose": "team"}, name="team-test"),
    path("team/poe-key/remove/", views.remove, {"whose": "team"}, name="team-remove"),
]
