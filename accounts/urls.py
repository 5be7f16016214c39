from __future__ import annotations

from django.urls import path

from accounts import own_settings, signing_in, views

app_name = "portal"
urlpatterns = [
    path("", views.home, name="home"),
    path("sign-in/code/", signing_in.code, name="code"),
    path("sign-out/", views.sign_out, name="sign-out"),
    path("me/settings/", own_settings.own, name="settings"),
    path("me/settings/password/", own_settings.password, name="password"),
    path("me/settings/second-factor/", own_settings.set_up_second_factor, name="second-factor"),
    path("me/settings/second-factor/codes/", own_settings.new_recovery_codes, name="recovery-codes"),
    path("me/settings/second-factor/remove/", own_settings.remove_second_factor, name="remove-second-factor"),
    path("favicon.ico", views.icon, name="icon"),
]
