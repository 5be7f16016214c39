from __future__ import annotations

from django.urls import include, path

from relay.portal import (
    connect,
    first_password,
    joining,
    member_tokens,
    members,
    models,
    playground,
    team,
    team_invitations,
    tokens,
    usage,
    views,
)

me = [
    path("tokens/", tokens.own, name="tokens"),
    path("tokens/<int:pk>/rotate/", tokens.rotate, name="rotate"),
    path("tokens/<int:pk>/revoke/", tokens.revoke, name="revoke"),
    path("connect/", connect.apps, name="connect"),
    path("usage/", usage.own, name="usage"),
    path("requests/", usage.requests, name="requests"),
    path("models/", models.usable, name="models"),
    path("playground/", playground.page, name="playground"),
    path("playground/token/", playground.token, name="playground-token"),
    path("playground/answers/<str:request_id>/", playground.answer, name="playground-answer"),
]
own_team = [
    path("", team.people, name="people"),
    path("usage/", team.used, name="usage"),
    path("requests/", team.requests, name="requests"),
    path("invitations/", team_invitations.invitations, name="invitations"),
    path("invitations/<int:pk>/take-back/", team_invitations.take_back, name="take-back"),
    path("members/add/", members.add, name="add"),
    path("members/<int:pk>/", members.show, name="member"),
    path("members/<int:pk>/limits/", members.limit, name="limit"),
    path("members/<int:pk>/disable/", members.disable, name="disable"),
    path("members/<int:pk>/enable/", members.enable, name="enable"),
    path("members/<int:pk>/manager/", members.appoint, {"role": "manager"}, name="make-manager"),
    path("members/<int:pk>/member/", members.appoint, {"role": "member"}, name="make-member"),
    path("members/<int:pk>/tokens/", member_tokens.issue, name="issue"),
    path("tokens/<int:pk>/", member_tokens.show, name="token"),
    path("tokens/<int:pk>/rotate/", member_tokens.rotate, name="rotate"),
    path("tokens/<int:pk>/revoke/", member_tokens.revoke, name="revoke"),
]
own_key = [
    path("me/poe-key/", views.own_key, {"whose": "me"}, name="me"),
    path("me/poe-key/test/", views.test, {"whose": "me"}, name="me-test"),
    path("me/poe-key/remove/", views.remove, {"whose": "me"}, name="me-remove"),
    path("team/poe-key/", views.own_key, {"whose": "team"}, name="team"),
    path("team/poe-key/test/", views.test, {"whose": "team"}, name="team-test"),
    path("team/poe-key/remove/", views.remove, {"whose": "team"}, name="team-remove"),
]
urlpatterns = [
    path("me/", include((me, "me"))),
    path("team/", include((own_team, "team"))),
    path("", include((own_key, "own-key"))),
    path("join/", joining.join, name="join"),
    path("join/password/", first_password.choose, name="first-password"),
    # One step of the path, which no log has: see proxy_site.masking.
    path("join/<int:pk>.<str:proof>/", first_password.open_link, name="first-password-link"),
    path("join/<str:secret>/", joining.open_link, name="join-link"),
]
