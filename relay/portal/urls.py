from __future__ import annotations

from django.urls import include, path

from relay.portal import connect, models, tokens, usage, views

me = [
    path("tokens/", tokens.own, name="tokens"),
    path("tokens/<int:pk>/rotate/", tokens.rotate, name="rotate"),
    path("tokens/<int:pk>/revoke/", tokens.revoke, name="revoke"),
    path("connect/", connect.apps, name="connect"),
    path("usage/", usage.own, name="usage"),
    path("requests/", usage.requests, name="requests"),
    path("models/", models.usable, name="models"),
]
own_key = [
    path("me/poe-key/", views.own_key, {"whose": "me"}, name="me"),
    path("me/poe-key/test/", views.test, {"whose": "me"}, name="me-test"),
    path("me/poe-key/remove/", views.remove, {"whose": "me"}, name="me-remove"),
    path("team/poe-key/", views.own_key, {"whose": "team"}, name="team"),
    path("team/poe-key/test/", views.test, {"whose": "team"}, name="team-test"),
    path("team/poe-key/remove/", views.remove, {"whose": "team"}, name="team-remove"),
]
urlpatterns = [path("me/", include((me, "me"))), path("", include((own_key, "own-key")))]
